//! A connection to the shelf: requests go out numbered, answers come back in any order.

use super::wire::{self, Reply, Request};
use failover_core::ids::Node;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

const READ_CHUNK: usize = 64 << 10;
/// Time that saying hello may take.
const HELLO: Duration = Duration::from_secs(1);

/// One connection.
#[derive(Debug)]
pub struct ShelfConnection {
    stream: UnixStream,
    next: u64,
    incoming: Vec<u8>,
}

impl ShelfConnection {
    /// Connects as path `nexus`, or as the driver without one.
    pub fn connect(socket: &Path, nexus: Option<(Node, u8)>) -> io::Result<ShelfConnection> {
        let stream = UnixStream::connect(socket)?;
        stream.set_write_timeout(Some(HELLO))?;
        let mut connection = ShelfConnection {
            stream,
            next: 1,
            incoming: Vec::new(),
        };
        match connection.call(&Request::Hello { nexus }, HELLO)? {
            Reply::Good => Ok(connection),
            other => Err(io::Error::other(format!(
                "the shelf answered hello with {other:?}"
            ))),
        }
    }

    /// Sends a request and answers its number.
    pub fn send(&mut self, request: &Request) -> io::Result<u64> {
        let number = self.next;
        self.next += 1;
        self.stream.write_all(&wire::encode(number, request))?;
        Ok(number)
    }

    /// The next answer, waiting until `deadline` at most; `None` when it has passed.
    pub fn receive(&mut self, deadline: Instant) -> io::Result<Option<(u64, Reply)>> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
            match ppoll(&mut fds, Some(TimeSpec::from_duration(left)), None) {
                Ok(0) => return Ok(None),
                Ok(_) => self.fill()?,
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a request and waits for its answer. Answers to earlier requests that were given up are skipped.
    pub fn call(&mut self, request: &Request, limit: Duration) -> io::Result<Reply> {
        let deadline = Instant::now() + limit;
        let number = self.send(request)?;
        loop {
            match self.receive(deadline)? {
                Some((answered, reply)) if answered == number => return Ok(reply),
                Some(_) => {}
                None => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }

    /// Reads once what the socket holds. Call it when the socket is readable.
    pub fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; READ_CHUNK];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.incoming.extend_from_slice(&chunk[..count]);
                Ok(())
            }
        }
    }

    /// The next answer that was read already.
    pub fn buffered(&mut self) -> io::Result<Option<(u64, Reply)>> {
        let frame = wire::take(&mut self.incoming);
        frame.map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))
    }
}

impl AsFd for ShelfConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

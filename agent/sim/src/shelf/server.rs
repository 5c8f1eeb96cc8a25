//! The shelf's process: one thread, one loop over its connections and its disks' completions.
//!
//! Twenty-four disks of 2 ms each would wake twenty-four sleeping threads at imprecise times; one `ppoll` with a
//! nanosecond timeout and a tight timer slack serves them all.

use super::bay::{Asker, Bay, What};
use super::log::ImportMark;
use super::now_micros;
use super::wire::{self, Reply, Request};
use crate::disk::Nexus;
use failover_core::ids::{Node, PathId};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// Connections at once: two controllers, each with one per disk and a few more.
const CONNECTIONS_MAX: usize = 2048;
/// Unsent answers of one connection; a client that reads nothing is dropped.
const UNSENT_MAX: usize = 64 << 20;
const READ_CHUNK: usize = 64 << 10;

/// What a shelf is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Number of disks.
    pub disks: usize,
    /// Time that a disk takes for one command.
    pub latency: Duration,
    /// Its disks take every write, whoever is registered: a control.
    pub refuses_nobody: bool,
}

struct Connection {
    id: u64,
    stream: UnixStream,
    incoming: Vec<u8>,
    unsent: Vec<u8>,
    /// `None` until it said hello; the driver has no nexus.
    who: Option<Option<Nexus>>,
    gone: bool,
}

/// The shelf: its disks and who is connected.
pub struct Server {
    listener: UnixListener,
    bays: Vec<Bay>,
    connections: Vec<Connection>,
    next_id: u64,
    cut: [bool; 2],
    imports: Vec<ImportMark>,
}

impl Server {
    /// A shelf that listens at `socket`.
    pub fn bind(socket: &Path, shape: Shape) -> io::Result<Server> {
        let listener = UnixListener::bind(socket)?;
        listener.set_nonblocking(true)?;
        let latency_micros = shape.latency.as_micros() as u64;
        Ok(Server {
            listener,
            bays: (0..shape.disks)
                .map(|_| match shape.refuses_nobody {
                    true => Bay::that_refuses_nobody(latency_micros),
                    false => Bay::new(latency_micros),
                })
                .collect(),
            connections: Vec::new(),
            next_id: 1,
            cut: [false; 2],
            imports: Vec::new(),
        })
    }

    /// Serves until the process is killed.
    pub fn serve(mut self) -> io::Result<()> {
        loop {
            let ready = self.wait()?;
            self.complete();
            if ready[0] {
                self.accept();
            }
            for index in 0..self.connections.len() {
                if ready.get(index + 1).copied().unwrap_or(false) {
                    self.receive(index);
                }
            }
            self.flush();
            self.connections.retain(|connection| !connection.gone);
        }
    }

    fn wait(&self) -> io::Result<Vec<bool>> {
        let mut fds = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        for connection in &self.connections {
            let mut flags = PollFlags::POLLIN;
            if !connection.unsent.is_empty() {
                flags |= PollFlags::POLLOUT;
            }
            fds.push(PollFd::new(connection.stream.as_fd(), flags));
        }
        let due = self.bays.iter().filter_map(Bay::due).min();
        let timeout = due.map(|due| {
            TimeSpec::from_duration(Duration::from_micros(due.saturating_sub(now_micros())))
        });
        match ppoll(&mut fds, timeout, None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let any = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        Ok(fds.iter().map(any).collect())
    }

    fn complete(&mut self) {
        let now = now_micros();
        let mut answers = Vec::new();
        for bay in &mut self.bays {
            bay.advance(now, &mut answers);
        }
        for (asker, reply) in answers {
            self.answer(asker, &reply);
        }
    }

    /// Commands of a client that went away are carried out all the same; nobody is told.
    fn answer(&mut self, (id, number): Asker, reply: &Reply) {
        let mut all = self.connections.iter_mut();
        if let Some(connection) = all.find(|connection| connection.id == id) {
            connection.unsent.extend(wire::encode(number, reply));
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.connections.len() >= CONNECTIONS_MAX || stream.set_nonblocking(true).is_err() {
                continue;
            }
            self.connections.push(Connection {
                id: self.next_id,
                stream,
                incoming: Vec::new(),
                unsent: Vec::new(),
                who: None,
                gone: false,
            });
            self.next_id += 1;
        }
    }

    fn receive(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let mut chunk = [0; READ_CHUNK];
        match connection.stream.read(&mut chunk) {
            Ok(0) => connection.gone = true,
            Ok(count) => connection.incoming.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => connection.gone = true,
        }
        while !self.connections[index].gone {
            match wire::take::<Request>(&mut self.connections[index].incoming) {
                Ok(Some((number, request))) => self.request(index, number, request),
                Ok(None) => break,
                Err(_) => self.connections[index].gone = true,
            }
        }
    }

    fn request(&mut self, index: usize, number: u64, request: Request) {
        let id = self.connections[index].id;
        let reply = match (self.connections[index].who, request) {
            (None, Request::Hello { nexus }) => Some(self.hello(index, nexus)),
            (Some(Some(nexus)), request) => self.controller_asks((id, number), nexus, request),
            (Some(None), request) => Some(self.driver_asks(request)),
            (None, _) => Some(Reply::Refused("say hello first".to_owned())),
        };
        if let Some(reply) = reply {
            self.answer((id, number), &reply);
        }
    }

    fn hello(&mut self, index: usize, nexus: Option<(Node, u8)>) -> Reply {
        let nexus = nexus.map(|(node, path)| Nexus {
            node,
            path: PathId(path),
        });
        if nexus.is_some_and(|nexus| self.cut[nexus.node as usize]) {
            self.connections[index].gone = true;
        }
        self.connections[index].who = Some(nexus);
        Reply::Good
    }

    fn controller_asks(&mut self, asker: Asker, nexus: Nexus, request: Request) -> Option<Reply> {
        let (disk, what) = match request {
            Request::Reserve { disk, command } => (disk, What::Reserve(command)),
            Request::Append { disk, records } => (disk, What::Append(records)),
            Request::Tail { disk, count } => (disk, What::Tail(count as usize)),
            Request::ImportBegins => {
                self.imports.push(ImportMark {
                    node: nexus.node,
                    at_micros: now_micros(),
                });
                return Some(Reply::Good);
            }
            Request::Hello { .. }
            | Request::Cut { .. }
            | Request::Mend { .. }
            | Request::Audit { .. }
            | Request::Marks => {
                return Some(Reply::Refused("not for a controller".to_owned()));
            }
        };
        match self.bays.get_mut(disk as usize) {
            Some(bay) => bay.arrive(now_micros(), asker, nexus, what),
            None => Some(Reply::Refused(format!("there is no disk {disk}"))),
        }
    }

    fn driver_asks(&mut self, request: Request) -> Reply {
        match request {
            Request::Cut { node } => {
                self.cut[node as usize] = true;
                for connection in &mut self.connections {
                    let theirs = connection.who.flatten();
                    if theirs.is_some_and(|nexus| nexus.node == node) {
                        connection.gone = true;
                    }
                }
                Reply::Good
            }
            Request::Mend { node } => {
                self.cut[node as usize] = false;
                Reply::Good
            }
            Request::Audit { disk, from } => match self.bays.get_mut(disk as usize) {
                Some(bay) => Reply::Log(bay.audit(from)),
                None => Reply::Refused(format!("there is no disk {disk}")),
            },
            Request::Marks => {
                let sum = |node: usize| self.bays.iter().map(|bay| bay.refused()[node]).sum();
                Reply::Marks {
                    imports: self.imports.clone(),
                    refused: [sum(0), sum(1)],
                }
            }
            Request::Hello { .. }
            | Request::Reserve { .. }
            | Request::Append { .. }
            | Request::Tail { .. }
            | Request::ImportBegins => Reply::Refused("not for the driver".to_owned()),
        }
    }

    fn flush(&mut self) {
        for connection in &mut self.connections {
            while !connection.unsent.is_empty() && !connection.gone {
                match connection.stream.write(&connection.unsent) {
                    Ok(0) => connection.gone = true,
                    Ok(count) => {
                        connection.unsent.drain(..count);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) => connection.gone = true,
                }
            }
            if connection.unsent.len() > UNSENT_MAX {
                connection.gone = true;
            }
        }
    }
}

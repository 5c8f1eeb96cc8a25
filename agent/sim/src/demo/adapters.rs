//! The daemon's pools and services on its host: each call is one question over the host's socket.

use super::host::{HostReply, HostRequest};
use crate::shelf::disk_id;
use crate::shelf::wire;
use failover_core::adapters::{Change, Failure, Pools, Services};
use failover_core::ids::{DiskId, PoolId};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Longer than anything the host allows itself.
const LIMIT: Duration = Duration::from_secs(8);

/// The pool and the service of one controller.
#[derive(Clone, Debug)]
pub struct HostLink {
    socket: PathBuf,
    disks: usize,
}

impl HostLink {
    /// The host at `socket`, of a shelf with `disks` disks.
    pub fn new(socket: PathBuf, disks: usize) -> HostLink {
        HostLink { socket, disks }
    }

    fn ask(&self, request: &HostRequest) -> Result<HostReply, Failure> {
        self.exchange(request)
            .map_err(|error| Failure(format!("this controller's host doesn't answer: {error}")))
    }

    fn exchange(&self, request: &HostRequest) -> io::Result<HostReply> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        stream.write_all(&wire::encode(1, request))?;
        let mut incoming = Vec::new();
        let mut chunk = [0; 1024];
        loop {
            let frame = wire::take::<HostReply>(&mut incoming).map_err(io::Error::other)?;
            if let Some((_, reply)) = frame {
                return Ok(reply);
            }
            match stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => incoming.extend_from_slice(&chunk[..count]),
            }
        }
    }

    fn reach(&self, goal: &HostRequest) -> Result<Change, Failure> {
        match self.ask(goal)? {
            HostReply::Made => Ok(Change::Made),
            HostReply::AlreadySo => Ok(Change::AlreadySo),
            HostReply::No => Err(Failure("the host answered no to a goal".to_owned())),
            HostReply::Failed(why) => Err(Failure(why)),
        }
    }
}

impl Pools for HostLink {
    fn prescan(&self, _pool: PoolId) -> Result<(), Failure> {
        self.reach(&HostRequest::Prescan).map(|_| ())
    }

    /// The pre-scan keeps nothing of the log, and the import reads it from the disks.
    fn discard(&self, _pool: PoolId) -> Result<(), Failure> {
        Ok(())
    }

    fn import(&self, _pool: PoolId, won: &[DiskId]) -> Result<Change, Failure> {
        let number = |index: usize| won.contains(&disk_id(index)).then_some(index as u32);
        let won = (0..self.disks).filter_map(number).collect();
        self.reach(&HostRequest::Import { won })
    }

    fn export(&self, _pool: PoolId) -> Result<Change, Failure> {
        self.reach(&HostRequest::Export)
    }

    fn imported(&self, _pool: PoolId) -> Result<bool, Failure> {
        match self.ask(&HostRequest::Imported)? {
            HostReply::AlreadySo => Ok(true),
            HostReply::No => Ok(false),
            other => Err(Failure(format!("the host answered {other:?}"))),
        }
    }
}

impl Services for HostLink {
    /// The demo has one pool and one service, which needs it: the host refuses to start it without.
    fn start(&self, _pools: &[PoolId]) -> Result<Change, Failure> {
        self.reach(&HostRequest::Start)
    }

    fn stop(&self) -> Result<Change, Failure> {
        self.reach(&HostRequest::Stop)
    }
}

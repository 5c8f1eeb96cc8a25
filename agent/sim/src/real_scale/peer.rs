//! What is around the disks: a standby that answers, and nothing to import, start or announce.

use super::port::lock;
use crate::scale::standby;
use failover_core::adapters::{Change, Clock, Failure, Lease, Pools, Services, Vips, Watchdog};
use failover_core::ids::{DiskId, Node, PoolId};
use failover_core::time::Instant as BootInstant;
use failoverd::adapters::clock::BootClock;
use failoverd::links::Inspector;
use failoverd::pair_key::PairKey;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A standby that answers every beat once it is told to, until it is dropped.
pub(super) struct Standby {
    socket: UdpSocket,
    /// It answers.
    pub(super) awake: AtomicBool,
    /// It ends.
    pub(super) ended: AtomicBool,
}

impl Standby {
    pub(super) fn new() -> Result<Standby, String> {
        let socket = UdpSocket::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let patience = Some(Duration::from_millis(100));
        socket
            .set_read_timeout(patience)
            .map_err(|error| error.to_string())?;
        Ok(Standby {
            socket,
            awake: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        })
    }

    pub(super) fn port(&self) -> Result<u16, String> {
        let address = self.socket.local_addr();
        Ok(address.map_err(|error| error.to_string())?.port())
    }

    /// Runs until it is ended.
    pub(super) fn answer(&self, key: PairKey) {
        let inspector = Inspector::new(key, Node::B);
        let mut buffer = [0; 2048];
        while !self.ended.load(Ordering::Relaxed) {
            let Ok((length, from)) = self.socket.recv_from(&mut buffer) else {
                continue;
            };
            if !self.awake.load(Ordering::Relaxed) {
                continue;
            }
            if let Ok(beat) = inspector.inspect(&buffer[..length]) {
                let answer = inspector.seal(&standby(&beat));
                // A lost beat is answered by the next.
                let _ = self.socket.send_to(&answer, from);
            }
        }
    }
}

/// Nothing but disks.
pub(super) struct Nothing;

impl Pools for Nothing {
    fn prescan(&self, _pool: PoolId) -> Result<(), Failure> {
        Ok(())
    }
    fn discard(&self, _pool: PoolId) -> Result<(), Failure> {
        Ok(())
    }
    fn import(&self, _pool: PoolId, _won: &[DiskId]) -> Result<Change, Failure> {
        Ok(Change::AlreadySo)
    }
    fn export(&self, _pool: PoolId) -> Result<Change, Failure> {
        Ok(Change::AlreadySo)
    }
    fn imported(&self, _pool: PoolId) -> Result<bool, Failure> {
        Ok(false)
    }
}

impl Services for Nothing {
    fn start(&self, _: &[PoolId]) -> Result<Change, Failure> {
        Ok(Change::AlreadySo)
    }
    fn stop(&self) -> Result<Change, Failure> {
        Ok(Change::AlreadySo)
    }
}

impl Vips for Nothing {
    fn add(&self, _: &[PoolId]) -> Result<Change, Failure> {
        Ok(Change::AlreadySo)
    }
    fn remove(&self) -> Result<Change, Failure> {
        Ok(Change::AlreadySo)
    }
    fn announce(&self, _: &[PoolId]) -> Result<(), Failure> {
        Ok(())
    }
}

/// Notes how long no lease lived.
#[derive(Clone, Default)]
pub(super) struct Leases(Arc<Mutex<Dark>>);

#[derive(Default)]
struct Dark {
    until: BootInstant,
    dark: Duration,
}

impl Leases {
    /// What was dark before counts no more.
    pub(super) fn count_anew(&self) {
        lock(&self.0).dark = Duration::ZERO;
    }

    /// Time without a lease since then.
    pub(super) fn dark(&self) -> Duration {
        let state = lock(&self.0);
        state.dark + BootClock.now().since(state.until)
    }

    fn lives_until(&self, now: BootInstant, until: BootInstant) {
        let mut state = lock(&self.0);
        let dark = now.since(state.until);
        state.dark += dark;
        state.until = until;
    }
}

impl Lease for Leases {
    fn grant(&mut self, now: BootInstant, until: BootInstant) -> Result<(), Failure> {
        self.lives_until(now, until);
        Ok(())
    }
    fn renew(&mut self, now: BootInstant, until: BootInstant) -> Result<(), Failure> {
        self.lives_until(now, until);
        Ok(())
    }
    fn end(&mut self) -> Result<(), Failure> {
        let now = BootClock.now();
        self.lives_until(now, now);
        Ok(())
    }
}

impl Watchdog for Nothing {
    fn pet(&mut self) {}
}

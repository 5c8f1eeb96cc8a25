//! The lease of the virtual addresses, enforced by the kernel while this process is frozen or dead.
//!
//! ```text
//!   packet to or from a VIP ──▶ is this family's token in the set `lease`? ── yes ──▶ pass
//!                                                │ no (ended by itself, or the set is empty)
//!                                                ▼
//!                                        is it a VIP's? ── yes ──▶ drop
//! ```
//!
//! The tokens end by themselves when their timeout is over. A renewal is one transaction that deletes the old tokens
//! and adds new ones: deleting a token that has ended fails, and with it the renewal, so a lease that lapsed is never
//! revived. A second token, the *guard*, lives for a few milliseconds and is deleted in the same transaction: it
//! bounds the time between reading the clock and the kernel's act, so that a freeze in between can't lengthen the
//! lease. `docs/decisions/0011-vip-lease.md` tells the whole story.

use super::nft::{
    Batch, ChainSpec, Expr, Family, NftError, NftSocket, SetSpec, TABLE_OWNER, TABLE_PERSIST,
};
use failover_core::adapters::{Change, Clock, Failure, Lease};
use failover_core::time::Instant;
use nix::errno::Errno;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Name of our tables, one of family `inet` and one of family `arp`.
pub const TABLE: &str = "failoverd";

/// Life of the guard: the most by which a lease may outlive its end. Well inside `lease_slack_ms` (50), and two
/// ticks of the slowest usual kernel clock (100 Hz).
pub const GUARD_MS: u64 = 20;

/// A lease shorter than this is not set: the kernel counts in ticks of up to 10 ms, and 0 ticks would mean for ever.
const SHORTEST_MS: u64 = 20;

/// A renewal is tried again this often when the guard ended because we were held up.
const ATTEMPTS: u32 = 4;

const SET_LEASE: SetSpec = SetSpec {
    name: "lease",
    key_type: 2,
    key_len: 1,
    timeout: true,
};
const SET_GUARD: SetSpec = SetSpec {
    name: "guard",
    ..SET_LEASE
};
const SET_VIPS4: SetSpec = SetSpec {
    name: "vips4",
    key_type: 7,
    key_len: 4,
    timeout: false,
};
const SET_VIPS6: SetSpec = SetSpec {
    name: "vips6",
    key_type: 8,
    key_len: 16,
    timeout: false,
};

const INET_LEASE: (Family, &str, &str) = (Family::Inet, TABLE, SET_LEASE.name);
const INET_GUARD: (Family, &str, &str) = (Family::Inet, TABLE, SET_GUARD.name);
const ARP_LEASE: (Family, &str, &str) = (Family::Arp, TABLE, SET_LEASE.name);

const TOKEN4: &[u8] = &[Family::Ipv4 as u8];
const TOKEN6: &[u8] = &[Family::Ipv6 as u8];
const TOKEN_ARP: &[u8] = &[Family::Arp as u8];

const STEP_GUARD: &str = "take the guard";
const STEP_OLD: &str = "take back the old lease";

/// Before any address translation, so that a service published by DNAT is covered too.
const INET_IN: ChainSpec = ChainSpec {
    name: "in",
    hook: 0, // prerouting
    priority: -450,
};
/// After any address translation.
const INET_OUT: ChainSpec = ChainSpec {
    name: "out",
    hook: 4, // postrouting
    priority: 350,
};
const ARP_IN: ChainSpec = ChainSpec {
    name: "in",
    hook: 0,
    priority: 0,
};
const ARP_OUT: ChainSpec = ChainSpec {
    name: "out",
    hook: 1,
    priority: 0,
};

const LEASED: &[Expr] = &[Expr::LoadFamily, Expr::In("lease"), Expr::Accept];

const INET_IN_RULES: &[&[Expr]] = &[
    LEASED,
    &drop_v4(16), // destination
    &drop_v6(24), // destination
    // Solicitations go to a multicast address; the VIP is their target.
    &drop_neighbour(&[135]),
];

const INET_OUT_RULES: &[&[Expr]] = &[
    LEASED,
    &drop_v4(12), // source
    &drop_v6(8),  // source; covers neighbour solicitations sent from a VIP
    // Advertisements for a VIP, whatever address they are sent from.
    &drop_neighbour(&[136]),
];

/// IPv4 packets with a VIP at this offset of their header.
const fn drop_v4(offset: u32) -> [Expr; 6] {
    [
        Expr::LoadFamily,
        Expr::Is(TOKEN4),
        Expr::LoadNetwork(offset, 4),
        Expr::In("vips4"),
        Expr::Count,
        Expr::Drop,
    ]
}

/// IPv6 packets with a VIP at this offset of their header.
const fn drop_v6(offset: u32) -> [Expr; 6] {
    [
        Expr::LoadFamily,
        Expr::Is(TOKEN6),
        Expr::LoadNetwork(offset, 16),
        Expr::In("vips6"),
        Expr::Count,
        Expr::Drop,
    ]
}

/// Messages of neighbour discovery, of this ICMPv6 type, whose target is a VIP (RFC 4861, 4.3 and 4.4).
const fn drop_neighbour(kind: &'static [u8]) -> [Expr; 10] {
    [
        Expr::LoadFamily,
        Expr::Is(TOKEN6),
        Expr::LoadProtocol,
        Expr::Is(&[58]),
        Expr::LoadTransport(0, 1),
        Expr::Is(kind),
        Expr::LoadTransport(8, 16),
        Expr::In("vips6"),
        Expr::Count,
        Expr::Drop,
    ]
}

/// Requests that ask for a VIP. The new owner's gratuitous requests (sender and target are the VIP) must come
/// through: the controller that isn't MASTER may itself be a client of the VIP.
const ARP_IN_RULES: &[&[Expr]] = &[
    LEASED,
    &[
        Expr::LoadNetwork(6, 2), // operation
        Expr::Is(&[0, 1]),
        Expr::LoadNetwork(14, 4), // sender
        Expr::NotIn("vips4"),
        Expr::LoadNetwork(24, 4), // target
        Expr::In("vips4"),
        Expr::Count,
        Expr::Drop,
    ],
];

const ARP_OUT_RULES: &[&[Expr]] = &[
    LEASED,
    &[
        Expr::LoadNetwork(14, 4), // sender
        Expr::In("vips4"),
        Expr::Count,
        Expr::Drop,
    ],
];

/// How well the kernel protects the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Owned while we run (nobody else can flush them), kept when we die, adopted after a restart. Linux 6.9.
    OwnedAndPersistent,
    /// Ordinary tables: kept when we die; another program may flush them, which the next renewal notices.
    Plain,
}

impl Protection {
    fn flags(self) -> u32 {
        match self {
            Protection::OwnedAndPersistent => TABLE_OWNER | TABLE_PERSIST,
            Protection::Plain => 0,
        }
    }
}

/// Which form of the lease this machine can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// nftables, to the millisecond.
    Nftables(Protection),
    /// None that we can enforce; the sentence says why and what to do.
    Unavailable(String),
}

/// Tries out which form of the lease this machine can have; leaves nothing behind. Needs CAP_NET_ADMIN.
pub fn probe() -> Form {
    let mut socket = match NftSocket::open() {
        Ok(socket) => socket,
        Err(error) => return Form::Unavailable(remedy(&error)),
    };
    let mut reason = String::new();
    for protection in [Protection::OwnedAndPersistent, Protection::Plain] {
        let table = "failoverd_probe";
        let mut batch = Batch::new();
        lay_out(&mut batch, table, protection);
        batch.delete_table(Family::Inet, table);
        batch.delete_table(Family::Arp, table);
        match socket.run(&mut batch) {
            Ok(()) => return Form::Nftables(protection),
            Err(error) => reason = remedy(&error),
        }
    }
    Form::Unavailable(reason)
}

fn remedy(error: &NftError) -> String {
    let what = match error {
        NftError::Refused {
            errno: Errno::EPERM,
            ..
        }
        | NftError::Socket(Errno::EPERM | Errno::EACCES) => {
            "run the daemon with CAP_NET_ADMIN; if it has it, another running process owns the tables \
             `failoverd` (is a second daemon running?)"
        }
        _ => {
            "the lease of the virtual addresses needs nf_tables with families inet and arp: load the kernel \
             modules nf_tables and nft_counter, or use a kernel with CONFIG_NF_TABLES_INET and CONFIG_NF_TABLES_ARP"
        }
    };
    format!("{error}; {what}")
}

/// Tables, sets, chains and rules: adds what is missing and lays the rules anew, in one transaction with the rest of
/// the batch. Leaves a running lease alone.
fn lay_out(batch: &mut Batch, table: &str, protection: Protection) {
    for family in [Family::Inet, Family::Arp] {
        batch.add_table(family, table, protection.flags());
        batch.add_set(family, table, &SET_VIPS4);
        batch.add_set(family, table, &SET_LEASE);
    }
    batch.add_set(Family::Inet, table, &SET_VIPS6);
    batch.add_set(Family::Inet, table, &SET_GUARD);
    let chains: [(Family, &ChainSpec, &[&[Expr]]); 4] = [
        (Family::Inet, &INET_IN, INET_IN_RULES),
        (Family::Inet, &INET_OUT, INET_OUT_RULES),
        (Family::Arp, &ARP_IN, ARP_IN_RULES),
        (Family::Arp, &ARP_OUT, ARP_OUT_RULES),
    ];
    for (family, chain, rules) in chains {
        batch.add_chain(family, table, chain);
        batch.flush_chain(family, table, chain.name);
        for rule in rules {
            batch.add_rule(family, table, chain.name, rule);
        }
    }
}

/// Makes the sets of virtual addresses exactly `vips`.
fn fill(batch: &mut Batch, vips: &[IpAddr]) {
    let mut v4 = Vec::new();
    let mut v6 = Vec::new();
    for vip in vips {
        match vip {
            IpAddr::V4(address) => v4.push(address.octets()),
            IpAddr::V6(address) => v6.push(address.octets()),
        }
    }
    let v4: Vec<&[u8]> = v4.iter().map(|octets| &octets[..]).collect();
    let v6: Vec<&[u8]> = v6.iter().map(|octets| &octets[..]).collect();
    for (place, keys) in [
        ((Family::Inet, TABLE, SET_VIPS4.name), &v4),
        ((Family::Arp, TABLE, SET_VIPS4.name), &v4),
        ((Family::Inet, TABLE, SET_VIPS6.name), &v6),
    ] {
        batch.flush_set("empty the set of virtual addresses", place);
        batch.add_elements("add the virtual addresses", place, keys, None);
    }
}

/// The end of the lease that was last set, readable from any thread. For announcements: a frame from a packet socket
/// passes no hook, so its sender looks here first.
#[derive(Clone, Debug, Default)]
pub struct LeaseEnd(Arc<AtomicU64>);

impl LeaseEnd {
    /// Whether the lease lives at `now`, as far as this process knows.
    pub fn lives(&self, now: Instant) -> bool {
        now < Instant::from_micros(self.0.load(Ordering::Acquire))
    }

    fn set(&self, until: Instant) {
        self.0.store(until.micros(), Ordering::Release);
    }
}

/// The lease as nftables set elements with a timeout.
pub struct NftLease {
    socket: NftSocket,
    clock: Arc<dyn Clock>,
    protection: Protection,
    end: LeaseEnd,
}

impl std::fmt::Debug for NftLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NftLease")
            .field("protection", &self.protection)
            .finish_non_exhaustive()
    }
}

impl NftLease {
    /// Sets the tables up with the best protection that the kernel has: from now on the addresses are silent unless a
    /// lease lives. Adopts the tables of an earlier run of the daemon together with a lease that still lives.
    pub fn open(vips: &[IpAddr], clock: Arc<dyn Clock>) -> Result<NftLease, Failure> {
        let strongest = NftLease::open_with(vips, clock.clone(), Protection::OwnedAndPersistent);
        match strongest {
            Err(OpenError::Unsupported) => {
                NftLease::open_with(vips, clock, Protection::Plain).map_err(Failure::from)
            }
            other => other.map_err(Failure::from),
        }
    }

    /// As `open`, with exactly this protection.
    pub fn open_with(
        vips: &[IpAddr],
        clock: Arc<dyn Clock>,
        protection: Protection,
    ) -> Result<NftLease, OpenError> {
        let mut socket = NftSocket::open().map_err(OpenError::Nft)?;
        let mut batch = Batch::new();
        lay_out(&mut batch, TABLE, protection);
        fill(&mut batch, vips);
        match socket.run(&mut batch) {
            Ok(()) => {}
            // Tables of another layout or protection stand in the way: replaced in one transaction, lease included,
            // so that the addresses fall silent rather than open.
            Err(NftError::Refused {
                errno: Errno::EEXIST | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EBUSY,
                ..
            }) => replace(&mut socket, vips, protection)?,
            Err(error) => return Err(OpenError::Nft(error)),
        }
        Ok(NftLease {
            socket,
            clock,
            protection,
            end: LeaseEnd::default(),
        })
    }

    /// How well the kernel protects the tables.
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// The end of the lease, for other threads.
    pub fn end_of_lease(&self) -> LeaseEnd {
        self.end.clone()
    }

    /// Makes the virtual addresses exactly `vips`; addresses in both lists notice nothing.
    pub fn set_vips(&mut self, vips: &[IpAddr]) -> Result<(), Failure> {
        let mut batch = Batch::new();
        fill(&mut batch, vips);
        let result = self.socket.run(&mut batch);
        result.map_err(|error| failure("the list of virtual addresses was not changed", &error))
    }

    /// Sets new tokens until `until`. `old` puts the treatment of the old ones into the transaction.
    fn lease_until(&mut self, until: Instant, old: fn(&mut Batch)) -> Result<(), NftError> {
        let mut attempt = 1;
        loop {
            let mut guard = Batch::new();
            guard.flush_set("empty the guard", INET_GUARD);
            let place = (STEP_GUARD, INET_GUARD);
            guard.add_elements(place.0, place.1, &[TOKEN4], Some(GUARD_MS));
            self.socket.send(&mut guard)?;
            // Read after the guard began to run and before the tokens are set: the tokens are set at most GUARD_MS
            // after this moment, or not at all.
            let now = self.clock.now();
            let result = self.send_tokens(now, until, old);
            let guarded = self.socket.answer(&guard);
            let result = result.and_then(|batch| self.socket.answer(&batch));
            guarded?;
            match result {
                Err(NftError::Refused {
                    step: STEP_GUARD,
                    errno: Errno::ENOENT,
                }) if attempt < ATTEMPTS => attempt += 1,
                other => return other,
            }
        }
    }

    fn send_tokens(
        &mut self,
        now: Instant,
        until: Instant,
        old: fn(&mut Batch),
    ) -> Result<Batch, NftError> {
        let timeout_ms = until.since(now).as_millis() as u64;
        let mut batch = Batch::new();
        if timeout_ms < SHORTEST_MS {
            return Err(NftError::Refused {
                step: "set a lease whose end has come already",
                errno: Errno::ETIME,
            });
        }
        batch.delete_elements(STEP_GUARD, INET_GUARD, &[TOKEN4]);
        old(&mut batch);
        let step = "set the new lease";
        batch.add_elements(step, INET_LEASE, &[TOKEN4, TOKEN6], Some(timeout_ms));
        batch.add_elements(step, ARP_LEASE, &[TOKEN_ARP], Some(timeout_ms));
        self.socket.send(&mut batch)?;
        Ok(batch)
    }

    fn flush_tokens(batch: &mut Batch) {
        batch.flush_set("end the old lease", INET_LEASE);
        batch.flush_set("end the old lease", ARP_LEASE);
    }

    fn settle(&mut self, until: Instant, result: Result<(), NftError>) -> Result<(), Failure> {
        match result {
            Ok(()) => {
                self.end.set(until);
                Ok(())
            }
            Err(NftError::Refused {
                step: STEP_OLD,
                errno: Errno::ENOENT,
            }) => {
                self.end.set(Instant::default());
                Err(Failure(format!(
                    "the lease of the virtual addresses had lapsed, or the nftables tables `{TABLE}` were deleted \
                     by another program (a flush of the rule set); it was not revived"
                )))
            }
            Err(NftError::Refused {
                step: STEP_GUARD,
                errno: Errno::ENOENT,
            }) => {
                self.end.set(Instant::default());
                Err(Failure(format!(
                    "the lease of the virtual addresses was not set: {ATTEMPTS} times this thread was held up for \
                     more than {GUARD_MS} ms between reading the clock and the kernel's act; give the daemon \
                     real-time priority (LimitRTPRIO)"
                )))
            }
            Err(error) => {
                self.end.set(Instant::default());
                Err(failure(
                    "the lease of the virtual addresses was not set",
                    &error,
                ))
            }
        }
    }
}

impl Lease for NftLease {
    fn grant(&mut self, _now: Instant, until: Instant) -> Result<(), Failure> {
        let result = self.lease_until(until, NftLease::flush_tokens);
        self.settle(until, result)
    }

    fn renew(&mut self, _now: Instant, until: Instant) -> Result<(), Failure> {
        let result = self.lease_until(until, |batch| {
            batch.delete_elements(STEP_OLD, INET_LEASE, &[TOKEN4, TOKEN6]);
            batch.delete_elements(STEP_OLD, ARP_LEASE, &[TOKEN_ARP]);
        });
        self.settle(until, result)
    }

    fn end(&mut self) -> Result<(), Failure> {
        // First for the announcers of this process, then for the kernel.
        self.end.set(Instant::default());
        let mut batch = Batch::new();
        NftLease::flush_tokens(&mut batch);
        let result = self.socket.run(&mut batch);
        result.map_err(|error| failure("the lease of the virtual addresses was not ended", &error))
    }
}

/// Why the tables could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel doesn't have this protection.
    #[error("this kernel has no owned and persistent nftables tables (Linux 6.9)")]
    Unsupported,
    /// nftables failed.
    #[error("{}", remedy(.0))]
    Nft(NftError),
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        Failure(format!(
            "the lease of the virtual addresses can't be set up: {error}"
        ))
    }
}

fn replace(
    socket: &mut NftSocket,
    vips: &[IpAddr],
    protection: Protection,
) -> Result<(), OpenError> {
    let mut batch = Batch::new();
    for family in [Family::Inet, Family::Arp] {
        if socket.has_table(family, TABLE).map_err(OpenError::Nft)? {
            batch.delete_table(family, TABLE);
        }
    }
    lay_out(&mut batch, TABLE, protection);
    fill(&mut batch, vips);
    match socket.run(&mut batch) {
        Ok(()) => Ok(()),
        Err(NftError::Refused {
            step: "add the table",
            // Linux before 5.12 says EINVAL of a flag that it doesn't know.
            errno: Errno::EOPNOTSUPP | Errno::EINVAL,
        }) if protection != Protection::Plain => Err(OpenError::Unsupported),
        Err(error) => Err(OpenError::Nft(error)),
    }
}

/// Removes tables that an earlier run left behind: for a daemon that needs no lease (no peer, no addresses), whose
/// addresses they would silence. Without nf_tables there is nothing to remove.
pub fn remove_tables() -> Result<Change, Failure> {
    let failed = |error| failure("the tables of an earlier lease were not removed", &error);
    let Ok(mut socket) = NftSocket::open() else {
        return Ok(Change::AlreadySo);
    };
    let mut batch = Batch::new();
    let mut found = false;
    for family in [Family::Inet, Family::Arp] {
        match socket.has_table(family, TABLE) {
            Ok(true) => {
                batch.delete_table(family, TABLE);
                found = true;
            }
            Ok(false) => {}
            Err(NftError::Refused {
                errno: Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EAFNOSUPPORT,
                ..
            }) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if !found {
        return Ok(Change::AlreadySo);
    }
    socket.run(&mut batch).map_err(failed)?;
    Ok(Change::Made)
}

fn failure(what: &str, error: &NftError) -> Failure {
    let hint = match error {
        NftError::Refused {
            errno: Errno::ENOENT,
            ..
        } => format!("; another program deleted the tables `{TABLE}` (a flush of the rule set)"),
        _ => String::new(),
    };
    Failure(format!("{what}: {error}{hint}"))
}

/// The longest time by which a lease of nftables may outlive its end.
pub const fn overrun() -> Duration {
    Duration::from_millis(GUARD_MS)
}

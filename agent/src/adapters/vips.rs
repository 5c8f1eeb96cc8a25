//! The virtual addresses: on and off an interface, and known to the neighbours.
//!
//! A virtual address is added without duplicate address detection (the fence has proved that we are the only owner,
//! and waiting a second for a probe would be a second of darkness) and so that the kernel never picks it as the
//! source of connections of its own, which would die with the next handover.

use super::announce::{ArpForm, PacketSocket, gratuitous_arp, unsolicited_advertisement};
use super::lease::LeaseEnd;
use super::route::{Held, Interface, RouteSocket};
use failover_core::adapters::{Change, Clock, Failure, Vips};
use failover_core::ids::PoolId;
use nix::errno::Errno;
use rtnetlink::AddressMessageBuilder;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One virtual address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// Interface that carries it.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// Length of its network's prefix: up to 32 for IPv4, 128 for IPv6.
    pub prefix: u8,
    /// The pool that it belongs to: it is on only where and while that one is imported.
    pub pool: Option<PoolId>,
}

impl Vip {
    /// Belongs to no pool, or to one of these.
    fn is_of(&self, pools: &[PoolId]) -> bool {
        self.pool.is_none_or(|pool| pools.contains(&pool))
    }
}

impl std::fmt::Display for Vip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} on {}", self.address, self.prefix, self.interface)
    }
}

/// The virtual addresses of this controller, in the kernel.
#[derive(Debug)]
pub struct KernelVips {
    vips: Mutex<Vec<Vip>>,
    /// Kept open: closing a packet socket waits for a grace period of the kernel, some 10 ms.
    packets: Mutex<Option<PacketSocket>>,
    announce_while: Option<AnnounceWhile>,
}

struct AnnounceWhile {
    lease: LeaseEnd,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for AnnounceWhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AnnounceWhile").field(&self.lease).finish()
    }
}

impl KernelVips {
    /// Checks the list; touches nothing yet.
    pub fn new(vips: Vec<Vip>) -> Result<KernelVips, Failure> {
        check(&vips)?;
        Ok(KernelVips {
            vips: Mutex::new(vips),
            packets: Mutex::new(None),
            announce_while: None,
        })
    }

    /// Lets announcements out only while `lease` lives. Frames of a packet socket pass no filter: without this, a
    /// controller frozen in the middle of announcing would, when it resumes, take the address back from the new owner.
    pub fn announcing_while(mut self, lease: LeaseEnd, clock: Arc<dyn Clock>) -> KernelVips {
        self.announce_while = Some(AnnounceWhile { lease, clock });
        self
    }

    /// The addresses in the configuration.
    pub fn configured(&self) -> Vec<Vip> {
        self.list().clone()
    }

    /// The configured addresses that some interface of this controller carries.
    pub fn present(&self) -> Result<Vec<IpAddr>, Failure> {
        let vips = self.configured();
        let held = open()?.addresses().map_err(unreadable)?;
        let ours = |held: &Held| vips.iter().any(|vip| vip.address == held.address);
        Ok(held.iter().filter(|h| ours(h)).map(|h| h.address).collect())
    }

    /// What of these addresses the lease can't cover on this machine, one sentence each: for the configuration check.
    pub fn not_covered(&self) -> Result<Vec<String>, Failure> {
        let interfaces = open()?.interfaces().map_err(unreadable)?;
        let mut found = Vec::new();
        for vip in self.configured() {
            let Some(interface) = interfaces.iter().find(|i| i.name == vip.interface) else {
                continue;
            };
            if interface.xdp {
                found.push(format!(
                    "{vip}: an XDP program on the interface sees packets before the lease's filter; detach it, or \
                     see that it leaves the virtual addresses alone"
                ));
            }
            if interface.mac.is_none() && !interface.loopback {
                found.push(format!(
                    "{vip}: the interface is not Ethernet: neighbours are not told of a takeover, and its ARP is \
                     not filtered (IP is)"
                ));
            }
        }
        Ok(found)
    }

    /// Changes the list. Where the addresses are on (those of no pool and of the pools in `on`), addresses that left the
    /// list are removed and new ones added; those in both are not touched. Without `on`, those that left are removed all
    /// the same, should they be there.
    pub fn change_to(&self, vips: Vec<Vip>, on: Option<&[PoolId]>) -> Result<Change, Failure> {
        check(&vips)?;
        let mut list = self.list();
        let gone: Vec<Vip> = list
            .iter()
            .filter(|old| !vips.iter().any(|new| new.address == old.address))
            .cloned()
            .collect();
        let removed = take_off(&gone)?;
        let added = match on {
            Some(pools) => add_of(&vips, pools)?,
            None => Change::AlreadySo,
        };
        *list = vips;
        Ok(either(removed, added))
    }

    fn list(&self) -> MutexGuard<'_, Vec<Vip>> {
        self.vips.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_announce(&self) -> bool {
        let gate = self.announce_while.as_ref();
        gate.is_none_or(|gate| gate.lease.lives(gate.clock.now()))
    }
}

impl Vips for KernelVips {
    fn add(&self, pools: &[PoolId]) -> Result<Change, Failure> {
        add_of(&self.configured(), pools)
    }

    fn remove(&self) -> Result<Change, Failure> {
        take_off(&self.configured())
    }

    /// Puts those back first that went with their interface (a link that goes down takes its IPv6 addresses along).
    fn announce(&self, pools: &[PoolId]) -> Result<(), Failure> {
        let vips = self.configured();
        let mut route = open()?;
        let interfaces = route.interfaces().map_err(unreadable)?;
        let mut failures = Vec::new();
        // As with announcing: not without a lease, which is how a controller that no longer owns looks from here.
        if self.may_announce()
            && let Err(failure) = put_on(&mut route, &interfaces, &vips, pools)
        {
            failures.push(failure.0);
        }
        let mut packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        let socket = match packets.take() {
            Some(socket) => packets.insert(socket),
            None => packets.insert(PacketSocket::open().map_err(|errno| {
                Failure(format!(
                    "no packet socket for announcements: {errno}; run the daemon with CAP_NET_RAW"
                ))
            })?),
        };
        for vip in vips.iter().filter(|vip| vip.is_of(pools)) {
            if let Err(failure) = self.announce_one(vip, &interfaces, socket) {
                failures.push(failure);
            }
        }
        all_well(failures)
    }
}

impl KernelVips {
    fn announce_one(
        &self,
        vip: &Vip,
        interfaces: &[Interface],
        socket: &PacketSocket,
    ) -> Result<(), String> {
        let interface = find(interfaces, vip)?;
        if interface.loopback {
            return Ok(()); // no neighbours
        }
        let mac = interface.mac.ok_or_else(|| {
            format!(
                "{vip}: not announced, the interface is not Ethernet; neighbours learn by asking"
            )
        })?;
        let frames = match vip.address {
            IpAddr::V4(address) => vec![
                gratuitous_arp(mac, address, ArpForm::Request),
                gratuitous_arp(mac, address, ArpForm::Reply),
            ],
            IpAddr::V6(address) => vec![unsolicited_advertisement(mac, address)],
        };
        for frame in frames {
            // Looked at before each frame: as close to the act as a program can.
            if !self.may_announce() {
                return Err(format!("{vip}: not announced, no lease lives"));
            }
            socket.send(interface.index, &frame).map_err(|errno| {
                format!("{vip}: not announced: {errno}; is the interface up and cabled?")
            })?;
        }
        Ok(())
    }
}

fn check(vips: &[Vip]) -> Result<(), Failure> {
    for (place, vip) in vips.iter().enumerate() {
        let longest = if vip.address.is_ipv4() { 32 } else { 128 };
        if !(1..=longest).contains(&vip.prefix) {
            return Err(Failure(format!(
                "{vip}: a prefix of 1 to {longest} bits is needed"
            )));
        }
        if vip.address.is_unspecified() || vip.address.is_multicast() {
            return Err(Failure(format!("{vip}: not the address of a host")));
        }
        if vips[..place].iter().any(|v| v.address == vip.address) {
            return Err(Failure(format!(
                "{vip}: the address is in the list twice; keep one"
            )));
        }
    }
    Ok(())
}

fn add_of(vips: &[Vip], pools: &[PoolId]) -> Result<Change, Failure> {
    let mut socket = open()?;
    let interfaces = socket.interfaces().map_err(unreadable)?;
    put_on(&mut socket, &interfaces, vips, pools)
}

fn put_on(
    socket: &mut RouteSocket,
    interfaces: &[Interface],
    vips: &[Vip],
    pools: &[PoolId],
) -> Result<Change, Failure> {
    let held = socket.addresses().map_err(unreadable)?;
    let mut failures = Vec::new();
    let mut requests = Vec::new();
    let mut subjects = Vec::new();
    for vip in vips {
        if !vip.is_of(pools) {
            // Its pool isn't here (any more): nobody may find an address that serves nothing.
            for old in held.iter().filter(|h| h.address == vip.address) {
                requests.push((RouteNetlinkMessage::DelAddress(message(old)), 0));
                subjects.push((vip, Goal::Off));
            }
            continue;
        }
        let index = match find(interfaces, vip) {
            Ok(interface) => interface.index,
            Err(failure) => {
                failures.push(failure);
                continue;
            }
        };
        let right = |h: &Held| h.index == index && h.prefix == vip.prefix;
        let mut there = false;
        for old in held.iter().filter(|h| h.address == vip.address) {
            if right(old) {
                there = true;
            } else {
                // Elsewhere, or with another prefix: from an older configuration.
                requests.push((RouteNetlinkMessage::DelAddress(message(old)), 0));
                subjects.push((vip, Goal::Off));
            }
        }
        if !there {
            keep_secondaries(vip);
            let add = RouteNetlinkMessage::NewAddress(wanted(vip, index, vips, &held));
            requests.push((add, NLM_F_CREATE | NLM_F_REPLACE));
            subjects.push((vip, Goal::On));
        }
    }
    carry_out(socket, requests, &subjects, failures)
}

fn take_off(vips: &[Vip]) -> Result<Change, Failure> {
    let mut socket = open()?;
    let held = socket.addresses().map_err(unreadable)?;
    let mut requests = Vec::new();
    let mut subjects = Vec::new();
    // Wherever the address is: a controller that isn't the owner must not hold it on any interface.
    for old in &held {
        if let Some(vip) = vips.iter().find(|vip| vip.address == old.address) {
            requests.push((RouteNetlinkMessage::DelAddress(message(old)), 0));
            subjects.push((vip, Goal::Off));
        }
    }
    carry_out(&mut socket, requests, &subjects, Vec::new())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    On,
    Off,
}

fn carry_out(
    socket: &mut RouteSocket,
    requests: Vec<(RouteNetlinkMessage, u16)>,
    subjects: &[(&Vip, Goal)],
    mut failures: Vec<String>,
) -> Result<Change, Failure> {
    let change = if requests.is_empty() {
        Change::AlreadySo
    } else {
        Change::Made
    };
    let results = socket.change(requests).map_err(unreadable)?;
    for (result, (vip, goal)) in results.into_iter().zip(subjects) {
        match (result, goal) {
            (Ok(()), _) | (Err(Errno::EEXIST), Goal::On) => {}
            // Went with the primary address of its network, or with its interface.
            (Err(Errno::EADDRNOTAVAIL | Errno::ENODEV), Goal::Off) => {}
            (Err(errno), Goal::On) => failures.push(format!("{vip}: not added: {}", hint(errno))),
            (Err(errno), Goal::Off) => {
                failures.push(format!("{vip}: not removed: {}", hint(errno)));
            }
        }
    }
    all_well(failures).map(|()| change)
}

fn wanted(vip: &Vip, index: u32, vips: &[Vip], held: &[Held]) -> AddressMessage {
    let mut message = message(&Held {
        index,
        address: vip.address,
        prefix: vip.prefix,
    });
    let mut flags = AddressFlags::empty();
    if vip.address.is_ipv6() {
        flags |= AddressFlags::Nodad;
        message.header.flags |= AddressHeaderFlags::Nodad;
        // Deprecated, and valid for ever: answers, but is no source for connections of our own.
        let mut life = CacheInfo::default();
        life.ifa_preferred = 0;
        life.ifa_valid = u32::MAX;
        message.attributes.push(AddressAttribute::CacheInfo(life));
    }
    // Where the interface has an address of its own in that network, its route is the network's; a second one by
    // the virtual address would come and go with it.
    let own = |h: &&Held| h.index == index && !vips.iter().any(|v| v.address == h.address);
    if held.iter().filter(own).any(|h| same_network(vip, h)) {
        flags |= AddressFlags::Noprefixroute;
    }
    message.attributes.push(AddressAttribute::Flags(flags));
    message
}

fn message(held: &Held) -> AddressMessage {
    match held.address {
        IpAddr::V4(address) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(held.index)
            .address(address, held.prefix)
            .build(),
        IpAddr::V6(address) => AddressMessageBuilder::<Ipv6Addr>::new()
            .index(held.index)
            .address(address, held.prefix)
            .build(),
    }
}

fn same_network(vip: &Vip, held: &Held) -> bool {
    if vip.prefix != held.prefix {
        return false;
    }
    match (vip.address, held.address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let differ = u32::from(a) ^ u32::from(b);
            differ.checked_shr(32 - u32::from(vip.prefix)).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let differ = u128::from(a) ^ u128::from(b);
            differ.checked_shr(128 - u32::from(vip.prefix)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// Without this setting the kernel deletes, with the first IPv4 address of a network, all others of that network.
/// Most distributions set it; where it can't be written, a list that shrinks may take its neighbours along.
fn keep_secondaries(vip: &Vip) {
    if vip.address.is_ipv4() && vip.prefix < 32 {
        let setting = format!(
            "/proc/sys/net/ipv4/conf/{}/promote_secondaries",
            vip.interface
        );
        let _ = std::fs::write(setting, "1");
    }
}

fn find<'a>(interfaces: &'a [Interface], vip: &Vip) -> Result<&'a Interface, String> {
    let found = interfaces.iter().find(|i| i.name == vip.interface);
    found.ok_or_else(|| {
        format!("{vip}: there is no such interface; correct `interface` or see why its driver is not loaded")
    })
}

fn hint(errno: Errno) -> String {
    match errno {
        Errno::EPERM => format!("{errno}; run the daemon with CAP_NET_ADMIN"),
        Errno::EACCES | Errno::EADDRNOTAVAIL => {
            format!("{errno}; is IPv6 disabled on the interface (sysctl disable_ipv6)?")
        }
        _ => errno.to_string(),
    }
}

fn either(a: Change, b: Change) -> Change {
    if a == Change::Made || b == Change::Made {
        Change::Made
    } else {
        Change::AlreadySo
    }
}

fn all_well(failures: Vec<String>) -> Result<(), Failure> {
    if failures.is_empty() {
        Ok(())
    } else {
        Err(Failure(failures.join("; ")))
    }
}

fn open() -> Result<RouteSocket, Failure> {
    RouteSocket::open(0).map_err(unreadable)
}

fn unreadable(errno: Errno) -> Failure {
    Failure(format!(
        "the kernel's interfaces and addresses can't be read or changed: rtnetlink: {errno}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(address: &str, prefix: u8) -> Vip {
        Vip {
            interface: "lan0".to_owned(),
            address: address.parse().expect("an address"),
            prefix,
            pool: None,
        }
    }

    #[test]
    fn a_bad_list_is_refused_with_the_reason() {
        let refused = |vips| KernelVips::new(vips).expect_err("bad").0;
        assert!(refused(vec![vip("192.0.2.1", 33)]).contains("1 to 32"));
        assert!(refused(vec![vip("2001:db8::1", 129)]).contains("1 to 128"));
        assert!(refused(vec![vip("224.0.0.1", 24)]).contains("host"));
        assert!(refused(vec![vip("192.0.2.1", 24), vip("192.0.2.1", 32)]).contains("twice"));
    }

    #[test]
    fn networks_are_compared_by_their_prefix() {
        let held = |address: &str, prefix| Held {
            index: 1,
            address: address.parse().expect("an address"),
            prefix,
        };
        let v4 = vip("192.0.2.9", 24);
        assert!(same_network(&v4, &held("192.0.2.200", 24)));
        assert!(!same_network(&v4, &held("192.0.3.200", 24)));
        assert!(!same_network(&v4, &held("192.0.2.200", 25)));
        let v6 = vip("2001:db8::9", 64);
        assert!(same_network(&v6, &held("2001:db8::1:0:0:1", 64)));
        assert!(!same_network(&v6, &held("2001:db8:0:1::1", 64)));
        assert!(!same_network(&v6, &held("192.0.2.1", 64)));
    }
}

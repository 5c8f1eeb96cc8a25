//! Virtual addresses in the kernel.

use crate::ns::{client, ip, isolated};
use failover_core::adapters::{Change, Vips};
use failoverd::adapters::clock::BootClock;
use failoverd::adapters::lease::LeaseEnd;
use failoverd::adapters::link_watch::LinkWatch;
use failoverd::adapters::vips::{KernelVips, Vip};
use std::sync::{Arc, mpsc};
use std::time::Duration;

fn vip(address: &str, prefix: u8) -> Vip {
    Vip {
        interface: "lan0".to_owned(),
        address: address.parse().expect("an address"),
        prefix,
        pool: None,
    }
}

fn some() -> Vec<Vip> {
    vec![
        vip("192.0.2.50", 24),
        vip("198.51.100.7", 24),
        vip("203.0.113.9", 32),
        vip("2001:db8::50", 64),
        vip("2001:db8:1::50", 128),
    ]
}

#[test]
fn goals_are_reached_once_and_said_so() {
    isolated("vips::goals_are_reached_once_and_said_so", || {
        let _client = client();
        let vips = KernelVips::new(some()).expect("a good list");
        assert_eq!(vips.remove(), Ok(Change::AlreadySo));
        assert_eq!(vips.add(&[]), Ok(Change::Made));
        assert_eq!(vips.add(&[]), Ok(Change::AlreadySo));
        assert_eq!(vips.present().map(|present| present.len()), Ok(5));
        ip("addr del 203.0.113.9/32 dev lan0");
        assert_eq!(vips.add(&[]), Ok(Change::Made));
        assert_eq!(vips.remove(), Ok(Change::Made));
        assert_eq!(vips.remove(), Ok(Change::AlreadySo));
        assert_eq!(vips.present(), Ok(vec![]));
        let left = ip("addr show dev lan0");
        assert!(left.contains("192.0.2.1/24"), "own addresses stay: {left}");
        assert!(
            left.contains("2001:db8::1/64"),
            "own addresses stay: {left}"
        );
    });
}

#[test]
fn usable_at_once_and_never_a_source_of_our_own() {
    isolated("vips::usable_at_once_and_never_a_source_of_our_own", || {
        let _client = client();
        let vips = KernelVips::new(some()).expect("a good list");
        vips.add(&[]).expect("added");
        let shown = ip("-6 addr show dev lan0 scope global");
        assert!(!shown.contains("tentative"), "{shown}");
        std::net::UdpSocket::bind("[2001:db8::50]:0").expect("usable at once");
        let route = ip("-6 route get 2001:db8::100");
        assert!(route.contains("src 2001:db8::1 "), "{route}");
        let route = ip("-4 route get 192.0.2.100");
        assert!(route.contains("src 192.0.2.1 "), "{route}");
        // In a network where the interface has no address of its own, the route comes with the virtual address.
        assert!(ip("-4 route show").contains("198.51.100.0/24"));
        vips.remove().expect("removed");
        assert!(
            ip("-4 route show").contains("192.0.2.0/24"),
            "our own route stays"
        );
        assert!(
            ip("-6 route show").contains("2001:db8::/64"),
            "our own route stays"
        );
    });
}

#[test]
fn a_stray_copy_is_moved() {
    isolated("vips::a_stray_copy_is_moved", || {
        let _client = client();
        ip("addr add 192.0.2.50/32 dev lan0");
        ip("addr add 2001:db8::50/128 dev lo");
        let vips = KernelVips::new(some()).expect("a good list");
        assert_eq!(vips.add(&[]), Ok(Change::Made));
        let shown = ip("addr show");
        assert!(!shown.contains("192.0.2.50/32"), "{shown}");
        assert!(!shown.contains("2001:db8::50/128"), "{shown}");
        ip("addr add 203.0.113.9/32 dev lo");
        assert_eq!(vips.remove(), Ok(Change::Made));
        assert_eq!(vips.present(), Ok(vec![]));
    });
}

#[test]
fn a_shorter_list_takes_only_what_left() {
    isolated("vips::a_shorter_list_takes_only_what_left", || {
        let _client = client();
        let list = vec![vip("198.51.100.7", 24), vip("198.51.100.8", 24)];
        let vips = KernelVips::new(list.clone()).expect("a good list");
        vips.add(&[]).expect("added");
        // The first is the primary address of its network: the kernel would take the second along.
        assert_eq!(
            vips.change_to(list[1..].to_vec(), Some(&[])),
            Ok(Change::Made)
        );
        let shown = ip("addr show dev lan0");
        assert!(!shown.contains("198.51.100.7"), "{shown}");
        assert!(shown.contains("198.51.100.8"), "{shown}");
        assert_eq!(
            vips.change_to(list[1..].to_vec(), Some(&[])),
            Ok(Change::AlreadySo)
        );
        assert_eq!(vips.change_to(vec![], Some(&[])), Ok(Change::Made));
    });
}

#[test]
fn a_missing_interface_is_named_and_the_others_are_served() {
    isolated(
        "vips::a_missing_interface_is_named_and_the_others_are_served",
        || {
            let _client = client();
            let mut list = some();
            list[0].interface = "lan7".to_owned();
            let vips = KernelVips::new(list).expect("a good list");
            let failed = vips.add(&[]).expect_err("no lan7");
            assert!(failed.0.contains("192.0.2.50/24 on lan7"), "{failed}");
            assert_eq!(vips.present().map(|present| present.len()), Ok(4));
            let failed = vips.announce(&[]).expect_err("no lan7");
            assert!(failed.0.contains("lan7"), "{failed}");
        },
    );
}

/// The client believed in another owner; an announcement corrects it, for IPv4 and IPv6.
#[test]
fn an_announcement_corrects_the_neighbours() {
    isolated("vips::an_announcement_corrects_the_neighbours", || {
        let client = client();
        let vips = KernelVips::new(vec![vip("192.0.2.50", 24), vip("2001:db8::50", 64)])
            .expect("a good list");
        vips.add(&[]).expect("added");
        client.run(|| {
            ip("neigh replace 192.0.2.50 lladdr 02:00:00:00:00:99 dev client0 nud stale");
            ip("neigh replace 2001:db8::50 lladdr 02:00:00:00:00:99 dev client0 nud stale");
        });
        // A link that has just come up hears multicast a little later: announced several times, as in life.
        let mut table = String::new();
        for _ in 0..50 {
            vips.announce(&[]).expect("announced");
            std::thread::sleep(Duration::from_millis(100));
            table = client.run(|| ip("neigh show dev client0"));
            if !table.contains("02:00:00:00:00:99") {
                break;
            }
        }
        assert!(!table.contains("02:00:00:00:00:99"), "{table}");
        assert!(
            table.contains("192.0.2.50 ") && table.contains("2001:db8::50 "),
            "{table}"
        );
    });
}

/// A link that goes down takes its IPv6 addresses along; before they are announced anew, they are there again.
#[test]
fn an_announcement_puts_back_what_went_with_the_link() {
    const NAME: &str = "vips::an_announcement_puts_back_what_went_with_the_link";
    isolated(NAME, || {
        let _client = client();
        let without_lease = KernelVips::new(some())
            .expect("a good list")
            .announcing_while(LeaseEnd::default(), Arc::new(BootClock));
        let vips = KernelVips::new(some()).expect("a good list");
        vips.add(&[]).expect("added");
        ip("link set lan0 down");
        ip("link set lan0 up");
        assert_eq!(vips.present().map(|present| present.len()), Ok(3));
        without_lease.announce(&[]).expect_err("no lease");
        assert_eq!(vips.present().map(|present| present.len()), Ok(3));
        vips.announce(&[]).expect("announced");
        assert_eq!(vips.present().map(|present| present.len()), Ok(5));
        let shown = ip("-6 addr show dev lan0 scope global");
        assert!(!shown.contains("tentative"), "{shown}");
    });
}

#[test]
fn nothing_is_announced_without_a_lease() {
    isolated("vips::nothing_is_announced_without_a_lease", || {
        let client = client();
        let vips = KernelVips::new(vec![vip("192.0.2.50", 24)])
            .expect("a good list")
            .announcing_while(LeaseEnd::default(), Arc::new(BootClock));
        vips.add(&[]).expect("added");
        client.run(|| {
            ip("neigh replace 192.0.2.50 lladdr 02:00:00:00:00:99 dev client0 nud stale");
        });
        let refused = vips.announce(&[]).expect_err("no lease");
        assert!(refused.0.contains("no lease lives"), "{refused}");
        std::thread::sleep(Duration::from_millis(50));
        let table = client.run(|| ip("neigh show dev client0"));
        assert!(table.contains("02:00:00:00:00:99"), "{table}");
    });
}

#[test]
fn a_link_that_flaps_is_told() {
    isolated("vips::a_link_that_flaps_is_told", || {
        let client = client();
        let (told, changes) = mpsc::channel();
        let names = vec!["lan0".to_owned(), "lan7".to_owned()];
        let _watch = LinkWatch::start(names, move |change| {
            let _ = told.send((change.interface, change.up));
        })
        .expect("a watch");
        let next = || changes.recv_timeout(Duration::from_secs(5)).expect("told");
        assert_eq!(next(), ("lan0".to_owned(), true));
        assert_eq!(next(), ("lan7".to_owned(), false));
        client.run(|| ip("link set client0 down"));
        assert_eq!(next(), ("lan0".to_owned(), false));
        client.run(|| ip("link set client0 up"));
        assert_eq!(next(), ("lan0".to_owned(), true));
        ip("link add lan7 type veth peer name other7");
        ip("link set other7 up");
        ip("link set lan7 up");
        assert_eq!(next(), ("lan7".to_owned(), true));
        ip("link del lan7");
        assert_eq!(next(), ("lan7".to_owned(), false));
    });
}

/// Prints what a takeover pays for its addresses; fails only if it is absurd.
#[test]
fn cost_of_adding_and_announcing() {
    isolated("vips::cost_of_adding_and_announcing", || {
        let _client = client();
        let vips = KernelVips::new(some()).expect("a good list");
        let mut micros: Vec<u128> = (0..20)
            .map(|_| {
                let start = std::time::Instant::now();
                vips.add(&[]).expect("added");
                vips.announce(&[]).expect("announced");
                let took = start.elapsed().as_micros();
                vips.remove().expect("removed");
                took
            })
            .collect();
        micros.sort_unstable();
        println!(
            "5 addresses added and announced: p50 {} us, max {} us",
            micros[10], micros[19]
        );
        assert!(micros[10] < 200_000, "{micros:?}");
    });
}

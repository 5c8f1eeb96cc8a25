//! The lease of the virtual addresses as a client sees it.

use crate::ns::{Machine, client, ip, isolated, skipped};
use failover_core::adapters::{Change, Clock, Lease, Vips};
use failover_core::time::{Instant, ms};
use failoverd::adapters::clock::BootClock;
use failoverd::adapters::lease::{Form, NftLease, Protection, TABLE, probe, remove_tables};
use failoverd::adapters::lease_thread::LeaseThread;
use failoverd::adapters::nft::{Batch, Family, NftSocket};
use failoverd::adapters::vips::{KernelVips, Vip};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

const VIP4: &str = "192.0.2.50";
const VIP6: &str = "2001:db8::50";
const LEASE: Duration = ms(200);

fn now() -> Instant {
    BootClock.now()
}

fn addresses() -> Vec<IpAddr> {
    vec![
        VIP4.parse().expect("an address"),
        VIP6.parse().expect("an address"),
    ]
}

fn vips() -> KernelVips {
    let vip = |address: IpAddr| Vip {
        interface: "lan0".to_owned(),
        address,
        prefix: if address.is_ipv4() { 24 } else { 64 },
    };
    KernelVips::new(addresses().into_iter().map(vip).collect()).expect("a good list")
}

fn lease() -> NftLease {
    NftLease::open(&addresses(), Arc::new(BootClock)).expect("nftables")
}

/// Answers every datagram to `address` with the same bytes until told to stop.
fn echo(address: &str) -> (Arc<AtomicBool>, std::thread::JoinHandle<()>) {
    let socket = UdpSocket::bind((address, 7)).expect("the address is here");
    socket
        .set_read_timeout(Some(ms(20)))
        .expect("a read timeout");
    let stop = Arc::new(AtomicBool::new(false));
    let ended = stop.clone();
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while !ended.load(Ordering::Relaxed) {
            if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..len], from);
            }
        }
    });
    (stop, thread)
}

/// Asks `vip` once a millisecond from the client's machine until stopped; tells when each answer came.
struct Asking {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(u64, Vec<Instant>)>,
}

fn ask(client: &Machine, vip: &str) -> Asking {
    let to = SocketAddr::new(vip.parse().expect("an address"), 7);
    let stop = Arc::new(AtomicBool::new(false));
    let ended = stop.clone();
    let thread = client.run(move || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).expect("a socket");
        socket.set_nonblocking(true).expect("non-blocking");
        std::thread::spawn(move || {
            let mut sent = 0u64;
            let mut answers = Vec::new();
            let mut buffer = [0; 64];
            let mut hear = |answers: &mut Vec<Instant>| {
                while socket.recv_from(&mut buffer).is_ok() {
                    answers.push(now());
                }
            };
            while !ended.load(Ordering::Relaxed) {
                if socket.send_to(&sent.to_be_bytes(), to).is_ok() {
                    sent += 1;
                }
                std::thread::sleep(ms(1));
                hear(&mut answers);
            }
            std::thread::sleep(ms(50));
            hear(&mut answers);
            (sent, answers)
        })
    });
    Asking { stop, thread }
}

impl Asking {
    fn end(self) -> (u64, Vec<Instant>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the client")
    }
}

fn answered_once(client: &Machine, vip: &str) -> bool {
    let asking = ask(client, vip);
    std::thread::sleep(ms(60));
    !asking.end().1.is_empty()
}

fn forget_neighbours(client: &Machine) {
    client.run(|| {
        ip("neigh flush dev client0 nud all");
    });
}

/// Renews each 50 ms for about a second; then stops, as a frozen daemon does.
fn renewed_then_left(vip: &'static str) {
    let client = client();
    let vips = vips();
    vips.add().expect("added");
    let mut lease = lease();
    let (stop, server) = echo(vip);
    assert!(!answered_once(&client, vip), "silent without a lease");

    forget_neighbours(&client);
    lease.grant(now(), now() + LEASE).expect("granted");
    // The first answer needs the client to learn the neighbour.
    assert!(answered_once(&client, vip), "answers with a lease");

    let asking = ask(&client, vip);
    let mut until = now();
    let mut lapsed_by_us = false;
    for _ in 0..20 {
        let asked = now();
        until = asked + LEASE;
        // On a machine so busy that we slept past the lease, the renewal is rightly refused: not this test's case.
        if lease.renew(asked, until).is_err() {
            lapsed_by_us = true;
            break;
        }
        std::thread::sleep(ms(50));
    }
    std::thread::sleep(ms(400));
    let (sent, answers) = asking.end();
    if lapsed_by_us {
        skipped(
            "lease",
            "this machine held the test up for longer than the lease",
        );
    } else {
        let last = *answers.last().expect("answers");
        assert!(
            last >= until - LEASE,
            "answered at least until the last renewal"
        );
        // Slack of the protocol (50 ms) and one scheduling delay of the client.
        assert!(
            last <= until + ms(60),
            "silent in time: {:?} after the lease's end",
            last.since(until)
        );
        assert!(sent > 200, "the client asked");
        let mut gap = Duration::ZERO;
        for pair in answers.windows(2) {
            gap = gap.max(pair[1].since(pair[0]));
        }
        assert!(gap < ms(150), "no gap while renewed: {gap:?}");
    }
    let lapsed = lease.renew(now(), now() + LEASE).expect_err("lapsed");
    assert!(lapsed.0.contains("lapsed"), "{lapsed}");
    assert!(!answered_once(&client, vip), "not revived");
    stop.store(true, Ordering::Relaxed);
    server.join().expect("the server");
}

#[test]
fn v4_answers_while_renewed_and_falls_silent_when_not() {
    isolated(
        "lease::v4_answers_while_renewed_and_falls_silent_when_not",
        || renewed_then_left(VIP4),
    );
}

#[test]
fn v6_answers_while_renewed_and_falls_silent_when_not() {
    isolated(
        "lease::v6_answers_while_renewed_and_falls_silent_when_not",
        || renewed_then_left(VIP6),
    );
}

/// No packet is lost over a second of renewals: each question that was sent got its answer.
#[test]
fn no_packet_is_lost_over_renewals() {
    isolated("lease::no_packet_is_lost_over_renewals", || {
        let client = client();
        vips().add().expect("added");
        let mut lease = lease();
        lease.grant(now(), now() + ms(3000)).expect("granted");
        let (stop, server) = echo(VIP4);
        assert!(answered_once(&client, VIP4));
        let asking = ask(&client, VIP4);
        for _ in 0..100 {
            // Long leases, so that a busy machine can't let one lapse: this is about the swap alone.
            lease.renew(now(), now() + ms(3000)).expect("renewed");
            std::thread::sleep(ms(10));
        }
        let (sent, answers) = asking.end();
        assert_eq!(sent, answers.len() as u64, "each question was answered");
        stop.store(true, Ordering::Relaxed);
        server.join().expect("the server");
    });
}

#[test]
fn neighbours_get_no_answer_without_a_lease() {
    isolated("lease::neighbours_get_no_answer_without_a_lease", || {
        let client = client();
        vips().add().expect("added");
        let mut lease = lease();
        let resolves = |vip: &'static str, yes: bool| {
            forget_neighbours(&client);
            let asking = ask(&client, vip);
            std::thread::sleep(ms(100));
            asking.end();
            let table = client.run(move || ip(&format!("neigh show {vip} dev client0")));
            assert_eq!(table.contains("lladdr"), yes, "{vip}: {table}");
        };
        resolves(VIP4, false);
        resolves(VIP6, false);
        // Our own addresses are none of the lease's business.
        resolves("192.0.2.1", true);
        resolves("2001:db8::1", true);
        lease.grant(now(), now() + ms(2000)).expect("granted");
        resolves(VIP4, true);
        resolves(VIP6, true);
        lease.end().expect("ended");
        resolves(VIP4, false);
        resolves(VIP6, false);
    });
}

#[test]
fn end_silences_at_once_and_a_grant_needs_no_old_lease() {
    isolated(
        "lease::end_silences_at_once_and_a_grant_needs_no_old_lease",
        || {
            let client = client();
            vips().add().expect("added");
            let mut lease = lease();
            let (stop, server) = echo(VIP4);
            lease.grant(now(), now() + ms(5000)).expect("granted");
            assert!(answered_once(&client, VIP4));
            assert!(lease.end_of_lease().lives(now()));
            lease.end().expect("ended");
            assert!(!lease.end_of_lease().lives(now()));
            assert!(!answered_once(&client, VIP4));
            lease.renew(now(), now() + ms(5000)).expect_err("ended");
            lease.grant(now(), now() + ms(5000)).expect("granted");
            lease.grant(now(), now() + ms(100)).expect("shortened");
            std::thread::sleep(ms(200));
            assert!(!answered_once(&client, VIP4), "the shorter one counts");
            lease.end().expect("nothing to end");
            stop.store(true, Ordering::Relaxed);
            server.join().expect("the server");
        },
    );
}

/// A time-out of less than a tick of the kernel would mean for ever.
#[test]
fn a_lease_that_is_over_is_not_set() {
    isolated("lease::a_lease_that_is_over_is_not_set", || {
        let mut lease = lease();
        for ahead in [0, 1, 3, 15] {
            let refused = lease.grant(now(), now() + ms(ahead)).expect_err("over");
            assert!(refused.0.contains("has come already"), "{refused}");
        }
        let past = now() - ms(50);
        lease.grant(past, past).expect_err("over");
        lease
            .renew(now(), now() + ms(500))
            .expect_err("nothing was granted");
    });
}

/// A clock after which the process is frozen, the given number of times.
struct FreezingClock(AtomicU32);

impl Clock for FreezingClock {
    fn now(&self) -> Instant {
        let read = BootClock.now();
        let left = self.0.load(Ordering::Relaxed);
        if left > 0 {
            self.0.store(left - 1, Ordering::Relaxed);
            std::thread::sleep(ms(100));
        }
        read
    }
}

/// Frozen between reading the clock and telling the kernel: the lease must not end later for it.
#[test]
fn a_freeze_between_clock_and_kernel_does_not_lengthen_the_lease() {
    isolated(
        "lease::a_freeze_between_clock_and_kernel_does_not_lengthen_the_lease",
        || {
            let clock = Arc::new(FreezingClock(AtomicU32::new(0)));
            let mut lease = NftLease::open(&addresses(), clock.clone()).expect("nftables");
            let until = now() + ms(600);
            lease.grant(now(), now() + ms(5000)).expect("granted");
            clock.0.store(1, Ordering::Relaxed);
            lease.renew(now(), until).expect("at the second attempt");
            while now() < until + ms(60) {
                std::thread::sleep(ms(1));
            }
            // Set with the clock's first reading, it would live for another 40 ms.
            let lapsed = lease.renew(now(), now() + LEASE).expect_err("lapsed");
            assert!(lapsed.0.contains("lapsed"), "{lapsed}");
        },
    );
}

/// Frozen each time: refused, and the old lease is what it was.
#[test]
fn a_process_frozen_again_and_again_renews_nothing() {
    isolated(
        "lease::a_process_frozen_again_and_again_renews_nothing",
        || {
            let clock = Arc::new(FreezingClock(AtomicU32::new(0)));
            let mut lease = NftLease::open(&addresses(), clock.clone()).expect("nftables");
            lease.grant(now(), now() + ms(60_000)).expect("granted");
            clock.0.store(100, Ordering::Relaxed);
            let refused = lease.renew(now(), now() + ms(60_000)).expect_err("frozen");
            assert!(refused.0.contains("held up"), "{refused}");
            clock.0.store(100, Ordering::Relaxed);
            lease.grant(now(), now() + ms(100)).expect_err("frozen");
            clock.0.store(0, Ordering::Relaxed);
            std::thread::sleep(ms(200));
            lease
                .renew(now(), now() + ms(60_000))
                .expect("the first lease lives");
        },
    );
}

#[test]
fn a_restarted_daemon_adopts_a_living_lease() {
    isolated("lease::a_restarted_daemon_adopts_a_living_lease", || {
        let client = client();
        vips().add().expect("added");
        let (stop, server) = echo(VIP4);
        let mut first = lease();
        first.grant(now(), now() + ms(5000)).expect("granted");
        let asking = ask(&client, VIP4);
        std::thread::sleep(ms(50));
        drop(first);
        std::thread::sleep(ms(50));
        let mut second = lease();
        second.renew(now(), now() + ms(5000)).expect("adopted");
        std::thread::sleep(ms(50));
        let (sent, answers) = asking.end();
        // The very first questions wait for the neighbour to be learnt; none is lost.
        assert_eq!(sent, answers.len() as u64, "no gap over the restart");
        stop.store(true, Ordering::Relaxed);
        server.join().expect("the server");
    });
}

#[test]
fn a_lease_that_lapsed_before_the_restart_is_not_revived() {
    isolated(
        "lease::a_lease_that_lapsed_before_the_restart_is_not_revived",
        || {
            let mut first = lease();
            first.grant(now(), now() + ms(60)).expect("granted");
            drop(first);
            std::thread::sleep(ms(150));
            lease().renew(now(), now() + LEASE).expect_err("lapsed");
        },
    );
}

#[test]
fn a_foreign_flush_can_not_touch_owned_tables() {
    const NAME: &str = "lease::a_foreign_flush_can_not_touch_owned_tables";
    isolated(NAME, || {
        let mut lease = lease();
        if lease.protection() != Protection::OwnedAndPersistent {
            return skipped(NAME, "this kernel has no owned and persistent tables");
        }
        lease.grant(now(), now() + ms(5000)).expect("granted");
        let mut other = NftSocket::open().expect("a socket");
        let mut batch = Batch::new();
        batch.delete_table(Family::Inet, TABLE);
        other.run(&mut batch).expect_err("not the owner");
        if let Ok(output) = std::process::Command::new("nft")
            .args(["flush", "ruleset"])
            .output()
        {
            assert!(output.status.success());
        }
        lease.renew(now(), now() + ms(5000)).expect("still there");
        // A second daemon on one machine is told so.
        let second = NftLease::open(&addresses(), Arc::new(BootClock)).expect_err("owned");
        assert!(second.0.contains("second daemon"), "{second}");
    });
}

/// Kernels without owned tables: the next renewal notices the flush, and the addresses come off.
#[test]
fn a_flush_of_plain_tables_fails_closed() {
    isolated("lease::a_flush_of_plain_tables_fails_closed", || {
        let client = client();
        let vips = vips();
        vips.add().expect("added");
        let (stop, server) = echo(VIP4);
        let mut lease = NftLease::open_with(&addresses(), Arc::new(BootClock), Protection::Plain)
            .expect("set up");
        lease.grant(now(), now() + ms(5000)).expect("granted");
        lease.renew(now(), now() + ms(5000)).expect("renewed");
        let mut other = NftSocket::open().expect("a socket");
        let mut batch = Batch::new();
        batch.delete_table(Family::Inet, TABLE);
        batch.delete_table(Family::Arp, TABLE);
        other.run(&mut batch).expect("flushed");
        let failed = lease
            .renew(now(), now() + ms(5000))
            .expect_err("the tables are gone");
        assert!(failed.0.contains("another program"), "{failed}");
        lease
            .end()
            .expect_err("nothing enforces the end: the addresses must come off");
        // What the daemon does on such a failure:
        vips.remove().expect("removed");
        stop.store(true, Ordering::Relaxed);
        server.join().expect("the server");
        assert!(!answered_once(&client, VIP4));
        // And the way back: set up anew, silent until granted.
        drop(lease);
        let mut lease = self::lease();
        vips.add().expect("added");
        let (stop, server) = echo(VIP4);
        assert!(!answered_once(&client, VIP4));
        forget_neighbours(&client);
        lease.grant(now(), now() + ms(5000)).expect("granted");
        assert!(answered_once(&client, VIP4));
        stop.store(true, Ordering::Relaxed);
        server.join().expect("the server");
    });
}

#[test]
fn the_list_of_addresses_changes_without_a_gap_for_those_that_stay() {
    isolated(
        "lease::the_list_of_addresses_changes_without_a_gap_for_those_that_stay",
        || {
            let client = client();
            vips().add().expect("added");
            ip("addr add 192.0.2.51/24 dev lan0");
            let mut lease = lease();
            let (stop, server) = echo("192.0.2.51");
            assert!(
                answered_once(&client, "192.0.2.51"),
                "not a virtual address yet"
            );
            let mut more = addresses();
            more.push("192.0.2.51".parse().expect("an address"));
            lease.set_vips(&more).expect("changed");
            assert!(
                !answered_once(&client, "192.0.2.51"),
                "now it needs a lease"
            );
            lease.set_vips(&addresses()).expect("changed back");
            assert!(answered_once(&client, "192.0.2.51"));
            stop.store(true, Ordering::Relaxed);
            server.join().expect("the server");
        },
    );
}

/// A daemon that needs no lease must not leave its addresses silenced by the tables of an earlier run.
#[test]
fn tables_of_an_earlier_run_can_be_removed() {
    isolated("lease::tables_of_an_earlier_run_can_be_removed", || {
        let client = client();
        vips().add().expect("added");
        let (stop, server) = echo(VIP4);
        assert_eq!(remove_tables(), Ok(Change::AlreadySo));
        let lease = lease();
        if lease.protection() == Protection::OwnedAndPersistent {
            remove_tables().expect_err("in use by a living owner");
        }
        drop(lease);
        assert!(!answered_once(&client, VIP4));
        assert_eq!(remove_tables(), Ok(Change::Made));
        assert_eq!(remove_tables(), Ok(Change::AlreadySo));
        forget_neighbours(&client);
        assert!(answered_once(&client, VIP4));
        stop.store(true, Ordering::Relaxed);
        server.join().expect("the server");
    });
}

#[test]
fn the_probe_names_the_form_and_leaves_nothing() {
    isolated("lease::the_probe_names_the_form_and_leaves_nothing", || {
        assert!(matches!(probe(), Form::Nftables(_)), "{:?}", probe());
        let mut socket = NftSocket::open().expect("a socket");
        let left = socket.has_table(Family::Inet, "failoverd_probe");
        assert!(!left.expect("an answer"));
    });
}

/// As the daemon has it: the lease in its own thread, the calls from the control thread.
#[test]
fn the_lease_thread_keeps_the_lease() {
    isolated("lease::the_lease_thread_keeps_the_lease", || {
        let client = client();
        vips().add().expect("added");
        let (stop, server) = echo(VIP4);
        let nft = lease();
        let end = nft.end_of_lease();
        let mut lease = LeaseThread::start(nft, Arc::new(BootClock), || ()).expect("a thread");
        lease.grant(now(), now() + ms(5000)).expect("granted");
        assert!(answered_once(&client, VIP4));
        for _ in 0..50 {
            lease.renew(now(), now() + ms(5000)).expect("renewed");
        }
        assert!(end.lives(now() + ms(3000)));
        while lease.end().is_err() {}
        assert!(!answered_once(&client, VIP4));
        stop.store(true, Ordering::Relaxed);
        server.join().expect("the server");
    });
}

/// Prints what a renewal costs; fails only if it is absurd.
#[test]
fn cost_of_a_renewal() {
    isolated("lease::cost_of_a_renewal", || {
        let mut lease = lease();
        lease.grant(now(), now() + ms(60_000)).expect("granted");
        let mut micros: Vec<u128> = (0..2000)
            .map(|_| {
                let start = std::time::Instant::now();
                let _ = lease.renew(now(), now() + ms(60_000));
                start.elapsed().as_micros()
            })
            .collect();
        micros.sort_unstable();
        println!(
            "renewal: p50 {} us, p99 {} us, max {} us",
            micros[1000], micros[1980], micros[1999]
        );
        assert!(
            micros[1000] < 20_000,
            "half of the renewals took {} us",
            micros[1000]
        );
    });
}

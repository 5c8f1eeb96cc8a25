//! The lease of the virtual addresses as a client sees it.

mod tables;

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
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

const VIP4: &str = "192.0.2.50";
const VIP6: &str = "2001:db8::50";
const LEASE: Duration = ms(200);
/// One that doesn't lapse by itself in a test.
const LONG: Duration = ms(60_000);

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
        pool: None,
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

/// Questions that wait for an answer at once: as many as fit into the buffers, so that none is lost there.
const OPEN_MAX: u64 = 200;
/// Far beyond what a busy machine needs.
const PATIENCE: Duration = ms(20_000);

/// Asks `vip` once a millisecond from the client's machine until told to end.
struct Asking {
    ending: Arc<AtomicU32>,
    answered: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<(u64, Vec<Instant>)>,
}

const GO_ON: u32 = 0;
/// The client ends, and listens for a moment.
const END: u32 = 1;
/// The client ends when each question is answered.
const END_ANSWERED: u32 = 2;

fn ask(client: &Machine, vip: &str) -> Asking {
    let to = SocketAddr::new(vip.parse().expect("an address"), 7);
    let (ending, answered) = (Arc::<AtomicU32>::default(), Arc::<AtomicU64>::default());
    let (told, count) = (ending.clone(), answered.clone());
    let thread = client.run(move || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).expect("a socket");
        socket.set_nonblocking(true).expect("non-blocking");
        std::thread::spawn(move || {
            let mut sent = 0u64;
            let mut answers = Vec::new();
            let mut buffer = [0; 64];
            let mut hear = |answers: &mut Vec<Instant>| {
                while let Ok((8, _)) = socket.recv_from(&mut buffer) {
                    let asked = buffer[..8].try_into().expect("eight bytes");
                    answers.push(Instant::from_micros(u64::from_be_bytes(asked)));
                }
                count.store(answers.len() as u64, Ordering::Relaxed);
            };
            while told.load(Ordering::Relaxed) == GO_ON {
                // Before it is sent: whatever holds the client up, the question itself isn't older than it says.
                let asked = now().micros().to_be_bytes();
                if sent < answers.len() as u64 + OPEN_MAX && socket.send_to(&asked, to).is_ok() {
                    sent += 1;
                }
                std::thread::sleep(ms(1));
                hear(&mut answers);
            }
            let until = match told.load(Ordering::Relaxed) {
                END_ANSWERED => now() + PATIENCE,
                _ => now() + ms(50),
            };
            while now() < until && (answers.len() as u64) < sent {
                std::thread::sleep(ms(1));
                hear(&mut answers);
            }
            (sent, answers)
        })
    });
    Asking {
        ending,
        answered,
        thread,
    }
}

impl Asking {
    /// Number of questions sent, and when each that was answered had been asked.
    fn end(self) -> (u64, Vec<Instant>) {
        self.ended(END)
    }

    /// As `end`, with all the time that the answers need.
    fn end_answered(self) -> (u64, Vec<Instant>) {
        self.ended(END_ANSWERED)
    }

    fn ended(self, how: u32) -> (u64, Vec<Instant>) {
        self.ending.store(how, Ordering::Relaxed);
        self.thread.join().expect("the client")
    }
}

/// An answer comes, if late.
fn answers(client: &Machine, vip: &str) -> bool {
    let asking = ask(client, vip);
    let until = now() + PATIENCE;
    while now() < until && asking.answered.load(Ordering::Relaxed) == 0 {
        std::thread::sleep(ms(1));
    }
    !asking.end().1.is_empty()
}

/// No answer comes for a while.
fn is_silent(client: &Machine, vip: &str) -> bool {
    let asking = ask(client, vip);
    std::thread::sleep(ms(60));
    asking.end().1.is_empty()
}

fn forget_neighbours(client: &Machine) {
    client.run(|| {
        ip("neigh flush dev client0 nud all");
    });
}

/// Renews each 50 ms for about a second; then stops, as a frozen daemon does.
fn renewed_then_left(test: &str, vip: &'static str) {
    let client = client();
    let vips = vips();
    vips.add(&[]).expect("added");
    let mut lease = lease();
    let (stop, server) = echo(vip);
    assert!(is_silent(&client, vip), "silent without a lease");

    forget_neighbours(&client);
    lease.grant(now(), now() + LONG).expect("granted");
    // The first answer needs the client to learn the neighbour.
    assert!(answers(&client, vip), "answers with a lease");

    lease.grant(now(), now() + LEASE).expect("granted");
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
    let (_, answered) = asking.end();
    if lapsed_by_us {
        skipped(
            test,
            "this machine held the test up for longer than the lease",
        );
    } else {
        let last = answered.iter().max().expect("answers while renewed");
        // The protocol's slack: no question asked after it is answered.
        assert!(
            *last <= until + ms(50),
            "a question asked {:?} after the lease's end was answered",
            last.since(until)
        );
    }
    let lapsed = lease.renew(now(), now() + LEASE).expect_err("lapsed");
    assert!(lapsed.0.contains("lapsed"), "{lapsed}");
    assert!(is_silent(&client, vip), "not revived");
    stop.store(true, Ordering::Relaxed);
    server.join().expect("the server");
}

#[test]
fn v4_answers_while_renewed_and_falls_silent_when_not() {
    const NAME: &str = "lease::v4_answers_while_renewed_and_falls_silent_when_not";
    isolated(NAME, || renewed_then_left(NAME, VIP4));
}

#[test]
fn v6_answers_while_renewed_and_falls_silent_when_not() {
    const NAME: &str = "lease::v6_answers_while_renewed_and_falls_silent_when_not";
    isolated(NAME, || renewed_then_left(NAME, VIP6));
}

/// No packet is lost over a second of renewals: each question that was sent got its answer.
#[test]
fn no_packet_is_lost_over_renewals() {
    isolated("lease::no_packet_is_lost_over_renewals", || {
        let client = client();
        vips().add(&[]).expect("added");
        let mut lease = lease();
        lease.grant(now(), now() + LONG).expect("granted");
        let (stop, server) = echo(VIP4);
        assert!(answers(&client, VIP4));
        let asking = ask(&client, VIP4);
        for _ in 0..100 {
            // Long leases: this is about the swap alone.
            lease.renew(now(), now() + LONG).expect("renewed");
            std::thread::sleep(ms(10));
        }
        let (sent, answers) = asking.end_answered();
        assert_eq!(sent, answers.len() as u64, "each question was answered");
        stop.store(true, Ordering::Relaxed);
        server.join().expect("the server");
    });
}

#[test]
fn neighbours_get_no_answer_without_a_lease() {
    isolated("lease::neighbours_get_no_answer_without_a_lease", || {
        let client = client();
        vips().add(&[]).expect("added");
        let mut lease = lease();
        let resolves = |vip: &'static str, yes: bool| {
            forget_neighbours(&client);
            let asking = ask(&client, vip);
            std::thread::sleep(ms(100));
            let look = || client.run(move || ip(&format!("neigh show {vip} dev client0")));
            let until = now() + PATIENCE;
            let mut table = look();
            while yes && !table.contains("lladdr") && now() < until {
                std::thread::sleep(ms(20));
                table = look();
            }
            asking.end();
            assert_eq!(table.contains("lladdr"), yes, "{vip}: {table}");
        };
        resolves(VIP4, false);
        resolves(VIP6, false);
        // Our own addresses are none of the lease's business.
        resolves("192.0.2.1", true);
        resolves("2001:db8::1", true);
        lease.grant(now(), now() + LONG).expect("granted");
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
            vips().add(&[]).expect("added");
            let mut lease = lease();
            let (stop, server) = echo(VIP4);
            lease.grant(now(), now() + LONG).expect("granted");
            assert!(answers(&client, VIP4));
            assert!(lease.end_of_lease().lives(now()));
            lease.end().expect("ended");
            assert!(!lease.end_of_lease().lives(now()));
            assert!(is_silent(&client, VIP4));
            lease.renew(now(), now() + LONG).expect_err("ended");
            lease.grant(now(), now() + LONG).expect("granted");
            lease.grant(now(), now() + ms(100)).expect("shortened");
            std::thread::sleep(ms(200));
            assert!(is_silent(&client, VIP4), "the shorter one counts");
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
            lease.grant(now(), now() + LONG).expect("granted");
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

/// As the daemon has it: the lease in its own thread, the calls from the control thread.
#[test]
fn the_lease_thread_keeps_the_lease() {
    isolated("lease::the_lease_thread_keeps_the_lease", || {
        let client = client();
        vips().add(&[]).expect("added");
        let (stop, server) = echo(VIP4);
        let nft = lease();
        let end = nft.end_of_lease();
        let mut lease = LeaseThread::start(nft, Arc::new(BootClock), || ()).expect("a thread");
        lease.grant(now(), now() + LONG).expect("granted");
        assert!(answers(&client, VIP4));
        for _ in 0..50 {
            lease.renew(now(), now() + LONG).expect("renewed");
        }
        assert!(end.lives(now() + ms(3000)));
        while lease.end().is_err() {}
        assert!(is_silent(&client, VIP4));
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

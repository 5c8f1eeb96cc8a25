//! The kernel's tables: adopted after a restart, flushed by somebody else, changed, taken away.

use super::*;

#[test]
fn a_restarted_daemon_adopts_a_living_lease() {
    isolated("lease::a_restarted_daemon_adopts_a_living_lease", || {
        let client = client();
        vips().add(&[]).expect("added");
        let (stop, server) = echo(VIP4);
        let mut first = lease();
        first.grant(now(), now() + LONG).expect("granted");
        let asking = ask(&client, VIP4);
        std::thread::sleep(ms(50));
        drop(first);
        std::thread::sleep(ms(50));
        let mut second = lease();
        second.renew(now(), now() + LONG).expect("adopted");
        std::thread::sleep(ms(50));
        let (sent, answers) = asking.end_answered();
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
        lease.grant(now(), now() + LONG).expect("granted");
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
        lease.renew(now(), now() + LONG).expect("still there");
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
        vips.add(&[]).expect("added");
        let (stop, server) = echo(VIP4);
        let mut lease = NftLease::open_with(&addresses(), Arc::new(BootClock), Protection::Plain)
            .expect("set up");
        lease.grant(now(), now() + LONG).expect("granted");
        lease.renew(now(), now() + LONG).expect("renewed");
        let mut other = NftSocket::open().expect("a socket");
        let mut batch = Batch::new();
        batch.delete_table(Family::Inet, TABLE);
        batch.delete_table(Family::Arp, TABLE);
        other.run(&mut batch).expect("flushed");
        let failed = lease
            .renew(now(), now() + LONG)
            .expect_err("the tables are gone");
        assert!(failed.0.contains("another program"), "{failed}");
        lease
            .end()
            .expect_err("nothing enforces the end: the addresses must come off");
        // What the daemon does on such a failure:
        vips.remove().expect("removed");
        stop.store(true, Ordering::Relaxed);
        server.join().expect("the server");
        assert!(is_silent(&client, VIP4));
        // And the way back: set up anew, silent until granted.
        drop(lease);
        let mut lease = self::lease();
        vips.add(&[]).expect("added");
        let (stop, server) = echo(VIP4);
        assert!(is_silent(&client, VIP4));
        forget_neighbours(&client);
        lease.grant(now(), now() + LONG).expect("granted");
        assert!(answers(&client, VIP4));
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
            vips().add(&[]).expect("added");
            ip("addr add 192.0.2.51/24 dev lan0");
            let mut lease = lease();
            let (stop, server) = echo("192.0.2.51");
            assert!(answers(&client, "192.0.2.51"), "not a virtual address yet");
            let mut more = addresses();
            more.push("192.0.2.51".parse().expect("an address"));
            lease.set_vips(&more).expect("changed");
            assert!(is_silent(&client, "192.0.2.51"), "now it needs a lease");
            lease.set_vips(&addresses()).expect("changed back");
            assert!(answers(&client, "192.0.2.51"));
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
        vips().add(&[]).expect("added");
        let (stop, server) = echo(VIP4);
        assert_eq!(remove_tables(), Ok(Change::AlreadySo));
        let lease = lease();
        if lease.protection() == Protection::OwnedAndPersistent {
            remove_tables().expect_err("in use by a living owner");
        }
        drop(lease);
        assert!(is_silent(&client, VIP4));
        assert_eq!(remove_tables(), Ok(Change::Made));
        assert_eq!(remove_tables(), Ok(Change::AlreadySo));
        forget_neighbours(&client);
        assert!(answers(&client, VIP4));
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

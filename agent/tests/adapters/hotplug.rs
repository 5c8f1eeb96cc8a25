//! The kernel's own events: of interfaces, which come and go in a namespace of the test's own as disks can't.

use crate::ns::{ip, isolated};
use failoverd::adapters::hotplug::{Hotplug, Uevent};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[test]
fn the_kernels_events_cause_a_look() {
    isolated("hotplug::the_kernels_events_cause_a_look", || {
        let looks = Arc::new(AtomicUsize::new(0));
        let seen = looks.clone();
        let look = move || {
            seen.fetch_add(1, Ordering::SeqCst);
        };
        let wanted: fn(&Uevent<'_>) -> bool =
            |event| event.subsystem == "net" && event.devpath.ends_with("/hot1");
        let hotplug = Hotplug::start(wanted, look).expect("a socket");
        ip("link add hot0 type veth peer name hot1");
        ip("link del hot0");
        let began = Instant::now();
        while looks.load(Ordering::SeqCst) == 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "no look");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(looks.load(Ordering::SeqCst) <= 2, "not one for each event");
        drop(hotplug);
    });
}

//! Watches interfaces gain and lose their carrier, in a thread of its own.

use super::route::{GROUP_LINK, Interface, LinkReport, RouteSocket};
use failover_core::adapters::Failure;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Interval at which the thread looks whether it shall end.
const LOOK_UP: Duration = Duration::from_millis(100);
/// Interval at which everything is looked at again, should a report ever be lost unnoticed.
const LOOK_AGAIN_AFTER: u32 = 100;

/// An interface gained or lost its carrier; also told once for each at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkChange {
    /// Name of the interface.
    pub interface: String,
    /// It is up and has a carrier. An interface that doesn't exist has none.
    pub up: bool,
}

/// The watch; ends when dropped.
#[derive(Debug)]
pub struct LinkWatch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl LinkWatch {
    /// Watches `interfaces`; `on_change` runs on the watch's thread and must not block for long. The state at the
    /// start is told before this returns.
    pub fn start(
        interfaces: Vec<String>,
        mut on_change: impl FnMut(LinkChange) + Send + 'static,
    ) -> Result<LinkWatch, Failure> {
        let unreadable =
            |errno: Errno| Failure(format!("links can't be watched: rtnetlink: {errno}"));
        // One socket listens, the other asks: an answer must never be lost among reports.
        let mut reports = RouteSocket::open(GROUP_LINK).map_err(unreadable)?;
        let mut asking = RouteSocket::open(0).map_err(unreadable)?;
        let mut known = Known::new(interfaces);
        known.look(&asking.interfaces().map_err(unreadable)?, &mut on_change);
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let thread = std::thread::Builder::new()
            .name("link-watch".to_owned())
            .spawn(move || {
                let mut quiet = 0;
                while !ended.load(Ordering::Relaxed) {
                    let lost = match reports.reports(LOOK_UP) {
                        Ok(reports) => {
                            quiet = if reports.is_empty() { quiet + 1 } else { 0 };
                            for report in &reports {
                                known.apply(report, &mut on_change);
                            }
                            quiet >= LOOK_AGAIN_AFTER
                        }
                        Err(Errno::ENOBUFS) => {
                            // What came and went meanwhile may have taken addresses along: all is told again.
                            known.forget();
                            true
                        }
                        Err(errno) => {
                            tracing::warn!(%errno, "reading link reports failed");
                            std::thread::sleep(LOOK_UP);
                            true
                        }
                    };
                    if lost {
                        quiet = 0;
                        if let Ok(all) = asking.interfaces() {
                            known.look(&all, &mut on_change);
                        }
                    }
                }
            })
            .map_err(|error| Failure(format!("links can't be watched: no thread: {error}")))?;
        Ok(LinkWatch {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for LinkWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What was last told of each interface, and the index under which it goes.
struct Known(BTreeMap<String, (Option<u32>, Option<bool>)>);

impl Known {
    fn new(interfaces: Vec<String>) -> Known {
        Known(
            interfaces
                .into_iter()
                .map(|name| (name, (None, None)))
                .collect(),
        )
    }

    /// Everything counts as not told yet.
    fn forget(&mut self) {
        for (_, told) in self.0.values_mut() {
            *told = None;
        }
    }

    /// Compares with all interfaces there are.
    fn look(&mut self, all: &[Interface], on_change: &mut impl FnMut(LinkChange)) {
        for (name, (index, told)) in &mut self.0 {
            let found = all.iter().find(|interface| interface.name == *name);
            *index = found.map(|interface| interface.index);
            tell(name, told, found.is_some_and(|i| i.up), on_change);
        }
    }

    fn apply(&mut self, report: &LinkReport, on_change: &mut impl FnMut(LinkChange)) {
        match report {
            LinkReport::Is(interface) => {
                // Renamed away: no longer the interface of that name.
                for (name, (index, told)) in &mut self.0 {
                    if *index == Some(interface.index) && *name != interface.name {
                        *index = None;
                        tell(name, told, false, on_change);
                    }
                }
                if let Some((index, told)) = self.0.get_mut(&interface.name) {
                    *index = Some(interface.index);
                    tell(&interface.name, told, interface.up, on_change);
                }
            }
            LinkReport::Gone(gone) => {
                for (name, (index, told)) in &mut self.0 {
                    if *index == Some(*gone) {
                        *index = None;
                        tell(name, told, false, on_change);
                    }
                }
            }
        }
    }
}

fn tell(name: &str, told: &mut Option<bool>, up: bool, on_change: &mut impl FnMut(LinkChange)) {
    if *told != Some(up) {
        *told = Some(up);
        on_change(LinkChange {
            interface: name.to_owned(),
            up,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str, up: bool) -> Interface {
        Interface {
            index,
            name: name.to_owned(),
            mac: None,
            loopback: false,
            up,
            xdp: false,
        }
    }

    #[test]
    fn each_change_is_told_once() {
        let mut told = Vec::new();
        let mut on_change = |change: LinkChange| told.push((change.interface, change.up));
        let mut known = Known::new(vec!["a".into(), "b".into()]);
        known.look(&[interface(1, "a", true)], &mut on_change);
        known.look(&[interface(1, "a", true)], &mut on_change);
        known.apply(&LinkReport::Is(interface(2, "b", true)), &mut on_change);
        known.apply(&LinkReport::Is(interface(9, "other", true)), &mut on_change);
        known.apply(&LinkReport::Is(interface(2, "c", true)), &mut on_change);
        known.apply(&LinkReport::Gone(1), &mut on_change);
        known.apply(&LinkReport::Gone(1), &mut on_change);
        let told: Vec<_> = told.iter().map(|(n, up)| (n.as_str(), *up)).collect();
        assert_eq!(
            told,
            [
                ("a", true),
                ("b", false),
                ("b", true),
                ("b", false),
                ("a", false)
            ]
        );
    }
}

//! What the kept checks of the configured disks ask of a configuration: a disk that failed isn't used in a pair, and one
//! that is slow asks for longer timers.

use super::{Kept, needed_timers};
use crate::adapters::identity::Identity;
use crate::config::{Config, ConfigError, ConfigErrors};
use failover_core::config::Timing;
use std::collections::BTreeMap;

/// Part of a check that is judged anew, with the timers of now.
const LATENCY: &str = "latency";
/// Fails for disks that `accept_volatile_reservations` lets pass.
const PERSISTENCE: &str = "persistence";
/// What a check couldn't tidy up: nothing that the disk can't do.
const TIDY: &str = "left as found";

/// Milliseconds of silence after which a takeover begins, with these timers.
pub fn silence_ms(timing: &Timing) -> u64 {
    timing.dead_ms.max(timing.disk_silent_ms)
}

/// `timing` with what a disk needs whose commands take `slowest_us` at worst.
pub fn lengthened(timing: &Timing, slowest_us: u64) -> Timing {
    let mut longer = timing.clone();
    for (name, needed, _) in needed_timers(timing, slowest_us) {
        match name {
            "vip_lease_ms" => longer.vip_lease_ms = needed,
            "disk_silent_ms" => longer.disk_silent_ms = needed,
            "dead_ms" => longer.dead_ms = needed,
            "disk_op_ms" => longer.disk_op_ms = needed,
            "abort_ms" => longer.abort_ms = needed,
            // `needed_timers` names no other one.
            _ => {}
        }
    }
    longer
}

/// Says what longer timers mean for whoever waits: in `fence check`, and where a configuration is refused.
pub fn effect(timing: &Timing, slowest_us: u64) -> String {
    let (now, then) = (
        silence_ms(timing),
        silence_ms(&lengthened(timing, slowest_us)),
    );
    format!("a takeover then begins after {then} ms of silence in place of {now} ms")
}

impl Kept {
    /// What it took at worst, microseconds.
    fn slowest_us(&self) -> u64 {
        self.read_p999_us.max(self.roll_p999_us).unwrap_or(0)
    }

    /// Parts that a pair needs and the disk hasn't.
    fn lacking(&self, config: &Config) -> Vec<&str> {
        let forgiven = |part: &str| {
            part == LATENCY || part == TIDY || part == PERSISTENCE && config.accept_volatile
        };
        let failed = self.failed.iter().map(String::as_str);
        failed.filter(|part| !forgiven(part)).collect()
    }
}

/// Looks whether the kept checks of a pair's disks allow its configuration. `also` are further identities that a
/// configured disk shows here.
///
/// # Errors
/// Every disk that failed what a pair needs, and every timer that the slowest disk needs longer.
pub fn demands(
    config: &Config,
    kept: &BTreeMap<String, Kept>,
    also: impl Fn(&str) -> Vec<Identity>,
) -> Result<(), ConfigErrors> {
    if !config.has_peer() {
        return Ok(());
    }
    let mut errors = Vec::new();
    let mut slowest: Option<(&str, u64)> = None;
    for entry in &config.disks {
        let names = Identity::parse(entry).into_iter().chain(also(entry));
        let Some(check) = names
            .filter_map(|name| kept.get(name.as_str()))
            .max_by_key(|check| check.wall_ms)
        else {
            continue;
        };
        let lacking = check.lacking(config);
        if !lacking.is_empty() {
            errors.push(config.disk_error(
                entry,
                &format!("{entry:?} failed its last check: {}", lacking.join(", ")),
                "a pair needs that of every disk: use another disk, or repair it and run `failoverd fence check` again",
            ));
        }
        if slowest.is_none_or(|(_, before)| check.slowest_us() > before) {
            slowest = Some((entry, check.slowest_us()));
        }
    }
    if let Some((entry, slowest_us)) = slowest {
        errors.extend(too_short(config, entry, slowest_us));
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(ConfigErrors(errors)),
    }
}

fn too_short<'c>(
    config: &'c Config,
    entry: &'c str,
    slowest_us: u64,
) -> impl Iterator<Item = ConfigError> + 'c {
    let needed = needed_timers(&config.timing, slowest_us).into_iter();
    let effect = effect(&config.timing, slowest_us);
    needed.map(move |(name, needed, now)| ConfigError {
        file: config.file.clone(),
        line: None,
        key: format!("timing.{name}"),
        problem: format!(
            "{now} is too short for disk {entry}, whose commands took up to {} (p99.9 of its check): a quarter of \
             disk_silent_ms must do",
            super::millis(slowest_us)
        ),
        remedy: format!(
            "set {name} = {needed} ({effect}), or use a faster disk and run `failoverd fence check` again"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const DISK: &str = "naa.5000c500a1b2c3d4";

    fn config(timing: &str) -> Config {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().display();
        crate::pair_key::PairKey::create(&folder.path().join("k")).expect("a key");
        let text = format!(
            "node = \"A\"\npair_key = \"{at}/k\"\ndisks = [\"wwn-0x5000C500A1B2C3D4\"]\n{timing}\n\
             [[links]]\nlocal = \"127.0.0.1:5001\"\npeer = \"127.0.0.1:5002\"\n"
        );
        Config::parse(&text, Path::new("/etc/f.toml")).expect("good")
    }

    fn checked(failed: &[&str], p999_us: u64) -> BTreeMap<String, Kept> {
        let kept = Kept {
            wall_ms: 1,
            passed: failed.is_empty(),
            failed: failed.iter().map(|part| (*part).to_owned()).collect(),
            read_p999_us: Some(p999_us / 2),
            roll_p999_us: Some(p999_us),
        };
        BTreeMap::from([(DISK.to_owned(), kept)])
    }

    fn refused(config: &Config, kept: &BTreeMap<String, Kept>) -> Vec<String> {
        let errors = demands(config, kept, |_| Vec::new()).err();
        let errors = errors.map(|errors| errors.0).unwrap_or_default();
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn no_check_and_a_good_one_ask_for_nothing() {
        let config = config("");
        assert_eq!(refused(&config, &BTreeMap::new()), [""; 0]);
        assert_eq!(refused(&config, &checked(&[], 60_000)), [""; 0]);
        // Judged anew: the timers may have been lengthened since.
        assert_eq!(refused(&config, &checked(&["latency"], 60_000)), [""; 0]);
    }

    #[test]
    fn a_disk_that_failed_is_refused_by_its_name_and_reason() {
        let config = config("");
        let refused = refused(&config, &checked(&["stranger's write", "latency"], 1000));
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(
            refused[0].contains("disks[0]")
                && refused[0].contains("failed its last check: stranger's write;")
                || refused[0].contains("stranger's write"),
            "{refused:?}"
        );
    }

    #[test]
    fn volatile_disks_pass_where_they_are_accepted() {
        let mut config = config("");
        let kept = checked(&["persistence"], 1000);
        assert_eq!(refused(&config, &kept).len(), 1);
        config.accept_volatile = true;
        assert_eq!(refused(&config, &kept), [""; 0]);
    }

    #[test]
    fn a_slow_disk_asks_for_timers_by_name_and_tells_the_price() {
        let config = config("");
        let kept = checked(&[], 120_000);
        let told = refused(&config, &kept);
        let silent = told
            .iter()
            .find(|line| line.contains("timing.disk_silent_ms"));
        let silent = silent.expect("named");
        assert!(silent.contains("set disk_silent_ms = 480"), "{silent}");
        assert!(
            silent.contains("after 480 ms of silence in place of 300 ms"),
            "{silent}"
        );
        // What it asks for is enough.
        let mut longer = config.clone();
        longer.timing = lengthened(&config.timing, 120_000);
        assert_eq!(refused(&longer, &kept), [""; 0]);
        assert_eq!(longer.timing.check(120), Ok(()));
    }
}

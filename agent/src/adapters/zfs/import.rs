//! `zpool import -N`: from the won disks alone, after a look at their labels.

use super::devices::{Depth, Survey};
use super::kernel::{SUSPENDED, Seen};
use super::label::LabelState;
use super::tree::{Health, Tree, assemble, names};
use super::withheld::divide;
use super::{Member, Parts, ZfsPools, inner};
use failover_core::adapters::{Change, Failure};
use failover_core::ids::DiskId;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Part of an import's time for which the labels of the won disks are waited for: each answered its reservation a
/// moment ago, and one that hangs now would make the import hang too.
const LABELS_SHARE: u32 = 6;

/// What `zpool import` has of an import's time in any case, also where a disk hangs while the labels are read.
pub(super) fn assured(import: Duration) -> Duration {
    inner(import) - import / LABELS_SHARE
}

/// The shortest time of an import in which `zpool import` may take `wait`, in whole seconds: `assured`, backwards.
fn import_s(wait: Duration) -> u64 {
    (wait * 60 / 47).as_secs() + 1
}

impl ZfsPools {
    /// Imports the pool without mounting anything.
    pub(super) fn bring_in(
        &self,
        one: &Member,
        won: &[DiskId],
        until: Instant,
        parts: &mut Parts,
    ) -> Result<Change, Failure> {
        match self.find(one)? {
            Seen::Here { state, is_it } => {
                self.is_the_right_one(one, is_it, until)?;
                one.is_not_suspended(&state)?;
                return one.is_imported_by_us().map(|()| Change::AlreadySo);
            }
            Seen::Absent if !self.kernel.is_loaded() => return Err(one.no_module()),
            Seen::Absent => {}
        }
        let (disks, lost) = divide(&one.pool.disks, won);
        let longest = Instant::now() + self.limits.import / LABELS_SHARE;
        let survey = self
            .devices
            .survey(&disks, one.pool.guid, Depth::Afresh, longest);
        let survey = survey.map_err(|why| one.say(&why))?;
        for remark in &survey.remarks {
            tracing::warn!("pool {}: {remark}", one.pool.name);
        }
        let (without, withheld) = self.may_be_imported(one, &survey, &lost, until)?;
        parts.end("devices");
        let found = survey.found.iter().map(|found| &found.path);
        let devices: Vec<&PathBuf> = found.chain(&withheld).collect();
        self.zpool_import(one, &devices, &without, until)?;
        parts.end("import");
        Ok(Change::Made)
    }

    /// Says what the import has to do without, for the messages, and what stands in for devices that it must not open.
    fn may_be_imported(
        &self,
        one: &Member,
        survey: &Survey,
        lost: &[String],
        until: Instant,
    ) -> Result<(String, Vec<PathBuf>), Failure> {
        let without = without(survey, lost);
        let labels = survey.found.iter().map(|found| &found.label);
        let Some(tree) = assemble(one.pool.guid, labels) else {
            let found = "not imported: no device of it was found on the disks that were won";
            return Err(one.say(&format!("{found}{without}")));
        };
        let without = format!("{without}{}", tree.unseen());
        one.is_importable(&tree)?;
        self.no_top_is_withheld(one, &tree, survey, lost)?;
        match tree.health() {
            Health::Whole if tree.unseen().is_empty() => {}
            Health::Whole => tracing::warn!("pool {}: imported{without}", one.pool.name),
            Health::Degraded(missing) => tracing::error!(
                "pool {}: imported without {}{without}",
                one.pool.name,
                names(&missing),
            ),
            Health::Unusable(missing) => {
                return Err(one.say(&format!(
                    "not imported: it can't do without {}{without}",
                    names(&missing),
                )));
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        let is_exported = tree.state == LabelState::Exported;
        let waits = self.kernel.waits(is_exported, tree.host_id());
        match one.multihost(&tree).filter(|_| waits) {
            Some((longest, text)) if longest > left => {
                Err(one.say(&format!("not imported: {text}")))
            }
            Some((_, text)) => {
                tracing::warn!("pool {}: {text}", one.pool.name);
                Ok(())
            }
            None => Ok(()),
        }?;
        let withheld = self.withhold(one, survey, &tree)?;
        Ok((without, withheld))
    }

    fn zpool_import(
        &self,
        one: &Member,
        devices: &[&PathBuf],
        without: &str,
        until: Instant,
    ) -> Result<(), Failure> {
        let guid = one.pool.guid.to_string();
        // -f: the pool was last used by the other controller, whose writes the fence keeps off. No cache file: the
        // system must not import it by itself after a boot.
        let mut arguments = vec!["import", "-N", "-f", "-o", "cachefile=none"];
        for device in devices {
            let Some(path) = device.to_str() else {
                return Err(one.say(&format!("not imported: {device:?} is no text")));
            };
            arguments.extend(["-d", path]);
        }
        arguments.push(&guid);
        // Also one that is late, or that failed, may have imported it.
        one.is_ours.store(true, Ordering::Relaxed);
        let ran = self.zpool(one, &arguments, until);
        let ran = ran.map_err(|error| one.say(&format!("`zpool import`: {error}")))?;
        if !ran.ok {
            return Err(one.say(&format!(
                "`zpool import` failed ({}): {}{without}",
                ran.status,
                one_line(&ran.errors),
            )));
        }
        match self.find(one)? {
            Seen::Here { state, is_it } if is_it != Some(false) => one.is_not_suspended(&state),
            Seen::Here { .. } | Seen::Absent => Err(one.say(
                "`zpool import` succeeded, but the kernel doesn't show the pool under its name and GUID",
            )),
        }
    }

    /// Whether the pool that is imported under that name is this one.
    pub(super) fn is_the_right_one(
        &self,
        one: &Member,
        is_it: Option<bool>,
        until: Instant,
    ) -> Result<(), Failure> {
        let wanted = one.pool.guid;
        let other = |found: &str| {
            one.say(&format!(
                "a pool of this name with another GUID ({found}, not {wanted}) is imported: export that one, or \
                 correct `guid`"
            ))
        };
        match is_it {
            Some(true) => Ok(()),
            Some(false) => Err(other("see `zpool get guid`")),
            // The module is older than 2.3: its tool tells.
            None => {
                let name = &one.pool.name;
                let ran = self.zpool(
                    one,
                    &["get", "-H", "-p", "-o", "value", "guid", name],
                    until,
                );
                let ran = ran.map_err(|error| one.say(&format!("`zpool get guid`: {error}")))?;
                let text = String::from_utf8_lossy(&ran.output);
                match text.trim() {
                    found if found == wanted.to_string() => Ok(()),
                    found if ran.ok => Err(other(found)),
                    _ => Err(one.say(&format!(
                        "`zpool get guid` failed: {}",
                        one_line(&ran.errors)
                    ))),
                }
            }
        }
    }
}

impl Member {
    pub(super) fn no_module(&self) -> Failure {
        self.say(
            "the kernel's module for ZFS isn't loaded, and failoverd may load none: `modprobe zfs`, and name it in \
             /etc/modules-load.d for the next boot",
        )
    }

    pub(super) fn is_not_suspended(&self, state: &str) -> Result<(), Failure> {
        if state != SUSPENDED {
            return Ok(());
        }
        Err(self.say(
            "it is imported but SUSPENDED: its disks are gone or refuse its writes (does the other controller own \
             them?), and whatever waits for it hangs; only a reset of this machine ends that",
        ))
    }

    pub(super) fn is_imported_by_us(&self) -> Result<(), Failure> {
        if self.is_ours.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(self.say(&format!(
            "not imported: somebody else has imported it on this controller, and what it shows may be older than what \
             the other controller wrote since: stop what uses it, `zpool export {}`, then import it with failoverd",
            self.pool.name
        )))
    }

    /// Refuses a pool whose labels say that it isn't the one of the configuration, or is no more.
    pub(super) fn is_importable(&self, tree: &Tree) -> Result<(), Failure> {
        if tree.name != self.pool.name {
            return Err(self.say(&format!(
                "not imported: the pool with GUID {} has the name {}; correct `name` or `guid`",
                self.pool.guid, tree.name
            )));
        }
        match tree.state {
            LabelState::Destroyed => Err(self.say(
                "not imported: it was destroyed; `zpool import -D` by hand brings it back, if that is wanted",
            )),
            LabelState::Active | LabelState::Exported | LabelState::Auxiliary => Ok(()),
        }
    }

    /// What `multihost=on` costs: the longest wait, and a sentence about it.
    pub(super) fn multihost(&self, tree: &Tree) -> Option<(Duration, String)> {
        let longest = tree.uberblock?.longest_check()?;
        let text = format!(
            "multihost=on: after the fence an import still waits for other hosts' writes, up to {:.1} s here (36 s were \
             measured with the defaults of ZFS); the fence does that work already. Either `zpool set multihost=off {}`, \
             or on both controllers zfs_multihost_interval=250 and zfs_multihost_fail_intervals=10 \
             (/etc/modprobe.d/zfs.conf); timing.import_ms must be {}000 for this wait; failoverd changes none of it",
            longest.as_secs_f64(),
            self.pool.name,
            import_s(longest)
        );
        Some((longest, text))
    }
}

/// The disks that an import had to do without.
fn without(survey: &Survey, lost: &[String]) -> String {
    let mut text = String::new();
    let mut add = |what: &str, disks: Vec<&str>| {
        if !disks.is_empty() {
            text.push_str(&format!("; {what}: {}", disks.join(", ")));
        }
    };
    let plain = |disks: &[String]| -> Vec<String> { disks.to_vec() };
    let (absent, silent) = (plain(&survey.absent), plain(&survey.silent));
    add(
        "not won (see the fence's report)",
        lost.iter().map(String::as_str).collect(),
    );
    add(
        "not seen by this machine",
        absent.iter().map(String::as_str).collect(),
    );
    add(
        "no answer in time from",
        silent.iter().map(String::as_str).collect(),
    );
    text
}

/// Messages of the tools have several lines.
pub(super) fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" / ")
}

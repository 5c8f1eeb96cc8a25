//! What a controller that hasn't imported a pool does for the day on which it must, and what `--check` tells.

use super::devices::Depth;
use super::health::Told;
use super::import::{assured, one_line};
use super::kernel::Seen;
use super::keys;
use super::status;
use super::tree::{Health, assemble, names};
use super::{Member, ZfsPools};
use crate::adapters::program::Runner;
use failover_core::adapters::Failure;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Time before the first look: a takeover right after the start has its own.
const LOOK_FIRST: Duration = Duration::from_secs(5);
/// Interval of the looks at pools that are served: a few files of the kernel's.
const LOOK_AT_SERVED: Duration = Duration::from_secs(5);
/// After so many of them comes a look of a standby: each half minute.
const LOOK_AHEAD_EVERY: u32 = 6;
/// The longest that the look at the start takes.
const START_LONGEST: Duration = Duration::from_millis(500);
/// The longest that one look takes.
const LOOK_LONGEST: Duration = Duration::from_secs(5);

/// Something about a pool that whoever runs this machine should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Place of the pool in the list.
    pub pool: usize,
    /// Sentence, without the pool's name.
    pub text: String,
    /// The pair must not run with this.
    pub refused: bool,
}

impl ZfsPools {
    /// Has changed partition tables read again: without it an import finds no devices, or waits for all of them. Labels
    /// are read by the import itself.
    pub(super) fn look_at_tables(&self, one: &Member) -> Result<(), Failure> {
        match self.find(one)? {
            Seen::Here { .. } => return Ok(()),
            Seen::Absent if !self.kernel.is_loaded() => return Err(one.no_module()),
            Seen::Absent => {}
        }
        let until = Instant::now() + LOOK_LONGEST;
        let survey = self
            .devices
            .survey(&one.pool.disks, one.pool.guid, Depth::Tables, until);
        let survey = survey.map_err(|why| one.say(&why))?;
        match survey.remarks.as_slice() {
            [] => Ok(()),
            remarks => Err(one.say(&remarks.join("; "))),
        }
    }

    /// Reads partition tables and labels, so that a takeover finds them right; says what would stand against it.
    pub(super) fn look_ahead(&self, one: &Member) -> Result<(), Failure> {
        match self.find(one)? {
            // Said now: the next takeover refuses it.
            Seen::Here { .. } => return one.is_imported_by_us(),
            Seen::Absent if !self.kernel.is_loaded() => return Err(one.no_module()),
            Seen::Absent => {}
        }
        let until = Instant::now() + LOOK_LONGEST;
        let survey = self
            .devices
            .survey(&one.pool.disks, one.pool.guid, Depth::Labels, until);
        let survey = survey.map_err(|why| one.say(&why))?;
        if survey.reread > 0 {
            tracing::info!(
                "pool {}: the partition tables of {} disks had changed and were read again",
                one.pool.name,
                survey.reread
            );
        }
        let labels = survey.found.iter().map(|found| &found.label);
        let Some(tree) = assemble(one.pool.guid, labels) else {
            return Err(one.say("no device of it is found on its disks"));
        };
        if survey.is_complete() {
            one.note_tops(&tree);
        }
        one.is_importable(&tree)?;
        let unseen = tree.unseen();
        match tree.health() {
            Health::Whole if unseen.is_empty() => Ok(()),
            Health::Whole => Err(one.say(unseen.trim_start_matches("; "))),
            Health::Degraded(missing) | Health::Unusable(missing) => Err(one.say(&format!(
                "devices are missing here: {}{unseen}",
                names(&missing)
            ))),
        }
    }

    /// Looks ahead, and at what is served, now and then in a thread of its own, as long as somebody holds `pools`.
    ///
    /// # Errors
    /// No thread.
    pub fn watch(pools: &Arc<ZfsPools>) -> Result<(), Failure> {
        if pools.pools.is_empty() {
            return Ok(());
        }
        let pools: Weak<ZfsPools> = Arc::downgrade(pools);
        let look = move || {
            // A state that lasts is said once.
            let mut told: BTreeMap<usize, String> = BTreeMap::new();
            let mut unwell = Told::default();
            std::thread::sleep(LOOK_FIRST);
            for count in 0_u32.. {
                let Some(pools) = pools.upgrade() else { return };
                pools.look_at_served(&mut unwell);
                let is_due = count % LOOK_AHEAD_EVERY == 0;
                for (place, one) in pools.pools.iter().enumerate().filter(|_| is_due) {
                    match pools.look_ahead(one) {
                        Ok(()) => drop(told.remove(&place)),
                        Err(Failure(why)) if told.get(&place) == Some(&why) => {}
                        Err(Failure(why)) => {
                            tracing::error!("{why}");
                            told.insert(place, why);
                        }
                    }
                }
                drop(pools);
                std::thread::sleep(LOOK_AT_SERVED);
            }
        };
        let thread = std::thread::Builder::new().name("zfs-standby".to_owned());
        match thread.spawn(look) {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure(format!(
                "no thread to look ahead at pools: {error}"
            ))),
        }
    }

    /// What keeps the pair from running with these pools, and can be told in a moment: a daemon that restarts on the
    /// MASTER must beat again at once. Pools that are imported here are served, whatever their settings are.
    pub fn refusals(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (place, one) in self.pools.iter().enumerate() {
            if self.find(one) == Ok(Seen::Absent) {
                let until = Instant::now() + START_LONGEST;
                self.look_at_waits(one, until, &mut |text, refused| {
                    findings.push(Finding {
                        pool: place,
                        text,
                        refused,
                    });
                });
            }
        }
        findings.retain(|finding| finding.refused);
        findings
    }

    /// What stands against running with these pools here, and what else is worth to know. Changes nothing.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (place, one) in self.pools.iter().enumerate() {
            let mut add = |text: String, refused| {
                let name = format!("pool {}: ", one.pool.name);
                let text = text.strip_prefix(&name).map_or(text.clone(), str::to_owned);
                findings.push(Finding {
                    pool: place,
                    text,
                    refused,
                });
            };
            for key in &one.pool.keys {
                if let Err(why) = keys::check(&key.file) {
                    add(why, true);
                }
            }
            match self.find(one) {
                Err(Failure(why)) => add(why, false),
                Ok(Seen::Absent) => self.look_at_absent(one, &mut add),
                Ok(Seen::Here { state, .. }) => self.look_at_imported(one, &state, &mut add),
            }
        }
        findings
    }

    fn look_at_absent(&self, one: &Member, add: &mut impl FnMut(String, bool)) {
        if let Err(Failure(why)) = self.look_ahead(one) {
            add(why, false);
        }
        self.look_at_waits(one, Instant::now() + LOOK_LONGEST, add);
    }

    fn look_at_waits(&self, one: &Member, until: Instant, add: &mut impl FnMut(String, bool)) {
        let Ok(survey) = self
            .devices
            .survey(&one.pool.disks, one.pool.guid, Depth::Labels, until)
        else {
            return;
        };
        let tree = assemble(one.pool.guid, survey.found.iter().map(|found| &found.label));
        let Some(tree) = tree else { return };
        if let Some((id, name)) = &tree.host {
            add(
                format!("not imported here; last used by {name} (host id {id:08x})"),
                false,
            );
        }
        // Also where the pool is exported and could be imported without the wait now: it is for the day on which it isn't.
        if let Some((longest, text)) = one.multihost(&tree) {
            let limit = self.limits.import;
            // The same that an import has: what is accepted here must not be refused there.
            match longest > assured(limit) {
                true => add(
                    format!(
                        "timing.import_ms ({}) is too short for that wait: {text}",
                        limit.as_millis()
                    ),
                    true,
                ),
                false => add(text, false),
            }
        }
    }

    fn look_at_imported(&self, one: &Member, state: &str, add: &mut impl FnMut(String, bool)) {
        add(format!("imported here, {state}"), false);
        if let Err(Failure(why)) = one.is_not_suspended(state) {
            return add(why, false);
        }
        let until = Instant::now() + LOOK_LONGEST;
        match self.status(&one.runner, &one.pool.name, until) {
            Ok(status) => {
                for device in status.not_online() {
                    add(device, false);
                }
            }
            Err(why) => add(why, false),
        }
        match self.property(one, "multihost", until) {
            Ok(value) if value == "on" => add(
                "multihost=on: an import after a crash waits for other hosts' writes, 36 s with the defaults of ZFS \
                 (measured); `failoverd --check` on the other controller tells what it is here"
                    .to_owned(),
                false,
            ),
            Ok(_) => {}
            Err(why) => add(why, false),
        }
        match self.property(one, "cachefile", until) {
            Ok(value) if value != "none" => add(
                format!(
                    "its cachefile is {value:?}: the system may import it by itself after a boot; `zpool set \
                     cachefile=none {}`",
                    one.pool.name
                ),
                false,
            ),
            Ok(_) => {}
            Err(why) => add(why, false),
        }
    }

    pub(super) fn status(
        &self,
        runner: &Runner,
        name: &str,
        until: Instant,
    ) -> Result<status::Status, String> {
        let arguments: &[&str] = match self.is_new() {
            true => &["status", "-j", "--json-int", name],
            false => &["status", "-p", name],
        };
        let ran = runner
            .run(&self.tools.zpool, arguments, until)
            .map_err(|error| format!("`zpool status`: {error}"))?;
        if !ran.ok {
            return Err(format!("`zpool status` failed: {}", one_line(&ran.errors)));
        }
        match self.is_new() {
            true => status::from_json(&ran.output, name),
            false => status::from_text(&ran.output, name),
        }
    }

    fn property(&self, one: &Member, property: &str, until: Instant) -> Result<String, String> {
        let name = one.pool.name.as_str();
        let arguments: &[&str] = match self.is_new() {
            true => &["get", "-j", "--json-int", property, name],
            false => &["get", "-H", "-p", "-o", "value", property, name],
        };
        let failed = |why: String| format!("`zpool get {property}`: {why}");
        let ran = self
            .zpool(one, arguments, until)
            .map_err(|error| failed(error.to_string()))?;
        match (ran.ok, self.is_new()) {
            (false, _) => Err(failed(one_line(&ran.errors))),
            (true, true) => status::property(&ran.output, name, property).map_err(failed),
            (true, false) => Ok(String::from_utf8_lossy(&ran.output).trim().to_owned()),
        }
    }
}

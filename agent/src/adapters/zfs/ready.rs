//! From an imported pool to one that serves: keys, mounts, shares, volumes.

use super::datasets::{self, COLUMNS, Dataset};
use super::import::one_line;
use super::keys::{self, KeyPlan};
use super::{Member, Parts, ZfsPool, ZfsPools};
use crate::adapters::mounts::mounts;
use failover_core::adapters::{Change, Failure};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// Programs that run at the same time.
const AT_ONCE: usize = 8;
/// Interval at which a volume's node is looked for.
const VOLUME_LOOK: Duration = Duration::from_millis(5);
/// Names in a message.
const NAMED_MAX: usize = 5;

impl ZfsPools {
    /// Makes an imported pool serve; whatever is done already stays as it is.
    pub(super) fn make_ready(
        &self,
        one: &Member,
        brought: Change,
        until: Instant,
        parts: &mut Parts,
    ) -> Result<Change, Failure> {
        let early = brought == Change::Made && self.is_new() && one.pool.expects_no_keys();
        let (listed, said) = match early {
            // Without keys nothing has to come before the mounts.
            true => std::thread::scope(|scope| {
                let mounting = scope.spawn(|| self.mount_all(one, until));
                let listed = self.list(one, until);
                (listed, mounting.join().ok().flatten())
            }),
            false => (self.list(one, until), None),
        };
        let mut all = listed?;
        parts.end(if early { "list and mounts" } else { "list" });
        let unlocked = self.load_keys(one, &mut all, until)?;
        parts.end("keys");
        let mounted = self.mount(one, &all, said, until)?;
        parts.end("mounts");
        let new = early || mounted == Change::Made;
        if new {
            self.share(one, &all, until);
            parts.end("shares");
        }
        self.wait_for_volumes(one, &all, until)?;
        parts.end("volumes");
        Ok(match new || unlocked == Change::Made {
            true => Change::Made,
            false => Change::AlreadySo,
        })
    }

    /// One program mounts everything at the same time, as an import would; what it complains about comes back.
    fn mount_all(&self, one: &Member, until: Instant) -> Option<String> {
        match self.zfs(one, &["mount", "-R", &one.pool.name], until) {
            Ok(ran) if ran.ok => None,
            Ok(ran) => Some(one_line(&ran.errors)),
            Err(error) => Some(error.to_string()),
        }
    }

    fn list(&self, one: &Member, until: Instant) -> Result<Vec<Dataset>, Failure> {
        let (columns, name) = (COLUMNS.join(","), one.pool.name.as_str());
        let which = ["-r", "-t", "filesystem,volume", "-o", &columns, name];
        let form: &[&str] = match self.is_new() {
            true => &["list", "-j", "--json-int"],
            false => &["list", "-H", "-p"],
        };
        let ran = self.zfs(one, &[form, &which].concat(), until);
        let ran = ran.map_err(|error| one.say(&format!("`zfs list`: {error}")))?;
        if !ran.ok {
            let why = one_line(&ran.errors);
            return Err(one.say(&format!("`zfs list` failed ({}): {why}", ran.status)));
        }
        let read = match self.is_new() {
            true => datasets::from_json(&ran.output),
            false => datasets::from_text(&ran.output),
        };
        let found = read.map_err(|why| one.say(&why))?;
        match found.iter().any(|dataset| dataset.name == name) {
            true => Ok(found),
            false => Err(one.say("`zfs list` doesn't show the pool's own filesystem")),
        }
    }

    fn load_keys(
        &self,
        one: &Member,
        all: &mut [Dataset],
        until: Instant,
    ) -> Result<Change, Failure> {
        let roots = all.iter().filter(|dataset| dataset.is_locked_root());
        let mut to_load = Vec::new();
        let mut wrong = Vec::new();
        for root in roots {
            match keys::plan(&one.pool, root) {
                Ok(KeyPlan::Load(file)) => to_load.push((root.name.clone(), file)),
                Ok(KeyPlan::Leave) => {
                    tracing::warn!("pool {}: {} stays locked", one.pool.name, root.name);
                }
                Err(why) => wrong.push(why),
            }
        }
        let outcomes = at_once(&to_load, |(root, file)| {
            let place = format!("file://{}", file.display());
            match self.zfs(one, &["load-key", "-L", &place, root], until) {
                Ok(ran) if ran.ok || ran.errors.contains("already loaded") => Ok(()),
                Ok(ran) => Err(format!(
                    "the key of {root} in {} was not loaded: {}",
                    file.display(),
                    one_line(&ran.errors)
                )),
                Err(error) => Err(format!("`zfs load-key {root}`: {error}")),
            }
        });
        wrong.extend(outcomes.into_iter().filter_map(Result::err));
        if !wrong.is_empty() {
            return Err(one.say(&wrong.join("; ")));
        }
        let loaded: BTreeSet<String> = to_load.into_iter().map(|(root, _)| root).collect();
        for dataset in all.iter_mut() {
            if dataset
                .encryption_root
                .as_ref()
                .is_some_and(|root| loaded.contains(root))
            {
                dataset.is_locked = false;
            }
        }
        match loaded.is_empty() {
            true => Ok(Change::AlreadySo),
            false => Ok(Change::Made),
        }
    }

    /// Mounts what isn't mounted; `said` is what an earlier try complained about.
    fn mount(
        &self,
        one: &Member,
        all: &[Dataset],
        said: Option<String>,
        until: Instant,
    ) -> Result<Change, Failure> {
        let wanted = || all.iter().filter(|dataset| dataset.is_to_mount());
        let missing = self.not_mounted(one, wanted())?;
        if missing.is_empty() {
            return Ok(Change::AlreadySo);
        }
        let mut said: Vec<String> = said.into_iter().collect();
        if self.is_new() {
            said.extend(self.mount_all(one, until));
        } else {
            for step in datasets::mount_steps(missing.into_iter()) {
                let outcomes = at_once(&step, |dataset| {
                    match self.zfs(one, &["mount", &dataset.name], until) {
                        Ok(ran) if ran.ok => Ok(()),
                        Ok(ran) => Err(one_line(&ran.errors)),
                        Err(error) => Err(error.to_string()),
                    }
                });
                said.extend(outcomes.into_iter().filter_map(Result::err));
            }
        }
        let missing: Vec<&str> = self
            .not_mounted(one, wanted())?
            .into_iter()
            .map(|dataset| dataset.name.as_str())
            .collect();
        if missing.is_empty() {
            return Ok(Change::Made);
        }
        said.truncate(NAMED_MAX);
        let why = said.join("; ");
        Err(one.say(&format!(
            "imported, but not mounted: {}: {why}",
            few(&missing)
        )))
    }

    /// Those of them that the kernel has no mount of at their place.
    fn not_mounted<'d>(
        &self,
        one: &Member,
        wanted: impl Iterator<Item = &'d Dataset>,
    ) -> Result<Vec<&'d Dataset>, Failure> {
        let table = self.places.roots.proc.join("thread-self/mountinfo");
        let all = mounts(&table).map_err(|error| {
            one.say(&format!(
                "the mounts in {} can't be read: {error}",
                table.display()
            ))
        })?;
        let mounted: BTreeSet<_> = all
            .iter()
            .filter(|mount| mount.fstype == "zfs")
            .map(|mount| (mount.source.as_path(), mount.mountpoint.as_path()))
            .collect();
        let is_missing = |dataset: &&Dataset| {
            let place = dataset.mountpoint.as_deref();
            place.is_some_and(|place| !mounted.contains(&(dataset.name.as_ref(), place)))
        };
        Ok(wanted.filter(is_missing).collect())
    }

    /// What can't be shared is told and keeps no pool from serving: the servers read the list again when they start.
    fn share(&self, one: &Member, all: &[Dataset], until: Instant) {
        let wanted: Vec<&Dataset> = all
            .iter()
            .filter(|dataset| dataset.is_shared && dataset.is_to_mount())
            .collect();
        let outcomes = at_once(&wanted, |dataset| {
            match self.zfs(one, &["share", &dataset.name], until) {
                Ok(ran) if ran.ok || ran.errors.contains("already shared") => Ok(()),
                Ok(ran) => Err(one_line(&ran.errors)),
                Err(error) => Err(error.to_string()),
            }
        });
        let wrong: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
        if !wrong.is_empty() {
            let wrong: Vec<&str> = wrong.iter().map(String::as_str).collect();
            tracing::error!(
                "pool {}: not everything is shared: {}",
                one.pool.name,
                few(&wrong)
            );
        }
    }

    fn wait_for_volumes(
        &self,
        one: &Member,
        all: &[Dataset],
        until: Instant,
    ) -> Result<(), Failure> {
        let mut missing: Vec<&str> = all
            .iter()
            .filter(|dataset| dataset.has_device())
            .map(|dataset| dataset.name.as_str())
            .collect();
        loop {
            missing.retain(|name| !self.places.dev.join("zvol").join(name).exists());
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(one.say(&format!(
                    "imported, but these volumes have no node under {}: {}; does udev run?",
                    self.places.dev.join("zvol").display(),
                    few(&missing)
                )));
            }
            std::thread::sleep(VOLUME_LOOK);
        }
    }
}

impl ZfsPool {
    /// Nothing in the configuration or in the key store speaks of keys for it.
    fn expects_no_keys(&self) -> bool {
        let stored = self.key_store.join(&self.name);
        let plain = self.key_store.join(format!("{}.key", self.name));
        self.keys.is_empty()
            && self.may_stay_locked.is_empty()
            && [stored, plain]
                .iter()
                .all(|place| matches!(place.try_exists(), Ok(false)))
    }
}

fn few(names: &[&str]) -> String {
    let shown = names
        .iter()
        .take(NAMED_MAX)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Does something for each, a few at a time; the outcomes come in any order.
fn at_once<T: Sync, R: Send>(items: &[T], act: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if let [only] = items {
        return vec![act(only)];
    }
    let (next, outcomes) = (Mutex::new(items.iter()), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let item = next.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(item) = item else { return };
            let outcome = act(item);
            outcomes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(outcome);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..items.len().min(AT_ONCE) {
            scope.spawn(work);
        }
    });
    outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
}

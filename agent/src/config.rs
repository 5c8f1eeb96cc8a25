//! The configuration: one TOML file, every key known, every mistake named with file, line, key and remedy.
//!
//! ```text
//!   file ──▶ raw (serde, unknown keys refused) ──▶ check (relations, timers) ──▶ Config ──▶ core()
//!                     locate: which line is which key      change: what SIGHUP may change
//! ```

mod change;
mod explain;
mod locate;
mod pools;
mod raw;
mod reference;
#[cfg(test)]
mod tests;

pub use change::{Difference, Refused, difference};
pub use explain::explain;
pub use pools::{KEY_STORE, KeyFile, MountSettings, PoolKind, PoolSettings, ZfsSettings};
pub use raw::{
    Cidr, HookConfig, LinkConfig, Paths, ResetConfig, ServicesConfig, VipConfig, WatchdogConfig,
};
pub use reference::{default_text, reference_markdown};

use crate::adapters::identity::Identity;
use crate::pair_key::PairKey;
use failover_core::config::{CoreConfig, DiskConfig, PoolConfig, Timing};
use failover_core::ids::{DiskId, Node, PoolId};
use locate::Locator;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Time that a roll of the registration key on one disk is expected to take, for the check of the timers.
pub const ROLL_LATENCY_MS: u64 = 50;

/// Most links, disks, pools and virtual addresses that a configuration may name.
const LINKS_MAX: usize = 8;
const DISKS_MAX: usize = 2048;
const POOLS_MAX: usize = 256;
const VIPS_MAX: usize = 1024;
const HOOKS_MAX: usize = 64;

/// A configuration that was read and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// File it came from; read again on SIGHUP.
    pub file: PathBuf,
    /// This controller.
    pub node: Node,
    /// Key of the pair; present whenever links or shared disks are configured.
    pub pair_key: Option<PairKey>,
    /// Heartbeat links; none means `SINGLE`.
    pub links: Vec<LinkConfig>,
    /// Identities of the shared disks, each in its one written form, so that both controllers digest the same text.
    pub disks: Vec<String>,
    /// Line of the key `disks`.
    disks_line: Option<usize>,
    /// Disks that can't keep registrations through power loss are used without.
    pub accept_volatile: bool,
    /// Number of arbiter disks wanted.
    pub arbiters: u8,
    /// Pools, in the order in which both controllers name them.
    pub pools: Vec<PoolSettings>,
    /// Line of each pool.
    pool_lines: Vec<Option<usize>>,
    /// Virtual addresses.
    pub vips: Vec<VipConfig>,
    /// Interfaces of the clients' network.
    pub critical_interfaces: Vec<String>,
    /// Services that run only on the MASTER.
    pub services: ServicesConfig,
    /// Hardware watchdog.
    pub watchdog: Option<WatchdogConfig>,
    /// How this machine is reset.
    pub reset: ResetConfig,
    /// Timers and bounds.
    pub timing: Timing,
    /// Folders and the control socket.
    pub paths: Paths,
    /// Seed of random back-offs, drawn when the file was read.
    pub seed: u64,
}

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1; absent where the key is missing altogether.
    pub line: Option<usize>,
    /// Path of the key, for example `links[1].local`.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}; {}", self.problem, self.remedy)
    }
}

/// Every mistake that was found, one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// Reads and checks the file, and the pair key that it names.
    pub fn load(file: &Path) -> Result<Config, ConfigErrors> {
        let text = std::fs::read_to_string(file).map_err(|error| {
            ConfigErrors(vec![ConfigError {
                file: file.to_owned(),
                line: None,
                key: String::new(),
                problem: format!("can't be read: {error}"),
                remedy: "write one with `failoverd --print-default-config`".to_owned(),
            }])
        })?;
        Config::parse(&text, file)
    }

    /// Reads and checks `text`; `file` is named in errors, and relative to nothing: paths in it are absolute.
    pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigErrors> {
        let locator = Locator::new(text);
        let raw: raw::RawConfig =
            toml::from_str(text).map_err(|error| syntax_error(file, &locator, &error))?;
        let mut check = Check {
            file,
            locator: &locator,
            errors: Vec::new(),
        };
        let pair_key = check.pair_key(&raw);
        check.links(&raw);
        check.disks(&raw);
        let pools = check.pools(&raw);
        check.vips(&raw);
        check.interfaces(&raw);
        check.services(&raw);
        check.paths(&raw);
        check.timing(&raw);
        if !check.errors.is_empty() {
            return Err(ConfigErrors(check.errors));
        }
        Ok(Config {
            file: file.to_owned(),
            node: raw.node,
            pair_key,
            links: raw.links,
            disks: raw.disks.iter().map(|text| canonical(text)).collect(),
            disks_line: locator.line_of("disks"),
            accept_volatile: raw.accept_volatile_reservations,
            arbiters: raw.arbiters,
            pool_lines: (0..pools.len())
                .map(|index| locator.line_of(&format!("pools[{index}]")))
                .collect(),
            pools,
            vips: raw.vips,
            critical_interfaces: raw.critical_interfaces,
            services: raw.services,
            watchdog: raw.watchdog,
            reset: raw.reset,
            timing: raw.timing,
            paths: raw.paths,
            seed: crate::random_u64(),
        })
    }

    /// Provisioned as a member of a pair.
    pub fn has_peer(&self) -> bool {
        !self.links.is_empty()
    }

    /// The number of a pool: its place in the list.
    pub fn pool_id(&self, name: &str) -> Option<PoolId> {
        let mut pools = (0..).map(PoolId).zip(&self.pools);
        pools.find(|(_, pool)| pool.name == name).map(|(id, _)| id)
    }

    /// A mistake in an entry of `disks` that only this machine's devices show.
    pub fn disk_error(&self, entry: &str, problem: &str, remedy: &str) -> ConfigError {
        let index = self.disks.iter().position(|disk| disk == entry);
        ConfigError {
            file: self.file.clone(),
            line: self.disks_line,
            key: index.map_or_else(|| "disks".to_owned(), |index| format!("disks[{index}]")),
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
        }
    }

    /// What is wrong with a pool, as only this machine's devices show. The text has problem and remedy.
    pub fn pool_error(&self, index: usize, text: &str) -> ConfigError {
        let parts = text
            .split_once(": ")
            .unwrap_or((text, "see `failoverd --check`"));
        ConfigError {
            file: self.file.clone(),
            line: self.pool_lines.get(index).copied().flatten(),
            key: format!("pools[{index}]"),
            problem: parts.0.to_owned(),
            remedy: parts.1.to_owned(),
        }
    }

    /// What the core must know of it.
    pub fn core(&self) -> CoreConfig {
        let mut disks: Vec<DiskConfig> = self
            .disks
            .iter()
            .map(|name| DiskConfig {
                id: DiskId::of(name),
                name: name.clone(),
            })
            .collect();
        disks.sort();
        let pools = self.pools.iter().zip(0..).map(|(pool, id)| PoolConfig {
            id: PoolId(id),
            name: pool.name.clone(),
        });
        CoreConfig {
            node: self.node,
            pair: self.pair_key.as_ref().map_or(0, PairKey::tag),
            has_peer: self.has_peer(),
            links: self.links.len() as u8,
            disks,
            pools: pools.collect(),
            arbiters: self.arbiters,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seed: self.seed,
            timing: self.timing.clone(),
        }
    }
}

/// The one written form of an identity; a text that is none is left as it is, and refused where real disks are looked
/// for. Pretended shelves have names of their own.
fn canonical(text: &str) -> String {
    Identity::parse(text).map_or_else(|_| text.to_owned(), |known| known.as_str().to_owned())
}

fn syntax_error(file: &Path, locator: &Locator, error: &toml::de::Error) -> ConfigErrors {
    let line = error.span().map(|span| locator.line_at(span.start));
    let key = line.map(|line| locator.key_at(line)).unwrap_or_default();
    let problem = error.message().replace('\n', " ");
    let remedy = if problem.starts_with("unknown field") {
        "remove it or correct its name (`failoverd --print-default-config` shows every key)"
    } else if problem.starts_with("missing field") {
        "add it (`failoverd --print-default-config` shows its form)"
    } else {
        "write it in the form that `failoverd --print-default-config` shows"
    };
    ConfigErrors(vec![ConfigError {
        file: file.to_owned(),
        line,
        key,
        problem,
        remedy: remedy.to_owned(),
    }])
}

/// The checks beyond types, and what they found.
struct Check<'a> {
    file: &'a Path,
    locator: &'a Locator,
    errors: Vec<ConfigError>,
}

impl Check<'_> {
    fn refuse(&mut self, key: &str, problem: impl Into<String>, remedy: &str) {
        self.errors.push(ConfigError {
            file: self.file.to_owned(),
            line: self.locator.line_of(key),
            key: key.to_owned(),
            problem: problem.into(),
            remedy: remedy.to_owned(),
        });
    }

    fn bounded(&mut self, key: &str, length: usize, max: usize) {
        if length > max {
            let problem = format!("{length} entries, at most {max} are possible");
            self.refuse(key, problem, "remove some");
        }
    }

    fn pair_key(&mut self, raw: &raw::RawConfig) -> Option<PairKey> {
        let needed = !raw.links.is_empty() || !raw.disks.is_empty();
        match &raw.pair_key {
            None if needed => {
                self.refuse(
                    "pair_key",
                    "missing, though links or shared disks are configured",
                    "make one with `failoverd new-key FILE`, copy it to the other controller and name it here",
                );
                None
            }
            None => None,
            Some(path) => match PairKey::read(path) {
                Ok(key) => Some(key),
                Err(error) => {
                    self.refuse("pair_key", error.problem, &error.remedy);
                    None
                }
            },
        }
    }

    fn links(&mut self, raw: &raw::RawConfig) {
        self.bounded("links", raw.links.len(), LINKS_MAX);
        for (index, link) in raw.links.iter().enumerate() {
            let key = |name: &str| format!("links[{index}].{name}");
            if link.local.is_ipv4() != link.peer.is_ipv4() {
                let problem = format!("{} and local {} differ in family", link.peer, link.local);
                self.refuse(&key("peer"), problem, "use two addresses of one family");
            }
            if link.local == link.peer {
                let problem = format!("{} is this controller's own address", link.peer);
                self.refuse(&key("peer"), problem, "name the other controller's address");
            }
            if link.local.port() == 0 || link.peer.port() == 0 {
                self.refuse(&key("local"), "port 0", "use the same port on both, 7400");
            }
            if link.local.ip().is_unspecified() || link.peer.ip().is_unspecified() {
                let problem = "the unspecified address names no link";
                self.refuse(&key("local"), problem, "name the link's own address");
            }
            if let Some(name) = &link.interface {
                self.interface(&key("interface"), name);
            }
            let twice = |other: &LinkConfig| other.local == link.local || other.peer == link.peer;
            if raw.links[..index].iter().any(twice) {
                let problem = "an address that another link uses already";
                self.refuse(
                    &key("local"),
                    problem,
                    "give each link addresses of its own",
                );
            }
        }
    }

    fn interface(&mut self, key: &str, name: &str) {
        let bad = |c: char| c.is_whitespace() || c == '/' || c == ':' || c == '\0';
        if name.is_empty() || name.len() > 15 || name.contains(bad) {
            let problem = format!("{name:?} can't be an interface name");
            self.refuse(key, problem, "use a name that `ip link` shows");
        }
    }

    fn disks(&mut self, raw: &raw::RawConfig) {
        self.bounded("disks", raw.disks.len(), DISKS_MAX);
        if !matches!(raw.arbiters, 1 | 3 | 5) {
            let problem = format!("{} arbiters have no clear majority", raw.arbiters);
            self.refuse("arbiters", problem, "use 3 (or 1, or 5)");
        }
        if raw.disks.is_empty() && !raw.links.is_empty() {
            let problem = "none, though heartbeat links are configured: the disks are the judge of a pair, and without \
                           them nothing keeps two controllers from serving at once";
            let remedy = "name the shared disks, or remove the links to serve alone";
            self.refuse("disks", problem, remedy);
        }
        let mut seen: BTreeMap<DiskId, &str> = BTreeMap::new();
        for (index, name) in raw.disks.iter().enumerate() {
            let key = format!("disks[{index}]");
            if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
                let problem = format!("{name:?} can't be a disk's identity");
                self.refuse(&key, problem, "use its WWN, EUI or NGUID");
            } else if let Some(before) = seen.insert(DiskId::of(&canonical(name)), name) {
                let problem = match canonical(name) == canonical(before) {
                    true => format!("{name:?} is the same disk as {before:?}"),
                    false => format!("{name:?} has the digest of {before:?}"),
                };
                self.refuse(&key, problem, "name each disk once");
            }
        }
        if raw.accept_volatile_reservations && raw.watchdog.is_none() {
            let problem = "true, though there is no watchdog: after a power loss of the shelf nothing but a reset keeps \
                           a standing old owner from writing to disks without reservations";
            let remedy = "configure a watchdog whose timeout is shorter than the shelf takes to come back, or leave \
                          this false";
            self.refuse("accept_volatile_reservations", problem, remedy);
        }
    }

    /// A pool that an address or a service belongs to.
    fn belongs_to(&mut self, key: &str, pool: Option<&String>, raw: &raw::RawConfig) {
        if let Some(name) = pool
            && !raw.pools.iter().any(|pool| pool.name == *name)
        {
            let problem = format!("{name:?} is not the name of a configured pool");
            let remedy = "name one of `[[pools]]`, or leave it out: then it belongs to no pool";
            self.refuse(key, problem, remedy);
        }
    }

    fn absolute(&mut self, key: &str, path: &Path) {
        if !path.is_absolute() {
            let problem = format!("{} is not an absolute path", path.display());
            self.refuse(key, problem, "write the whole path, from /");
        }
    }

    fn vips(&mut self, raw: &raw::RawConfig) {
        self.bounded("vips", raw.vips.len(), VIPS_MAX);
        for (index, vip) in raw.vips.iter().enumerate() {
            let key = |name: &str| format!("vips[{index}].{name}");
            self.interface(&key("interface"), &vip.interface);
            self.belongs_to(&key("pool"), vip.pool.as_ref(), raw);
            let ip = vip.address.ip;
            if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
                let problem = format!("{ip} can't be a virtual address");
                self.refuse(
                    &key("address"),
                    problem,
                    "use an address of the clients' network",
                );
            }
            if raw.vips[..index].iter().any(|v| v.address.ip == ip) {
                let problem = format!("{ip} stands here twice");
                self.refuse(&key("address"), problem, "name each virtual address once");
            }
            if raw
                .links
                .iter()
                .any(|link| link.local.ip() == ip || link.peer.ip() == ip)
            {
                let problem = format!("{ip} is also the address of a heartbeat link");
                self.refuse(&key("address"), problem, "use another address");
            }
        }
    }

    fn interfaces(&mut self, raw: &raw::RawConfig) {
        self.bounded(
            "critical_interfaces",
            raw.critical_interfaces.len(),
            LINKS_MAX * 8,
        );
        for (index, name) in raw.critical_interfaces.iter().enumerate() {
            self.interface(&format!("critical_interfaces[{index}]"), name);
        }
    }

    fn services(&mut self, raw: &raw::RawConfig) {
        let services = &raw.services;
        self.bounded("services.units", services.units.len(), HOOKS_MAX);
        self.bounded("services.hooks", services.hooks.len(), HOOKS_MAX);
        for (index, hook) in services.hooks.iter().enumerate() {
            let key = format!("services.hooks[{index}].pool");
            self.belongs_to(&key, hook.pool.as_ref(), raw);
            for (name, command) in [("start", &hook.start), ("stop", &hook.stop)] {
                let key = format!("services.hooks[{index}].{name}");
                match command.first() {
                    Some(program) => self.absolute(&key, Path::new(program)),
                    None => self.refuse(&key, "empty", "name the program and its arguments"),
                }
            }
            if hook.timeout_ms == 0 || hook.timeout_ms > raw.timing.services_ms {
                let key = format!("services.hooks[{index}].timeout_ms");
                let problem = format!(
                    "{} isn't in 1..=services_ms ({})",
                    hook.timeout_ms, raw.timing.services_ms
                );
                self.refuse(&key, problem, "shorten it or lengthen timing.services_ms");
            }
        }
        if let Some(command) = &raw.reset.command {
            match command.first() {
                Some(program) => self.absolute("reset.command", Path::new(program)),
                None => self.refuse("reset.command", "empty", "leave it out or name a program"),
            }
        }
    }

    fn paths(&mut self, raw: &raw::RawConfig) {
        self.absolute("paths.state_dir", &raw.paths.state_dir);
        self.absolute("paths.runtime_dir", &raw.paths.runtime_dir);
        self.absolute("paths.socket", &raw.paths.socket);
        let length = raw.paths.socket.as_os_str().len();
        if length > 107 {
            let problem = format!("{length} bytes; a unix socket's path has at most 107");
            self.refuse("paths.socket", problem, "use a shorter path");
        }
        if raw.paths.state_dir == raw.paths.runtime_dir {
            let problem = "the same folder as paths.runtime_dir";
            let remedy = "the one must survive a boot, the other must not";
            self.refuse("paths.state_dir", problem, remedy);
        }
    }

    fn timing(&mut self, raw: &raw::RawConfig) {
        let Err(broken) = raw.timing.check(ROLL_LATENCY_MS) else {
            return;
        };
        for rule in broken {
            let (problem, remedy) = rule.split_once("; ").unwrap_or((&rule, "use the defaults"));
            // The line of the first timer that the rule names and the file sets.
            let named = Timing::FIELDS.iter().map(|(name, ..)| name);
            let key = named
                .filter(|name| problem.contains(*name))
                .map(|name| format!("timing.{name}"))
                .find(|key| self.locator.line_of(key).is_some())
                .unwrap_or_else(|| "timing".to_owned());
            self.refuse(&key, problem, remedy);
        }
    }
}

//! The file as serde reads it: types and defaults, unknown keys refused.

use super::pools::RawPool;
use failover_core::config::Timing;
use failover_core::ids::Node;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// The whole file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) node: Node,
    pub(super) pair_key: Option<PathBuf>,
    #[serde(default)]
    pub(super) disks: Vec<String>,
    #[serde(default)]
    pub(super) accept_volatile_reservations: bool,
    #[serde(default = "three")]
    pub(super) arbiters: u8,
    #[serde(default)]
    pub(super) critical_interfaces: Vec<String>,
    #[serde(default)]
    pub(super) paths: Paths,
    #[serde(default)]
    pub(super) services: ServicesConfig,
    pub(super) watchdog: Option<WatchdogConfig>,
    #[serde(default)]
    pub(super) reset: ResetConfig,
    #[serde(default)]
    pub(super) timing: Timing,
    #[serde(default)]
    pub(super) links: Vec<LinkConfig>,
    #[serde(default)]
    pub(super) vips: Vec<VipConfig>,
    #[serde(default)]
    pub(super) pools: Vec<RawPool>,
}

fn three() -> u8 {
    3
}

/// Folders and the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Paths {
    /// Journal and history; survives a boot.
    pub state_dir: PathBuf,
    /// Owner record and restart flag; must not survive a boot.
    pub runtime_dir: PathBuf,
    /// Control socket.
    pub socket: PathBuf,
}

impl Default for Paths {
    fn default() -> Paths {
        Paths {
            state_dir: PathBuf::from("/var/lib/failoverd"),
            runtime_dir: PathBuf::from("/run/failoverd"),
            socket: PathBuf::from("/run/failoverd/failoverd.sock"),
        }
    }
}

/// One heartbeat link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// This controller's address and port on the link.
    pub local: SocketAddr,
    /// The other controller's address and port on the link.
    pub peer: SocketAddr,
    /// Interface that the link is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

impl LinkConfig {
    /// Its name for people.
    pub fn name(&self) -> String {
        match &self.interface {
            Some(interface) => format!("{interface} ({})", self.local.ip()),
            None => self.local.ip().to_string(),
        }
    }
}

/// A virtual address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VipConfig {
    /// Interface it is put on.
    pub interface: String,
    /// The address with its prefix length.
    pub address: Cidr,
    /// Name of the pool that it belongs to; none: it is up wherever the MASTER is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

/// An address with its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    /// The address.
    pub ip: IpAddr,
    /// Length of the network's prefix.
    pub prefix: u8,
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Cidr, String> {
        let wrong = || format!("{text:?} is not an address with a prefix length, as 192.0.2.1/24");
        let (ip, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        if prefix == 0 || prefix > if ip.is_ipv4() { 32 } else { 128 } {
            return Err(wrong());
        }
        Ok(Cidr { ip, prefix })
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;

    fn try_from(text: String) -> Result<Cidr, String> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// Services that run only on the MASTER.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServicesConfig {
    /// Target of systemd that is started and stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Further units of systemd, started in this order and stopped in the reverse one.
    pub units: Vec<String>,
    /// Programs for hosts without systemd, run in this order and stopped in the reverse one.
    pub hooks: Vec<HookConfig>,
}

/// A service started and stopped by programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookConfig {
    /// Its name in messages.
    pub name: String,
    /// Name of the pool that it belongs to: it is started only where that one is imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Program and arguments that start it; done when it exits with 0.
    pub start: Vec<String>,
    /// Program and arguments that stop it; done when it exits with 0.
    pub stop: Vec<String>,
    /// Deadline of each; the program is killed then.
    #[serde(default = "hook_timeout_ms")]
    pub timeout_ms: u64,
}

fn hook_timeout_ms() -> u64 {
    5000
}

/// The hardware watchdog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchdogConfig {
    /// Its device.
    pub device: PathBuf,
    /// Time without a sign of life after which it resets the machine.
    #[serde(default = "watchdog_timeout_s")]
    pub timeout_s: u32,
}

fn watchdog_timeout_s() -> u32 {
    10
}

/// How this machine is reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResetConfig {
    /// Program and arguments in place of the kernel's immediate reset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
}

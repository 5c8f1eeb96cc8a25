//! What the core's work needs of the world, on a real machine.
//!
//! ```text
//!   control thread ── lease (nftables) ── watchdog ── clock
//!   work lanes     ── vips (rtnetlink, packet socket) ── pool_set (mount_pools, zfs) ── services (systemd, exec hooks)
//!                  ── fence (SG_IO, NVMe pass-through), on the disks that disk_paths finds
//!   own threads    ── link_watch (carrier of the interfaces), hotplug (disks), one for each path of a disk
//! ```
//!
//! Every call states a goal, can be repeated, and says whether it changed anything. None decides.

mod announce;
pub mod assembly;
mod block;
pub mod clock;
pub mod disk_paths;
pub mod fence;
pub mod fields;
pub mod hands_off;
pub mod hooks;
pub mod hotplug;
pub mod identity;
pub mod lease;
pub mod lease_thread;
pub mod link_watch;
pub mod mount_pools;
mod mounts;
mod netlink;
pub mod nft;
mod nvlist;
pub mod nvme;
pub mod nvme_io;
pub mod pool_set;
pub mod ports;
mod program;
pub mod reset;
mod route;
pub mod scsi;
pub mod services;
pub mod sg_io;
pub mod systemd;
pub mod vips;
pub mod watchdog;
pub mod zfs;

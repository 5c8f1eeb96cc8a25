//! Reservations on real disks, without the disks: the daemon's fence on targets that speak bytes.

mod bench;
mod commands;
mod daemons;
mod disk_paths;
mod iscsi;
#[path = "../adapters/ns.rs"]
#[allow(
    dead_code,
    reason = "the other tests have clients in a second namespace"
)]
mod ns;
mod nvme;
mod nvme_target;
mod preflight;
mod real_target;
mod scsi;
mod scsi_target;
mod stuck;
mod tgtd;
mod wiring;

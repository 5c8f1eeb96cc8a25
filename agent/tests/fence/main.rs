//! Reservations on real disks, without the disks: the daemon's fence on targets that speak bytes.

mod bench;
mod disk_paths;
mod nvme;
mod nvme_target;
mod scsi;
mod scsi_target;
mod stuck;

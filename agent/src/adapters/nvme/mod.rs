//! NVMe reservations and identities as commands and bytes, both ways, without any I/O.
//!
//! ```text
//!   reservation   Reservation Register, Acquire, Release, Report    (I/O commands)
//!   identify      Identify, Get Features (host identifier)          (admin commands)
//!   status        why a command failed
//! ```
//!
//! Sections and figures are named as in the NVM Express Base Specification 2.0. All fields are little-endian.
//!
//! How SCSI's words map: a registrant is a Host Identifier, all its paths at once; PRgeneration is GEN; APTPL is
//! PTPL, set with each registration; the type Write Exclusive – Registrants Only has code 3.

pub mod identify;
pub mod reservation;
pub mod status;

#[cfg(test)]
mod captured;
#[cfg(test)]
mod fuzz;

/// Where a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Admin commands.
    Admin,
    /// I/O commands.
    Io,
}

/// One command without its data. The namespace is filled in by whoever sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Where it goes.
    pub queue: Queue,
    /// Opcode.
    pub opcode: u8,
    /// Command dword 10.
    pub cdw10: u32,
    /// Command dword 11.
    pub cdw11: u32,
}

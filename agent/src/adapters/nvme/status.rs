//! Completion status: code type and code, as the kernel hands them out (bits 10:8 and 7:0).

use std::fmt;

/// A status other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(u16);

impl Status {
    /// Generic, 83h.
    pub const RESERVATION_CONFLICT: Status = Status(0x083);
    /// Generic, 18h: the host's identifier is of the other width.
    pub const HOST_IDENTIFIER_FORMAT: Status = Status(0x018);
    /// Generic, 02h.
    pub const INVALID_FIELD: Status = Status(0x002);
    /// Generic, 01h.
    pub const INVALID_OPCODE: Status = Status(0x001);

    /// Reads the number that the ioctl returns: status with "more" and "do not retry" above it. `None` for success.
    pub fn from_code(code: u32) -> Option<Status> {
        let status = (code & 0x7ff) as u16;
        (status != 0).then_some(Status(status))
    }

    /// Type and code in one number.
    pub fn code(self) -> u16 {
        self.0
    }

    /// What it means for the command.
    pub fn meaning(self) -> Meaning {
        match self.0 {
            0x083 => Meaning::Conflict,
            // Invalid opcode, field or namespace; command sequence; identifier format.
            0x001 | 0x002 | 0x00b | 0x00c | 0x018 => Meaning::Illegal,
            // Feature identifier not saveable, not changeable and the like: of the command, not of the path.
            0x100..=0x1ff => Meaning::Illegal,
            _ => Meaning::Failed,
        }
    }

    /// The specification's words; `None` for those that we have no use for.
    pub fn words(self) -> Option<&'static str> {
        Some(match self.0 {
            0x001 => "Invalid Command Opcode",
            0x002 => "Invalid Field in Command",
            0x004 => "Data Transfer Error",
            0x005 => "Commands Aborted due to Power Loss Notification",
            0x006 => "Internal Error",
            0x007 => "Command Abort Requested",
            0x008 => "Command Aborted due to SQ Deletion",
            0x00b => "Invalid Namespace or Format",
            0x00c => "Command Sequence Error",
            0x018 => "Host Identifier Inconsistent Format",
            0x01b => "Command Aborted due to Preempt and Abort",
            0x01d => "Sanitize In Progress",
            0x020 => "Namespace is Write Protected",
            0x082 => "Namespace Not Ready",
            0x083 => "Reservation Conflict",
            0x084 => "Format In Progress",
            0x301 => "Asymmetric Access Persistent Loss",
            0x302 => "Asymmetric Access Inaccessible",
            0x303 => "Asymmetric Access Transition",
            0x360 => "Controller Pathing Error",
            0x370 => "Host Pathing Error",
            0x371 => "Command Aborted By Host",
            _ => return None,
        })
    }
}

/// What a status means for the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Refused by the reservation rules; nothing was done.
    Conflict,
    /// The controller can't do it; nothing was done.
    Illegal,
    /// It failed, or its path did: it may have been carried out or not.
    Failed,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.words().unwrap_or("no words for it here");
        let (kind, code) = (self.0 >> 8, self.0 & 0xff);
        write!(f, "{words} (status {kind:X}h/{code:02X}h)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_ioctl_returns_is_understood() {
        assert_eq!(Status::from_code(0), None);
        // "Do not retry" and "more" are set.
        let conflict = Status::from_code(0x6083).expect("a failure");
        assert_eq!(conflict, Status::RESERVATION_CONFLICT);
        assert_eq!(conflict.meaning(), Meaning::Conflict);
        assert_eq!(conflict.to_string(), "Reservation Conflict (status 0h/83h)");
    }

    #[test]
    fn illegal_and_failed_are_told_apart() {
        let meaning = |code| Status::from_code(code).map(Status::meaning);
        for code in [0x4001, 0x4002, 0x400b, 0x4018, 0x10d] {
            assert_eq!(meaning(code), Some(Meaning::Illegal), "{code:#x}");
        }
        for code in [0x006, 0x007, 0x082, 0x303, 0x370, 0x371, 0x7ff] {
            assert_eq!(meaning(code), Some(Meaning::Failed), "{code:#x}");
        }
    }
}

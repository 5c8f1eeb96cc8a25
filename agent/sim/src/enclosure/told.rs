//! Disks, work and commands in words, for the story.

use crate::world::World;
use failover_core::disk_work::DiskWork;
use failover_core::ids::Node;
use failover_core::key::Key;
use failover_core::pr::PrCommand;

impl World {
    /// The keys on every disk, for the story.
    pub(crate) fn describe_disks(&self) -> String {
        let pair = self.plan.config(Node::A, 0).pair;
        let mut text = String::new();
        for (index, bay) in self.bays.iter().enumerate() {
            let mut keys: Vec<String> = bay
                .disk
                .registrations()
                .map(|(nexus, bits)| {
                    let holds = if bay.disk.holder() == Some(nexus) {
                        "*"
                    } else {
                        ""
                    };
                    match Key::from_bits(bits, pair) {
                        Some(key) => format!("{holds}{key:?}"),
                        None => format!("{holds}{bits:x}"),
                    }
                })
                .collect();
            keys.dedup();
            text += &format!("{}: {}; ", index, keys.join(" "));
        }
        text
    }
}

/// A piece of disk work.
pub(super) fn work(asked: &DiskWork) -> String {
    match asked {
        DiskWork::Survey => "look".to_owned(),
        DiskWork::Take { key, surveyed, .. } => {
            format!("take with {key:?}, {} key(s) seen", surveyed.keys.len())
        }
        DiskWork::Roll { to, .. } => format!("roll to {to:?}"),
        DiskWork::Leave { holder } => format!("leave as {holder:?}"),
        DiskWork::Answer { key } => format!("answer with {key:?}"),
        DiskWork::Expel { victims, .. } => format!("expel {} key(s)", victims.len()),
    }
}

/// A command.
pub(super) fn command(sent: PrCommand) -> String {
    let key = |bits: u64| match Key::from_bits(bits, (bits >> 48) as u16) {
        Some(key) => format!("{key:?}"),
        None => format!("{bits:x}"),
    };
    match sent {
        PrCommand::ReadKeys => "read keys".to_owned(),
        PrCommand::ReadReservation => "read reservation".to_owned(),
        PrCommand::ReadFull => "read full status".to_owned(),
        PrCommand::Register { old, new } => format!("register {} over {}", key(new), key(old)),
        PrCommand::RegisterIgnore { new } => format!("register-ignore {}", key(new)),
        PrCommand::Reserve { key: own } => format!("reserve {}", key(own)),
        PrCommand::Preempt { victim, .. } => format!("preempt {}", key(victim)),
        PrCommand::PreemptAbort { victim, .. } => format!("preempt-abort {}", key(victim)),
        PrCommand::Release { key: own } => format!("release {}", key(own)),
        PrCommand::Clear { key: own } => format!("clear {}", key(own)),
    }
}

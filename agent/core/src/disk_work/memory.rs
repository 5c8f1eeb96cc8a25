//! The keys in disk work and its outcomes, walked over.

use super::{DiskOutcome, DiskTask, DiskWork};
use crate::memory::{Visitor, Walk as _, walk_bits, walk_command};

impl DiskOutcome {
    /// Walks over the keys in it.
    pub fn walk(&mut self, visitor: &mut impl Visitor) {
        match self {
            DiskOutcome::Surveyed(survey)
            | DiskOutcome::Fenced(survey)
            | DiskOutcome::LostRace(Some(survey)) => visitor.survey(survey),
            DiskOutcome::Taken
            | DiskOutcome::LostRace(None)
            | DiskOutcome::Rolled { .. }
            | DiskOutcome::Left
            | DiskOutcome::Unreachable(_)
            | DiskOutcome::NotSent(_) => {}
        }
    }
}

impl DiskTask {
    /// Walks over the keys in it.
    pub fn walk(&mut self, visitor: &mut impl Visitor) {
        let DiskTask {
            work,
            paths: _,
            stage: _,
            last,
            unit_attentions: _,
            torn: _,
            lead: _,
            seen,
            done_paths: _,
            failed_paths: _,
            victims,
            retry_from,
            left_behind,
            last_error: _,
        } = self;
        match work {
            DiskWork::Survey => {}
            DiskWork::Take {
                key,
                surveyed,
                until,
            } => {
                visitor.key(key);
                visitor.survey(surveyed);
                visitor.maybe([until]);
            }
            DiskWork::Roll { from, to } => {
                visitor.key(from);
                visitor.key(to);
            }
            DiskWork::Leave { holder: key } | DiskWork::Answer { key } => visitor.key(key),
            DiskWork::Expel { key, victims } => {
                visitor.key(key);
                victims.iter_mut().for_each(|bits| walk_bits(visitor, bits));
            }
        }
        if let Some((_, command)) = last {
            walk_command(visitor, command);
        }
        visitor.survey(seen);
        let lists = victims.iter_mut().chain(retry_from);
        lists
            .chain([left_behind])
            .for_each(|bits| walk_bits(visitor, bits));
    }
}

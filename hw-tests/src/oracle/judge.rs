//! The judgement over one run: what the client was told against what the log holds.

use super::log::{Slot, slots};
use super::record::RECORD_BYTES;
use serde::Serialize;
use std::collections::HashMap;

/// Faults of one kind that are named; more are counted only.
const NAMED_MAX: usize = 20;

/// The verdict. Places and numbers are the first few of their kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The run.
    pub run: u64,
    /// Nothing is wrong.
    pub pass: bool,
    /// Records that the client holds an acknowledgement of.
    pub acknowledged: usize,
    /// Records of this run in the log, unacknowledged ones included.
    pub recorded: usize,
    /// Acknowledged and not in the log.
    pub lost: Fault,
    /// Numbers that are in the log more than once.
    pub doubled: Fault,
    /// Byte offsets of places in the log, of any run, that hold no whole record.
    pub torn: Fault,
    /// Numbers that stand in the log behind a higher one or not behind their predecessor: written late, or by two.
    pub reordered: Fault,
}

/// Faults of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// How many.
    pub count: usize,
    /// The first few.
    pub first: Vec<u64>,
}

impl Fault {
    fn add(&mut self, what: u64) {
        self.count += 1;
        if self.first.len() < NAMED_MAX {
            self.first.push(what);
        }
    }
}

/// Judges `run` by the bytes of the log and the numbers that were acknowledged.
pub fn judge(run: u64, log: &[u8], acknowledged: &[u64]) -> Verdict {
    let mut verdict = Verdict {
        run,
        acknowledged: acknowledged.len(),
        ..Verdict::default()
    };
    let mut seen: HashMap<u64, u32> = HashMap::new();
    let mut before = 0;
    for (place, slot) in slots(log).enumerate() {
        match slot {
            Slot::Broken => verdict.torn.add((place * RECORD_BYTES) as u64),
            Slot::Whole(record) if record.run == run => {
                verdict.recorded += 1;
                let times = seen.entry(record.number).or_default();
                *times += 1;
                if *times == 2 {
                    verdict.doubled.add(record.number);
                }
                if record.number != before + 1 {
                    verdict.reordered.add(record.number);
                }
                before = record.number;
            }
            Slot::Whole(_) => {}
        }
    }
    for number in acknowledged {
        if !seen.contains_key(number) {
            verdict.lost.add(*number);
        }
    }
    let faults = [
        &verdict.lost,
        &verdict.doubled,
        &verdict.torn,
        &verdict.reordered,
    ];
    // A run without a single acknowledgement proves nothing.
    verdict.pass = !acknowledged.is_empty() && faults.iter().all(|fault| fault.count == 0);
    verdict
}

#[cfg(test)]
mod tests {
    use super::super::record::Record;
    use super::*;

    const RUN: u64 = 5;

    fn log(numbers: &[u64]) -> Vec<u8> {
        let bytes = numbers.iter().map(|number| {
            Record {
                run: RUN,
                number: *number,
                writer: 1,
            }
            .encode()
        });
        bytes.flatten().collect()
    }

    fn verdict(numbers: &[u64], acknowledged: &[u64]) -> Verdict {
        judge(RUN, &log(numbers), acknowledged)
    }

    #[test]
    fn a_whole_run_passes_and_may_hold_more_than_was_acknowledged() {
        let verdict = verdict(&[1, 2, 3, 4], &[1, 2, 3]);
        assert!(verdict.pass, "{verdict:?}");
        assert_eq!((verdict.acknowledged, verdict.recorded), (3, 4));
    }

    #[test]
    fn a_lost_record_is_found_at_the_end_and_in_the_middle() {
        let end = verdict(&[1, 2], &[1, 2, 3]);
        assert_eq!((end.pass, end.lost.first), (false, vec![3]));
        let middle = verdict(&[1, 3], &[1, 2, 3]);
        assert_eq!((middle.pass, middle.lost.first), (false, vec![2]));
    }

    #[test]
    fn a_doubled_record_is_found() {
        let verdict = verdict(&[1, 2, 2, 3], &[1, 2, 3]);
        assert_eq!((verdict.pass, verdict.doubled.first), (false, vec![2]));
    }

    #[test]
    fn a_torn_record_is_found_of_another_run_too() {
        let mut bytes = log(&[1, 2, 3]);
        bytes[RECORD_BYTES + 40] ^= 1;
        let torn = judge(RUN, &bytes, &[1, 3]);
        assert_eq!((torn.pass, torn.torn.first), (false, vec![64]));
        let other = judge(6, &bytes, &[]);
        assert_eq!(other.torn.count, 1);
    }

    #[test]
    fn a_torn_tail_is_found() {
        let mut bytes = log(&[1, 2]);
        bytes.truncate(100);
        let verdict = judge(RUN, &bytes, &[1]);
        assert_eq!((verdict.pass, verdict.torn.first), (false, vec![64]));
    }

    #[test]
    fn reordered_records_are_found() {
        let verdict = verdict(&[1, 3, 2, 4], &[1, 2, 3, 4]);
        assert!(!verdict.pass);
        assert!(verdict.reordered.count > 0, "{verdict:?}");
        assert_eq!(verdict.lost.count, 0);
    }

    #[test]
    fn a_gap_that_nobody_was_told_of_is_no_loss_but_disorder() {
        let verdict = verdict(&[1, 2, 4], &[1, 2, 4]);
        assert_eq!((verdict.pass, verdict.reordered.first), (false, vec![4]));
    }

    #[test]
    fn records_of_other_runs_do_not_count() {
        let mut bytes = Record {
            run: 6,
            number: 2,
            writer: 1,
        }
        .encode()
        .to_vec();
        bytes.extend_from_slice(&log(&[1, 2]));
        let verdict = judge(RUN, &bytes, &[1, 2]);
        assert_eq!((verdict.pass, verdict.recorded), (true, 2));
    }

    #[test]
    fn nothing_acknowledged_is_nothing_proved() {
        assert!(!verdict(&[1], &[]).pass);
    }

    #[test]
    fn what_is_named_is_bounded_and_what_is_counted_is_not() {
        let numbers: Vec<u64> = (1..=500).collect();
        let lost = verdict(&[], &numbers).lost;
        assert_eq!((lost.count, lost.first.len()), (500, NAMED_MAX));
    }
}

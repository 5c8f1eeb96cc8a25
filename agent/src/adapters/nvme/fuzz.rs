//! Mutated answers: no decoder may panic, or make more of an answer than its bytes hold.

use super::identify::{self, Controller, Namespace};
use super::reservation::{Change, HostId, Registrant, Report, ReservationType};
use crate::adapters::fields::mutation::Dice;

const MUTANTS: usize = 100_000;

fn seeds() -> Vec<Vec<u8>> {
    let report = |host: HostId| Report {
        generation: 4,
        kind: Some(ReservationType::WriteExclusiveRegistrantsOnly),
        persist: true,
        registrants: vec![
            Registrant {
                controller: 1,
                holder: true,
                host,
                key: 8,
            };
            3
        ],
    };
    let mut descriptors = vec![1, 8, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 3, 16, 0, 0];
    descriptors.extend([0xab; 16]);
    let mut namespace = vec![1; 128];
    namespace[104..].fill(0x42);
    vec![
        report(HostId::Narrow([3; 8])).encode(false),
        report(HostId::Wide([3; 16])).encode(true),
        descriptors,
        namespace,
        vec![1; 522],
        vec![5; 16],
    ]
}

fn feed(bytes: &[u8]) -> usize {
    let mut accepted = 0;
    for wide in [false, true] {
        if let Ok(report) = Report::decode(bytes, wide) {
            assert!(report.registrants.len() * 24 <= bytes.len());
            assert_eq!(Report::decode(&report.encode(wide), wide), Ok(report));
            accepted += 1;
        }
        accepted += usize::from(identify::decode_host_id(bytes, wide).is_ok());
    }
    if let Ok(identities) = identify::decode_descriptors(bytes) {
        assert!(identities.len() * 12 <= bytes.len());
        accepted += 1;
    }
    accepted += usize::from(Namespace::decode(bytes).is_ok());
    accepted += usize::from(Controller::decode(bytes).is_ok());
    for opcode in [0x0d, 0x11, 0x15] {
        let command = super::Command {
            queue: super::Queue::Io,
            opcode,
            cdw10: bytes.first().copied().unwrap_or(0).into(),
            cdw11: 0,
        };
        accepted += usize::from(Change::decode(&command, bytes).is_ok());
    }
    accepted
}

#[test]
fn mutated_answers_are_read_or_refused() {
    let mut dice = Dice(0x0e4e);
    let seeds = seeds();
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..MUTANTS {
        let seed = &seeds[dice.below(seeds.len())];
        match feed(&dice.mutate(seed)) {
            0 => refused += 1,
            _ => accepted += 1,
        }
    }
    assert!(
        accepted > MUTANTS / 10 && refused > MUTANTS / 1000,
        "{accepted} accepted, {refused} refused"
    );
}

//! Mutated answers: no decoder may panic, take long, or make more of an answer than its bytes hold.

use super::ReservationType;
use super::inquiry::{self, Association, Designator, Standard};
use super::pr_in::{Capabilities, FullStatus, Held, Keys, Registration, Reservation};
use super::pr_out::{Action, Parameters};
use super::sense::{Sense, SenseKey};
use crate::adapters::fields::mutation::Dice;

const MUTANTS: usize = 100_000;

fn seeds() -> Vec<Vec<u8>> {
    let keys = Keys {
        generation: 9,
        keys: (1..6).collect(),
    };
    let reservation = Reservation {
        generation: 9,
        held: Some(Held {
            key: 3,
            scope: 0,
            kind: ReservationType::WriteExclusiveRegistrantsOnly,
        }),
    };
    let registration = Registration {
        key: 3,
        holder: true,
        all_target_ports: false,
        scope: 0,
        kind: ReservationType::WriteExclusiveRegistrantsOnly,
        target_port: 1,
        transport_id: vec![6; 24],
    };
    let status = FullStatus {
        generation: 9,
        registrations: vec![registration.clone(), registration],
    };
    let designator = |association, kind, bytes: &[u8]| Designator {
        association,
        kind,
        code_set: 1,
        bytes: bytes.to_vec(),
    };
    let page = inquiry::encode_designators(&[
        designator(Association::LogicalUnit, 3, &[0x50; 8]),
        designator(Association::TargetPort, 4, &[0, 0, 0, 1]),
        designator(Association::LogicalUnit, 8, b"naa.5050505050505050"),
        designator(Association::LogicalUnit, 1, b"ACME    0815"),
    ]);
    let sense = Sense {
        deferred: false,
        key: SenseKey::UnitAttention,
        asc: 0x2a,
        ascq: 5,
    };
    let list = Parameters {
        transport_ids: vec![vec![6; 24]],
        ..Parameters::keys(1, 2)
    };
    vec![
        keys.encode(),
        reservation.encode(),
        vec![0, 8, 0x0d, 0x81, 0xea, 1, 0, 0],
        status.encode(),
        page,
        inquiry::encode_serial("Z1X2"),
        sense.encode_fixed().to_vec(),
        sense.encode_descriptor().to_vec(),
        list.encode().expect("a valid list"),
        Action::Preempt
            .cdb(ReservationType::WriteExclusiveRegistrantsOnly, 24)
            .to_vec(),
    ]
}

/// Feeds every decoder; what one accepts must be no larger than the bytes and survive its own encoding.
fn feed(bytes: &[u8]) -> usize {
    let mut accepted = 0;
    if let Ok(keys) = Keys::decode(bytes) {
        assert!(keys.keys.len() * 8 < bytes.len());
        assert_eq!(Keys::decode(&keys.encode()), Ok(keys));
        accepted += 1;
    }
    if let Ok(reservation) = Reservation::decode(bytes) {
        assert_eq!(Reservation::decode(&reservation.encode()), Ok(reservation));
        accepted += 1;
    }
    if let Ok(capabilities) = Capabilities::decode(bytes) {
        assert_eq!(
            Capabilities::decode(&capabilities.encode()),
            Ok(capabilities)
        );
        accepted += 1;
    }
    if let Ok(status) = FullStatus::decode(bytes) {
        assert!(status.registrations.len() * 24 < bytes.len());
        assert_eq!(FullStatus::decode(&status.encode()), Ok(status));
        accepted += 1;
    }
    if let Ok(designators) = inquiry::decode_designators(bytes) {
        assert!(designators.len() * 4 <= bytes.len());
        assert!(inquiry::identities(&designators).len() <= designators.len());
        let again = inquiry::encode_designators(&designators);
        assert_eq!(inquiry::decode_designators(&again), Ok(designators));
        accepted += 1;
    }
    if let Ok(sense) = Sense::decode(bytes) {
        assert!(!sense.to_string().is_empty());
        assert_eq!(Sense::decode(&sense.encode_fixed()), Ok(sense));
        accepted += 1;
    }
    if let Ok(standard) = Standard::decode(bytes) {
        assert!(standard.product.len() <= 16);
        accepted += 1;
    }
    if let Ok(serial) = inquiry::decode_serial(bytes) {
        assert!(serial.len() <= bytes.len());
        accepted += 1;
    }
    accepted += usize::from(Parameters::decode(bytes).is_ok());
    accepted + usize::from(Action::of_cdb(bytes).is_ok())
}

#[test]
fn mutated_answers_are_read_or_refused() {
    let mut dice = Dice(0x5c51);
    let seeds = seeds();
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..MUTANTS {
        let seed = &seeds[dice.below(seeds.len())];
        match feed(&dice.mutate(seed)) {
            0 => refused += 1,
            _ => accepted += 1,
        }
    }
    // Both kinds must occur, or the mutations test nothing.
    assert!(
        accepted > MUTANTS / 10 && refused > MUTANTS / 100,
        "{accepted} accepted, {refused} refused"
    );
}

//! What targets that others wrote answer: `tgtd` 1.0.85 and `istgt` 0.4 (where it is named), recorded over iSCSI by `agent/tests/fence/real_target.rs`
//! (run it with `--nocapture` to see them).

use super::ReservationType;
use super::inquiry::{self, Association};
use super::pr_in::{Capabilities, Held, Keys, Reservation};
use super::sense::{Sense, SenseKey};

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let byte = |two| {
        std::str::from_utf8(two)
            .ok()
            .and_then(|two| u8::from_str_radix(two, 16).ok())
    };
    digits.map(|two| byte(two).expect("two digits")).collect()
}

#[test]
fn keys_and_reservation() {
    let bytes = unhex("0000000400000010fa11080300001001fa11080300001001");
    let keys = Keys::decode(&bytes).expect("valid");
    assert_eq!((keys.generation, keys.keys.len()), (4, 2));
    assert_eq!(keys.keys[0], 0xfa11_0803_0000_1001);
    assert_eq!(keys.encode(), bytes);

    let bytes = unhex("0000000400000010fa110803000010010000000000050000");
    let reservation = Reservation::decode(&bytes).expect("valid");
    let held = Held {
        key: 0xfa11_0803_0000_1001,
        scope: 0,
        kind: ReservationType::WriteExclusiveRegistrantsOnly,
    };
    assert_eq!(reservation.held, Some(held));
    assert_eq!(reservation.encode(), bytes);
    let free = Reservation::decode(&unhex("0000000900000000")).expect("valid");
    assert_eq!((free.generation, free.held), (9, None));
}

#[test]
fn capabilities_without_aptpl() {
    let bytes = unhex("00080080ea010000");
    let can = Capabilities::decode(&bytes).expect("valid");
    assert!(!can.persist_capable && !can.other_initiators && !can.all_target_ports);
    assert!(can.has_type(ReservationType::WriteExclusiveRegistrantsOnly));
    assert_eq!(can.encode().to_vec(), bytes);
    // istgt, which doesn't say which types it has.
    let can = Capabilities::decode(&unhex("00080c0000000000")).expect("valid");
    assert!(can.other_initiators && can.all_target_ports && can.types.is_none());
}

#[test]
fn sense_data() {
    let of = |text| Sense::decode(&unhex(text)).expect("valid");
    let reset = of("700006000000000a00000000290000000000");
    assert_eq!((reset.key, reset.asc), (SenseKey::UnitAttention, 0x29));
    let preempted = of("700006000000000a000000002a0300000000");
    assert_eq!(
        preempted.to_string(),
        "UNIT ATTENTION, RESERVATIONS PREEMPTED (2Ah/03h)"
    );
    // REGISTER with APTPL, and PREEMPT AND ABORT, neither of which it has.
    let refused = of("700005000000000a00000000240000000000");
    assert!(refused.refuses_a_field());
    // istgt, the same: VALID is set beside the response code.
    let refused = of("f00005000000000a00000000260000000000");
    assert!(refused.refuses_a_field());
}

#[test]
fn identification() {
    let page = unhex(concat!(
        "0083004802010024494554202020202030303031303030310000000000000000",
        "0000000000000000000000000103000830000001000000010103001060000000",
        "000000000e00000000010001"
    ));
    let designators = inquiry::decode_designators(&page).expect("valid");
    assert_eq!(designators.len(), 3);
    assert!(
        designators
            .iter()
            .all(|one| one.association == Association::LogicalUnit)
    );
    let identities = inquiry::identities(&designators);
    let names: Vec<&str> = identities
        .iter()
        .map(|identity| identity.as_str())
        .collect();
    // Its second designator, NAA 3, is assigned locally and left out.
    assert_eq!(
        names,
        ["naa.60000000000000000e00000000010001", "t10.IET_00010001"]
    );
}

//! What targets that others wrote answer: `tgtd` 1.0.85, `istgt` 0.4 (where it is named) and Linux LIO, recorded over iSCSI
//! by `agent/tests/fence/real_target.rs` (run it with `--nocapture` to see them).

use super::ReservationType;
use super::inquiry::{self, Association};
use super::pr_in::{Capabilities, FullStatus, Held, Keys, Reservation};
use super::sense::{Sense, SenseKey};
use crate::adapters::fields::DecodeError;

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

// ---- LIO, the kernel's own target (Linux 6.12, a ramdisk), recorded over iSCSI -----------------------------------

const LIO_FULL_STATUS: &str = concat!(
    "0000000e000000e4fa11080300001001000000000105000000000003000000344500003069716e2e323032362d30312e",
    "746573742e6661696c6f766572643a612c692c3078383030313030303030303031000000fa1108030000100100000000",
    "0000000000000003000000344500003069716e2e323032362d30312e746573742e6661696c6f766572643a612c692c30",
    "78383030323030303030303032000000fa11880300002001000000000000000000000003000000344500003069716e2e",
    "323032362d30312e746573742e6661696c6f766572643a622c692c3078383030313030303030303031000000",
);

#[test]
fn full_status_of_three_paths() {
    let bytes = unhex(LIO_FULL_STATUS);
    let status = FullStatus::decode(&bytes).expect("valid");
    assert_eq!((status.generation, status.registrations.len()), (14, 3));
    assert_eq!(status.encode(), bytes);
    let holders = status.registrations.iter().map(|one| one.holder);
    assert_eq!(holders.collect::<Vec<_>>(), [true, false, false]);
    let first = &status.registrations[0];
    assert_eq!(first.key, 0xfa11_0803_0000_1001);
    assert_eq!(first.kind, ReservationType::WriteExclusiveRegistrantsOnly);
    assert_eq!((first.scope, first.target_port), (0, 3));
    assert!(!first.all_target_ports);
    // An iSCSI TransportID with the session in it (SPC-4 7.6.4.6): format 01b, protocol 5.
    assert_eq!(first.transport_id[..4], [0x45, 0, 0, 0x30]);
    let name = b"iqn.2026-01.test.failoverd:a,i,0x800100000001\0";
    assert_eq!(first.transport_id[4..4 + name.len()], name[..]);
    // One that was registered for all target ports, and holds nothing.
    let bytes = unhex(concat!(
        "000000140000004cfa11080300001001000000000200000000000000000000344500003069716e2e323032362d30312e",
        "746573742e6661696c6f766572643a612c692c3078383030313030303030303031000000",
    ));
    let status = FullStatus::decode(&bytes).expect("valid");
    assert!(status.registrations[0].all_target_ports && !status.registrations[0].holder);
    assert_eq!(status.encode(), bytes);
    let none = FullStatus::decode(&unhex("0000000b00000000")).expect("valid");
    assert!(none.registrations.is_empty());
}

/// With room for one of three descriptors LIO says that there is one.
#[test]
fn descriptors_without_room_are_left_out_and_not_counted() {
    let bytes = unhex(concat!(
        "0000000e0000004cfa11080300001001000000000105000000000003000000344500003069716e2e323032362d30312e",
        "746573742e6661696c6f7665",
    ));
    match FullStatus::decode(&bytes) {
        Err(DecodeError::Cut { needed, have, .. }) => assert_eq!((needed, have), (84, 60)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn keys_reservation_and_capabilities_of_lio() {
    let keys = Keys::decode(&unhex("0000000d00000010fa11080300001001fa11080300001001"));
    let keys = keys.expect("valid");
    assert_eq!(
        (keys.generation, keys.keys),
        (13, vec![0xfa11_0803_0000_1001; 2])
    );
    let bytes = unhex("0000000d00000010fa110803000010010000000000050000");
    let reservation = Reservation::decode(&bytes).expect("valid");
    assert_eq!(
        reservation.held.map(|held| held.key),
        Some(0xfa11_0803_0000_1001)
    );
    assert_eq!(reservation.encode(), bytes);
    let bytes = unhex("00081d91ea010000");
    let can = Capabilities::decode(&bytes).expect("valid");
    assert!(can.persist_capable && can.persist_active && can.compatible_handling);
    assert!(can.other_initiators && can.all_target_ports);
    assert_eq!(can.allow_commands, 1);
    assert!(can.has_type(ReservationType::WriteExclusiveRegistrantsOnly));
    assert_eq!(can.encode().to_vec(), bytes);
}

#[test]
fn sense_data_of_lio() {
    let of = |text: &str| {
        // It fills the buffer up with zeroes.
        let bytes = unhex(&format!("{text}{}", "00".repeat(78)));
        Sense::decode(&bytes).expect("valid")
    };
    let told = |text| of(text).to_string();
    let cases = [
        (
            "700006000000000a000000002a0300000000",
            "RESERVATIONS PREEMPTED",
        ),
        (
            "700006000000000a000000002a0400000000",
            "RESERVATIONS RELEASED",
        ),
        (
            "700006000000000a000000002a0500000000",
            "REGISTRATIONS PREEMPTED",
        ),
    ];
    for (bytes, words) in cases {
        assert_eq!(of(bytes).key, SenseKey::UnitAttention);
        assert!(told(bytes).contains(words), "{}", told(bytes));
    }
    // A service action that it hasn't, in and out; a parameter list cut short; key 0 as the victim, another scope.
    assert!(of("700005000000000a00000000240000000000").refuses_a_field());
    assert!(of("700005000000000a00000000260000000000").refuses_a_field());
    let short = of("700005000000000a000000001a0000000000");
    assert_eq!((short.key, short.asc), (SenseKey::IllegalRequest, 0x1a));
}

#[test]
fn identification_of_lio() {
    let standard = unhex(concat!(
        "000006025bb800024c494f2d4f52472052414d4449534b2d4d43502020202020342e3020000000000000000000000000",
        "0000000000000000000000a00960046004c0000000000000000000000000000000000000000000000000000000000000",
    ));
    let standard = inquiry::Standard::decode(&standard).expect("valid");
    assert_eq!(
        (&*standard.vendor, &*standard.product),
        ("LIO-ORG", "RAMDISK-MCP")
    );
    let serial = unhex("0080001063617074757265303030303030303100");
    let serial = inquiry::decode_serial(&serial).expect("valid");
    assert_eq!(serial.trim_end_matches('\0'), "capture00000001");
    let page = unhex(concat!(
        "008300ac010300106001405cae0000000100000000000000020100244c494f2d4f52472052414d4449534b2d4d43503a",
        "636170747572653030303030303031005194000400000003519500040000000001060004000000005398002c69716e2e",
        "323032362d30312e6c61622e6661696c6f766572643a636170747572652c742c307830303031000053a8002469716e2e",
        "323032362d30312e6c61622e6661696c6f766572643a63617074757265000000",
    ));
    let designators = inquiry::decode_designators(&page).expect("valid");
    let of_unit = designators
        .iter()
        .filter(|one| one.association == Association::LogicalUnit);
    // Beside them: target port, its groups, the target's name and its port's.
    assert_eq!((designators.len(), of_unit.count()), (7, 3));
    let identities = inquiry::identities(&designators);
    assert_eq!(
        identities[0].as_str(),
        "naa.6001405cae0000000100000000000000"
    );
}

//! What a target that others wrote answers: Linux nvmet 7.3 over TCP (`resv_enable`), read by `nvme` of a controller. What
//! follows is zeroes up to 4,096 bytes (reports: 256).

use super::identify::{Controller, Namespace, decode_descriptors};
use super::reservation::{HostId, Report, ReservationType};

fn bytes(len: usize, parts: &[(usize, &str)]) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (at, text) in parts {
        for (place, two) in text.as_bytes().chunks(2).enumerate() {
            let two = std::str::from_utf8(two).expect("digits");
            bytes[at + place] = u8::from_str_radix(two, 16).expect("two digits");
        }
    }
    bytes
}

const HEADER: (usize, &str) = (0, "0200000003010000");
const A: (usize, &str) = (
    64,
    "ffff010000000000a8a7a6a5a4a3a2a100000000000040008000000000000001",
);

/// CNTLID; CTRATT; ONCS.
const CONTROLLER: [(usize, &str); 3] = [(78, "0100"), (96, "41000000"), (520, "2c00")];

fn host(last: u8) -> HostId {
    HostId::Wide([0, 0, 0, 0, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, last])
}

#[test]
fn a_report_with_one_host() {
    let answer = bytes(256, &[HEADER, A]);
    let report = Report::decode(&answer, true).expect("valid");
    assert_eq!(report.generation, 2);
    assert_eq!(
        report.kind,
        Some(ReservationType::WriteExclusiveRegistrantsOnly)
    );
    assert!(!report.persist, "PTPL was asked for, and is not there");
    assert_eq!(
        report.registrants.len(),
        1,
        "one for a host, however many its paths"
    );
    let one = report.registrants[0];
    assert_eq!((one.controller, one.holder), (0xffff, true));
    assert_eq!((one.key, one.host), (0xa1a2_a3a4_a5a6_a7a8, host(1)));
    assert_eq!(report.encode(true)[..], answer[..128]);
}

#[test]
fn a_report_with_two_hosts() {
    let b = "ffff000000000000b8b7b6b5b4b3b2b100000000000040008000000000000002";
    let answer = bytes(256, &[(0, "0300000003020000"), A, (128, b)]);
    let report = Report::decode(&answer, true).expect("valid");
    assert_eq!(report.holder(), Some(0xa1a2_a3a4_a5a6_a7a8));
    let other = report.registrants[1];
    assert_eq!((other.key, other.host), (0xb1b2_b3b4_b5b6_b7b8, host(2)));
    assert!(!other.holder);
    assert_eq!(report.encode(true)[..], answer[..192]);
}

#[test]
fn namespace_and_controller() {
    let namespace = bytes(
        4096,
        &[
            (
                0,
                "00080800000000000008080000000000000808000000000032000000000001fe",
            ),
            (0x5c, "01000000"),
            (104, "60014051ab0000000000000000000000"),
            (128, "00000900"),
        ],
    );
    let namespace = Namespace::decode(&namespace).expect("valid");
    assert_eq!((namespace.blocks, namespace.shared), (0x8_0800, true));
    assert!(!namespace.capabilities.persist());
    assert!(
        namespace
            .capabilities
            .has_type(ReservationType::WriteExclusiveRegistrantsOnly)
    );
    let nguid = "eui.60014051ab0000000000000000000000";
    assert_eq!(namespace.identities[0].as_str(), nguid);
    let descriptors = bytes(
        4096,
        &[(0, "0210000060014051ab000000000000000000000004010000")],
    );
    let identities = decode_descriptors(&descriptors).expect("valid");
    let names: Vec<&str> = identities.iter().map(|one| one.as_str()).collect();
    assert_eq!(
        names,
        [nguid],
        "beside it a command set, which is no identity"
    );
    let controller = bytes(4096, &CONTROLLER);
    let controller = Controller::decode(&controller).expect("valid");
    assert!(controller.reservations && controller.wide_host_ids);
}

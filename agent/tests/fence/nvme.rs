//! The core's disk work over the daemon's fence, on an NVMe namespace.

use crate::bench::{NGUID, STRICT, Side, key};
use crate::nvme_target::{Host, NvmeTarget};
use failover_core::disk_work::{DiskOutcome, DiskWork};
use failover_core::ids::{Node, PathId};
use failover_core::key::{Key, Phase};
use failover_core::pr::{PrCommand, PrError, PrReply};
use failoverd::adapters::fence::Options;
use failoverd::adapters::nvme::reservation::HostId;

const HOST_A: Host = [0xa; 16];
const HOST_B: Host = [0xb; 16];

fn pair(wide: bool) -> (NvmeTarget, Side, Side) {
    let target = NvmeTarget::new(NGUID, wide);
    let a = Side::nvme(&target, HOST_A, STRICT);
    let b = Side::nvme(&target, HOST_B, STRICT);
    (target, a, b)
}

#[test]
fn a_takeover_with_either_width_of_host_identifier() {
    for wide in [true, false] {
        let (target, a, b) = pair(wide);
        let old = key(Node::A, 1, 0);
        assert_eq!(a.take(old), DiskOutcome::Taken, "wide {wide}");
        assert!(target.may_write(HOST_A) && !target.may_write(HOST_B));
        target.with(|state| {
            assert!(state.ptpl);
            assert_eq!(state.holder, Some((HOST_A, 3)));
        });
        let second = old.rolled();
        let roll = DiskWork::Roll {
            from: old,
            to: second,
        };
        assert_eq!(a.run(roll), DiskOutcome::Rolled { paths_failed: 0 });
        assert_eq!(b.survey().holder, Some(second.to_bits()));

        let new = key(Node::B, 2, 0);
        assert_eq!(b.take(new), DiskOutcome::Taken);
        assert!(target.may_write(HOST_B) && !target.may_write(HOST_A));
        let late = DiskWork::Roll {
            from: second,
            to: second.rolled(),
        };
        assert!(matches!(a.run(late), DiskOutcome::Fenced(_)));
        target.with(|state| {
            // Acquire, action Preempt and Abort, type 3.
            assert!(state.log.contains(&(HOST_B, 0x11, 0x302)));
        });
    }
}

#[test]
fn registering_whatever_was_there_works_on_controllers_of_both_readings() {
    for replace_registers in [true, false] {
        let (target, a, _b) = pair(true);
        target.with(|state| state.replace_registers = replace_registers);
        let good = Ok(PrReply::Good);
        assert_eq!(a.send(0, PrCommand::RegisterIgnore { new: 5 }), good);
        assert_eq!(a.send(0, PrCommand::RegisterIgnore { new: 6 }), good);
        assert_eq!(a.send(1, PrCommand::RegisterIgnore { new: 6 }), good);
        target.with(|state| assert_eq!(state.keys[&HOST_A], 6));
        assert_eq!(
            a.send(0, PrCommand::Register { old: 5, new: 7 }),
            Err(PrError::Conflict)
        );
        assert_eq!(
            a.send(0, PrCommand::Register { old: 0, new: 7 }),
            Err(PrError::Conflict),
            "registering from no key is no way around the key that is there"
        );
        assert_eq!(a.send(0, PrCommand::RegisterIgnore { new: 0 }), good);
        target.with(|state| assert!(state.keys.is_empty()));
    }
}

#[test]
fn leaving_and_expelling() {
    let (target, a, b) = pair(true);
    let mine = key(Node::A, 1, 0);
    a.take(mine);
    target.with(|state| state.keys.insert([9; 16], 0xbad));
    let expel = DiskWork::Expel {
        key: mine,
        victims: vec![0xbad],
    };
    match a.run(expel) {
        DiskOutcome::Surveyed(seen) => assert_eq!(seen.keys, [mine.to_bits()]),
        other => panic!("{other:?}"),
    }
    let theirs = key(Node::B, 2, 0);
    b.run(DiskWork::Answer { key: theirs });
    assert_eq!(b.run(DiskWork::Leave { holder: theirs }), DiskOutcome::Left);
    assert_eq!(a.run(DiskWork::Leave { holder: mine }), DiskOutcome::Left);
    target.with(|state| {
        assert_eq!(state.keys.len(), 1);
        let left = Key::from_bits(state.keys[&HOST_A], mine.pair).expect("ours");
        assert_eq!(left.phase, Phase::Yielded);
        assert!(state.holder.is_some());
    });
}

#[test]
fn a_host_without_an_identifier_changes_nothing() {
    let target = NvmeTarget::new(NGUID, true);
    let a = Side::nvme(&target, [0; 16], STRICT);
    let answer = a.send(0, PrCommand::RegisterIgnore { new: 1 });
    assert!(
        matches!(&answer, Err(PrError::Illegal(why)) if why.contains("all zeroes")),
        "{answer:?}"
    );
    target.with(|state| assert!(state.keys.is_empty()));
    let examined = a.fence.examine(a.disk, PathId(0)).expect("it answers");
    assert_eq!(examined.host, Some(HostId::Wide([0; 16])));
    assert!(examined.persist && examined.wero);
}

#[test]
fn a_namespace_that_forgets_is_used_only_by_permission() {
    let target = NvmeTarget::new(NGUID, true);
    target.with(|state| state.knows_ptpl = false);
    let a = Side::nvme(&target, HOST_A, STRICT);
    match a.take(key(Node::A, 1, 0)) {
        DiskOutcome::Unreachable(why) => assert!(why.contains("PTPL"), "{why}"),
        other => panic!("{other:?}"),
    }
    let lax = Options {
        accept_volatile: true,
    };
    let a = Side::nvme(&target, HOST_A, lax);
    assert_eq!(a.take(key(Node::A, 1, 0)), DiskOutcome::Taken);
}

#[test]
fn more_registrants_than_the_first_read_has_room_for_are_all_seen() {
    let (target, a, _b) = pair(true);
    target.with(|state| {
        for n in 1..=200 {
            state.keys.insert([n; 16], u64::from(n));
        }
    });
    assert_eq!(a.survey().keys.len(), 200);
}

#[test]
fn another_namespace_under_the_name_is_sent_nothing() {
    let (_target, a, _b) = pair(true);
    let other = NvmeTarget::new([7; 16], true);
    let device = crate::bench::Device::Nvme(other.clone(), HOST_A);
    a.nodes.plug("nvme0n1", device);
    let answer = a.send(0, PrCommand::RegisterIgnore { new: 1 });
    assert!(
        matches!(&answer, Err(PrError::Transport(why)) if why.contains("another disk")),
        "{answer:?}"
    );
    other.with(|state| assert!(state.log.is_empty()));
}

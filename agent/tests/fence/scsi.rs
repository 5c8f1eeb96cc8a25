//! The core's disk work over the daemon's fence, on a SCSI disk with two controllers and two paths each.

use crate::bench::{Device, NAA, NAME, PATIENT, STRICT, Side, key, path, shared};
use crate::scsi_target::{Fault, Target};
use failover_core::adapters::Fence as _;
use failover_core::disk_work::{DiskOutcome, DiskWork, Survey};
use failover_core::ids::{DiskId, Node, PathId};
use failover_core::key::{Key, Phase};
use failover_core::pr::{PrCommand, PrError, PrReply};
use failoverd::adapters::fence::Options;
use failoverd::adapters::ports::Kind;

fn pair() -> (Target, Side, Side) {
    let target = Target::new(NAA);
    let a = Side::scsi(&target, "a", STRICT);
    let b = Side::scsi(&target, "b", STRICT);
    (target, a, b)
}

const A: u8 = 0x18;

#[test]
fn an_unused_disk_shows_nothing() {
    let (_target, a, _b) = pair();
    let survey = a.survey();
    assert_eq!(
        survey,
        Survey {
            wero: true,
            ..Survey::default()
        }
    );
}

#[test]
fn taking_registers_every_path_and_shuts_the_other_out() {
    let (target, a, b) = pair();
    let mine = key(Node::A, 1, 0);
    assert_eq!(a.take(mine), DiskOutcome::Taken);
    target.with(|disk| {
        assert_eq!(disk.keys.len(), 2, "both paths");
        assert!(disk.keys.values().all(|key| *key == mine.to_bits()));
        assert_eq!(disk.holder, Some((("a", 0), 5)));
        assert!(disk.aptpl);
    });
    assert_eq!((target.write(("a", 0)), target.write(("a", 1))), (0, 0));
    // The first is B's power-on unit attention.
    target.write(("b", 0));
    assert_eq!(target.write(("b", 0)), A);
    let seen = b.survey();
    assert_eq!(seen.keys, [mine.to_bits()]);
    assert_eq!((seen.holder, seen.wero), (Some(mine.to_bits()), true));
}

#[test]
fn rolling_moves_the_keys_of_all_paths() {
    let (target, a, b) = pair();
    let first = key(Node::A, 1, 0);
    a.take(first);
    let work = |from: Key| DiskWork::Roll {
        from,
        to: from.rolled(),
    };
    assert_eq!(a.run(work(first)), DiskOutcome::Rolled { paths_failed: 0 });
    let second = first.rolled();
    assert_eq!(b.survey().keys, [second.to_bits()]);
    assert_eq!(b.survey().holder, Some(second.to_bits()));
    // A roll that was carried out but whose answer was lost: the core believes the old key.
    target.with(|disk| {
        for key in disk.keys.values_mut() {
            *key = second.rolled().to_bits();
        }
    });
    let late = DiskWork::Roll {
        from: second,
        to: second.rolled().rolled(),
    };
    assert_eq!(a.run(late), DiskOutcome::Rolled { paths_failed: 0 });
}

#[test]
fn the_other_controller_takes_over_and_the_old_owner_learns_it() {
    let (target, a, b) = pair();
    let old = key(Node::A, 1, 0);
    a.take(old);
    let new = key(Node::B, 2, 0);
    assert_eq!(b.take(new), DiskOutcome::Taken);
    target.with(|disk| {
        assert_eq!(disk.holder, Some((("b", 0), 5)));
        assert!(disk.keys.keys().all(|(initiator, _)| *initiator == "b"));
    });
    assert_eq!(target.write(("b", 1)), 0);
    let roll = DiskWork::Roll {
        from: old,
        to: old.rolled(),
    };
    match a.run(roll) {
        DiskOutcome::Fenced(seen) => assert_eq!(seen.keys, [new.to_bits()]),
        other => panic!("{other:?}"),
    }
    assert_eq!(target.write(("a", 0)), A);
}

#[test]
fn what_the_old_owner_had_in_the_disk_does_not_land() {
    let (target, a, b) = pair();
    a.take(key(Node::A, 1, 0));
    assert_eq!(target.write(("a", 1)), 0);
    b.take(key(Node::B, 2, 0));
    target.with(|disk| {
        disk.land();
        assert_eq!(disk.landed, [], "PREEMPT AND ABORT, not PREEMPT");
    });
    target.with(|disk| {
        let preempts = disk.log.iter().filter(|(_, code, _)| *code == 0x5f);
        let plain = preempts.filter(|(_, _, action)| *action == 4).count();
        assert_eq!(plain, 0);
    });
}

#[test]
fn a_key_that_was_not_surveyed_is_a_lost_race() {
    let (target, a, b) = pair();
    let old = key(Node::A, 1, 0);
    a.take(old);
    let surveyed = b.survey();
    a.run(DiskWork::Roll {
        from: old,
        to: old.rolled(),
    });
    let work = DiskWork::take(key(Node::B, 2, 0), surveyed);
    match b.run(work) {
        DiskOutcome::LostRace(Some(seen)) => {
            assert_eq!(seen.holder, Some(old.rolled().to_bits()));
        }
        other => panic!("{other:?}"),
    }
    // It takes back what it registered.
    let holder = key(Node::B, 2, 0);
    assert_eq!(b.run(DiskWork::Leave { holder }), DiskOutcome::Left);
    target.with(|disk| assert!(disk.keys.keys().all(|(of, _)| *of == "a")));
}

#[test]
fn a_holder_that_leaves_keeps_the_reservation_with_a_yielded_key() {
    let (target, a, _b) = pair();
    let mine = key(Node::A, 1, 0);
    a.take(mine);
    assert_eq!(a.run(DiskWork::Leave { holder: mine }), DiskOutcome::Left);
    target.with(|disk| {
        assert!(disk.holder.is_some());
        for bits in disk.keys.values() {
            let key = Key::from_bits(*bits, mine.pair).expect("ours");
            assert_eq!(key.phase, Phase::Yielded);
        }
    });
}

#[test]
fn foreign_keys_are_expelled() {
    let (target, a, _b) = pair();
    let mine = key(Node::A, 1, 0);
    a.take(mine);
    target.with(|disk| {
        disk.keys.insert(("stranger", 0), 0xbad);
        disk.keys.insert(("stranger", 1), 0xbad);
    });
    let work = DiskWork::Expel {
        key: mine,
        victims: vec![0xbad],
    };
    match a.run(work) {
        DiskOutcome::Surveyed(seen) => assert_eq!(seen.keys, [mine.to_bits()]),
        other => panic!("{other:?}"),
    }
    target.with(|disk| assert_eq!(disk.attentions[&("stranger", 0)], [(0x2a, 5)]));
}

#[test]
fn release_clear_and_plain_preempt_reach_the_disk() {
    let (target, a, b) = pair();
    let mine = key(Node::A, 1, 0).to_bits();
    a.take(key(Node::A, 1, 0));
    b.survey();
    let good = Ok(PrReply::Good);
    assert_eq!(b.send(0, PrCommand::Register { old: 0, new: 9 }), good);
    assert_eq!(
        a.send(
            0,
            PrCommand::Preempt {
                own: mine,
                victim: 9
            }
        ),
        good
    );
    assert_eq!(
        b.send(0, PrCommand::Register { old: 9, new: 10 }),
        Err(PrError::UnitAttention(format!(
            "disk {NAME}, path 2:0:0:0: UNIT ATTENTION, REGISTRATIONS PREEMPTED (2Ah/05h)"
        )))
    );
    assert_eq!(
        b.send(0, PrCommand::Register { old: 9, new: 10 }),
        Err(PrError::Conflict)
    );
    assert_eq!(a.send(0, PrCommand::Release { key: mine }), good);
    target.with(|disk| assert_eq!(disk.holder, None));
    assert!(matches!(
        a.send(1, PrCommand::Clear { key: mine }),
        Err(PrError::UnitAttention(_))
    ));
    assert_eq!(a.send(1, PrCommand::Clear { key: mine }), good);
    target.with(|disk| assert!(disk.keys.is_empty()));
}

#[test]
fn keys_survive_a_power_cycle_and_the_owner_goes_on() {
    let (target, a, _b) = pair();
    let mine = key(Node::A, 1, 0);
    a.take(mine);
    target.power_cycle();
    let roll = DiskWork::Roll {
        from: mine,
        to: mine.rolled(),
    };
    assert_eq!(a.run(roll), DiskOutcome::Rolled { paths_failed: 0 });
}

#[test]
fn who_unregisters_makes_nobodys_registration_volatile() {
    let (target, a, b) = pair();
    a.take(key(Node::A, 1, 0));
    let theirs = key(Node::B, 2, 0);
    b.run(DiskWork::Answer { key: theirs });
    assert_eq!(b.run(DiskWork::Leave { holder: theirs }), DiskOutcome::Left);
    target.with(|disk| {
        assert!(disk.keys.keys().all(|(of, _)| *of == "a"));
        assert!(
            disk.aptpl,
            "the bit of the last registration counts for all"
        );
    });
}

#[test]
fn a_disk_without_aptpl_is_used_only_by_permission() {
    let (target, a, _b) = pair();
    target.with(|disk| disk.knows_aptpl = false);
    match a.take(key(Node::A, 1, 0)) {
        DiskOutcome::Unreachable(why) => {
            assert!(why.contains("accept_volatile_reservations"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    target.with(|disk| assert!(disk.keys.is_empty()));

    let lax = Options {
        accept_volatile: true,
    };
    let a = Side::scsi(&target, "a", lax);
    assert_eq!(a.take(key(Node::A, 1, 0)), DiskOutcome::Taken);
    target.with(|disk| assert!(!disk.aptpl));
    let examined = a.fence.examine(a.disk, PathId(0)).expect("it answers");
    assert!(!examined.persist && examined.wero && examined.host.is_none());
}

#[test]
fn a_field_that_another_reason_refuses_is_not_taken_for_missing_aptpl() {
    let (target, _a, _b) = pair();
    let lax = Options {
        accept_volatile: true,
    };
    let a = Side::scsi(&target, "a", lax);
    a.survey();
    target.with(|disk| disk.refusals.extend([(5, 0x26, 0)]));
    let answer = a.send(0, PrCommand::Register { old: 0, new: 1 });
    assert!(matches!(&answer, Err(PrError::Illegal(why)) if why.contains("PARAMETER LIST")));
    target.with(|disk| assert!(disk.keys.is_empty(), "not registered without APTPL"));
}

#[test]
fn another_refusal_of_a_registration_is_not_taken_for_missing_aptpl() {
    let (target, _a, _b) = pair();
    let lax = Options {
        accept_volatile: true,
    };
    let a = Side::scsi(&target, "a", lax);
    a.survey();
    // INSUFFICIENT REGISTRATION RESOURCES.
    target.with(|disk| disk.refusals.extend([(5, 0x55, 4)]));
    let answer = a.send(0, PrCommand::Register { old: 0, new: 1 });
    assert!(
        matches!(&answer, Err(PrError::Illegal(why)) if why.contains("REGISTRATION RESOURCES")),
        "{answer:?}"
    );
    target.with(|disk| assert!(disk.keys.is_empty()));
}

#[test]
fn more_keys_than_the_first_read_has_room_for_are_all_seen() {
    let (target, a, _b) = pair();
    target.with(|disk| {
        let strangers = (0..200_u8).map(|n| (("stranger", n), 1000 + u64::from(n)));
        disk.keys.extend(strangers);
    });
    assert_eq!(a.survey().keys.len(), 200);
}

#[test]
fn a_dead_path_costs_one_path_and_not_the_disk() {
    let (target, a, b) = pair();
    let mine = key(Node::A, 1, 0);
    a.take(mine);
    target.fault(("a", 0), Some(Fault::Dead));
    let roll = DiskWork::Roll {
        from: mine,
        to: mine.rolled(),
    };
    assert_eq!(a.run(roll), DiskOutcome::Rolled { paths_failed: 1 });
    target.fault(("b", 0), Some(Fault::Dead));
    assert_eq!(b.take(key(Node::B, 2, 0)), DiskOutcome::Taken);
    target.with(|disk| assert_eq!(disk.holder, Some((("b", 1), 5))));
}

#[test]
fn other_reservation_types_are_seen_as_not_ours() {
    let (target, a, _b) = pair();
    target.with(|disk| {
        disk.keys.insert(("stranger", 0), 7);
        disk.holder = Some((("stranger", 0), 1));
    });
    let seen = a.survey();
    assert_eq!((seen.holder, seen.wero), (Some(7), false));
    target.with(|disk| disk.holder = Some((("stranger", 0), 7)));
    let seen = a.survey();
    assert_eq!((seen.holder, seen.wero), (Some(0), false), "held by all");
}

#[test]
fn a_name_that_went_to_another_disk_is_sent_nothing() {
    let (_target, a, _b) = pair();
    let other = Target::new([0x50, 0, 0, 0, 0, 0, 0, 1]);
    a.nodes.plug("sdb", Device::Scsi(other.clone(), ("a", 0)));
    let answer = a.send(0, PrCommand::RegisterIgnore { new: 1 });
    assert!(
        matches!(&answer, Err(PrError::Transport(why)) if why.contains("another disk")),
        "{answer:?}"
    );
    other.with(|disk| assert!(disk.keys.is_empty() && disk.log.is_empty()));
}

#[test]
fn a_foreign_disk_is_refused() {
    let (target, a, _b) = pair();
    let foreign = DiskId::of("naa.5000000000000002");
    let command = PrCommand::RegisterIgnore { new: 1 };
    let answer = a.fence.execute(foreign, PathId(0), command, PATIENT);
    assert!(
        matches!(&answer, Err(PrError::Illegal(why)) if why.contains("name it in `disks`")),
        "{answer:?}"
    );
    assert_eq!(a.fence.paths(foreign), 1);
    assert!(matches!(a.send(9, command), Err(PrError::Transport(_))));
    target.with(|disk| assert!(disk.log.is_empty()));
}

#[test]
fn paths_come_and_go() {
    let (target, a, _b) = pair();
    let mine = key(Node::A, 1, 0);
    a.take(mine);
    let keep = path(Kind::Scsi, "sdb", "2:0:0:0");
    assert!(
        a.fence
            .refresh(&[shared(NAME, std::slice::from_ref(&keep))])
            .is_empty()
    );
    assert_eq!(
        a.fence.paths(a.disk),
        2,
        "a path that is gone keeps its number"
    );
    let roll = |from: Key| DiskWork::Roll {
        from,
        to: from.rolled(),
    };
    assert_eq!(a.run(roll(mine)), DiskOutcome::Rolled { paths_failed: 1 });

    // Another one takes its place. It can't be registered compare-and-swap: it is left out until a takeover.
    a.nodes.plug("sdd", Device::Scsi(target.clone(), ("a", 2)));
    let new = path(Kind::Scsi, "sdd", "4:0:0:0");
    assert!(
        a.fence
            .refresh(&[shared(NAME, &[keep.clone(), new])])
            .is_empty()
    );
    assert_eq!(a.fence.paths(a.disk), 2);
    assert_eq!(
        a.run(roll(mine.rolled())),
        DiskOutcome::Rolled { paths_failed: 1 }
    );
    assert_eq!(target.with(|disk| disk.keys.get(&("a", 2)).copied()), None);
    assert_eq!(a.take(key(Node::A, 2, 0)), DiskOutcome::Taken);
    assert!(target.with(|disk| disk.keys.contains_key(&("a", 2))));

    assert!(a.fence.refresh(&[]).is_empty());
    assert!(matches!(
        a.send(0, PrCommand::ReadKeys),
        Err(PrError::Transport(why)) if why.contains("the path is gone")
    ));
    let many: Vec<_> = (0..20)
        .map(|n| path(Kind::Scsi, "sdb", &format!("9:0:{n}:0")))
        .collect();
    let left_out = a.fence.refresh(&[shared(NAME, &many)]);
    assert_eq!((a.fence.paths(a.disk), left_out.len()), (16, 4));
}

/// A key that finds no room in an answer must not count as gone.
#[test]
fn a_target_that_leaves_out_what_has_no_room_hides_no_key() {
    for leaves_out in [false, true] {
        let target = Target::new(NAA);
        let side = Side::scsi(&target, "a", STRICT);
        target.with(|disk| {
            disk.leaves_out = leaves_out;
            for port in 0..200 {
                disk.keys.insert(("b", port), 0x100 + u64::from(port));
            }
        });
        assert_eq!(side.survey().keys.len(), 200, "leaves out: {leaves_out}");
    }
}

/// Without READ FULL STATUS a survey is the two older reads, and each port asks once whether it is there.
#[test]
fn a_target_without_full_status_is_surveyed_all_the_same() {
    let target = Target::new(NAA);
    target.with(|disk| disk.knows_full_status = false);
    let side = Side::scsi(&target, "a", STRICT);
    assert_eq!(side.take(key(Node::A, 1, 0)), DiskOutcome::Taken);
    for _ in 0..3 {
        assert_eq!(side.survey().keys.len(), 1);
    }
    let asked = |action| {
        target.with(|disk| {
            let log = disk.log.iter();
            log.filter(|(_, code, of)| *code == 0x5e && *of == action)
                .count()
        })
    };
    assert_eq!((asked(3), asked(0), asked(1)), (1, 6, 6));
}

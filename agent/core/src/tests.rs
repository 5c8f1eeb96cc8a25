//! Tables over all states: every event in every state, and the generated picture of the edges.

use crate::action::{Action, HaltReason, Outcome, Restored, Work};
use crate::beat::{ArbiterList, Beat, Role};
use crate::config::{CoreConfig, DiskConfig, PoolConfig, Timing};
use crate::controller::Controller;
use crate::disk_work::Survey;
use crate::event::{Command, Event};
use crate::ids::{DiskId, Epoch, LinkId, Node, OpId, PoolId, RequestId, Session};
use crate::key::{Key, Phase};
use crate::settings::{Settings, SettingsChange};
use crate::states::{EDGES, State};
use crate::time::{Instant, ms};
use failover_api::Status;
use std::fmt::Write;
use std::path::Path;

mod links;

fn config() -> CoreConfig {
    CoreConfig {
        node: Node::A,
        pair: 7,
        has_peer: true,
        links: 2,
        disks: (1..=4)
            .map(|id| DiskConfig {
                id: DiskId(id),
                name: format!("d{id}"),
            })
            .collect(),
        pools: vec![PoolConfig {
            id: PoolId(0),
            name: "tank".to_owned(),
        }],
        arbiters: 3,
        version: "1".to_owned(),
        seed: 1,
        timing: Timing::default(),
    }
}

fn beat(role: Role, epoch: u64) -> Beat {
    Beat {
        node: Node::B,
        session: Session(9),
        seq: 1,
        echo: None,
        status: Status::Backup,
        role,
        incarnation: 1,
        epoch: Epoch(epoch),
        eligible: true,
        blockers: 0,
        serving: role == Role::Owner,
        lan: true,
        settings: Settings::default(),
        arbiters: ArbiterList::default(),
        arbiters_acked: 0,
        ask: None,
        answer: None,
        version: "1".to_owned(),
    }
}

/// A controller that was put into `state`, with the peer last heard a moment ago.
fn controller_in(state: State) -> (Controller, Instant) {
    let now = Instant::from_millis(10_000);
    let restored = Restored {
        session: 5,
        ..Restored::default()
    };
    let (mut controller, _) = Controller::new(now, config(), restored);
    controller.state = state;
    // Held back for its resets, with nothing left to clean up.
    controller.start.cleaned = state == State::Held;
    controller.incarnation = 1;
    (controller, now + ms(10))
}

fn events() -> Vec<(&'static str, Event)> {
    let received = Instant::from_millis(10_010);
    let heard = |beat: Beat| Event::Beat {
        link: LinkId(0),
        received,
        beat: Box::new(beat),
    };
    let proved = |role, epoch| {
        let echo = Some(crate::beat::Echo {
            session: Session(5),
            seq: 1,
        });
        heard(Beat {
            echo,
            ..beat(role, epoch)
        })
    };
    let change = SettingsChange {
        disabled: Some(true),
        ..SettingsChange::default()
    };
    let command = |command| Event::Command {
        request: RequestId(1),
        command,
    };
    vec![
        ("wake", Event::Wake),
        ("beat of a stranger", heard(beat(Role::Standby, 0))),
        ("beat: standby", proved(Role::Standby, 0)),
        ("beat: newer owner", proved(Role::Owner, 99)),
        ("beat: fencing", proved(Role::Fencing, 99)),
        (
            "beat of our own node",
            heard(Beat {
                node: Node::A,
                ..beat(Role::Owner, 99)
            }),
        ),
        (
            "done, unknown work",
            Event::Done {
                op: OpId(4711),
                waited: std::time::Duration::ZERO,
                outcome: Outcome::Ok,
            },
        ),
        ("become_passive", command(Command::BecomePassive)),
        ("force_master", command(Command::ForceMaster)),
        ("update", command(Command::Update(change))),
        ("lan down", Event::Lan { up: false }),
        (
            "link down",
            Event::Link {
                link: LinkId(1),
                up: false,
            },
        ),
        ("lease lost", Event::LeaseLost),
        ("stop", Event::Stop { restart: false }),
        ("stop to restart", Event::Stop { restart: true }),
    ]
}

#[test]
fn every_event_in_every_state() {
    let mut table = String::new();
    for state in State::ALL {
        writeln!(table, "{}", state.name()).expect("a string takes all");
        for (name, event) in events() {
            let (mut controller, now) = controller_in(state);
            let actions = controller.handle(now, event);
            let mut notes: Vec<String> = Vec::new();
            if controller.state() != state {
                notes.push(format!("-> {}", controller.state_name()));
            }
            for action in &actions {
                match action {
                    Action::Reply {
                        reply: Err(refusal),
                        ..
                    } => {
                        notes.push(format!("refused {}", refusal.errno));
                    }
                    Action::Reply { .. } => notes.push("accepted".to_owned()),
                    Action::Halt(HaltReason::PeerServes { .. }) => notes.push("halt".to_owned()),
                    Action::Exit => notes.push("exit".to_owned()),
                    _ => {}
                }
            }
            writeln!(table, "  {name}: {}", notes.join(", ")).expect("a string takes all");
        }
    }
    let table = table
        .lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n")
        + "\n";
    golden(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/state_event.txt"),
        &table,
    );
}

#[test]
fn the_picture_of_the_states_is_up_to_date() {
    let mut page = String::from(
        "# States\n\nGenerated from `agent/core/src/states.rs`; `UPDATE_DOCS=1 cargo test -p failover-core` writes it.\n\n\
         ```mermaid\nstateDiagram-v2\n",
    );
    for edge in EDGES {
        writeln!(page, "    {} --> {}", id(edge.from), id(edge.to)).expect("a string takes all");
    }
    page.push_str("```\n\n| state | public |\n|---|---|\n");
    for state in State::ALL {
        writeln!(page, "| {} | `{}` |", state.name(), state.status()).expect("a string takes all");
    }
    page.push_str("\n| from | to | why |\n|---|---|---|\n");
    for edge in EDGES {
        writeln!(
            page,
            "| {} | {} | {} |",
            edge.from.name(),
            edge.to.name(),
            edge.why
        )
        .expect("a string takes all");
    }
    golden(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/states.md"),
        &page,
    );
}

/// Both elect, the links go, and the peer has its key on an arbiter already.
#[test]
fn a_key_of_the_peers_present_run_outweighs_its_older_beat() {
    let (mut controller, now) = controller_in(State::Electing);
    controller.peer.beat = Some(beat(Role::Electing, 4));
    let mut shows = |incarnation, epoch| {
        let key = Key {
            node: Node::B,
            incarnation,
            ..controller.key(Phase::Candidate, Epoch(epoch))
        };
        let survey = Survey {
            generation: 1,
            keys: vec![key.to_bits()],
            holder: None,
            wero: true,
        };
        controller.disks.looked(DiskId(1), now, now, survey);
        controller.peer_takes()
    };
    assert!(shows(1, 6), "taken after its last beat");
    assert!(!shows(1, 4), "it was electing with this key there");
    assert!(!shows(2, 6), "of another run");
}

/// An owner whose fourth disk is lost and blank asks for it within its proof, and not at all without one.
#[test]
fn a_repair_ends_with_the_proof_of_its_owner() {
    let asked = |age_ms: u64, has_imported: bool| {
        let (mut controller, now) = controller_in(State::Active);
        controller.owner.won(now);
        controller.owner.has_imported = has_imported;
        controller.epoch = Epoch(3);
        controller.reserved = Epoch(4);
        let key = controller.key(Phase::Owner, Epoch(3));
        let blank = Survey {
            wero: true,
            ..Survey::default()
        };
        controller.disks.looked(DiskId(4), now, now, blank);
        for id in 1..=3 {
            let disk = controller.disks.all.get_mut(&DiskId(id));
            let disk = disk.expect("configured");
            disk.ours = Some(key);
            disk.rolled_at = Some(now - ms(age_ms));
            controller.takeover.won.insert(DiskId(id));
        }
        controller.repair(now);
        let takes = controller.out.iter().find_map(|action| match action {
            Action::Run {
                work: Work::Disk { work, .. },
                ..
            } => work.until(),
            _ => None,
        });
        takes.map(|until| until.since(now))
    };
    let lease = Timing::default().vip_lease_ms;
    assert_eq!(asked(50, true), Some(ms(lease - 50)));
    assert_eq!(asked(lease, true), None, "its proof has run out");
    assert_eq!(asked(lease, false), Some(ms(lease)), "nothing is queued");
}

/// Who takes blank disks waits for a long lease, until the peer echoes or has echoed not long ago.
#[test]
fn blank_disks_promise_no_plain_lease() {
    let (mut controller, now) = controller_in(State::Announcing);
    assert_eq!(controller.blank_lease_until(), None);
    controller.took_blank_at = Some(now);
    let timing = Timing::default();
    let lapses = now + ms(timing.slow_lease_ms + timing.lease_slack_ms);
    controller.peer.plain_at = None;
    assert_eq!(controller.blank_lease_until(), Some(lapses));
    controller.took_blank_at = Some(now + ms(timing.alone_after_ms));
    controller.peer.plain_at = Some(now);
    assert!(controller.blank_lease_until().is_some(), "long ago");
    controller.peer.plain_at = Some(now + ms(1));
    assert_eq!(controller.blank_lease_until(), None);
}

/// However long the import and the services of a restarted daemon take, its addresses stay up: nothing renews a plain lease
/// before it serves.
#[test]
fn an_adopted_long_lease_lasts_until_the_owner_serves() {
    let (mut controller, now) = controller_in(State::Importing);
    controller.owner.adopted(now, 1, Phase::Restarting);
    let later = now + ms(20);
    let rolled = controller.key(Phase::Restarting, controller.epoch);
    for disk in controller.disks.all.values_mut() {
        disk.ours = Some(rolled);
        disk.rolled_at = Some(later);
    }
    let gave_up = |controller: &mut Controller, state| {
        controller.state = state;
        controller.out.clear();
        controller.choose_phase(later + ms(5));
        let lease = |action: &Action| matches!(action, Action::Lease(_));
        controller.out.iter().any(lease)
    };
    for state in [State::Importing, State::StartingServices, State::Announcing] {
        assert!(!gave_up(&mut controller, state), "{state:?}");
        assert_eq!(controller.owner.phase(), Phase::Restarting, "{state:?}");
    }
    assert!(gave_up(&mut controller, State::Active));
    assert_eq!(controller.owner.phase(), Phase::Owner);
}

#[test]
fn no_two_edges_are_alike() {
    for (index, edge) in EDGES.iter().enumerate() {
        assert!(!EDGES[..index].contains(edge), "{edge:?} stands twice");
    }
}

fn id(state: State) -> String {
    state.name().replace('-', "_")
}

/// Compares with a file; `UPDATE_DOCS=1` writes it instead.
#[allow(
    clippy::disallowed_methods,
    reason = "a test reads and writes its golden file"
)]
fn golden(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, text).expect("the golden file can be written");
        return;
    }
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        stored,
        text,
        "{} is out of date: UPDATE_DOCS=1 writes it",
        path.display()
    );
}

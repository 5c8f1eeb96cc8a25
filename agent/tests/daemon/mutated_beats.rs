//! A million mutated beats: half of them broken on the way, half signed with the right key. None changes anything.

use crate::pair::{Bench, wait_for};
use failover_api::{StateReport, Status};
use failover_core::action::{Action, Restored};
use failover_core::beat::{ArbiterList, Ask, AskWhat, Beat, Echo, Role};
use failover_core::config::CoreConfig;
use failover_core::controller::Controller;
use failover_core::event::Event;
use failover_core::heartbeat::{HEADER_BYTES, TAG_BYTES};
use failover_core::ids::{DiskId, Epoch, LinkId, Node, Session};
use failover_core::settings::Settings;
use failover_core::time::{Instant, ms};
use failoverd::config::Config;
use failoverd::links::{Dropped, Inspector};
use failoverd::pair_key::PairKey;
use std::net::UdpSocket;

const COUNT: u64 = 1_000_000;
const KEY: [u8; 32] = [7; 32];
const OUR_SESSION: u64 = 0x5e55;
const PEER_SESSION: u64 = 0xa11ce;

/// xorshift64 (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }
}

fn beat(seq: u64, echo: u64) -> Beat {
    Beat {
        node: Node::A,
        session: Session(PEER_SESSION),
        seq,
        echo: Some(Echo {
            session: Session(OUR_SESSION),
            seq: echo,
        }),
        status: Status::Master,
        role: Role::Owner,
        incarnation: 3,
        epoch: Epoch(5),
        eligible: true,
        blockers: 0,
        serving: true,
        lan: true,
        settings: Settings::default(),
        arbiters: ArbiterList {
            version: 1,
            disks: (0..3).map(DiskId).collect(),
            previous: Vec::new(),
        },
        arbiters_acked: 0,
        ask: seq.is_multiple_of(2).then_some(Ask {
            number: 9,
            what: AskWhat::CanYouTake,
        }),
        answer: None,
        version: "1.2.3".to_owned(),
    }
}

/// A standby that hears its peer.
struct Standby {
    controller: Controller,
    now: Instant,
    heard: u64,
    before: StateReport,
}

impl Standby {
    fn new() -> Standby {
        let config = core_config();
        let restored = Restored {
            session: OUR_SESSION,
            ..Restored::default()
        };
        let now = Instant::from_millis(100_000);
        let (controller, actions) = Controller::new(now, config, restored);
        let mut standby = Standby {
            before: controller.report(now),
            controller,
            now,
            heard: 0,
        };
        let mut sent = last_beat(&actions).unwrap_or(1);
        for seq in 100..140 {
            standby.now = standby.now + ms(20);
            let now = standby.now;
            for link in [LinkId(0), LinkId(1)] {
                let actions = standby.hear(link, beat(seq, sent));
                sent = last_beat(&actions).unwrap_or(sent);
            }
            let actions = standby.controller.handle(now, Event::Wake);
            sent = last_beat(&actions).unwrap_or(sent);
            standby.heard = seq;
        }
        standby.before = standby.controller.report(standby.now);
        let peer = standby.before.peer.as_ref().expect("a pair");
        assert!(peer.heard && peer.epoch == Some(5), "{peer:?}");
        standby
    }

    fn hear(&mut self, link: LinkId, beat: Beat) -> Vec<Action> {
        let event = Event::Beat {
            link,
            received: self.now,
            beat: Box::new(beat),
        };
        self.controller.handle(self.now, event)
    }

    /// A beat that decodes must not change anything either.
    fn must_not_care(&mut self, beat: Beat) {
        let kind = format!("{beat:?}");
        for link in [LinkId(0), LinkId(1)] {
            for action in self.hear(link, beat.clone()) {
                assert!(matches!(action, Action::Send(_)), "{action:?} after {kind}");
            }
        }
        assert_eq!(self.controller.state_name(), self.before.state);
        assert_eq!(self.controller.status(), self.before.status);
    }

    fn unchanged(&self) {
        assert_eq!(self.controller.report(self.now), self.before);
    }
}

fn core_config() -> CoreConfig {
    let dir = tempfile::tempdir().expect("a folder");
    let key = dir.path().join("key");
    PairKey::create(&key).expect("a key");
    let text = format!(
        "node = \"B\"\npair_key = \"{}\"\ndisks = [\"a\", \"b\", \"c\"]\n\
         [[links]]\nlocal = \"127.0.0.1:1\"\npeer = \"127.0.0.2:1\"\n\
         [[links]]\nlocal = \"127.0.0.3:1\"\npeer = \"127.0.0.4:1\"\n",
        key.display()
    );
    let config = Config::parse(&text, std::path::Path::new("test"));
    config.unwrap_or_else(|errors| panic!("{errors}")).core()
}

fn last_beat(actions: &[Action]) -> Option<u64> {
    actions.iter().rev().find_map(|action| match action {
        Action::Send(beat) => Some(beat.seq),
        _ => None,
    })
}

/// Puts a right tag on `signed`.
fn sign(key: &PairKey, mut signed: Vec<u8>) -> Vec<u8> {
    let tag = key.sign(&signed);
    signed.extend(tag);
    signed
}

fn set_length(signed: &mut [u8], length: usize) {
    signed[6..8].copy_from_slice(&(length as u16).to_be_bytes());
}

/// A datagram that was broken on its way, or forged without the key.
fn broken(random: &mut Random, good: &[Vec<u8>]) -> Vec<u8> {
    let original = &good[random.below(good.len())];
    let mut bytes = original.clone();
    match random.below(5) {
        0 => {
            for _ in 0..=random.below(8) {
                let place = random.below(bytes.len());
                bytes[place] ^= 1 << random.below(8);
            }
        }
        1 => bytes.truncate(random.below(original.len())),
        2 => bytes.extend((0..=random.below(200)).map(|_| random.byte())),
        3 => bytes = (0..random.below(1300)).map(|_| random.byte()).collect(),
        _ => {
            let other = &good[random.below(good.len())];
            let cut = other.len() - TAG_BYTES;
            bytes.truncate(bytes.len() - TAG_BYTES);
            bytes.extend(&other[cut..]);
        }
    }
    if good.contains(&bytes) {
        bytes[0] ^= 0x80;
    }
    bytes
}

/// A datagram with a right tag that must be refused by its content alone.
fn resigned(random: &mut Random, key: &PairKey, good: &[Vec<u8>]) -> (Vec<u8>, &'static str) {
    let original = &good[random.below(good.len())];
    let mut signed = original[..original.len() - TAG_BYTES].to_vec();
    let body = signed.len() - HEADER_BYTES;
    // Offsets of codes in the body, and the greatest value that each may have.
    let codes = [
        (0, 1),
        (17, 1),
        (34, 6),
        (35, 12),
        (46, 15),
        (61, 1),
        (62, 1),
        (63, 120),
        (72, 2),
        (77, 2),
    ];
    let what = match random.below(6) {
        0 => {
            let length = random.below(body);
            signed.truncate(HEADER_BYTES + length);
            set_length(&mut signed, length);
            "a shorter body"
        }
        1 => {
            let more = 1 + random.below(300);
            signed.extend((0..more).map(|_| random.byte()));
            set_length(&mut signed, body + more);
            "a longer body"
        }
        2 => {
            let wrong = (body + 1 + random.below(65_000)) & 0xffff;
            set_length(&mut signed, if wrong == body { 0 } else { wrong });
            "another length in the header"
        }
        3 => {
            signed[4] = signed[4].wrapping_add(1 + random.below(255) as u8);
            "another version"
        }
        4 => {
            let (place, max) = codes[random.below(codes.len())];
            signed[HEADER_BYTES + place] = max + 1 + random.below(255 - usize::from(max)) as u8;
            "an unknown code"
        }
        _ => {
            let place = 8 + random.below(16);
            signed[place] ^= 1 << random.below(8);
            "another pair"
        }
    };
    (sign(key, signed), what)
}

/// A beat that is well-formed and signed, and not news: of our own node, old, or of a run that proves nothing.
fn stale(random: &mut Random, inspector: &Inspector, newest: u64) -> (Vec<u8>, bool) {
    let mut beat = beat(newest, 1);
    beat.role = Role::Failing;
    beat.epoch = Epoch(random.0 >> 20);
    let own = match random.below(3) {
        0 => {
            beat.node = Node::B;
            true
        }
        1 => {
            beat.seq = random.below(newest as usize + 1) as u64;
            false
        }
        _ => {
            beat.session = Session(random.0 | 1 << 40);
            beat.seq = random.0;
            beat.echo = match random.below(3) {
                0 => None,
                1 => Some(Echo {
                    session: Session(random.0),
                    seq: 3,
                }),
                _ => Some(Echo {
                    session: Session(OUR_SESSION),
                    seq: u64::MAX - random.below(9) as u64,
                }),
            };
            false
        }
    };
    (inspector.seal(&beat), own)
}

#[test]
fn a_million_mutated_beats_change_nothing() {
    let key = PairKey::from_bytes(&KEY);
    let inspector = Inspector::new(key.clone(), Node::B);
    let sender = Inspector::new(key.clone(), Node::A);
    let good: Vec<Vec<u8>> = (100..140).map(|seq| sender.seal(&beat(seq, 1))).collect();
    assert!(
        good.iter()
            .all(|datagram| inspector.inspect(datagram).is_ok())
    );
    let mut standby = Standby::new();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut refused = [0_u64; Dropped::ALL.len()];
    let mut stale_beats = 0;
    for number in 0..COUNT {
        // Every other one is signed with the right key; of these a third is well-formed.
        let datagram = match number % 6 {
            0 | 2 | 4 => broken(&mut random, &good),
            1 | 3 => {
                let (datagram, what) = resigned(&mut random, &key, &good);
                assert!(inspector.inspect(&datagram).is_err(), "{what}");
                datagram
            }
            _ => {
                let (datagram, own) = stale(&mut random, &sender, standby.heard);
                let found = inspector.inspect(&datagram);
                assert_eq!(found == Err(Dropped::OwnNode), own);
                datagram
            }
        };
        match inspector.inspect(&datagram) {
            Err(why) => refused[why as usize] += 1,
            Ok(beat) => {
                assert_eq!(number % 6, 5, "only stale beats get this far");
                stale_beats += 1;
                standby.must_not_care(beat);
            }
        }
        if number % 50_000 == 0 {
            standby.unchanged();
        }
    }
    standby.unchanged();
    for (why, count) in Dropped::ALL.iter().zip(refused) {
        println!("{:>14}: {count}", why.word());
        assert!(count > 1000 || *why == Dropped::Failed, "{}", why.word());
    }
    println!("{:>14}: {stale_beats}", "stale");
    assert_eq!(refused.iter().sum::<u64>() + stale_beats, COUNT);
    // And the link still works.
    standby.now = standby.now + ms(20);
    let next = beat(standby.heard + 1, 2);
    standby.hear(LinkId(0), next);
    let report = standby.controller.report(standby.now);
    assert_eq!(report.links[0].age_ms, Some(0));
}

/// The same over real sockets: counted by kind, and the pair goes on.
#[test]
fn what_comes_in_wrong_is_counted_by_kind() {
    let bench = Bench::new();
    let (a, b) = (bench.start(Node::A), bench.start(Node::B));
    wait_for("they hear each other", || {
        let heard = |c: &crate::pair::Controller| c.handle.counters()[0].received() > 2;
        heard(&a) && heard(&b)
    });
    let config = b.handle.config();
    let key = config.pair_key.clone().expect("a pair");
    let sender = Inspector::new(key.clone(), Node::A);
    let good = sender.seal(&beat(1, 1));
    let signed = &good[..good.len() - TAG_BYTES];
    let with = |place: usize, value: u8| {
        let mut bytes = signed.to_vec();
        bytes[place] = value;
        sign(&key, bytes)
    };
    let mut own = beat(1, 1);
    own.node = Node::B;
    let wrong = [
        (Dropped::Truncated, good[..40].to_vec()),
        (Dropped::BadTag, [signed, &[0; TAG_BYTES]].concat()),
        (Dropped::WrongVersion, with(4, 9)),
        (Dropped::WrongPair, with(8, signed[8] ^ 1)),
        (Dropped::OwnNode, sender.seal(&own)),
        (Dropped::Undecodable, with(HEADER_BYTES + 35, 99)),
        (Dropped::Undecodable, vec![b'F'; 2000]),
    ];
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for (why, datagram) in wrong {
        let before = b.handle.counters()[0].dropped(why);
        socket
            .send_to(&datagram, config.links[0].local)
            .expect("sent");
        wait_for(why.word(), || {
            b.handle.counters()[0].dropped(why) == before + 1
        });
    }
    a.stop();
    b.stop();
}

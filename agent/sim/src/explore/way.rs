//! A way through an exploration in words, short enough to read: what happens beside the ordinary course, and when.
//!
//! ```text
//!   links 2                  of the pair, before anything happens
//!   disks 3
//!   course 57                so many moves of the ordinary course
//!   freeze A                 one move: lose A 0 · step B 1 · fail A 0 · hold A 0 · wake A · deliver B 1 · crash A ·
//!   course 12                boot A · kill A · start A · freeze A · thaw A · cut 0 · mend 0 · pull 2 · insert 2 ·
//!   thaw A                   passive A · disable A · enable A · restart A
//! ```

use super::bounds::{Bounds, Budget};
use super::world::{Move, NODES, NOON, World};
use failover_core::config::CoreConfig;
use failover_core::ids::Node;
use failover_core::states::State;
use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::time::Duration;

/// Moves of the ordinary course after which a state that nobody serves in is stuck, if none of them led to service.
const COURSE_MAX: u32 = 20_000;
/// Rounds of shortening; each takes away at least one step.
const ROUNDS_MAX: usize = 200;

/// A part of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// So many moves of the ordinary course.
    Course(u32),
    /// Something else.
    Move(Move),
}

/// A way from the start of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    links: u8,
    disks: u8,
    parts: Vec<Part>,
}

/// How a way ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A move that was not possible.
    Impossible(Move),
    /// A rule was broken; by the first of so many parts.
    Broken(String, usize),
    /// Nobody would ever serve again.
    Stuck,
    /// Neither.
    Fine,
}

impl Outcome {
    /// Whether `other` shows the same fault, whatever it says of places and numbers.
    fn is_like(&self, other: &Outcome) -> bool {
        let rule = |text: &str| text.split(':').next().map(str::to_owned);
        match (self, other) {
            (Outcome::Broken(one, _), Outcome::Broken(two, _)) => rule(one) == rule(two),
            (one, two) => one == two,
        }
    }
}

impl Way {
    /// The same moves, those of the ordinary course counted.
    pub fn of(bounds: &Bounds, config: &[CoreConfig; 2], moves: &[Move]) -> Way {
        let mut world = World::new(config.clone(), unlimited());
        let mut parts: Vec<Part> = Vec::new();
        for chosen in moves {
            match parts.last_mut() {
                _ if world.ordinary_move() != Some(*chosen) => parts.push(Part::Move(*chosen)),
                Some(Part::Course(count)) => *count += 1,
                _ => parts.push(Part::Course(1)),
            }
            world.make(*chosen);
            world.normalise();
        }
        let (links, disks) = (bounds.links, bounds.disks);
        Way {
            links,
            disks,
            parts,
        }
    }

    /// Bounds without a limit to faults, for its pair.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            links: self.links,
            disks: self.disks,
            budget: unlimited(),
        }
    }

    /// Goes it with controllers of this configuration; `tell` hears of each move, with the world after it.
    pub fn go(&self, config: &[CoreConfig; 2], tell: impl FnMut(Move, &World)) -> Outcome {
        match self.go_to_end(config, tell) {
            Ok(world) => match is_stuck(world) {
                true => Outcome::Stuck,
                false => Outcome::Fine,
            },
            Err(outcome) => outcome,
        }
    }

    /// The world at its end, unless a rule was broken or a move impossible before.
    fn go_to_end(
        &self,
        config: &[CoreConfig; 2],
        mut tell: impl FnMut(Move, &World),
    ) -> Result<World, Outcome> {
        let mut world = World::new(config.clone(), unlimited());
        for (place, part) in self.parts.iter().enumerate() {
            let count = match part {
                Part::Course(count) => *count,
                Part::Move(_) => 1,
            };
            for _ in 0..count {
                let chosen = match part {
                    Part::Move(chosen) if !world.moves().contains(chosen) => {
                        return Err(Outcome::Impossible(*chosen));
                    }
                    Part::Move(chosen) => *chosen,
                    Part::Course(_) => match world.ordinary_move() {
                        Some(chosen) => chosen,
                        None => break,
                    },
                };
                world.make(chosen);
                tell(chosen, &world);
                if let Some(rule) = world.broken() {
                    return Err(Outcome::Broken(rule.to_owned(), place));
                }
                world.normalise();
            }
        }
        Ok(world)
    }

    /// As short as leaving parts out and halving courses makes it, with an end like that of the whole.
    pub fn shortened(&self, config: &[CoreConfig; 2]) -> Way {
        let end = self.go(config, |_, _| {});
        let mut best = self.clone();
        for _ in 0..ROUNDS_MAX {
            let shorter = best.shorter_ones().find_map(|way| {
                // Whether the others are stuck takes long to say, and only matters where the whole is.
                let outcome = match end {
                    Outcome::Broken(..) => way.go_to_end(config, |_, _| {}).err()?,
                    _ => way.go(config, |_, _| {}),
                };
                if !outcome.is_like(&end) {
                    return None;
                }
                let mut way = way;
                if let Outcome::Broken(_, place) = outcome {
                    way.parts.truncate(place + 1);
                }
                way.merge();
                Some(way)
            });
            match shorter {
                Some(way) => best = way,
                None => break,
            }
        }
        best
    }

    /// Ways with one thing less, those that lack most first.
    fn shorter_ones(&self) -> impl Iterator<Item = Way> + '_ {
        let without = |place: usize| {
            let mut way = self.clone();
            way.parts.remove(place);
            way
        };
        let is_move = |place: &usize| matches!(self.parts[*place], Part::Move(_));
        let places = 0..self.parts.len();
        let moves = places.clone().filter(is_move).map(without);
        let courses = places
            .clone()
            .filter(move |place| !is_move(place))
            .map(without);
        let less = places.flat_map(move |place| {
            let count = match self.parts[place] {
                Part::Course(count) => count,
                Part::Move(_) => 0,
            };
            let steps = [count / 2, count / 8, 1];
            let steps = steps
                .into_iter()
                .filter(move |less| *less > 0 && *less < count);
            steps.map(move |less| {
                let mut way = self.clone();
                way.parts[place] = Part::Course(count - less);
                way
            })
        });
        moves.chain(courses).chain(less)
    }

    /// Makes one course of neighbours.
    fn merge(&mut self) {
        let mut parts: Vec<Part> = Vec::with_capacity(self.parts.len());
        for part in self.parts.drain(..) {
            match (parts.last_mut(), part) {
                (Some(Part::Course(before)), Part::Course(count)) => *before += count,
                _ => parts.push(part),
            }
        }
        self.parts = parts;
    }

    /// Reads a way.
    ///
    /// # Errors
    /// A line that can't be read, by its number.
    pub fn parse(text: &str) -> Result<Way, String> {
        let mut way = Way {
            links: 2,
            disks: 3,
            parts: Vec::new(),
        };
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            let words: Vec<&str> = line.split_whitespace().collect();
            let wrong = |why: &str| format!("line {}: {line}: {why}", number + 1);
            let count = |text: &str, most: u32| {
                let count: Option<u32> =
                    text.parse().ok().filter(|count| (1..=most).contains(count));
                count.ok_or_else(|| wrong(&format!("a number from 1 to {most}")))
            };
            match words[..] {
                [] => {}
                ["links", links] => way.links = count(links, 8)? as u8,
                ["disks", disks] => way.disks = count(disks, 8)? as u8,
                ["course", moves] => way.parts.push(Part::Course(count(moves, COURSE_MAX)?)),
                _ => {
                    let chosen = parse_move(&words).ok_or_else(|| wrong("no such move"))?;
                    way.parts.push(Part::Move(chosen));
                }
            }
        }
        Ok(way)
    }

    /// What both controllers are after each part that changes it, with the time since the start.
    pub fn story(&self, config: &[CoreConfig; 2]) -> String {
        let mut story = String::new();
        let mut passed = Duration::ZERO;
        let mut before = String::new();
        let outcome = self.go(config, |chosen, world| {
            passed += world.moment().since(NOON);
            let [a, b] = NODES.map(|node| world.state(node).map_or("-", State::name));
            let now = format!("A {a:<18} B {b}");
            let told = !chosen.is_ordinary() || now != before;
            if told {
                let at = passed.as_millis();
                let _ = writeln!(story, "{at:>7} ms  {:<14} {now}", in_words(chosen));
            }
            before = now;
        });
        let end = match outcome {
            Outcome::Impossible(chosen) => format!("IMPOSSIBLE: {}", in_words(chosen)),
            Outcome::Broken(rule, _) => format!("VIOLATION: {rule}"),
            Outcome::Stuck => "STUCK: from here nobody ever serves again".to_owned(),
            Outcome::Fine => "service comes back, no rule is broken".to_owned(),
        };
        story + &end + "\n"
    }
}

impl fmt::Display for Way {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(to, "links {}\ndisks {}", self.links, self.disks)?;
        for part in &self.parts {
            match part {
                Part::Course(count) => writeln!(to, "course {count}")?,
                Part::Move(chosen) => writeln!(to, "{}", in_words(*chosen))?,
            }
        }
        Ok(())
    }
}

fn unlimited() -> Budget {
    Budget {
        crashes: u8::MAX,
        kills: u8::MAX,
        pauses: u8::MAX,
        losses: u8::MAX,
        cuts: u8::MAX,
        disks: u8::MAX,
        failures: u8::MAX,
        holds: u8::MAX,
        disorder: u8::MAX,
        commands: u8::MAX,
    }
}

/// Whether the ordinary course, faults ended, goes in a circle without service.
fn is_stuck(mut world: World) -> bool {
    let mut seen = HashSet::new();
    for _ in 0..COURSE_MAX {
        if world.is_good() {
            return false;
        }
        if !seen.insert(world.digest()) {
            return true;
        }
        let Some(chosen) = world.course() else {
            return true;
        };
        world.make(chosen);
        world.normalise();
    }
    true
}

fn in_words(chosen: Move) -> String {
    match chosen {
        Move::Deliver(node, link) => format!("deliver {node} {link}"),
        Move::Lose(node, link) => format!("lose {node} {link}"),
        Move::Step(node, place) => format!("step {node} {place}"),
        Move::Fail(node, place) => format!("fail {node} {place}"),
        Move::Hold(node, place) => format!("hold {node} {place}"),
        Move::Wake(node) => format!("wake {node}"),
        Move::Advance => "advance".to_owned(),
        Move::Crash(node) => format!("crash {node}"),
        Move::Boot(node) => format!("boot {node}"),
        Move::Kill(node) => format!("kill {node}"),
        Move::Start(node) => format!("start {node}"),
        Move::Freeze(node) => format!("freeze {node}"),
        Move::Thaw(node) => format!("thaw {node}"),
        Move::Cut(link) => format!("cut {link}"),
        Move::Mend(link) => format!("mend {link}"),
        Move::Pull(disk) => format!("pull {disk}"),
        Move::Insert(disk) => format!("insert {disk}"),
        Move::Passive(node) => format!("passive {node}"),
        Move::Disable(node, true) => format!("disable {node}"),
        Move::Disable(node, false) => format!("enable {node}"),
        Move::Restart(node) => format!("restart {node}"),
    }
}

fn parse_move(words: &[&str]) -> Option<Move> {
    let node = |word: &str| match word {
        "A" => Some(Node::A),
        "B" => Some(Node::B),
        _ => None,
    };
    let number = |word: &str| word.parse::<u8>().ok();
    Some(match words {
        ["advance"] => Move::Advance,
        ["deliver", to, link] => Move::Deliver(node(to)?, number(link)?),
        ["lose", to, link] => Move::Lose(node(to)?, number(link)?),
        ["step", one, place] => Move::Step(node(one)?, number(place)?),
        ["fail", one, place] => Move::Fail(node(one)?, number(place)?),
        ["hold", one, place] => Move::Hold(node(one)?, number(place)?),
        ["wake", one] => Move::Wake(node(one)?),
        ["crash", one] => Move::Crash(node(one)?),
        ["boot", one] => Move::Boot(node(one)?),
        ["kill", one] => Move::Kill(node(one)?),
        ["start", one] => Move::Start(node(one)?),
        ["freeze", one] => Move::Freeze(node(one)?),
        ["thaw", one] => Move::Thaw(node(one)?),
        ["cut", link] => Move::Cut(number(link)?),
        ["mend", link] => Move::Mend(number(link)?),
        ["pull", disk] => Move::Pull(number(disk)?),
        ["insert", disk] => Move::Insert(number(disk)?),
        ["passive", one] => Move::Passive(node(one)?),
        ["disable", one] => Move::Disable(node(one)?, true),
        ["enable", one] => Move::Disable(node(one)?, false),
        ["restart", one] => Move::Restart(node(one)?),
        _ => return None,
    })
}

//! Scripts of a pair, in a language for people: one verb a line, `#` begins a comment.
//!
//! ```text
//!   volatile                             first: the shelf forgets reservations without power; both have a watchdog of 2 s
//!   start A | start B | start            the daemon starts
//!   run 2s | run 500ms                   time passes
//!   crash A [for 80ms]                   SIGKILL of the daemon; a new one starts after that time
//!   pause A 500ms                        SIGSTOP, SIGCONT
//!   restart A | stop A                   SIGTERM, with and without the restart announced
//!   power-off A | boot A | power-off both | boot both
//!   cut link 0 | cut links | cut links from A | heal link 0 | heal links
//!   lose disk 0 [for A] | heal disk 0
//!   lose shelf | heal shelf              its power
//!   fail pools A | heal pools A          no import and no export succeeds
//!   lose lan A | heal lan A
//!   become_passive A | force_master A | update A disabled=true master=B timeout=0
//!   show                                 one line a controller, one for the disks
//! ```

use crate::faults::{Episode, Fault};
use crate::plan::Plan;
use crate::story::Story;
use crate::world::{NODES, World};
use failover_core::event::Command;
use failover_core::ids::Node;
use failover_core::settings::SettingsChange;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Divides a script from its story in a stored scenario.
const LINE: &str = "----\n";

/// The stored scenarios of a checkout, sorted.
pub fn stored(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(root.join("agent/sim/tests/scenarios"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The name of a stored scenario.
pub fn name(path: &Path) -> String {
    let name = path.file_stem().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The script of a stored scenario, and its story.
pub fn divide(text: &str) -> (&str, &str) {
    text.split_once(LINE).unwrap_or((text, ""))
}

/// The text of a stored scenario.
pub fn unite(script: &str, story: &str) -> String {
    format!("{script}{LINE}{story}")
}

/// Runs a script and answers its story. A line that can't be read is an error that names it.
pub fn run(script: &str) -> Result<String, String> {
    let mut world = World::scripted(Plan::calm(), Story::Collect(String::new()));
    world.brief = true;
    run_in(&mut world, script)?;
    match std::mem::take(&mut world.story) {
        Story::Collect(story) => Ok(story),
        Story::Off | Story::Print => Ok(String::new()),
    }
}

/// Runs a script in a world of the caller's, until a rule is broken.
pub fn run_in(world: &mut World, script: &str) -> Result<(), String> {
    for (number, line) in script.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        world.say(&format!("> {line}"));
        let words: Vec<&str> = line.split_whitespace().collect();
        obey(world, &words).map_err(|why| format!("line {}: {line}: {why}", number + 1))?;
        if let Some(violation) = world.violation() {
            let text = format!("VIOLATION of {}: {}", violation.rule, violation.text);
            world.say(&text);
            break;
        }
    }
    Ok(())
}

fn obey(world: &mut World, words: &[&str]) -> Result<(), String> {
    match words {
        ["volatile"] if world.now() == 0 => {
            let (story, brief) = (std::mem::replace(&mut world.story, Story::Off), world.brief);
            *world = World::scripted(Plan::volatile(), story);
            world.brief = brief;
        }
        ["start"] => NODES.into_iter().for_each(|node| world.start_daemon(node)),
        ["start", node] => world.start_daemon(self::node(node)?),
        ["run", time] => {
            let until = world.now() + micros(time)?;
            world.run_until(until);
        }
        ["crash", node] => world.kill(self::node(node)?),
        ["crash", node, "for", time] => {
            let node = self::node(node)?;
            world.kill(node);
            world.start_later(node, micros(time)?);
        }
        ["pause", node, time] => {
            let until = world.now() + micros(time)?;
            world.pause(self::node(node)?, until);
        }
        ["restart", node] => world.stop(self::node(node)?, true),
        ["stop", node] => world.stop(self::node(node)?, false),
        ["power-off", "both"] => NODES.into_iter().for_each(|node| world.power_off(node)),
        ["power-off", node] => world.power_off(self::node(node)?),
        ["boot", "both"] => NODES.into_iter().for_each(|node| world.boot(node)),
        ["boot", node] => world.boot(self::node(node)?),
        ["become_passive", node] => world.ask(self::node(node)?, Command::BecomePassive),
        ["force_master", node] => world.ask(self::node(node)?, Command::ForceMaster),
        ["update", node, changes @ ..] => {
            let change = settings(changes)?;
            world.ask(self::node(node)?, Command::Update(change));
        }
        ["show"] => world.show(),
        ["cut" | "lose" | "fail", what @ ..] => world.begin_lasting(fault(what)?),
        ["heal", what @ ..] => {
            let fault = fault(what)?;
            if !world.end_lasting(fault) {
                return Err("that isn't broken".to_owned());
            }
        }
        _ => return Err("no such verb".to_owned()),
    }
    Ok(())
}

fn fault(words: &[&str]) -> Result<Fault, String> {
    let number = |text: &str, below: u16| {
        let number: Option<u16> = text.parse().ok().filter(|number| *number < below);
        number.ok_or_else(|| format!("{text} isn't a number below {below}"))
    };
    Ok(match words {
        ["links"] => Fault::LinksCut { from: None },
        ["links", "from", node] => Fault::LinksCut {
            from: Some(self::node(node)?),
        },
        ["link", link] => Fault::LinkCut {
            link: number(link, 2)? as u8,
            from: None,
        },
        ["disk", disk] => Fault::DiskMissing {
            disk: number(disk, 4)?,
            to: None,
        },
        ["disk", disk, "for", node] => Fault::DiskMissing {
            disk: number(disk, 4)?,
            to: Some(self::node(node)?),
        },
        ["lan", node] => Fault::Lan(self::node(node)?),
        ["shelf"] => Fault::ShelfPower,
        ["pools", node] => Fault::Pools {
            node: self::node(node)?,
            slow_ms: 0,
            fails: 100,
        },
        _ => return Err("what?".to_owned()),
    })
}

fn node(word: &str) -> Result<Node, String> {
    match word {
        "A" => Ok(Node::A),
        "B" => Ok(Node::B),
        _ => Err(format!("{word} is neither A nor B")),
    }
}

fn micros(word: &str) -> Result<u64, String> {
    let (digits, unit) = match word.strip_suffix("ms") {
        Some(digits) => (digits, 1000),
        None => (word.strip_suffix('s').unwrap_or("?"), 1_000_000),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{word} is no time: write 500ms or 2s"))?;
    Ok(number * unit)
}

fn settings(words: &[&str]) -> Result<SettingsChange, String> {
    let mut change = SettingsChange::default();
    for word in words {
        match word.split_once('=') {
            Some(("disabled", value)) => {
                change.disabled = Some(
                    value
                        .parse()
                        .map_err(|_| format!("{word}: true or false"))?,
                );
            }
            Some(("master", value)) => change.master = Some(node(value)?),
            Some(("timeout", value)) => {
                change.timeout_s = Some(value.parse().map_err(|_| format!("{word}: seconds"))?);
            }
            _ => return Err(format!("{word}: disabled=, master= or timeout=")),
        }
    }
    Ok(change)
}

impl World {
    fn say(&mut self, text: &str) {
        self.story.line(self.now, None, text);
    }

    fn start_later(&mut self, node: Node, after: u64) {
        let boot = self.machines[node as usize].boot;
        let what = crate::queue::Happening::Start { node, boot };
        self.queue.push(self.now + after, what);
    }

    /// Begins a fault that lasts until it is ended.
    pub(crate) fn begin_lasting(&mut self, fault: Fault) {
        let index = self.episodes.len() as u16;
        let (at, until) = (self.now, u64::MAX);
        self.episodes.push(Episode { at, until, fault });
        self.active.push(index);
        self.begin_fault(fault, until);
    }

    /// Ends it; whether it was there.
    fn end_lasting(&mut self, fault: Fault) -> bool {
        let episodes = &self.episodes;
        let same = |index: &u16| episodes[usize::from(*index)].fault == fault;
        let Some(place) = self.active.iter().position(same) else {
            return false;
        };
        self.active.swap_remove(place);
        self.end_fault(fault);
        true
    }

    fn show(&mut self) {
        for node in NODES {
            let machine = &self.machines[node as usize];
            let Some(daemon) = &machine.daemon else {
                let what = if machine.powered {
                    "no daemon"
                } else {
                    "no power"
                };
                self.story.line(self.now, Some(node), what);
                continue;
            };
            let report = daemon.controller.report(self.local(node));
            let kernel = &machine.kernel;
            let has = |has: bool, what: &str| {
                if has {
                    format!(", {what}")
                } else {
                    String::new()
                }
            };
            let text = format!(
                "{} ({}), epoch {}{}{}{}{}",
                report.status.word(),
                report.state,
                report.epoch,
                has(kernel.has_pool(), "pool"),
                has(kernel.services.any(), "services"),
                has(kernel.answers(self.now), "answers"),
                has(report.config.disabled, "disabled"),
            );
            self.story.line(self.now, Some(node), &text);
        }
        let mut owners: Vec<&str> = Vec::new();
        for bay in &self.bays {
            owners.push(match bay.disk.holder().map(|holder| holder.node) {
                Some(Node::A) => "A",
                Some(Node::B) => "B",
                None => "-",
            });
        }
        let text = format!("disks held by {}", owners.join(" "));
        self.story.line(self.now, None, &text);
    }
}

//! Tells what happens, one line per event, with the seconds since the demo began.

use super::watch::Watch;
use crate::shelf::now_micros;
use failover_api::Status;
use failover_core::ids::Node;

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// Every event, on standard output.
    Full,
    /// One line per case, on standard error.
    Quiet,
}

/// The narrator.
#[derive(Clone, Debug)]
pub struct Narrator {
    voice: Voice,
    began: u64,
    told: [u64; 2],
    status: [Option<Status>; 2],
}

impl Narrator {
    /// One that begins now.
    pub fn new(voice: Voice) -> Narrator {
        Narrator {
            voice,
            began: now_micros(),
            told: [0; 2],
            status: [None; 2],
        }
    }

    /// An event on one controller.
    pub fn say(&self, node: Node, text: &str) {
        self.line(now_micros(), &node.to_string(), text);
    }

    /// Something that the demo does or finds.
    pub fn tell(&self, text: &str) {
        self.line(now_micros(), "·", text);
    }

    /// The beginning of a case.
    pub fn title(&self, text: &str) {
        match self.voice {
            Voice::Full => println!("\n{text}"),
            Voice::Quiet => {}
        }
    }

    /// How far a long run is; only where nothing else is told.
    pub fn progress(&self, text: &str) {
        if self.voice == Voice::Quiet {
            eprintln!("{text}");
        }
    }

    /// A controller boots: what its last run did and nobody could ask it any more comes too late to be told.
    pub fn booted(&mut self, node: Node) {
        self.told[node as usize] = now_micros();
    }

    /// New transitions of one controller, told where its public state changes.
    pub fn tell_history(&mut self, node: Node, watch: &Watch) {
        let index = node as usize;
        for record in watch.history_since(self.told[index]) {
            self.told[index] = record.at_micros;
            if self.status[index] != Some(record.status) {
                self.status[index] = Some(record.status);
                let text = format!("{}: {}", record.status, record.why);
                self.line(record.at_micros, &node.to_string(), &text);
            }
        }
    }

    fn line(&self, at: u64, who: &str, text: &str) {
        if self.voice == Voice::Full {
            let seconds = at.saturating_sub(self.began) as f64 / 1e6;
            println!("{seconds:9.3} s  {who}  {text}");
        }
    }
}

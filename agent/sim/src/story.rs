//! The story of a world in readable lines; nothing is formatted unless somebody reads it.

use failover_core::ids::Node;
use std::fmt::Write;

/// Where the story goes.
#[derive(Debug, Default)]
pub enum Story {
    /// Nowhere.
    #[default]
    Off,
    /// To the standard output, with times in microseconds.
    Print,
    /// Into a text, with times in milliseconds.
    Collect(String),
}

impl Story {
    /// Somebody reads it.
    pub fn on(&self) -> bool {
        !matches!(self, Story::Off)
    }

    /// One line.
    pub fn line(&mut self, now: u64, node: Option<Node>, text: &str) {
        let who = match node {
            Some(Node::A) => "A",
            Some(Node::B) => "B",
            None => " ",
        };
        match self {
            Story::Off => {}
            Story::Print => {
                let (s, us) = (now / 1_000_000, now % 1_000_000);
                // A reader that went away (`| head`) is no reason to fail.
                let _ = std::io::Write::write_fmt(
                    &mut std::io::stdout(),
                    format_args!(
                        "{s:>4}.{us:06} {who} {text}
"
                    ),
                );
            }
            Story::Collect(story) => {
                let (s, ms) = (now / 1_000_000, now / 1000 % 1000);
                let _ = writeln!(story, "{s:>3}.{ms:03} {who} {text}");
            }
        }
    }
}

/// Adds a line about a controller to the world's story.
macro_rules! tell {
    ($world:expr, $node:expr, $($text:tt)*) => {
        if $world.story.on() {
            let text = format!($($text)*);
            $world.story.line($world.now, Some($node), &text);
        }
    };
}

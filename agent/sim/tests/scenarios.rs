//! Every script under `tests/scenarios` against its stored outcome; `UPDATE_SCENARIOS=1` writes them anew, for a person
//! to read the difference.

use failover_sim::script;
use std::fs;
use std::path::{Path, PathBuf};

/// Divides a script from its outcome.
const LINE: &str = "----\n";

fn scenarios() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let entries = fs::read_dir(folder).expect("the scenarios can be listed");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn scenarios_end_as_they_did() {
    let update = std::env::var_os("UPDATE_SCENARIOS").is_some();
    let mut differ = Vec::new();
    let paths = scenarios();
    assert!(paths.len() >= 15, "only {} scenarios", paths.len());
    for path in paths {
        let text = fs::read_to_string(&path).expect("a scenario can be read");
        let (script, stored) = text.split_once(LINE).unwrap_or((&text, ""));
        let story = match script::run(script) {
            Ok(story) => story,
            Err(why) => panic!("{}: {why}", path.display()),
        };
        assert!(!story.contains("VIOLATION"), "{}:\n{story}", path.display());
        if update {
            fs::write(&path, format!("{script}{LINE}{story}")).expect("a scenario can be written");
        } else if story != stored {
            differ.push(format!(
                "{}:\n{}",
                path.display(),
                difference(stored, &story)
            ));
        }
    }
    assert!(
        differ.is_empty(),
        "outcomes changed (UPDATE_SCENARIOS=1 writes them):\n{}",
        differ.join("\n")
    );
}

/// The first lines that differ.
fn difference(stored: &str, story: &str) -> String {
    let pairs = stored.lines().zip(story.lines());
    match pairs.into_iter().find(|(old, new)| old != new) {
        Some((old, new)) => format!("- {old}\n+ {new}"),
        None => "one is longer than the other".to_owned(),
    }
}

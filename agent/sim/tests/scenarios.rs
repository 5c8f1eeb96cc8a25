//! Every script under `tests/scenarios` against its stored outcome; `UPDATE_SCENARIOS=1` writes them anew, for a person
//! to read the difference.

use failover_sim::mutants::workspace;
use failover_sim::script;
use std::fs;

#[test]
fn scenarios_end_as_they_did() {
    let update = std::env::var_os("UPDATE_SCENARIOS").is_some();
    let mut differ = Vec::new();
    let paths = script::stored(&workspace()).expect("the scenarios can be listed");
    assert!(paths.len() >= 15, "only {} scenarios", paths.len());
    for path in paths {
        let text = fs::read_to_string(&path).expect("a scenario can be read");
        let (script, stored) = script::divide(&text);
        let story = match script::run(script) {
            Ok(story) => story,
            Err(why) => panic!("{}: {why}", path.display()),
        };
        assert!(!story.contains("VIOLATION"), "{}:\n{story}", path.display());
        if update {
            fs::write(&path, script::unite(script, &story)).expect("a scenario can be written");
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

//! The lab's list of trials is whole: each name leads to a function with a docstring. Needs no lab.

use std::process::Command;

const LAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/lab");
/// What the short list has to hold.
const SHORT: [&str; 5] = [
    "handover",
    "power_cut",
    "freeze",
    "links.heartbeats",
    "disks.hang",
];

#[test]
fn every_trial_of_the_list_is_there_and_says_what_it_proves() {
    if Command::new("python3").arg("--version").output().is_err() {
        println!(
            "SKIPPED: every_trial_of_the_list_is_there_and_says_what_it_proves: needs python3"
        );
        return;
    }
    let mut command = Command::new("python3");
    let done = command
        .args([LAB, "test", "--list"])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let trouble = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{trouble}");
    let mut short = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_short = words.first() == Some(&"short");
        let words = &words[usize::from(is_short)..];
        assert!(words.len() > 2, "no docstring: {line}");
        if is_short {
            short.push(words[0].to_owned());
        }
    }
    assert_eq!(short, SHORT);
    assert!(text.lines().count() >= 30, "{text}");
}

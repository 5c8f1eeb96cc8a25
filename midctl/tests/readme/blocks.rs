//! What the README pastes is what midctl prints, for the state and history of a pair that once ran (the `.json` files
//! here, of `midctl --json status` and `midctl --json history`).

use crate::pretend::Pretend;
use crate::{Served, midctl, out};
use failoverd::rpc::Hub;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    std::fs::read_to_string(path).expect("the README")
}

/// What a line after the prompt prints, errors included.
fn printed(served: &Served, line: &str) -> String {
    let here = "midctl() { \"$PROGRAM\" --socket \"$SOCKET\" \"$@\"; }";
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1\n{here}\n{line}")])
        .env("PROGRAM", env!("CARGO_BIN_EXE_midctl"))
        .env("SOCKET", served.path())
        .env_remove("COLUMNS")
        .stdin(Stdio::null())
        .output()
        .expect("sh runs");
    out(&output)
}

/// The README with each block that begins with `$ midctl` printed anew.
fn printed_anew(served: &Served, readme: &str) -> (String, usize) {
    let (mut text, mut prompts) = (String::new(), 0);
    let mut lines = readme.lines().peekable();
    while let Some(line) = lines.next() {
        text.push_str(line);
        text.push('\n');
        let begins = |line: &&&str| line.starts_with("$ midctl ");
        if line != "```text" || lines.peek().filter(begins).is_none() {
            continue;
        }
        for line in lines.by_ref().take_while(|line| *line != "```") {
            if let Some(command) = line.strip_prefix("$ ") {
                prompts += 1;
                text.push_str(&format!("{line}\n{}", printed(served, command)));
            }
        }
        text.push_str("```\n");
    }
    (text, prompts)
}

#[test]
fn the_blocks_of_the_readme_are_what_is_printed() {
    let report = serde_json::from_str(include_str!("state.json")).expect("a state");
    let records = serde_json::from_str(include_str!("history.json")).expect("a history");
    let hub = Arc::new(Hub::new().expect("a hub"));
    let served = Served::daemon(Pretend::showing(report, records, Some(hub.clone())), hub);
    let kept = readme();
    let (now, prompts) = printed_anew(&served, &kept);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
        std::fs::write(path, &now).expect("written");
    } else {
        let hint =
            "UPDATE_DOCS=1 cargo test -p midctl writes what midctl prints now into the README";
        assert_eq!(now, kept, "{hint}");
    }
    for view in ["status", "history", "methods", "call", "ping"] {
        assert!(now.contains(&format!("\n$ midctl {view}")), "{view}");
    }
    assert!(prompts >= 9, "{prompts} prompts were found");
}

/// `midctl --help` has the whole sentence; the READMEs may say less of it, or add to it.
#[test]
fn the_exit_codes_of_the_readmes_are_those_of_the_help() {
    let help = out(&midctl().arg("--help").output().expect("midctl runs"));
    let table = include_str!("../../README.md");
    let readme = readme().replace('\n', " ");
    let codes = help.split("Exit codes:\n").nth(1).expect("exit codes");
    let codes: Vec<(&str, &str)> = codes
        .lines()
        .map_while(|line| line.trim().split_once("  "))
        .collect();
    assert_eq!(codes.len(), 6, "{help}");
    let listed = readme.split("Exit codes of `midctl`: ").nth(1);
    let listed = listed
        .and_then(|rest| rest.split('.').next())
        .expect("a list");
    let listed: Vec<&str> = listed.split(" · ").collect();
    assert_eq!(listed.len(), codes.len(), "{listed:?}");
    for ((code, means), said) in codes.into_iter().zip(listed) {
        let (number, words) = said.split_once(' ').expect("a code and its meaning");
        assert_eq!(number, code);
        assert!(means.starts_with(words), "{words:?} is not {means:?}");
        assert!(table.contains(&format!("\n| {code} | {means}")), "{means}");
    }
}

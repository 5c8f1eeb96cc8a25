//! Mutants: named patches against the core, each of which the rules must catch.
//!
//! ```text
//!   agent/sim/mutants/NAME.patch ──▶ copy of core, api, simulator ──▶ build apart ──▶ seeds until caught
//! ```
//!
//! The core has no test-only branch. A patch that no longer applies fails the run, and so does a mutant that lives.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules of the simulator that a mutant needs.
const MODULES: [&str; 13] = [
    "story",
    "coverage",
    "disk",
    "enclosure",
    "faults",
    "invariants",
    "lanes",
    "machine",
    "plan",
    "queue",
    "rng",
    "runner",
    "world",
];

const MAIN: &str = r#"
fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let run = runner::run_seeds(numbers[0], numbers[1], numbers[2] as usize, 1, None);
    match run.violations.first() {
        Some((seed, violation)) => println!("CAUGHT {} {seed}", violation.rule),
        None => println!("ALIVE"),
    }
}
"#;

/// How a mutant ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A rule caught it.
    Caught {
        /// Which.
        rule: String,
        /// The seed; about so many were needed.
        seed: u64,
    },
    /// No rule did.
    Alive,
    /// It couldn't be tried; why.
    Failed(String),
}

/// The workspace that this program was built from.
pub fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .parent()
        .and_then(Path::parent)
        .unwrap_or(package)
        .to_owned()
}

/// Names of all mutants, sorted.
pub fn names(root: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root.join("agent/sim/mutants"))? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "patch")
            && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Builds one mutant in `lab` and runs at most `seeds` seeds.
pub fn try_mutant(root: &Path, lab: &Path, name: &str, seeds: u64, jobs: usize) -> End {
    match prepare(root, lab, Some(name)).and_then(|()| build(lab)) {
        Err(why) => End::Failed(why),
        Ok(()) => run(lab, seeds, jobs),
    }
}

/// Runs seeds until one is caught that the core as it is survives.
fn run(lab: &Path, seeds: u64, jobs: usize) -> End {
    let mut start = 1;
    while start <= seeds {
        let end = run_from(lab, start, seeds + 1 - start, jobs);
        let End::Caught { seed, .. } = &end else {
            return end;
        };
        let (_, violation) = crate::runner::run_seed(*seed, crate::story::Story::Off);
        if violation.is_none() {
            return end;
        }
        eprintln!("seed {seed} breaks a rule without any mutant: failover-sim trace {seed}");
        start = seed + 1;
    }
    End::Alive
}

fn run_from(lab: &Path, start: u64, count: u64, jobs: usize) -> End {
    let program = lab.join("target/release/mutant");
    let output = Command::new(program)
        .args([start.to_string(), count.to_string(), jobs.to_string()])
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return End::Failed(error.to_string()),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let panicked = String::from_utf8_lossy(&output.stderr);
    let words: Vec<&str> = said.split_whitespace().collect();
    let (rule, seed) = match words.as_slice() {
        ["ALIVE"] => return End::Alive,
        ["CAUGHT", rule, seed] => (*rule, Some(*seed)),
        _ => {
            let rest = panicked.split("no-panic in seed ").nth(1);
            (
                "no-panic",
                rest.and_then(|rest| rest.split_whitespace().next()),
            )
        }
    };
    match seed.and_then(|seed| seed.parse().ok()) {
        Some(seed) => End::Caught {
            rule: rule.to_owned(),
            seed,
        },
        None => End::Failed(format!("it said nothing: {}", output.status)),
    }
}

fn build(lab: &Path) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--offline", "--quiet"])
        .current_dir(lab)
        .env("CARGO_TARGET_DIR", lab.join("target"))
        .output()
        .map_err(|error| format!("cargo can't be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let first = errors.lines().find(|line| line.starts_with("error"));
    Err(format!(
        "it does not build: {}",
        first.unwrap_or("no error line")
    ))
}

/// Makes the lab's sources those of the workspace, patched. Files that stay the same keep their times, so that little is
/// built again.
fn prepare(root: &Path, lab: &Path, mutant: Option<&str>) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let mut files = Vec::new();
    for folder in ["agent/api", "agent/core"] {
        collect(root, Path::new(folder), &mut files).map_err(text)?;
    }
    let mut sources: Vec<(PathBuf, String)> = Vec::new();
    for file in files {
        let content = fs::read_to_string(root.join(&file)).map_err(text)?;
        sources.push((file, content));
    }
    let mut main = String::from(
        "#![allow(dead_code, missing_docs, reason = \"a part of the simulator, built as a program\")]\n#[macro_use]\n",
    );
    for module in MODULES {
        let mut parts = vec![format!("agent/sim/src/{module}.rs").into()];
        let folder = format!("agent/sim/src/{module}");
        if root.join(&folder).is_dir() {
            collect(root, Path::new(&folder), &mut parts).map_err(text)?;
        }
        for part in parts {
            let content = fs::read_to_string(root.join(&part)).map_err(text)?;
            let within = part.strip_prefix("agent/sim").unwrap_or(&part);
            sources.push((Path::new("mutant").join(within), content));
        }
        main += &format!("mod {module};\n");
    }
    sources.push(("mutant/src/main.rs".into(), main + MAIN));
    sources.push(("mutant/Cargo.toml".into(), MANIFEST.to_owned()));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).map_err(text)?;
    sources.push(("Cargo.toml".into(), lab_manifest(&manifest)));
    let lock = fs::read_to_string(root.join("Cargo.lock")).map_err(text)?;
    if !lab.join("Cargo.lock").exists() {
        sources.push(("Cargo.lock".into(), lock));
    }
    if let Some(mutant) = mutant {
        let path = root.join(format!("agent/sim/mutants/{mutant}.patch"));
        let patch = fs::read_to_string(path).map_err(text)?;
        apply(&patch, &mut sources)?;
    }
    for (file, content) in sources {
        let path = lab.join(file);
        if fs::read_to_string(&path).is_ok_and(|old| old == content) {
            continue;
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(text)?;
        }
        fs::write(&path, content).map_err(text)?;
    }
    Ok(())
}

const MANIFEST: &str = r#"[package]
name = "mutant"
version = "0.1.0"
edition = "2024"

[dependencies]
failover-api.workspace = true
failover-core.workspace = true
serde.workspace = true
"#;

/// The workspace's manifest for the lab: other members, quick builds.
fn lab_manifest(manifest: &str) -> String {
    let members = r#"members = ["agent/api", "agent/core", "mutant"]"#;
    let mut lines: Vec<&str> = Vec::new();
    for line in manifest.lines() {
        if line.starts_with("[profile") {
            break;
        }
        if line.starts_with("members =") {
            lines.push(members);
        } else if !line.starts_with("default-members =") {
            lines.push(line);
        }
    }
    let profile = "[profile.release]\npanic = \"abort\"\nincremental = true\ncodegen-units = 16\nopt-level = 2\n";
    lines.join("\n") + "\n" + profile
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(root, &path, files)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "rs" || extension == "toml")
        {
            files.push(path);
        }
    }
    Ok(())
}

// ---- unified diffs -----------------------------------------------------------------------------------------

/// One hunk: the lines that must be there, and what they become.
#[derive(Debug, Default)]
struct Hunk {
    old: Vec<String>,
    new: Vec<String>,
}

/// Applies a unified diff to files in memory. Line numbers are not looked at: a hunk must fit exactly once.
pub fn apply(patch: &str, sources: &mut [(PathBuf, String)]) -> Result<(), String> {
    let mut file: Option<usize> = None;
    let mut hunk: Option<Hunk> = None;
    let mut hunks = 0;
    for line in patch.lines().chain(["@@ end"]) {
        let header = line.starts_with("--- ") || line.starts_with("@@");
        if header && let (Some(file), Some(done)) = (file, hunk.take()) {
            let (path, content) = &mut sources[file];
            *content = replace(content, &done)
                .map_err(|why| format!("it no longer applies to {}: {why}", path.display()))?;
            hunks += 1;
        }
        if let Some(name) = line.strip_prefix("+++ b/") {
            let path = Path::new(name);
            file = sources.iter().position(|(known, _)| known == path);
            if file.is_none() {
                return Err(format!("it changes {name}, which isn't there"));
            }
        } else if line.starts_with("@@") && file.is_some() {
            hunk = Some(Hunk::default());
        } else if let Some(hunk) = &mut hunk {
            match line.split_at_checked(1) {
                Some((" ", text)) => {
                    hunk.old.push(text.to_owned());
                    hunk.new.push(text.to_owned());
                }
                Some(("-", text)) => hunk.old.push(text.to_owned()),
                Some(("+", text)) => hunk.new.push(text.to_owned()),
                None => {
                    hunk.old.push(String::new());
                    hunk.new.push(String::new());
                }
                Some(_) => {}
            }
        }
    }
    if hunks == 0 {
        return Err("it changes nothing".to_owned());
    }
    Ok(())
}

fn replace(content: &str, hunk: &Hunk) -> Result<String, String> {
    let lines: Vec<&str> = content.lines().collect();
    let length = hunk.old.len();
    if length == 0 {
        return Err("a hunk without context".to_owned());
    }
    let fits = |at: &usize| lines[*at..*at + length] == hunk.old[..];
    let places: Vec<usize> = (0..(lines.len() + 1).saturating_sub(length))
        .filter(fits)
        .collect();
    let [at] = places[..] else {
        return Err(format!(
            "a hunk that begins with {:?} fits {} times",
            hunk.old[0],
            places.len()
        ));
    };
    let mut out: Vec<&str> = lines[..at].to_vec();
    out.extend(hunk.new.iter().map(String::as_str));
    out.extend(&lines[at + length..]);
    Ok(out.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "why\n--- a/f.rs\n+++ b/f.rs\n@@ -1,3 +1,3 @@\n one\n-two\n+zwei\n three\n";

    #[test]
    fn a_patch_replaces_its_lines() {
        let mut sources = vec![(PathBuf::from("f.rs"), "zero\none\ntwo\nthree\n".to_owned())];
        apply(PATCH, &mut sources).expect("it fits");
        assert_eq!(sources[0].1, "zero\none\nzwei\nthree\n");
    }

    #[test]
    fn a_patch_that_no_longer_fits_is_an_error() {
        let mut sources = vec![(PathBuf::from("f.rs"), "one\nthree\n".to_owned())];
        let why = apply(PATCH, &mut sources).expect_err("its lines are gone");
        assert!(why.contains("fits 0 times"), "{why}");
    }

    #[test]
    fn every_mutant_still_applies() {
        let root = workspace();
        let mut files = Vec::new();
        collect(&root, Path::new("agent/core"), &mut files).expect("the core is there");
        for name in names(&root).expect("mutants are there") {
            let read = |file: &PathBuf| {
                let content = fs::read_to_string(root.join(file)).expect("a source can be read");
                (file.clone(), content)
            };
            let mut sources: Vec<(PathBuf, String)> = files.iter().map(read).collect();
            let path = root.join(format!("agent/sim/mutants/{name}.patch"));
            let patch = fs::read_to_string(path).expect("a patch can be read");
            if let Err(why) = apply(&patch, &mut sources) {
                panic!("mutant {name}: {why}");
            }
        }
    }
}

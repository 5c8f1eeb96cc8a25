//! Mutants: named patches against the core, each of which the rules must catch.
//!
//! ```text
//!   agent/sim/mutants/NAME.patch ──▶ copy of core, api, simulator ──▶ build apart ──▶ scenarios, seeds, until caught
//! ```
//!
//! The core has no test-only branch. A patch that no longer applies fails the run, and so does a mutant that lives.

use crate::pinned::{PINNED, PINNED_WIDE};
use crate::script;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Modules of the simulator that a mutant needs.
const MODULES: [&str; 17] = [
    "story",
    "coverage",
    "disk",
    "disk_set",
    "enclosure",
    "faults",
    "invariants",
    "lanes",
    "machine",
    "plan",
    "progress",
    "queue",
    "rng",
    "runner",
    "script",
    "shrink",
    "world",
];

const MAIN: &str = r#"
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [path] = &arguments[..] {
        let text = std::fs::read_to_string(path).expect("a scenario can be read");
        let (script, _) = script::divide(&text);
        print!("{}", script::run(script).expect("a scenario is a script"));
        return;
    }
    let numbers: Vec<u64> = arguments.iter().filter_map(|text| text.parse().ok()).collect();
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
        /// Where.
        by: By,
    },
    /// No rule did.
    Alive,
    /// It couldn't be tried; why.
    Failed(String),
}

/// Where a mutant was caught.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// In a scenario, by its name.
    Scenario(String),
    /// In a seed that once broke a rule.
    Pinned(u64),
    /// In another seed; about so many were needed.
    Seed(u64),
}

impl fmt::Display for By {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            By::Scenario(name) => write!(to, "scenario {name}"),
            By::Pinned(seed) => write!(to, "pinned seed {seed}"),
            By::Seed(seed) => write!(to, "seed {seed}"),
        }
    }
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

/// Builds one mutant in `lab` and runs what might catch it, at most `seeds` seeds. How that ended, and how long it ran.
pub fn try_mutant(root: &Path, lab: &Path, name: &str, seeds: u64, jobs: usize) -> (End, Duration) {
    if let Err(why) = prepare(root, lab, Some(name)).and_then(|()| build(lab)) {
        return (End::Failed(why), Duration::ZERO);
    }
    let began = Instant::now();
    let end = run(root, lab, seeds, jobs).unwrap_or_else(End::Failed);
    (end, began.elapsed())
}

/// The scenarios and the pinned seeds come first: what broke a rule once does so again where its guard is gone, while how
/// many other seeds it takes changes with every draw. A seed that the core as it is doesn't survive says nothing.
fn run(root: &Path, lab: &Path, seeds: u64, jobs: usize) -> Result<End, String> {
    let scenarios = script::stored(root).map_err(|error| format!("the scenarios: {error}"))?;
    let stories: Vec<String> = scenarios
        .iter()
        .map(|path| story(lab, path))
        .collect::<Result<_, _>>()?;
    for (path, story) in scenarios.iter().zip(&stories) {
        let broken = story.split("VIOLATION of ").nth(1);
        if let Some((rule, _)) = broken.and_then(|rest| rest.split_once(':')) {
            let (rule, by) = (rule.to_owned(), By::Scenario(script::name(path)));
            return Ok(End::Caught { rule, by });
        }
    }
    for (seed, _) in PINNED.iter().chain(PINNED_WIDE) {
        if survives(*seed)
            && let Some((rule, seed)) = run_from(lab, *seed, 1, 1)?
        {
            let by = By::Pinned(seed);
            return Ok(End::Caught { rule, by });
        }
    }
    let mut start = 1;
    while start <= seeds {
        let Some((rule, seed)) = run_from(lab, start, seeds + 1 - start, jobs)? else {
            break;
        };
        if survives(seed) {
            let by = By::Seed(seed);
            return Ok(End::Caught { rule, by });
        }
        eprintln!("seed {seed} breaks a rule without any mutant: failover-sim trace {seed}");
        start = seed + 1;
    }
    Ok(another_story(&scenarios, &stories).unwrap_or(End::Alive))
}

/// Whether the core as it is breaks no rule in this seed.
fn survives(seed: u64) -> bool {
    let (_, violation) = crate::runner::run_seed(seed, crate::story::Story::Off, None);
    violation.is_none()
}

/// The first scenario whose story isn't that of the core as it is.
fn another_story(scenarios: &[PathBuf], stories: &[String]) -> Option<End> {
    scenarios.iter().zip(stories).find_map(|(path, story)| {
        let text = fs::read_to_string(path).ok()?;
        let (script, _) = script::divide(&text);
        let told = script::run(script).ok()?;
        (*story != told).then(|| End::Caught {
            rule: "another story".to_owned(),
            by: By::Scenario(script::name(path)),
        })
    })
}

/// The story of a scenario as the mutant plays it.
fn story(lab: &Path, scenario: &Path) -> Result<String, String> {
    let output = mutant(lab, &[scenario.as_os_str()])?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Ok("VIOLATION of no-panic: it ended early".to_owned())
}

/// Runs seeds; the rule that was broken first, and the seed.
fn run_from(
    lab: &Path,
    start: u64,
    count: u64,
    jobs: usize,
) -> Result<Option<(String, u64)>, String> {
    let numbers = [start, count, jobs as u64].map(|number| number.to_string());
    let output = mutant(lab, &numbers)?;
    let said = String::from_utf8_lossy(&output.stdout);
    let panicked = String::from_utf8_lossy(&output.stderr);
    let words: Vec<&str> = said.split_whitespace().collect();
    let (rule, seed) = match words.as_slice() {
        ["ALIVE"] => return Ok(None),
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
        Some(seed) => Ok(Some((rule.to_owned(), seed))),
        None => Err(format!("it said nothing: {}", output.status)),
    }
}

fn mutant(lab: &Path, arguments: &[impl AsRef<OsStr>]) -> Result<Output, String> {
    let program = lab.join("target/release/mutant");
    let output = Command::new(program).args(arguments).output();
    output.map_err(|error| error.to_string())
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
serde_json.workspace = true
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

//! `midctl fence status`: who holds and who is registered on each shared disk.

use crate::client::Failure;
use crate::render::{ago, counted, moment, show, span, table};
use crate::terminal::Terminal;
use failover_api::{FenceCheck, FenceDisk, FenceKey, FenceStatus, Node};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Lets the local program do it, in place of this one; returns only where that can't be run, with where it is to be.
pub fn done_by_failoverd(name: &str, arguments: &[String], json: bool) -> Failure {
    let beside = std::env::current_exe().ok();
    let beside = beside.map(|own| own.with_file_name("failoverd"));
    let program = beside.filter(|path| path.exists());
    let program = program.unwrap_or_else(|| "failoverd".into());
    let mut command = Command::new(&program);
    command.args(["fence", name]).args(arguments);
    if json && name == "check" && !arguments.iter().any(|word| word == "--json") {
        command.arg("--json");
    }
    let error = command.exec();
    let words = format!("failoverd fence {name} {}", arguments.join(" "));
    let why = match name {
        "check" => "it sends commands to a disk that the daemon doesn't have",
        _ => "the daemon must be stopped while reservations are removed",
    };
    Failure::Usage(format!(
        "`{}` does this, as root on the controller itself: {why}; here {} can't be run: {error}",
        words.trim_end(),
        program.display()
    ))
}

/// The map, and beneath it what is wrong.
pub fn view(seen: &FenceStatus, terminal: Terminal) -> String {
    if seen.disk_list.is_empty() {
        return "no shared disks are configured\n".to_owned();
    }
    let mut screen = owners(seen, terminal);
    screen.push('\n');
    screen.push_str(&ways(seen, terminal));
    let troubles: Vec<[String; 2]> = seen
        .disk_list
        .iter()
        .flat_map(|disk| troubles(disk, seen.node))
        .collect();
    if !troubles.is_empty() {
        let mut list = table(terminal);
        list.set_header(["DISK", "TROUBLE"]);
        for trouble in troubles {
            list.add_row(trouble);
        }
        screen.push('\n');
        screen.push_str(&show(&mut list));
    }
    screen
}

/// Who holds and who is registered.
fn owners(seen: &FenceStatus, terminal: Terminal) -> String {
    let mut disks = table(terminal);
    disks.set_header(["DISK", "ROLE", "OWNER", "HOLDER", "REGISTERED", "LOOKED AT"]);
    for disk in &seen.disk_list {
        disks.add_row([
            disk.disk.clone(),
            if disk.arbiter { "arbiter" } else { "" }.to_owned(),
            disk.owner.clone(),
            holder(disk),
            registered(disk, seen.node),
            ago(disk.age_ms),
        ]);
    }
    show(&mut disks)
}

/// How this controller reaches them, and how fast.
fn ways(seen: &FenceStatus, terminal: Terminal) -> String {
    let mut disks = table(terminal);
    disks.set_header(["DISK", "PATHS", "LOOK", "ROLL", "CHECKED"]);
    let micros = |took: Option<u64>| took.map_or_else(|| "-".to_owned(), span);
    for disk in &seen.disk_list {
        disks.add_row([
            disk.disk.clone(),
            paths(disk),
            micros(disk.look_us),
            micros(disk.roll_us),
            disk.check.as_ref().map_or_else(|| "-".to_owned(), checked),
        ]);
    }
    show(&mut disks)
}

fn holder(disk: &FenceDisk) -> String {
    match (&disk.holder, &disk.registrations) {
        (Some(key), _) => words(key),
        (None, Some(_)) => "nobody".to_owned(),
        (None, None) => "-".to_owned(),
    }
}

/// A key by what it says.
fn words(key: &FenceKey) -> String {
    match (key.node, &key.phase, key.epoch) {
        (Some(node), Some(phase), Some(epoch)) => format!("{phase} of {node}, epoch {epoch}"),
        _ => "a stranger".to_owned(),
    }
}

/// How many keys of whom.
fn registered(disk: &FenceDisk, here: Node) -> String {
    let Some(keys) = &disk.registrations else {
        return "-".to_owned();
    };
    let count = |whose: Option<Node>| keys.iter().filter(|key| key.node == whose).count();
    let parts = [
        (count(Some(here)), "ours"),
        (count(Some(here.other())), "peer"),
        (count(None), "foreign"),
    ];
    counted(&parts, "none")
}

fn paths(disk: &FenceDisk) -> String {
    let Some(paths) = &disk.paths else {
        return "-".to_owned();
    };
    // The names alone: addresses are in the JSON.
    let names: Vec<&str> = paths
        .iter()
        .map(|path| path.split(' ').next().unwrap_or(path))
        .collect();
    match names.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

fn checked(check: &FenceCheck) -> String {
    let verdict = if check.passed { "passed" } else { "FAILED" };
    match check.wall_ms {
        // The day is enough.
        Some(at) => format!("{verdict} {}", moment(at).split(' ').next().unwrap_or("")),
        None => verdict.to_owned(),
    }
}

/// What somebody should look at.
fn troubles(disk: &FenceDisk, here: Node) -> Vec<[String; 2]> {
    let mut found = Vec::new();
    if let Some(why) = &disk.failure {
        found.push(why.clone());
    }
    let keys = disk.registrations.iter().flatten();
    let beside = |key: &&FenceKey| key.node != Some(here) && disk.owner == "ours";
    let foreign = |key: &&FenceKey| key.node.is_none();
    for key in keys.filter(|key| beside(key) || foreign(key)) {
        found.push(format!("also registered: {} ({})", words(key), key.key));
    }
    if let Some(check) = disk.check.as_ref().filter(|check| !check.passed) {
        found.push(format!("its check failed: {}", check.failed.join(", ")));
    }
    let named = found.into_iter();
    named.map(|trouble| [disk.disk.clone(), trouble]).collect()
}

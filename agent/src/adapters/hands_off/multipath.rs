//! `multipathd`'s own registrations: with a `reservation_key` it registers each path that appears by itself, so that
//! a controller that was fenced could write again (`man multipath.conf`).

use super::{Files, Finding, lines};
use crate::adapters::disk_paths::SharedDisk;

const REMEDY: &str =
    "take the reservation_key out, then systemctl reload multipathd; failoverd registers each path";

/// One block of `multipaths`.
#[derive(Default)]
struct Block {
    wwid: Option<String>,
    key_line: Option<usize>,
}

pub(super) fn look(files: &Files<'_>, disks: &[SharedDisk]) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut paths = vec!["etc/multipath.conf".to_owned()];
    paths.extend(files.list("etc/multipath/conf.d", ".conf"));
    for path in &paths {
        if let Some(text) = files.text(path, &mut found) {
            look_at(files, path, &text, disks, &mut found);
        }
    }
    found
}

fn look_at(
    files: &Files<'_>,
    path: &str,
    text: &str,
    disks: &[SharedDisk],
    found: &mut Vec<Finding>,
) {
    let mut sections: Vec<String> = Vec::new();
    let mut block = Block::default();
    let mut word_before = String::new();
    for (line, text) in lines(text) {
        let text = text.split(['#', '!']).next().unwrap_or_default();
        let spaced = text.replace('{', " { ").replace('}', " } ");
        for word in spaced.split_whitespace() {
            let word = word.trim_matches('"');
            let inside = sections.last().map(String::as_str);
            match (word, word_before.as_str()) {
                ("{", name) => sections.push(name.to_owned()),
                ("}", _) => {
                    let closed = sections.pop();
                    if closed.as_deref() == Some("multipath") {
                        judge(files, path, std::mem::take(&mut block), disks, found);
                    }
                }
                ("reservation_key", _) if inside == Some("multipath") => {
                    block.key_line = Some(line)
                }
                ("reservation_key", _) => {
                    let section = inside.unwrap_or("the file");
                    let problem = format!(
                        "{section} gives every disk a reservation_key, the shared ones too"
                    );
                    found.push(files.at(path, line, problem, REMEDY));
                }
                (value, "wwid") if inside == Some("multipath") => {
                    block.wwid = Some(value.to_lowercase())
                }
                _ => {}
            }
            word.clone_into(&mut word_before);
        }
    }
}

fn judge(
    files: &Files<'_>,
    path: &str,
    block: Block,
    disks: &[SharedDisk],
    found: &mut Vec<Finding>,
) {
    let Some(line) = block.key_line else { return };
    // multipathd's wwid is the identity behind a digit for its kind: 3600…, or eui.… as it is.
    let disk = match &block.wwid {
        None => None,
        Some(wwid) => {
            let is = |disk: &&SharedDisk| {
                let identity = disk.identity.to_string();
                let plain = identity
                    .split_once('.')
                    .map_or(identity.as_str(), |(_, plain)| plain);
                wwid.ends_with(plain)
            };
            match disks.iter().find(is) {
                Some(disk) => Some(disk),
                None => return,
            }
        }
    };
    let of = disk.map_or_else(
        || "a disk that isn't named".to_owned(),
        |disk| format!("the shared {}", disk.identity),
    );
    found.push(files.at(
        path,
        line,
        format!("multipathd has a reservation_key for {of}"),
        REMEDY,
    ));
}

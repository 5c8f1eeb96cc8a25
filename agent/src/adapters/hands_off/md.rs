//! mdadm: arrays that udev would assemble from parts on shared disks (`man mdadm.conf`, `AUTO`, `ARRAY`).

use super::names::{Member, Names};
use super::{Files, Finding, lines};

const RULE: &str = "64-md-raid-assembly.rules";
const REMEDY: &str = "put `AUTO -all` there and an ARRAY line only for the machine's own arrays; then update-initramfs -u";

/// One line with the lines that continue it.
struct Entry {
    file: String,
    line: usize,
    words: Vec<String>,
}

pub(super) fn look(files: &Files<'_>, names: &Names) -> Vec<Finding> {
    let mut found = Vec::new();
    if names.md.is_empty() || !files.has_udev_rule(RULE) {
        return found;
    }
    // Debian's place, and the program's own.
    let main = ["etc/mdadm/mdadm.conf", "etc/mdadm.conf"];
    let main = main.iter().find(|path| files.0.join(path).exists());
    let mut paths: Vec<String> = main.iter().map(|path| (**path).to_owned()).collect();
    paths.extend(files.list("etc/mdadm/mdadm.conf.d", ".conf"));
    paths.extend(files.list("etc/mdadm.conf.d", ".conf"));
    let mut entries = Vec::new();
    for path in &paths {
        if let Some(text) = files.text(path, &mut found) {
            entries.extend(read(path, &text));
        }
    }
    let auto = entries.iter().find(|entry| keyword(entry, "auto"));
    let by_itself = auto.is_none_or(|entry| assembles(&entry.words[1..]));
    for member in &names.md {
        let arrays = entries.iter().filter(|entry| keyword(entry, "array"));
        let array = arrays.into_iter().find(|entry| is_of(entry, member, names));
        let ignored =
            array.is_some_and(|entry| entry.words.get(1).is_some_and(|word| word == "<ignore>"));
        let (at, line, why) = match (array, auto) {
            _ if ignored => continue,
            (Some(entry), _) => (entry.file.clone(), entry.line, "this line names its array"),
            (None, _) if !by_itself => continue,
            (None, Some(entry)) => (entry.file.clone(), entry.line, "this line allows it"),
            (None, None) => {
                let path = paths.first().map_or("etc/mdadm/mdadm.conf", String::as_str);
                (path.to_owned(), 0, "no AUTO line forbids it")
            }
        };
        let problem = format!(
            "the shared {} is part of an array that udev would assemble: {why}",
            member.name
        );
        found.push(files.at(&at, line, problem, REMEDY));
    }
    found
}

fn read(path: &str, text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (line, text) in lines(text) {
        let text = text.split('#').next().unwrap_or_default();
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        if words.is_empty() {
            continue;
        }
        match entries.last_mut().filter(|_| text.starts_with([' ', '\t'])) {
            Some(before) => before.words.extend(words),
            None => entries.push(Entry {
                file: path.to_owned(),
                line,
                words,
            }),
        }
    }
    entries
}

/// Keywords may be cut down to three letters, in any case.
fn keyword(entry: &Entry, keyword: &str) -> bool {
    let word = entry.words[0].to_lowercase();
    word.len() >= 3 && keyword.starts_with(&word)
}

/// The first word that speaks of the array's kind decides; without one it is assembled.
fn assembles(words: &[String]) -> bool {
    for word in words {
        let word = word.to_lowercase();
        match word.as_str() {
            "-all" | "-1.x" => return false,
            // Arrays that were made on this very host.
            "+all" | "+1.x" | "homehost" | "+homehost" => return true,
            _ => {}
        }
    }
    true
}

fn is_of(entry: &Entry, member: &Member, names: &Names) -> bool {
    let plain = |text: &str| -> String {
        let digits = text.chars().filter(char::is_ascii_hexdigit);
        digits.map(|c| c.to_ascii_lowercase()).collect()
    };
    entry.words.iter().any(|word| {
        let Some((key, value)) = word.split_once('=') else {
            return false;
        };
        match key.to_lowercase().as_str() {
            "uuid" => !member.uuid.is_empty() && plain(value) == plain(&member.uuid),
            "name" => member.array.as_deref() == Some(value),
            "devices" => value
                .split(',')
                .any(|path| names.node(path) == Some(&member.name)),
            _ => false,
        }
    })
}

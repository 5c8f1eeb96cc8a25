//! What is shipped beside the program: the units' checks, and a catalogue that knows every message.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Namespace of the ids: those of the catalogue, and those that the daemon logs.
const NAMESPACE: u128 = 0x7b1d_5c0e_52a6_4f0d_9a3e_6c1f_0e8d_2b47;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The version 5 UUID of a name (RFC 9562, section 5.5), as journald writes ids.
fn message_id(name: &str) -> String {
    let mut input = NAMESPACE.to_be_bytes().to_vec();
    input.extend(name.as_bytes());
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &input);
    let mut bytes: [u8; 16] = digest.as_ref()[..16].try_into().expect("16 bytes");
    bytes[6] = bytes[6] & 0x0f | 0x50;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    format!("{:032x}", u128::from_be_bytes(bytes))
}

/// Names of the messages in the sources below a folder: the first argument of `notice` and `say`, and `id = "…"`. In the
/// core, whose texts have no other use for such names, each text in capitals with an underscore is one.
fn names_in(folder: &Path, names: &mut BTreeSet<String>) {
    let in_core = folder.starts_with(root().join("agent/core"));
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            names_in(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("text");
            let dense: String = text.chars().filter(|c| !c.is_whitespace()).collect();
            let is_name = |name: &str| {
                let is_part = |c: char| c.is_ascii_uppercase() || c == '_';
                name.starts_with(|c: char| c.is_ascii_uppercase()) && name.chars().all(is_part)
            };
            for opening in ["notice(\"", ".say(\"", "id=\""] {
                let first = dense.split(opening).skip(1);
                let first = first.map(|rest| rest.split('"').next().unwrap_or_default());
                names.extend(first.filter(|name| is_name(name)).map(str::to_owned));
            }
            if in_core && !path.ends_with("tests.rs") {
                let texts = text.split('"').filter(|text| text.contains('_'));
                names.extend(texts.filter(|name| is_name(name)).map(str::to_owned));
            }
        }
    }
}

#[test]
fn every_message_is_in_the_catalogue_and_in_the_table() {
    let mut names = BTreeSet::new();
    names_in(&root().join("agent/core/src"), &mut names);
    names_in(&root().join("agent/src"), &mut names);
    assert!(names.contains("HALT") && names.contains("STATE"));
    let catalogue = fs::read_to_string(root().join("systemd/failoverd.catalog")).expect("text");
    let table = fs::read_to_string(root().join("agent/docs/operations.md")).expect("text");
    let mut written = BTreeSet::new();
    for entry in catalogue.split("\n# ").skip(2) {
        let name = entry.lines().next().unwrap_or_default();
        let id = message_id(name);
        assert!(
            entry.starts_with(&format!("{name}\n-- {id}\nSubject: ")),
            "systemd/failoverd.catalog: the entry {name} must begin with `-- {id}` and a subject"
        );
        written.insert(name.to_owned());
    }
    assert_eq!(
        names, written,
        "the messages of the sources (left) and of systemd/failoverd.catalog (right) differ"
    );
    for name in names {
        let cell = format!("`{name}`");
        assert!(
            table.contains(&cell),
            "operations.md says nothing of {name}"
        );
    }
}

#[test]
fn the_units_pass_their_check() {
    let script = root().join("systemd/check.sh");
    let output = Command::new("sh").arg(script).output().expect("a shell");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    for line in said.lines().filter(|line| line.starts_with("SKIPPED")) {
        let _ = write!(std::io::stderr(), "\n{line}\n");
    }
}

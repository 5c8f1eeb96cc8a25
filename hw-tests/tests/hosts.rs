//! The real-machine mode refuses whatever hasn't consented, and then has done nothing: `ssh` is a script that writes down
//! what it was asked and answers as a machine's gate would.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

const LAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/lab");
const HOSTS: &str = "virtual_address = \"192.0.2.10\"\ndisks = [\"naa.1\", \"naa.2\"]\n\
    [a]\nssh = \"root@a.invalid\"\nmachine = \"SN1\"\n[b]\nssh = \"root@b.invalid\"\nmachine = \"SN2\"\n";

struct Ground(tempfile::TempDir);

impl Ground {
    /// `answer` is what each machine's gate does, a line of shell.
    fn new(answer: &str) -> Ground {
        let folder = tempfile::tempdir().expect("a folder");
        let asked = folder.path().join("asked");
        let script = format!(
            "#!/bin/sh\nfor last; do :; done\necho \"$last\" >>{}\n{answer}\n",
            asked.display()
        );
        let ssh = folder.path().join("ssh");
        fs::write(&ssh, script).expect("the script is written");
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("its mode");
        Ground(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Exit code and both outputs of a test on these hosts, and what the machines were asked. Nothing where there is no
    /// Python that reads TOML.
    fn run(&self, test: &str, hosts: &str) -> Option<(i32, String, Vec<String>)> {
        let toml = Command::new("python3")
            .args(["-c", "import tomllib"])
            .output();
        if !toml.is_ok_and(|done| done.status.success()) {
            println!("SKIPPED: {test}: needs Python 3.11");
            return None;
        }
        let file = self.path("hosts.toml");
        fs::write(&file, hosts).expect("the file is written");
        let path = format!(
            "{}:{}",
            self.0.path().display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let mut command = Command::new("python3");
        let command = command
            .args([LAB, "test", "handover", "--hosts"])
            .arg(&file);
        let command = command.env("PATH", path).env("LAB_DIR", self.path("lab"));
        let done = command.output().expect("the lab's program runs");
        let text =
            [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let asked = fs::read_to_string(self.path("asked")).unwrap_or_default();
        let asked = asked.lines().map(str::to_owned).collect();
        Some((
            done.status.code().expect("it ended by itself"),
            text.concat(),
            asked,
        ))
    }
}

#[test]
fn a_machine_that_does_not_consent_ends_the_run_before_anything_is_done() {
    let ground = Ground::new("echo 'lab-gate: disk \"naa.2\" is not in the consent' >&2; exit 1");
    let test = "a_machine_that_does_not_consent_ends_the_run_before_anything_is_done";
    let Some((code, text, asked)) = ground.run(test, HOSTS) else {
        return;
    };
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("no consent, nothing is done") && text.contains("naa.2"),
        "{text}"
    );
    assert_eq!(asked.len(), 1, "the gate alone was asked: {asked:?}");
    let gate = "/usr/local/sbin/lab-gate check --reset --machine SN1 --disk naa.1 --disk naa.2";
    assert_eq!(asked[0], gate);
}

#[test]
fn a_machine_without_a_gate_or_with_a_silent_one_does_not_consent() {
    for answer in ["exit 127", "exit 0"] {
        let ground = Ground::new(answer);
        let test = "a_machine_without_a_gate_or_with_a_silent_one_does_not_consent";
        let Some((code, text, asked)) = ground.run(test, HOSTS) else {
            return;
        };
        assert_eq!((code, asked.len()), (1, 1), "{text}");
        assert!(text.contains("no consent, nothing is done"), "{text}");
    }
}

#[test]
fn both_machines_have_to_consent() {
    let answer = "case $last in *SN1*) echo 'consent given: 2 disks of SN1';; *) echo other >&2; exit 1;; esac";
    let ground = Ground::new(answer);
    let Some((code, text, asked)) = ground.run("both_machines_have_to_consent", HOSTS) else {
        return;
    };
    assert_eq!((code, asked.len()), (1, 2), "{text}");
    assert!(text.contains("b: no consent, nothing is done"), "{text}");
}

#[test]
fn a_file_that_is_not_whole_is_refused_and_nobody_is_asked() {
    let cases = [
        (
            HOSTS.replace("disks = [\"naa.1\", \"naa.2\"]\n", ""),
            "disks is missing",
        ),
        (
            HOSTS.replace("machine = \"SN2\"\n", ""),
            "b.machine is missing",
        ),
        (HOSTS.replace("SN2", "SN1"), "the same machine"),
        (
            format!("all_disks = true\n{HOSTS}"),
            "unknown keys all_disks",
        ),
        (
            format!("{HOSTS}[faults]\nexplode = \"true\"\n"),
            "no such fault: explode",
        ),
        ("a = [".to_owned(), "hosts.toml"),
    ];
    for (hosts, wanted) in cases {
        let ground = Ground::new("echo 'consent given: 2 disks'");
        let test = "a_file_that_is_not_whole_is_refused_and_nobody_is_asked";
        let Some((code, text, asked)) = ground.run(test, &hosts) else {
            return;
        };
        assert_eq!((code, asked.len()), (1, 0), "{text}");
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn the_gate_itself_refuses_this_machine_without_a_file() {
    let mut gate = Command::new(env!("CARGO_BIN_EXE_lab-gate"));
    let gate = gate.args([
        "check",
        "--machine",
        "SN1",
        "--disk",
        "naa.1",
        "--consent",
        "/nonexistent/consent",
    ]);
    let done = gate.output().expect("the gate runs");
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1), "{text}");
    assert!(
        text.contains("/nonexistent/consent") || text.contains("no identity"),
        "{text}"
    );
}

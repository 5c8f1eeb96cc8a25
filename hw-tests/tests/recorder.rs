//! Client, recorder and judge together, as the lab runs them: three processes, over loopback.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_lab-recorder");
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Ended with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(log: &Path, address: &str) -> Running {
    let mut command = Command::new(PROGRAM);
    let command = command.args(["serve", "--node", "a", "--listen", address, "--log"]);
    Running(command.arg(log).spawn().expect("the recorder starts"))
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").to_string()
}

fn acknowledged(notes: &Path) -> usize {
    let text = fs::read_to_string(notes).unwrap_or_default();
    text.lines().filter(|line| line.starts_with("ack ")).count()
}

fn wait_for(notes: &Path, count: usize) {
    let until = Instant::now() + WAIT_MAX;
    while acknowledged(notes) < count {
        assert!(
            Instant::now() < until,
            "{count} records within {WAIT_MAX:?}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

fn judge(log: &Path, notes: &Path) -> (i32, String) {
    let mut command = Command::new(PROGRAM);
    let command = command.args(["judge", "--run", "7", "--log"]).arg(log);
    let done = command.arg("--notes").arg(notes).output().expect("it runs");
    let text = String::from_utf8(done.stdout).expect("text");
    (done.status.code().expect("it ended by itself"), text)
}

#[test]
fn nothing_is_lost_or_doubled_when_the_recorder_is_killed_under_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, notes) = (folder.path().join("log"), folder.path().join("notes"));
    let address = free_address();
    let mut recorder = serve(&log, &address);
    let mut client = Command::new(PROGRAM);
    let client = client.args([
        "send", "--run", "7", "--rate", "500", "--to", &address, "--notes",
    ]);
    let client = client
        .arg(&notes)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut client = Running(client.spawn().expect("the client starts"));
    for kills in 1..=3 {
        wait_for(&notes, acknowledged(&notes) + 50 * kills);
        drop(recorder);
        recorder = serve(&log, &address);
    }
    wait_for(&notes, acknowledged(&notes) + 50);
    drop(client.0.stdin.take());
    let mut summary = String::new();
    let mut output = client.0.stdout.take().expect("it was asked for");
    output.read_to_string(&mut summary).expect("text");
    assert!(client.0.wait().expect("it ends").success());
    let counts: serde_json::Value = serde_json::from_str(&summary).expect("JSON");
    assert_eq!(counts["sent"], counts["acknowledged"], "{summary}");
    assert!(counts["connections"].as_u64() >= Some(4), "{summary}");
    let (code, verdict) = judge(&log, &notes);
    assert_eq!(code, 0, "{verdict}");

    // The judge is no yes-man: the last record gone, and one twice.
    let whole = fs::read(&log).expect("the log is read");
    fs::write(&log, &whole[..whole.len() - 64]).expect("written");
    let (code, verdict) = judge(&log, &notes);
    assert_eq!(code, 3, "{verdict}");
    let mut twice = whole.clone();
    twice.extend_from_slice(&whole[..64]);
    fs::write(&log, &twice).expect("written");
    let (code, verdict) = judge(&log, &notes);
    assert_eq!(code, 3, "{verdict}");
}

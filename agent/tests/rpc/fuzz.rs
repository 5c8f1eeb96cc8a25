//! 100,000 mutated frames: none may change state that it should not, crash anything, or leave anything behind.

use crate::pretend::{Pretend, report};
use failover_api::methods::Access;
use failover_core::event::Command;
use failoverd::rpc::{Backend, Limits, Session};
use serde_json::{Value, json};

/// Deterministic random numbers (xorshift64).
pub struct Dice(u64);

impl Dice {
    /// Never zero inside.
    pub fn new(seed: u64) -> Dice {
        Dice(seed.max(1))
    }

    fn throw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.throw() % limit.max(1) as u64) as usize
    }
}

const SEEDS: &[&str] = &[
    r#"{"jsonrpc": "2.0", "method": "core.set_options", "id": "u1", "params": [{"legacy_jobs": false}]}"#,
    r#"{"jsonrpc": "2.0", "method": "core.subscribe", "id": "u2", "params": ["failover.status"]}"#,
    r#"{"jsonrpc": "2.0", "method": "core.unsubscribe", "id": "u2", "params": ["u"]}"#,
    r#"{"jsonrpc": "2.0", "method": "core.ping", "id": 1, "params": []}"#,
    r#"{"jsonrpc": "2.0", "method": "core.get_jobs", "id": 1, "params": [[["id", "=", 1]], {}]}"#,
    r#"{"jsonrpc": "2.0", "method": "failover.status", "id": null}"#,
    r#"{"jsonrpc": "2.0", "method": "failover.history", "id": 5, "params": [10]}"#,
    r#"{"jsonrpc": "2.0", "method": "failover.update", "id": "u", "params": [{"disabled": true, "timeout": 7}]}"#,
    r#"{"jsonrpc": "2.0", "method": "failover.update", "id": "u", "params": [{"master": false}]}"#,
    r#"{"jsonrpc": "2.0", "method": "failover.become_passive", "id": 9, "params": []}"#,
    r#"{"jsonrpc": "2.0", "method": "failover.force_master", "params": []}"#,
];

const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    ",",
    ":",
    "null",
    "true",
    "-1",
    "1e400",
    "121",
    "\u{0}",
    "\u{feff}",
    "\\ud800",
    "failover.become_passive",
    "core.",
    "params",
    "jsonrpc",
    "id",
    "é",
    " ",
];

/// A frame with one to four things done to it.
pub fn mutated(dice: &mut Dice) -> String {
    let mut bytes = SEEDS[dice.below(SEEDS.len())].as_bytes().to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        let to = (at + dice.below(24)).min(bytes.len());
        match dice.below(7) {
            0 if at < bytes.len() => bytes[at] = dice.below(256) as u8,
            1 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            2 => drop(bytes.drain(at..to)),
            3 => {
                let piece = PIECES[dice.below(PIECES.len())];
                bytes.splice(at..to, piece.bytes());
            }
            4 => {
                let again = bytes[at..to].to_vec();
                bytes.splice(at..at, again);
            }
            5 => bytes.truncate(at),
            _ => {
                let other = SEEDS[dice.below(SEEDS.len())].as_bytes();
                let from = dice.below(other.len());
                bytes.splice(at..to, other[from..].iter().copied());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What commands a text may legally cause, judged apart from the code under test.
fn allows_commands(text: &str) -> bool {
    let Ok(Value::Object(frame)) = serde_json::from_str::<Value>(text) else {
        return false;
    };
    let id_is_good = match frame.get("id") {
        None | Some(Value::Null | Value::String(_)) => true,
        Some(Value::Number(number)) => !number.is_f64(),
        Some(_) => false,
    };
    let empty = Vec::new();
    let params = match frame.get("params") {
        None => &empty,
        Some(Value::Array(params)) => params,
        Some(_) => return false,
    };
    let params_are_good = match frame.get("method").and_then(Value::as_str) {
        Some("failover.become_passive" | "failover.force_master") => params.is_empty(),
        Some("failover.update") => match params.as_slice() {
            [Value::Object(update)] => {
                !update.is_empty()
                    && update.iter().all(|(key, value)| match key.as_str() {
                        "disabled" | "master" => value.is_boolean(),
                        "timeout" => value.as_u64().is_some_and(|seconds| seconds <= 120),
                        _ => false,
                    })
            }
            _ => false,
        },
        _ => false,
    };
    id_is_good && params_are_good && frame.get("jsonrpc") == Some(&json!("2.0"))
}

/// An answer must be one that clients understand.
fn check_answer(text: &str, answer: &str) {
    let answer: Value = serde_json::from_str(answer).expect("an answer is JSON");
    assert_eq!(answer["jsonrpc"], "2.0");
    assert!(answer.get("id").is_some());
    let error = &answer["error"];
    assert_ne!(answer.get("result").is_some(), error.is_object(), "{text}");
    if error.is_object() {
        let code = error["code"].as_i64().expect("a code");
        assert!(error["message"].is_string());
        match code {
            -32001 | -32602 => {
                let data = error["data"].as_object().expect("data");
                for key in ["error", "errname", "reason", "trace", "extra"] {
                    assert!(data.contains_key(key), "{key} is missing for {text}");
                }
                assert_eq!(data["extra"].is_array(), code == -32602);
                let prefix = format!("[{}] ", data["errname"].as_str().expect("a name"));
                assert!(
                    data["reason"]
                        .as_str()
                        .expect("a reason")
                        .starts_with(&prefix)
                );
            }
            -32700 | -32600 | -32601 | -32000 => assert!(error.get("data").is_none()),
            _ => panic!("{code} for {text}"),
        }
    }
}

#[tokio::test]
async fn mutated_frames_change_nothing_for_readers() {
    let daemon = Pretend::new(None);
    let limits = Limits::default();
    let session = Session::new(daemon.clone(), limits, Access::Read, "a test".to_owned());
    let mut dice = Dice::new(20_261_121);
    let mut answered = 0;
    for _ in 0..50_000 {
        let text = mutated(&mut dice);
        if let Some(answer) = session.handle(&text).await {
            check_answer(&text, &answer);
            answered += 1;
        }
    }
    assert!(answered > 25_000, "{answered}");
    assert_eq!(daemon.commands(), []);
    assert_eq!(*daemon.report(), report());
    assert!(session.subscriptions() <= limits.subscriptions);
    assert_eq!(session.unanswered(), 0);
    let ping = session
        .handle(r#"{"jsonrpc": "2.0", "method": "core.ping", "id": 1}"#)
        .await;
    assert_eq!(
        ping.as_deref(),
        Some(r#"{"jsonrpc":"2.0","result":"pong","id":1}"#)
    );
}

#[tokio::test]
async fn mutated_frames_of_writers_do_only_what_they_say() {
    let daemon = Pretend::new(None);
    let limits = Limits::default();
    let session = Session::new(daemon.clone(), limits, Access::Write, "a test".to_owned());
    let mut dice = Dice::new(1_121_026);
    let (mut wrong, mut right) = (0, 0);
    for _ in 0..50_000 {
        let text = mutated(&mut dice);
        let before = (daemon.commands().len(), daemon.report());
        if let Some(answer) = session.handle(&text).await {
            check_answer(&text, &answer);
        }
        if allows_commands(&text) {
            right += 1;
            continue;
        }
        wrong += 1;
        assert_eq!(daemon.commands().len(), before.0, "{text}");
        assert_eq!(daemon.report(), before.1, "{text}");
    }
    assert!(
        wrong > 40_000 && right > 100,
        "{wrong} wrong, {right} right"
    );
    for command in daemon.commands() {
        if let Command::Update(change) = command {
            assert!(change.timeout_s.is_none_or(|seconds| seconds <= 120));
        }
    }
    assert!(session.subscriptions() <= limits.subscriptions);
    assert_eq!(session.unanswered(), 0);
}

//! Frames fed to a session as text, and what it answers.

use crate::pretend::{Pretend, Temper};
use failover_api::methods::{Access, METHODS};
use failover_api::{Node, Status};
use failover_core::event::Command;
use failover_core::settings::SettingsChange;
use failoverd::rpc::{Limits, Session};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

fn session(daemon: &Arc<Pretend>, access: Access) -> Arc<Session> {
    Session::new(
        daemon.clone(),
        Limits::default(),
        access,
        "a test".to_owned(),
    )
}

async fn answer(session: &Arc<Session>, text: &str) -> Value {
    let answer = session.handle(text).await.expect(text);
    serde_json::from_str(&answer).expect("an answer is JSON")
}

async fn call(session: &Arc<Session>, method: &str, params: Value) -> Value {
    let request = json!({"jsonrpc": "2.0", "method": method, "id": 1, "params": params});
    answer(session, &request.to_string()).await
}

/// Text in, text out, to the byte.
const EXACT: &[(&str, Option<&str>)] = &[
    // The start of every client, as recorded; ids are echoed.
    (
        r#"{"jsonrpc": "2.0", "method": "core.set_options", "id": "u1", "params": [{"legacy_jobs": false, "private_methods": false, "py_exceptions": false}]}"#,
        Some(
            r#"{"jsonrpc":"2.0","result":{"legacy_jobs":false,"private_methods":false,"py_exceptions":false},"id":"u1"}"#,
        ),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "core.set_options", "id": "u1", "params": [{"private_methods": true, "of_tomorrow": 1}]}"#,
        Some(
            r#"{"jsonrpc":"2.0","result":{"legacy_jobs":false,"private_methods":true,"py_exceptions":false},"id":"u1"}"#,
        ),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "failover.status", "id": "u3", "params": []}"#,
        Some(r#"{"jsonrpc":"2.0","result":"MASTER","id":"u3"}"#),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "failover.status", "id": -7}"#,
        Some(r#"{"jsonrpc":"2.0","result":"MASTER","id":-7}"#),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "core.ping", "id": 18446744073709551615}"#,
        Some(r#"{"jsonrpc":"2.0","result":"pong","id":18446744073709551615}"#),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "core.ping", "id": null}"#,
        Some(r#"{"jsonrpc":"2.0","result":"pong","id":null}"#),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "core.ping", "id": "\u00e9\"\n"}"#,
        Some("{\"jsonrpc\":\"2.0\",\"result\":\"pong\",\"id\":\"é\\\"\\n\"}"),
    ),
    // Notifications are never answered, whatever is wrong with them.
    (r#"{"jsonrpc": "2.0", "method": "core.ping"}"#, None),
    (r#"{"jsonrpc": "2.0", "method": "no.such.method"}"#, None),
    // Members that nobody knows do no harm.
    (
        r#"{"jsonrpc": "2.0", "method": "core.ping", "id": 1, "extra": {"a": []}}"#,
        Some(r#"{"jsonrpc":"2.0","result":"pong","id":1}"#),
    ),
    (
        "[]",
        Some(
            r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"Batch messages are not supported at this time"},"id":null}"#,
        ),
    ),
    (
        r#"[{"jsonrpc": "2.0", "method": "core.ping", "id": 1}]"#,
        Some(
            r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"Batch messages are not supported at this time"},"id":null}"#,
        ),
    ),
    (
        "",
        Some(
            r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"Invalid JSON: EOF while parsing a value at line 1 column 0"},"id":null}"#,
        ),
    ),
    (
        "5",
        Some(
            r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"Message must be an object"},"id":null}"#,
        ),
    ),
    (
        r#"{"method": "core.ping", "id": "x"}"#,
        Some(
            r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"'jsonrpc' must be \"2.0\""},"id":"x"}"#,
        ),
    ),
    (
        r#"{"jsonrpc": 2.0, "method": "core.ping", "id": "x"}"#,
        Some(
            r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"'jsonrpc' must be \"2.0\""},"id":"x"}"#,
        ),
    ),
    (
        r#"{"jsonrpc": "2.0", "id": "x"}"#,
        Some(
            r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"'method' must be a string"},"id":"x"}"#,
        ),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "core.ping", "id": 1.5}"#,
        Some(
            r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"'id' must be null, an integer or a string"},"id":null}"#,
        ),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "core.ping", "id": [1]}"#,
        Some(
            r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"'id' must be null, an integer or a string"},"id":null}"#,
        ),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "core.ping", "id": true}"#,
        Some(
            r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"'id' must be null, an integer or a string"},"id":null}"#,
        ),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "core.ping", "id": 1, "params": {}}"#,
        Some(
            r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"'params' must be an array"},"id":1}"#,
        ),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "core.ping", "id": 1, "params": null}"#,
        Some(
            r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"'params' must be an array"},"id":1}"#,
        ),
    ),
    // Clients compare this text.
    (
        r#"{"jsonrpc": "2.0", "method": "failover.hack", "id": 1, "params": []}"#,
        Some(
            r#"{"jsonrpc":"2.0","error":{"code":-32601,"message":"Method does not exist"},"id":1}"#,
        ),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "core.ping", "id": 1, "params": [1]}"#,
        Some(
            r#"{"jsonrpc":"2.0","error":{"code":-32602,"message":"Invalid params","data":{"error":22,"errname":"EINVAL","reason":"[EINVAL] ALL: Too many arguments (expected 0, found 1)\n","trace":null,"extra":[[null,"Too many arguments (expected 0, found 1)",22]]}},"id":1}"#,
        ),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "failover.update", "id": 1, "params": []}"#,
        Some(
            r#"{"jsonrpc":"2.0","error":{"code":-32602,"message":"Invalid params","data":{"error":22,"errname":"EINVAL","reason":"[EINVAL] failover_update: Field required\n","trace":null,"extra":[["failover_update","Field required",22]]}},"id":1}"#,
        ),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "failover.update", "id": 1, "params": [{"timeout": 121, "disabled": 1}]}"#,
        Some(
            r#"{"jsonrpc":"2.0","error":{"code":-32602,"message":"Invalid params","data":{"error":22,"errname":"EINVAL","reason":"[EINVAL] failover_update.disabled: must be true or false, not 1; leave the key out to change nothing\n[EINVAL] failover_update.timeout: must be a whole number of seconds from 0 to 120, not 121\n","trace":null,"extra":[["failover_update.disabled","must be true or false, not 1; leave the key out to change nothing",22],["failover_update.timeout","must be a whole number of seconds from 0 to 120, not 121",22]]}},"id":1}"#,
        ),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "core.job_wait", "id": 1, "params": [42]}"#,
        Some(
            r#"{"jsonrpc":"2.0","error":{"code":-32602,"message":"Invalid params","data":{"error":2,"errname":"ENOENT","reason":"[ENOENT] ALL: Job 42 does not exist\n","trace":null,"extra":[[null,"Job 42 does not exist",2]]}},"id":1}"#,
        ),
    ),
    (
        r#"{"jsonrpc": "2.0", "method": "core.get_jobs", "id": 1, "params": [[["id", "=", 1]], {"get": false}]}"#,
        Some(r#"{"jsonrpc":"2.0","result":[],"id":1}"#),
    ),
];

#[tokio::test]
async fn answers_are_exact() {
    let daemon = Pretend::new(None);
    for (text, expected) in EXACT {
        let session = session(&daemon, Access::Write);
        assert_eq!(session.handle(text).await.as_deref(), *expected, "{text}");
    }
    assert_eq!(daemon.commands(), []);
}

#[tokio::test]
async fn deep_and_odd_texts_are_refused() {
    let daemon = Pretend::new(None);
    let session = session(&daemon, Access::Write);
    let deep = "[".repeat(30_000);
    let deep_id = format!(r#"{{"jsonrpc":"2.0","method":"core.ping","id":1,"params":{deep}"#);
    for text in [
        deep.as_str(),
        &deep_id,
        "{",
        "nul",
        "{\"id\":1}{\"id\":2}",
        "\u{feff}{}",
        "{'id': 1}",
        r#"{"id": "\ud800"}"#,
        r#"{"id": 1e999}"#,
        "\0",
    ] {
        let answer = answer(&session, text).await;
        assert_eq!(answer["error"]["code"], -32700, "{text:.60}");
        assert_eq!(answer["id"], Value::Null);
    }
}

#[tokio::test]
async fn every_method_of_the_table_answers() {
    let daemon = Pretend::new(None);
    let session = session(&daemon, Access::Write);
    for method in METHODS {
        let params: Vec<Value> = match method.name {
            "core.set_options" | "failover.update" => vec![json!({})],
            "core.subscribe" => vec![json!("*")],
            "core.unsubscribe" => vec![json!("none")],
            "core.job_wait" | "core.job_abort" => vec![json!(1)],
            "failover.incident.read" => vec![json!("2026-11-28T15:50:12Z-surveying"), json!(0)],
            _ => Vec::new(),
        };
        let answer = call(&session, method.name, json!(params)).await;
        let refused_as_it_should = method.name.starts_with("core.job_");
        assert_eq!(
            answer.get("result").is_some(),
            !refused_as_it_should,
            "{answer}"
        );
    }
}

#[tokio::test]
async fn values_are_those_of_the_report() {
    let daemon = Pretend::new(None);
    let session = session(&daemon, Access::Read);
    for (method, expected) in [
        ("failover.status", json!("MASTER")),
        ("failover.node", json!("A")),
        ("failover.licensed", json!(true)),
        ("failover.in_progress", json!(false)),
        ("failover.disabled.reasons", json!([])),
        (
            "failover.get_ips",
            json!(["http://10.0.0.5", "http://[fd00::5]"]),
        ),
        (
            "failover.config",
            json!({"id": 1, "disabled": false, "master": true, "timeout": 0}),
        ),
    ] {
        let answer = call(&session, method, json!([])).await;
        assert_eq!(answer["result"], expected, "{method}");
    }
    let state = call(&session, "failover.state", json!([])).await;
    assert_eq!(state["result"]["disks"]["ours"], 24);
    assert_eq!(state["result"]["peer"]["status"], "BACKUP");
    let history = call(&session, "failover.history", json!([2])).await;
    assert_eq!(history["result"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        history["result"][1]["time"],
        json!({"$date": 1_795_246_233_123_u64})
    );
    for limit in [json!(0), json!(1001), json!(-1), json!("1")] {
        let answer = call(&session, "failover.history", json!([limit])).await;
        assert_eq!(answer["error"]["data"]["extra"][0][0], "limit", "{answer}");
    }
    let methods = call(&session, "core.get_methods", json!(["failover"])).await;
    let methods = methods["result"].as_object().expect("an object");
    assert!(methods.keys().all(|name| name.starts_with("failover.")));
    assert_eq!(
        methods["failover.update"]["accepts"][0]["_name_"],
        "failover_update"
    );
}

/// Clients read an object with one key of these names as something else.
fn is_free_of_extended_keys(value: &Value) -> bool {
    match value {
        Value::Object(members) => {
            let extended = members.len() == 1 && members.keys().all(|key| key.starts_with('$'));
            !extended && members.values().all(is_free_of_extended_keys)
        }
        Value::Array(items) => items.iter().all(is_free_of_extended_keys),
        _ => true,
    }
}

#[tokio::test]
async fn descriptions_are_not_misread_as_dates() {
    let daemon = Pretend::new(None);
    let session = session(&daemon, Access::Read);
    let methods = call(&session, "core.get_methods", json!([])).await;
    assert_eq!(
        methods["result"].as_object().map(|all| all.len()),
        Some(METHODS.len())
    );
    assert!(is_free_of_extended_keys(&methods["result"]));
}

#[tokio::test]
async fn those_who_may_only_read_change_nothing() {
    let daemon = Pretend::new(None);
    let session = session(&daemon, Access::Read);
    for method in METHODS
        .iter()
        .filter(|method| method.access == Access::Write)
    {
        for params in [json!([]), json!([{"disabled": true}]), json!([1, 2, 3])] {
            let answer = call(&session, method.name, params).await;
            assert_eq!(
                answer["error"],
                json!({
                    "code": -32001,
                    "message": "Method call error",
                    "data": {
                        "error": 13,
                        "errname": "EACCES",
                        "reason": "[EACCES] Not authorized",
                        "trace": null,
                        "extra": null,
                    },
                }),
                "{}",
                method.name
            );
        }
    }
    assert_eq!(daemon.commands(), []);
}

#[tokio::test]
async fn an_update_changes_what_it_names() {
    let daemon = Pretend::new(None);
    let session = session(&daemon, Access::Write);
    let nothing = call(&session, "failover.update", json!([{}])).await;
    assert_eq!(nothing["result"]["timeout"], 0);
    assert_eq!(daemon.commands(), []);
    let answer = call(
        &session,
        "failover.update",
        json!([{"timeout": 120, "master": false}]),
    )
    .await;
    assert_eq!(
        answer["result"],
        json!({"id": 1, "disabled": false, "master": false, "timeout": 120})
    );
    let change = SettingsChange {
        disabled: None,
        master: Some(Node::B),
        timeout_s: Some(120),
    };
    assert_eq!(daemon.commands(), [Command::Update(change)]);
    for (update, attribute) in [
        (json!({"timeout": 121}), "failover_update.timeout"),
        (json!({"timeout": -1}), "failover_update.timeout"),
        (json!({"timeout": 1.5}), "failover_update.timeout"),
        (json!({"timeout": true}), "failover_update.timeout"),
        (json!({"timeout": null}), "failover_update.timeout"),
        (json!({"disabled": "true"}), "failover_update.disabled"),
        (json!({"master": null}), "failover_update.master"),
        (json!({"enabled": true}), "failover_update.enabled"),
        (json!("disabled"), "failover_update"),
        (json!(null), "failover_update"),
    ] {
        let answer = call(&session, "failover.update", json!([update])).await;
        assert_eq!(answer["error"]["code"], -32602, "{update}");
        assert_eq!(
            answer["error"]["data"]["extra"][0][0], attribute,
            "{update}"
        );
    }
    assert_eq!(daemon.commands().len(), 1);
}

#[tokio::test]
async fn an_update_answers_what_is_durable_now() {
    let daemon = Pretend::new(None);
    let session = session(&daemon, Access::Write);
    daemon.set_temper(Temper::ReportsLate);
    let update = json!([{"timeout": 9, "master": false, "disabled": true}]);
    daemon.change(|report| report.status = Status::Backup);
    let answer = call(&session, "failover.update", update).await;
    assert_eq!(
        answer["result"],
        json!({"id": 1, "disabled": true, "master": false, "timeout": 9})
    );
}

#[tokio::test]
async fn disabling_in_favour_of_the_peer_is_one_command() {
    let daemon = Pretend::new(None);
    let session = session(&daemon, Access::Write);
    let update = json!([{"disabled": true, "master": false}]);
    daemon.set_temper(Temper::Refuses(16, "the peer can't take over"));
    let answer = call(&session, "failover.update", update.clone()).await;
    assert_eq!(
        answer["error"]["data"]["reason"],
        "[EBUSY] the peer can't take over"
    );
    let change = Command::Update(SettingsChange {
        disabled: Some(true),
        master: Some(Node::B),
        timeout_s: None,
    });
    assert_eq!(daemon.commands(), [change]);
    daemon.set_temper(Temper::Obeys);
    let answer = call(&session, "failover.update", update).await;
    assert_eq!(answer["result"]["disabled"], true);
    // A handover apart from it would be refused where failover is disabled already.
    assert_eq!(daemon.commands(), [change, change]);
    let answer = call(&session, "failover.status", json!([])).await;
    assert_eq!(answer["result"], "BACKUP");
    let answer = call(&session, "failover.update", json!([{"disabled": false}])).await;
    assert_eq!(answer["result"]["disabled"], false);
}

#[tokio::test]
async fn commands_are_answered_when_they_are_done() {
    let daemon = Pretend::new(None);
    let session = session(&daemon, Access::Write);
    let answer = call(&session, "failover.force_master", json!([])).await;
    assert_eq!(answer["result"], false, "it is MASTER already");
    let answer = call(&session, "failover.become_passive", json!([])).await;
    assert_eq!(answer["result"], Value::Null);
    let answer = call(&session, "failover.force_master", json!([])).await;
    assert_eq!(answer["result"], true);
    daemon.set_temper(Temper::Dies);
    let answer = call(&session, "failover.become_passive", json!([])).await;
    assert_eq!(answer["error"]["data"]["errname"], "EAGAIN");
    daemon.set_temper(Temper::Refuses(
        110,
        "reverted: the peer did not import in time",
    ));
    let answer = call(&session, "failover.become_passive", json!([])).await;
    assert_eq!(answer["error"]["code"], -32001);
    assert_eq!(
        answer["error"]["data"]["reason"],
        "[ETIMEDOUT] reverted: the peer did not import in time"
    );
}

#[tokio::test]
async fn a_command_that_is_never_answered_ends() {
    let daemon = Pretend::new(None);
    let limits = Limits {
        command: Duration::from_millis(20),
        ..Limits::default()
    };
    let session = Session::new(daemon.clone(), limits, Access::Write, "a test".to_owned());
    daemon.set_temper(Temper::Hangs);
    let answer = call(&session, "failover.become_passive", json!([])).await;
    assert_eq!(answer["error"]["data"]["errname"], "ETIMEDOUT");
    assert_eq!(session.unanswered(), 0);
}

#[tokio::test]
async fn ten_calls_run_and_twenty_wait() {
    let daemon = Pretend::new(None);
    let session = session(&daemon, Access::Write);
    daemon.set_temper(Temper::Hangs);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let session = session.clone();
        calls.spawn(async move { call(&session, "failover.become_passive", json!([])).await });
    }
    while session.unanswered() < 20 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(daemon.commands().len(), 10, "ten run");
    let answer = call(&session, "core.ping", json!([])).await;
    assert_eq!(answer["error"]["code"], -32000);
    assert_eq!(answer["error"].get("data"), None);
    assert_eq!(answer["id"], 1);
    calls.shutdown().await;
    assert_eq!(session.unanswered(), 0);
    let answer = call(&session, "core.ping", json!([])).await;
    assert_eq!(answer["result"], "pong");
}

#[tokio::test]
async fn subscriptions_are_checked_and_bounded() {
    let daemon = Pretend::new(None);
    let session = session(&daemon, Access::Read);
    for (event, errname) in [
        ("no.such.event", "ENOENT"),
        ("", "ENOENT"),
        (r#"failover.status:{"a": 1}"#, "ENOENT"),
    ] {
        let answer = call(&session, "core.subscribe", json!([event])).await;
        assert_eq!(answer["error"]["code"], -32602, "{event}");
        assert_eq!(answer["error"]["data"]["errname"], errname);
        assert_eq!(answer["error"]["data"]["extra"][0][0], "event");
    }
    let mut ids = Vec::new();
    for event in [
        "*",
        "failover.status",
        "failover.disabled.reasons",
        "core.get_jobs",
    ] {
        let answer = call(&session, "core.subscribe", json!([event])).await;
        ids.push(answer["result"].as_str().expect("an id").to_owned());
    }
    assert_eq!(session.subscriptions(), 4);
    for id in &ids {
        let answer = call(&session, "core.unsubscribe", json!([id])).await;
        assert_eq!(answer["result"], Value::Null);
        assert_eq!(answer.get("error"), None);
    }
    assert_eq!(session.subscriptions(), 0);
    for id in [ids[0].as_str(), "never given"] {
        let answer = call(&session, "core.unsubscribe", json!([id])).await;
        assert_eq!(answer.get("result"), Some(&Value::Null), "{answer}");
    }
    for _ in 0..64 {
        call(&session, "core.subscribe", json!(["*"])).await;
    }
    let answer = call(&session, "core.subscribe", json!(["*"])).await;
    assert_eq!(answer["error"]["data"]["errname"], "EBUSY");
    assert_eq!(session.subscriptions(), 64);
}

#[tokio::test]
async fn work_under_way_is_told() {
    let daemon = Pretend::new(None);
    let session = session(&daemon, Access::Read);
    for (status, in_progress) in [
        (Status::Electing, true),
        (Status::Importing, true),
        (Status::Backup, false),
        (Status::Error, false),
    ] {
        daemon.change(|report| report.status = status);
        let answer = call(&session, "failover.in_progress", json!([])).await;
        assert_eq!(answer["result"], in_progress, "{status}");
    }
}

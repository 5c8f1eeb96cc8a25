//! Answers that are none: no garbage looks like success.

use super::*;

/// What a client asks first.
const OPTIONS: &str = r#"{"jsonrpc":"2.0","result":{"legacy_jobs":false,"private_methods":false,"py_exceptions":false},"id":"1"}"#;

/// Answers each message of one client, after the first, with the next of these; a line is a frame.
fn scripted(answers: &'static [&'static str]) -> (tempfile::TempDir, std::thread::JoinHandle<()>) {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let listener = std::os::unix::net::UnixListener::bind(folder.path().join("s")).expect("socket");
    let server = std::thread::spawn(move || {
        Runtime::new().expect("a runtime").block_on(async move {
            let (stream, _) = listener.accept().expect("a client");
            stream.set_nonblocking(true).expect("set");
            let stream = tokio::net::UnixStream::from_std(stream).expect("a stream");
            let accepted = tokio_tungstenite::accept_async(stream).await;
            let mut socket = accepted.expect("a WebSocket");
            for answer in [OPTIONS].iter().chain(answers) {
                if socket.next().await.is_none() {
                    return;
                }
                for frame in answer.lines() {
                    let message = match frame {
                        "binary" => Message::binary(vec![1, 2, 3]),
                        "hang up" => return,
                        text => Message::text(text),
                    };
                    let _ = socket.send(message).await;
                }
            }
            while let Some(Ok(_)) = socket.next().await {}
        });
    });
    (folder, server)
}

#[test]
fn malformed_answers_never_look_like_success() {
    for (answers, code, told) in [
        (&["{"][..], 5, "is no JSON object"),
        (
            &[r#"{"jsonrpc":"2.0","id":"2"}"#],
            5,
            "neither a method nor",
        ),
        (
            &[r#"{"jsonrpc":"2.0","id":"2","error":{}}"#],
            5,
            "without a code",
        ),
        (&["binary"], 5, "binary message"),
        (&["hang up"], 3, "connection lost"),
        // What the usual client takes for a success.
        (
            &[
                r#"{"jsonrpc":"2.0","id":"2","error":{"code":-32001,"message":"Method call error"}}"#,
            ],
            1,
            "Method call error",
        ),
        (
            &[r#"{"jsonrpc":"2.0","id":"2","error":{"code":7,"message":"odd"}}"#],
            1,
            "odd",
        ),
        (
            &[r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"what?"}}"#],
            1,
            "what?",
        ),
        // Somebody else's answer is not ours.
        (
            &[r#"{"jsonrpc":"2.0","id":"99","result":true}"#],
            4,
            "no answer",
        ),
    ] {
        let (folder, server) = scripted(answers);
        let output = midctl()
            .args(["--timeout", "2", "call", "failover.status", "--socket"])
            .arg(folder.path().join("s"))
            .output()
            .expect("midctl runs");
        assert_eq!(
            output.status.code(),
            Some(code),
            "{answers:?}: {}",
            err(&output)
        );
        assert!(err(&output).contains(told), "{answers:?}: {}", err(&output));
        assert_eq!(out(&output), "", "{answers:?}");
        server.join().expect("the server ends");
    }
}

#[test]
fn a_result_of_another_shape_is_no_success() {
    let (folder, server) = scripted(&[r#"{"jsonrpc":"2.0","id":"2","result":{"node":"A"}}"#]);
    let output = midctl()
        .args(["status", "--socket"])
        .arg(folder.path().join("s"))
        .output()
        .expect("midctl runs");
    assert_eq!(output.status.code(), Some(5), "{}", err(&output));
    assert!(err(&output).contains("failover.state"), "{}", err(&output));
    server.join().expect("the server ends");
}

#[test]
fn an_ended_subscription_is_no_success() {
    for (answers, told) in [
        (
            &["{\"id\":\"2\",\"result\":\"s\"}\n\
               {\"method\":\"notify_unsubscribed\",\"params\":{\"collection\":\"x\",\"error\":null}}"]
                [..],
            "the subscription to x was ended by failoverd\n",
        ),
        (
            &[
                "{\"method\":\"notify_unsubscribed\",\"params\":{\"collection\":\"x\",\"error\":5}}\n\
               {\"id\":\"2\",\"result\":\"s\"}",
            ],
            "the subscription to x was ended by failoverd: 5\n",
        ),
        (
            &["{\"id\":\"2\",\"result\":\"s\"}\nhang up"],
            "connection lost",
        ),
    ] {
        let (folder, server) = scripted(answers);
        let output = midctl()
            .args(["subscribe", "x", "--socket"])
            .arg(folder.path().join("s"))
            .output()
            .expect("midctl runs");
        assert_eq!(output.status.code(), Some(3), "{}", err(&output));
        assert!(err(&output).contains(told), "{}", err(&output));
        server.join().expect("the server ends");
    }
}

//! The socket: its file, the upgrade, every limit, and clients that misbehave.

use crate::fuzz::{Dice, mutated};
use crate::pretend::Pretend;
use failover_api::Status;
use failoverd::rpc::{Hub, Limits, Socket, SocketError, serve};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

/// Nothing here takes that long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

struct Served {
    folder: tempfile::TempDir,
    daemon: Arc<Pretend>,
    hub: Arc<Hub>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Served {
    fn start(limits: Limits) -> Served {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = Socket::bind(&folder.path().join("s")).expect("the socket");
        let hub = Arc::new(Hub::new().expect("a hub"));
        let daemon = Pretend::new(Some(hub.clone()));
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(serve(
            socket,
            hub.clone(),
            daemon.clone(),
            limits,
            async move {
                let _ = stopped.await;
            },
        ));
        Served {
            folder,
            daemon,
            hub,
            stop: Some(stop),
            serving,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    async fn raw(&self) -> UnixStream {
        UnixStream::connect(self.path()).await.expect("connected")
    }

    async fn client(&self) -> Client {
        let stream = self.raw().await;
        let (socket, _) = client_async("ws://localhost/api/current", stream)
            .await
            .expect("a WebSocket");
        Client(socket)
    }

    async fn until(&self, what: &str, done: impl Fn(&Hub) -> bool) {
        let waiting = async {
            while !done(&self.hub) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect(what);
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        let ended = timeout(PATIENCE, &mut self.serving).await;
        ended
            .expect("serving ends")
            .expect("its task too")
            .expect("without an error");
        assert_eq!(self.hub.connections(), 0);
    }
}

struct Client(WebSocketStream<UnixStream>);

impl Client {
    async fn say(&mut self, message: Message) {
        self.0.send(message).await.expect("sent");
    }

    async fn hear(&mut self) -> Option<Message> {
        match timeout(PATIENCE, self.0.next()).await.expect("in time") {
            Some(Ok(message)) => Some(message),
            Some(Err(_)) | None => None,
        }
    }

    /// The next text, as JSON.
    async fn text(&mut self) -> Value {
        loop {
            match self.hear().await.expect("a message") {
                Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
                Message::Close(close) => panic!("closed: {close:?}"),
                _ => {}
            }
        }
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        let request = json!({"jsonrpc": "2.0", "method": method, "id": "x", "params": params});
        self.say(Message::text(request.to_string())).await;
        self.text().await
    }

    /// The code with which the server closes; anything before it is passed over.
    async fn close_code(&mut self) -> u16 {
        loop {
            match self.hear().await.expect("a close frame") {
                Message::Close(Some(close)) => return close.code.into(),
                Message::Close(None) => panic!("closed without a code"),
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn only_one_path_is_served() {
    let served = Served::start(Limits::default());
    for path in [
        "/",
        "/websocket",
        "/api/current/",
        "/api/v25.04.0",
        "/API/current",
    ] {
        let mut stream = served.raw().await;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        let reading = stream.read_to_string(&mut answer);
        timeout(PATIENCE, reading)
            .await
            .expect("in time")
            .expect("read");
        assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
        assert!(answer.ends_with("the API is at /api/current\n"), "{answer}");
    }
    served.client().await;
    served.stop().await;
}

#[tokio::test]
async fn the_recorded_handshake_of_other_clients_is_taken() {
    let served = Served::start(Limits::default());
    let mut stream = served.raw().await;
    let request = "GET /api/current HTTP/1.1\r\nUpgrade: websocket\r\nHost: localhost\r\n\
                   Origin: http://localhost\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Version: 13\r\nConnection: Upgrade\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = vec![0; 4096];
    let count = stream.read(&mut answer).await.expect("read");
    let answer = String::from_utf8_lossy(&answer[..count]).to_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    // The key and its answer are the example of RFC 6455, section 1.3.
    assert!(
        answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"),
        "{answer}"
    );
    served.stop().await;
}

#[tokio::test]
async fn messages_of_the_wrong_kind_close_the_connection() {
    let served = Served::start(Limits::default());
    let mut client = served.client().await;
    let ping = r#"{"jsonrpc": "2.0", "method": "core.ping", "id": 1}"#;
    let padded = |bytes: usize| format!("{ping}{}", " ".repeat(bytes - ping.len()));
    let fits = padded(65_536);
    client.say(Message::text(fits)).await;
    assert_eq!(client.text().await["result"], "pong");
    client.say(Message::text(padded(65_537))).await;
    assert_eq!(client.close_code().await, 1009);

    let mut client = served.client().await;
    client.say(Message::binary(ping.as_bytes().to_vec())).await;
    assert_eq!(client.close_code().await, 1003);

    // A masked text frame with the bytes ff fe, the mask being zero.
    let mut client = served.client().await;
    let raw = client.0.get_mut();
    raw.write_all(&[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe])
        .await
        .expect("sent");
    assert_eq!(client.close_code().await, 1007);

    // The same without a mask.
    let mut client = served.client().await;
    let raw = client.0.get_mut();
    raw.write_all(&[0x81, 0x02, b'{', b'}'])
        .await
        .expect("sent");
    assert_eq!(client.close_code().await, 1002);

    let mut client = served.client().await;
    client.say(Message::text("[1, 2")).await;
    assert_eq!(client.text().await["error"]["code"], -32700);
    let answer = client.call("core.ping", json!([])).await;
    assert_eq!(
        answer["result"], "pong",
        "a text that is no JSON closes nothing"
    );
    served.stop().await;
}

#[tokio::test]
async fn a_close_is_echoed_at_once() {
    let served = Served::start(Limits::default());
    let mut client = served.client().await;
    client.0.close(None).await.expect("sent");
    assert!(matches!(client.hear().await, Some(Message::Close(_))));
    served
        .until("the connection is gone", |hub| hub.connections() == 0)
        .await;
    served.stop().await;
}

#[tokio::test]
async fn calls_that_end_at_once_are_answered_in_order() {
    let served = Served::start(Limits::default());
    let mut client = served.client().await;
    for id in 0..200 {
        let request = json!({"jsonrpc": "2.0", "method": "failover.status", "id": id});
        client
            .0
            .feed(Message::text(request.to_string()))
            .await
            .expect("sent");
        client.0.flush().await.expect("sent");
    }
    for id in 0..200 {
        assert_eq!(client.text().await["id"], id);
    }
    served.stop().await;
}

#[tokio::test]
async fn the_file_is_replaced_only_when_nobody_answers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("s");
    let first = Socket::bind(&path).expect("the socket");
    let mode = fs::metadata(&path)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    assert!(matches!(Socket::bind(&path), Err(SocketError::InUse(_))));
    drop(first);
    assert!(!path.exists(), "the file goes with the socket");

    // Somebody who listens and accepts nobody: the daemon's start must not wait in the queue.
    let busy = tokio::net::UnixSocket::new_stream().expect("a socket");
    busy.bind(&path).expect("bound");
    let busy = busy.listen(0).expect("listens");
    let _waits = std::os::unix::net::UnixStream::connect(&path).expect("the queue's one place");
    assert!(matches!(Socket::bind(&path), Err(SocketError::InUse(_))));
    drop(busy);
    fs::remove_file(&path).expect("removed");

    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists(), "a killed daemon leaves its file");
    let second = Socket::bind(&path).expect("the stale file is replaced");
    // Somebody else's file by that name stays.
    fs::remove_file(&path).expect("removed");
    fs::write(&path, "precious").expect("written");
    drop(second);
    assert_eq!(fs::read_to_string(&path).expect("read"), "precious");
    let error = Socket::bind(&path).map(|_| ()).expect_err("in the way");
    assert!(matches!(error, SocketError::InTheWay(_)), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("read"), "precious");
    let nowhere = folder.path().join("none/s");
    let error = Socket::bind(&nowhere).map(|_| ()).expect_err("no folder");
    assert!(error.to_string().contains("cannot bind"), "{error}");
}

#[tokio::test]
async fn there_is_room_for_so_many_connections() {
    let limits = Limits {
        connections: 3,
        ..Limits::default()
    };
    let served = Served::start(limits);
    let clients = [
        served.client().await,
        served.client().await,
        served.client().await,
    ];
    let mut answer = String::new();
    let mut refused = served.raw().await;
    let reading = refused.read_to_string(&mut answer);
    timeout(PATIENCE, reading)
        .await
        .expect("in time")
        .expect("read");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    drop(clients);
    served
        .until("the connections are gone", |hub| hub.connections() == 0)
        .await;
    served.client().await;
    served.stop().await;
}

#[tokio::test]
async fn a_client_that_says_nothing_is_dropped() {
    let limits = Limits {
        handshake: Duration::from_millis(500),
        ping: Duration::from_millis(40),
        unanswered_pings: 10,
        send: Duration::from_secs(3600),
        ..Limits::default()
    };
    let served = Served::start(limits);
    // No upgrade at all.
    let mut stream = served.raw().await;
    let mut rest = Vec::new();
    let reading = stream.read_to_end(&mut rest);
    assert_eq!(
        timeout(PATIENCE, reading)
            .await
            .expect("in time")
            .expect("read"),
        0
    );
    // One that answers pings stays, one that doesn't goes.
    let mute = served.client().await;
    let mut alive = served.client().await;
    assert_eq!(served.hub.connections(), 2);
    let listening = async {
        let mut pings = 0;
        while served.hub.connections() == 2 || pings < 5 {
            if let Some(Message::Ping(_)) = alive.hear().await {
                pings += 1;
            }
        }
    };
    timeout(PATIENCE, listening)
        .await
        .expect("the mute client is dropped");
    assert_eq!(served.hub.connections(), 1);
    assert_eq!(alive.call("core.ping", json!([])).await["result"], "pong");
    drop(mute);
    served.stop().await;
}

#[tokio::test]
async fn a_slow_subscriber_is_dropped_and_delays_nobody() {
    // The full queue drops it, not the clock.
    let limits = Limits {
        send: Duration::from_secs(3600),
        ..Limits::default()
    };
    let served = Served::start(limits);
    let mut slow = served.client().await;
    let mut quick = served.client().await;
    for client in [&mut slow, &mut quick] {
        let answer = client
            .call("core.subscribe", json!(["failover.status"]))
            .await;
        assert!(answer["result"].is_string(), "{answer}");
    }
    let mut events = 0;
    while served.hub.connections() == 2 {
        assert!(events < 200_000, "the slow subscriber is never dropped");
        for status in [
            Status::Backup,
            Status::Electing,
            Status::Importing,
            Status::Master,
        ] {
            served.daemon.walk(&[status]);
            let event = quick.text().await;
            assert_eq!(event["method"], "collection_update");
            let expected = json!({
                "msg": "changed",
                "collection": "failover.status",
                "fields": {"status": status},
            });
            assert_eq!(event["params"], expected);
            events += 1;
        }
    }
    assert_eq!(quick.call("core.ping", json!([])).await["result"], "pong");
    served.stop().await;
}

#[tokio::test]
async fn events_go_to_those_who_want_them() {
    let served = Served::start(Limits::default());
    let mut all = served.client().await;
    let mut reasons = served.client().await;
    let mut none = served.client().await;
    all.call("core.subscribe", json!(["*"])).await;
    // Twice subscribed is told once.
    all.call("core.subscribe", json!(["failover.status"])).await;
    reasons
        .call("core.subscribe", json!(["failover.disabled.reasons"]))
        .await;
    let ended = none.call("core.subscribe", json!(["*"])).await["result"].clone();
    none.call("core.unsubscribe", json!([ended])).await;
    // What was never published is news, even if it is as it was when they subscribed.
    served.daemon.change(|_| {});
    let change = |report: &mut failover_api::StateReport| {
        report.disabled_reasons = vec![failover_api::DisabledReason::NoPong];
    };
    served.daemon.change(change);
    served.daemon.change(change);
    served.daemon.walk(&[Status::Master, Status::Error]);
    let seen = |event: Value| event["params"]["fields"].clone();
    for expected in [
        json!({"status": "MASTER"}),
        json!({"disabled_reasons": []}),
        json!({"disabled_reasons": ["NO_PONG"]}),
        json!({"status": "ERROR"}),
    ] {
        assert_eq!(seen(all.text().await), expected);
    }
    assert_eq!(seen(reasons.text().await), json!({"disabled_reasons": []}));
    assert_eq!(
        seen(reasons.text().await),
        json!({"disabled_reasons": ["NO_PONG"]})
    );
    for client in [&mut all, &mut reasons, &mut none] {
        assert_eq!(client.call("core.ping", json!([])).await["result"], "pong");
    }
    served.stop().await;
}

#[tokio::test]
async fn an_answer_never_overtakes_an_event() {
    let served = Served::start(Limits::default());
    let mut client = served.client().await;
    client
        .call("core.subscribe", json!(["failover.status"]))
        .await;
    for round in 0..100 {
        let status = [Status::Backup, Status::Master][round % 2];
        served.daemon.walk(&[status]);
        let event = client.call("failover.status", json!([])).await;
        assert_eq!(event["params"]["fields"], json!({"status": status}));
        assert_eq!(client.text().await["result"], json!(status));
    }
    served.stop().await;
}

#[tokio::test]
async fn who_would_miss_events_is_disconnected() {
    // Each connection has room for all events; the ring before them has not.
    let limits = Limits {
        waiting_events: 10_000,
        ..Limits::default()
    };
    let served = Served::start(limits);
    let mut subscriber = served.client().await;
    let mut other = served.client().await;
    subscriber.call("core.subscribe", json!(["*"])).await;
    // The runtime of this test has one thread: nothing is handed on during the loop, as if it starved.
    for _ in 0..2_000 {
        served.daemon.walk(&[Status::Backup, Status::Master]);
    }
    assert_eq!(subscriber.close_code().await, 1008);
    assert_eq!(other.call("core.ping", json!([])).await["result"], "pong");
    served.stop().await;
}

#[test]
fn publishing_never_waits() {
    let hub = Hub::new().expect("a hub");
    let mut report = crate::pretend::report();
    for round in 0..100_000u32 {
        report.status = [Status::Master, Status::Backup][round as usize % 2];
        hub.publish(&report);
    }
}

#[tokio::test]
async fn mutated_bytes_break_nothing() {
    let served = Served::start(Limits::default());
    let mut dice = Dice::new(42);
    for _ in 0..1_000 {
        let mut client = served.client().await;
        let raw = client.0.get_mut();
        let mut bytes = Vec::new();
        for _ in 0..=dice.below(3) {
            frame(&mut dice, &mut bytes);
        }
        if dice.below(2) == 0 {
            let at = dice.below(bytes.len());
            bytes[at] ^= 1 << dice.below(8);
        }
        if dice.below(4) == 0 {
            bytes.truncate(dice.below(bytes.len()));
        }
        let _ = raw.write_all(&bytes).await;
        if dice.below(2) == 0 {
            let mut heard = [0; 512];
            let _ = timeout(Duration::from_millis(1), raw.read(&mut heard)).await;
        }
    }
    served
        .until("every connection is gone", |hub| hub.connections() == 0)
        .await;
    let mut client = served.client().await;
    assert_eq!(client.call("core.ping", json!([])).await["result"], "pong");
    drop(client);
    served.stop().await;
}

/// A masked frame, mostly a text, with a mutated call in it.
fn frame(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let payload = mutated(dice).into_bytes();
    let kind = [0x81, 0x81, 0x81, 0x01, 0x80, 0x82, 0x88, 0x89, 0x8a][dice.below(9)];
    bytes.push(kind);
    match u16::try_from(payload.len()) {
        Ok(length) if length < 126 => bytes.push(0x80 | length as u8),
        Ok(length) => {
            bytes.push(0xfe);
            bytes.extend(length.to_be_bytes());
        }
        Err(_) => unreachable!("seeds are short"),
    }
    let mask = [
        dice.below(256) as u8,
        dice.below(256) as u8,
        dice.below(256) as u8,
        dice.below(256) as u8,
    ];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
}

//! JSON-RPC 2.0 frames, both ways, as text. Nothing here waits or keeps state.
//!
//! ```text
//!   client                                   server
//!     request() ── {"jsonrpc","method","id","params"} ──▶ parse_request()
//!     parse_message() ◀── {"jsonrpc","result","id"} ── result()
//!                     ◀── {"jsonrpc","error","id"}  ── error()
//!                     ◀── collection_update         ── changed()
//! ```

use crate::errors::RpcError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// A call, as the server reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// To be echoed as it came; `None` is a notification and is never answered.
    pub id: Option<Value>,
    /// Name of the method.
    pub method: String,
    /// Arguments by position.
    pub params: Vec<Value>,
}

/// Text that is no call: the answer it deserves.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    /// The id, as far as one could be read; else null.
    pub id: Value,
    /// What is wrong.
    pub error: RpcError,
}

/// Reads a call.
pub fn parse_request(text: &str) -> Result<Request, Rejected> {
    let reject = |id: Value, error| Err(Rejected { id, error });
    let mut envelope = match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(envelope)) => envelope,
        Ok(Value::Array(_)) => {
            let error = RpcError::parse("Batch messages are not supported at this time");
            return reject(Value::Null, error);
        }
        Ok(_) => return reject(Value::Null, RpcError::request("Message must be an object")),
        Err(error) => {
            let error = RpcError::parse(format!("Invalid JSON: {error}"));
            return reject(Value::Null, error);
        }
    };
    let id = envelope.remove("id");
    let echo = match &id {
        None | Some(Value::Null) => Value::Null,
        Some(Value::String(_)) => id.clone().unwrap_or_default(),
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => {
            id.clone().unwrap_or_default()
        }
        Some(_) => {
            let error = RpcError::request("'id' must be null, an integer or a string");
            return reject(Value::Null, error);
        }
    };
    if envelope.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return reject(echo, RpcError::request("'jsonrpc' must be \"2.0\""));
    }
    let Some(Value::String(method)) = envelope.remove("method") else {
        return reject(echo, RpcError::request("'method' must be a string"));
    };
    match envelope.remove("params") {
        None => Ok(Request {
            id,
            method,
            params: Vec::new(),
        }),
        Some(Value::Array(params)) => Ok(Request { id, method, params }),
        Some(_) => reject(echo, RpcError::request("'params' must be an array")),
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a RpcError>,
    id: &'a Value,
}

#[derive(Serialize)]
struct Outgoing<'a, P: Serialize> {
    jsonrpc: &'static str,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    params: P,
}

/// Values of these types always have a text; the error is only formally possible.
fn text<T: Serialize>(frame: &T) -> String {
    serde_json::to_string(frame).unwrap_or_default()
}

/// The answer to a call that succeeded.
pub fn result(id: &Value, result: &Value) -> String {
    text(&Answer {
        jsonrpc: "2.0",
        result: Some(result),
        error: None,
        id,
    })
}

/// The answer to a call that failed.
pub fn error(id: &Value, error: &RpcError) -> String {
    text(&Answer {
        jsonrpc: "2.0",
        result: None,
        error: Some(error),
        id,
    })
}

/// A call.
pub fn request(id: &str, method: &str, params: &[Value]) -> String {
    text(&Outgoing {
        jsonrpc: "2.0",
        method,
        id: Some(id),
        params,
    })
}

/// The notice of an event without an id: something has changed.
pub fn changed(collection: &str, fields: Value) -> String {
    text(&Outgoing {
        jsonrpc: "2.0",
        method: "collection_update",
        id: None,
        params: EventParams {
            msg: "changed".to_owned(),
            collection: collection.to_owned(),
            fields: Some(fields),
            rest: Map::new(),
        },
    })
}

/// What an event says (`params` of `collection_update`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventParams {
    /// `added`, `changed` or `removed`.
    pub msg: String,
    /// Name of the event.
    pub collection: String,
    /// What it is about; absent for `removed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Value>,
    /// `id`, `extra` and what may be added later.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Anything that a server sends, as a client reads it.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The answer to a call.
    Answer {
        /// Of which call; null if the server couldn't tell.
        id: Value,
        /// Its result or error.
        answer: Result<Value, RemoteError>,
    },
    /// An event.
    Event(EventParams),
    /// A subscription has ended.
    Unsubscribed {
        /// Name of the event.
        collection: String,
        /// Why, if it wasn't asked for.
        error: Value,
    },
    /// A notice that this client doesn't know.
    Other(String),
}

/// An error as a client receives it, from whatever server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RemoteError {
    /// Code.
    pub code: i64,
    /// Message.
    #[serde(default)]
    pub message: String,
    /// `error`, `errname`, `reason`, `trace`, `extra`, where the server sent them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = self.data.as_ref().and_then(|data| data.get("reason"));
        let reason = reason.and_then(Value::as_str).unwrap_or(&self.message);
        f.write_str(reason.trim_end())
    }
}

/// Reads a server's message. The error says what is wrong with it.
pub fn parse_message(text: &str) -> Result<Message, String> {
    let mut envelope: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("is no JSON object: {error}"))?;
    if let Some(Value::String(method)) = envelope.remove("method") {
        let params = envelope.remove("params").unwrap_or_default();
        return match method.as_str() {
            "collection_update" => serde_json::from_value(params)
                .map(Message::Event)
                .map_err(|error| format!("is an event without its parts: {error}")),
            "notify_unsubscribed" => Ok(Message::Unsubscribed {
                collection: params
                    .get("collection")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned(),
                error: params.get("error").cloned().unwrap_or_default(),
            }),
            _ => Ok(Message::Other(method)),
        };
    }
    let id = envelope.remove("id").unwrap_or_default();
    match (envelope.remove("result"), envelope.remove("error")) {
        (_, Some(error)) if !error.is_null() => serde_json::from_value(error)
            .map(|error| Message::Answer {
                id,
                answer: Err(error),
            })
            .map_err(|error| format!("is an error without a code: {error}")),
        (Some(result), _) => Ok(Message::Answer {
            id,
            answer: Ok(result),
        }),
        _ => Err("has neither a method nor a result nor an error".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::Code;
    use serde_json::json;

    #[test]
    fn calls_survive_the_way() {
        let text = request("7", "failover.update", &[json!({"timeout": 5})]);
        let read = parse_request(&text).expect("a call");
        assert_eq!(read.id, Some(json!("7")));
        assert_eq!(read.method, "failover.update");
        assert_eq!(read.params, [json!({"timeout": 5})]);
    }

    #[test]
    fn answers_survive_the_way() {
        for value in [json!(null), json!("MASTER"), json!([1, 2])] {
            let read = parse_message(&result(&json!("7"), &value));
            let answer = Ok(value);
            assert_eq!(
                read,
                Ok(Message::Answer {
                    id: json!("7"),
                    answer
                })
            );
        }
        let text = error(&json!(7), &RpcError::call(16, "wait"));
        let Ok(Message::Answer {
            answer: Err(error), ..
        }) = parse_message(&text)
        else {
            panic!("{text}");
        };
        assert_eq!(error.code, i64::from(Code::Call.number()));
        assert_eq!(error.to_string(), "[EBUSY] wait");
    }

    #[test]
    fn events_survive_the_way() {
        let text = changed("failover.status", json!({"status": "MASTER"}));
        assert_eq!(
            text,
            r#"{"jsonrpc":"2.0","method":"collection_update","params":{"msg":"changed","collection":"failover.status","fields":{"status":"MASTER"}}}"#
        );
        let Ok(Message::Event(event)) = parse_message(&text) else {
            panic!("{text}");
        };
        assert_eq!(event.fields, Some(json!({"status": "MASTER"})));
        // Whatever else an event carries is kept.
        let text = r#"{"jsonrpc":"2.0","method":"collection_update","params":{"msg":"removed","collection":"x","id":5,"extra":{"a":1}}}"#;
        let Ok(Message::Event(event)) = parse_message(text) else {
            panic!("{text}");
        };
        assert_eq!(event.fields, None);
        assert_eq!(
            json!(event),
            json!({"msg": "removed", "collection": "x", "id": 5, "extra": {"a": 1}})
        );
    }

    #[test]
    fn ends_of_subscriptions_and_unknown_notices_are_told_apart() {
        let text = r#"{"method":"notify_unsubscribed","params":{"collection":"x","error":null}}"#;
        assert_eq!(
            parse_message(text),
            Ok(Message::Unsubscribed {
                collection: "x".to_owned(),
                error: Value::Null
            })
        );
        assert_eq!(
            parse_message(r#"{"method":"of_tomorrow"}"#),
            Ok(Message::Other("of_tomorrow".to_owned()))
        );
    }

    #[test]
    fn malformed_messages_are_never_taken_for_success() {
        for text in [
            "",
            "[]",
            "null",
            "{}",
            r#"{"id":1}"#,
            r#"{"id":1,"error":null}"#,
            r#"{"id":1,"error":{}}"#,
            r#"{"id":1,"error":"bad"}"#,
            r#"{"id":1,"result":true,"error":{"message":"x"}}"#,
            r#"{"method":"collection_update"}"#,
            r#"{"method":"collection_update","params":{"collection":"x"}}"#,
        ] {
            assert!(parse_message(text).is_err(), "{text}");
        }
        // An error wins over a result, and a code that nobody knows is still an error.
        let text = r#"{"id":1,"result":true,"error":{"code":5}}"#;
        assert!(matches!(
            parse_message(text),
            Ok(Message::Answer { answer: Err(_), .. })
        ));
    }
}

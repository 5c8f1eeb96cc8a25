//! One function per command.

use crate::client::{Connection, Failure};
use crate::terminal::Terminal;
use crate::{Global, fence, history, incident, methods, status};
use failover_api::methods::{Client, METHODS, Method};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// Of JSON on standard input; the daemon takes no longer messages.
const STDIN_BYTES: u64 = 65_536;

/// `midctl status`.
pub async fn status(global: &Global) -> Result<(), Failure> {
    let mut connection = open(global).await?;
    if global.json {
        let state = connection.call("failover.state", Vec::new()).await?;
        print(&one_line(&state))?;
    } else {
        let state = connection.failover_state().await?;
        print(&status::view(&state, Terminal::stdout()))?;
    }
    connection.close().await;
    Ok(())
}

/// `midctl fence status`.
pub async fn fence_status(global: &Global) -> Result<(), Failure> {
    let mut connection = open(global).await?;
    if global.json {
        let seen = connection.call("failover.fence.status", Vec::new()).await?;
        print(&one_line(&seen))?;
    } else {
        let seen = connection.failover_fence_status().await?;
        print(&fence::view(&seen, Terminal::stdout()))?;
    }
    connection.close().await;
    Ok(())
}

/// `midctl history`.
pub async fn history(global: &Global, number: u32, evidence: bool) -> Result<(), Failure> {
    let mut connection = open(global).await?;
    if global.json {
        let records = connection
            .call("failover.history", vec![json!(number)])
            .await?;
        print(&one_line(&records))?;
    } else {
        let records = connection.failover_history(Some(number)).await?;
        print(&history::view(&records, evidence, Terminal::stdout()))?;
    }
    connection.close().await;
    Ok(())
}

/// `midctl incident list`.
pub async fn incidents(global: &Global) -> Result<(), Failure> {
    let mut connection = open(global).await?;
    let kept = connection.failover_incident_list().await?;
    print(&match global.json {
        true => one_line(&kept),
        false => incident::view(&kept, Terminal::stdout()),
    })?;
    connection.close().await;
    Ok(())
}

/// `midctl incident export`.
pub async fn export_incident(
    global: &Global,
    name: Option<&str>,
    file: Option<&Path>,
) -> Result<(), Failure> {
    let mut connection = open(global).await?;
    let (path, bytes) = incident::export(&mut connection, name, file).await?;
    let path = path.display().to_string();
    print(&match global.json {
        true => one_line(&json!({ "file": path, "bytes": bytes })),
        false => format!(
            "{path}: {} KiB; `failoverd replay {path}` makes its decisions again",
            bytes.div_ceil(1024)
        ),
    })?;
    connection.close().await;
    Ok(())
}

/// `midctl call`.
pub async fn call(global: &Global, method: &str, arguments: &[String]) -> Result<(), Failure> {
    let params = read_arguments(arguments)?;
    let mut connection = open(global).await?;
    let result = connection.call(method, params).await?;
    print_result(global, &result)?;
    connection.close().await;
    Ok(())
}

/// `midctl ping`.
pub async fn ping(global: &Global) -> Result<(), Failure> {
    let mut connection = open(global).await?;
    let pong = connection.core_ping().await?;
    print_result(global, &json!(pong))?;
    connection.close().await;
    Ok(())
}

/// `midctl subscribe`.
pub async fn subscribe(
    global: &Global,
    event: &str,
    number: Option<u64>,
    during: Option<Duration>,
) -> Result<(), Failure> {
    let mut connection = open(global).await?;
    connection.core_subscribe(event.to_owned()).await?;
    let until = during.map(|during| Instant::now() + during);
    let mut seen = 0;
    while number.is_none_or(|number| seen < number) {
        match connection.next_event(until).await? {
            Some(event) => print(&one_line(&event))?,
            None => break,
        }
        seen += 1;
    }
    connection.close().await;
    match number {
        Some(number) if seen < number => Err(Failure::Timeout(format!(
            "{event}: {seen} of {number} events came in time"
        ))),
        _ => Ok(()),
    }
}

/// `midctl methods`.
pub fn methods(global: &Global, method: Option<&str>) -> Result<(), Failure> {
    let found = method
        .map(|name| {
            Method::find(name).ok_or_else(|| {
                Failure::Usage(format!(
                    "there is no method {name}; `midctl methods` lists them"
                ))
            })
        })
        .transpose()?;
    let terminal = Terminal::stdout();
    print(&match (found, global.json) {
        (Some(method), true) => one_line(&method.describe()),
        (Some(method), false) => methods::explain(method, terminal),
        (None, true) => {
            let all = METHODS
                .iter()
                .map(|method| (method.name, method.describe()));
            one_line(&all.collect::<BTreeMap<_, _>>())
        }
        (None, false) => methods::list(terminal),
    })
}

async fn open(global: &Global) -> Result<Connection, Failure> {
    Connection::open(&global.socket, global.timeout).await
}

/// JSON where it is JSON, else a string; `-` reads one JSON value from standard input.
fn read_arguments(arguments: &[String]) -> Result<Vec<Value>, Failure> {
    let mut stdin_read = false;
    let mut params = Vec::new();
    for argument in arguments {
        params.push(match argument.as_str() {
            "-" if stdin_read => {
                return Err(Failure::Usage(
                    "standard input can be read for one argument only".to_owned(),
                ));
            }
            "-" => {
                stdin_read = true;
                read_stdin()?
            }
            text => read_argument(text)?,
        });
    }
    Ok(params)
}

fn read_argument(text: &str) -> Result<Value, Failure> {
    match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        // A string would be taken, but nobody means that: quotes were eaten by the shell most likely.
        Err(error) if text.starts_with(['{', '[', '"']) => Err(Failure::Usage(format!(
            "{text} is no JSON: {error}; put single quotes around it, as in '{{\"disabled\": true}}'"
        ))),
        Err(_) => Ok(Value::String(text.to_owned())),
    }
}

fn read_stdin() -> Result<Value, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(STDIN_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| Failure::Usage(format!("standard input: {error}")))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::Usage(format!("standard input is no JSON value: {error}")))
}

fn print_result(global: &Global, result: &Value) -> Result<(), Failure> {
    print(&match result {
        Value::String(text) if !global.json => text.clone(),
        other => one_line(other),
    })
}

fn one_line<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Prints a text and a line end at once. A reader that went away (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let text = text.trim_end_matches('\n');
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::Usage(format!("cannot write the result: {error}"))),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_json_where_they_are_json() {
        let read = |text: &str| read_argument(text).expect(text);
        assert_eq!(read("true"), json!(true));
        assert_eq!(read("-5"), json!(-5));
        assert_eq!(read(r#"{"disabled": true}"#), json!({"disabled": true}));
        assert_eq!(read("failover.status"), json!("failover.status"));
        assert_eq!(read(r#""true""#), json!("true"));
        assert_eq!(
            read_argument("{disabled: true}").unwrap_err().exit_code(),
            2
        );
    }
}

//! Incidents: what is kept of the time around a decision, brought to wherever it is to be replayed.

use crate::client::{Connection, Failure};
use crate::render;
use crate::terminal::Terminal;
use failover_api::Incident;
use failover_api::methods::Client as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// No daemon keeps a longer one.
const INCIDENT_MAX_BYTES: u64 = 512 * 1024 * 1024;

/// The table of `midctl incident list`.
pub fn view(incidents: &[Incident], terminal: Terminal) -> String {
    if incidents.is_empty() {
        return "no incident is kept here\n".to_owned();
    }
    let mut table = render::table(terminal);
    table.set_header(["INCIDENT", "KIB"]);
    for incident in incidents {
        let kib = incident.bytes.div_ceil(1024).to_string();
        table.add_row([&incident.name, &kib]);
    }
    render::show(&mut table)
}

/// Writes an incident into a new file that only its owner can read; where none is named, what is recorded now. Answers with
/// the file and its length.
pub async fn export(
    connection: &mut Connection,
    name: Option<&str>,
    file: Option<&Path>,
) -> Result<(PathBuf, u64), Failure> {
    let path = match (file, name) {
        (Some(file), _) => file.to_owned(),
        // The names are a daemon's: no path of ours.
        (None, Some(name)) => PathBuf::from(format!("{}.log", name.replace('/', "_"))),
        (None, None) => PathBuf::from("incident.log"),
    };
    // Before anything is kept there.
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    let mut out = options
        .open(&path)
        .map_err(|error| unwritten(&path, &error))?;
    let written = fetch(connection, name, &mut out, &path).await;
    if written.is_err() {
        let _ = std::fs::remove_file(&path);
    }
    Ok((path, written?))
}

async fn fetch(
    connection: &mut Connection,
    name: Option<&str>,
    out: &mut File,
    path: &Path,
) -> Result<u64, Failure> {
    let name = match name {
        Some(name) => name.to_owned(),
        None => connection.failover_incident_keep().await?,
    };
    let first = connection.failover_incident_read(name.clone(), 0).await?;
    copy(connection, &name, first, out, path).await
}

async fn copy(
    connection: &mut Connection,
    name: &str,
    mut part: failover_api::IncidentPart,
    out: &mut File,
    path: &Path,
) -> Result<u64, Failure> {
    let mut written = 0;
    loop {
        let bytes = from_hex(&part.hex).ok_or_else(|| {
            Failure::Malformed("a part of an incident that is no hexadecimal text".to_owned())
        })?;
        out.write_all(&bytes)
            .map_err(|error| unwritten(path, &error))?;
        written += bytes.len() as u64;
        if written >= part.length {
            return Ok(written);
        }
        if bytes.is_empty() || part.length > INCIDENT_MAX_BYTES {
            let text = format!("incident {name}: it can't have {} bytes", part.length);
            return Err(Failure::Malformed(text));
        }
        // Its length is bounded: it fits.
        let offset = u32::try_from(written).unwrap_or(u32::MAX);
        part = connection
            .failover_incident_read(name.to_owned(), offset)
            .await?;
    }
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    let path = path.display();
    Failure::Usage(format!("{path}: {error}; name another file with --file"))
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_become_bytes() {
        assert_eq!(from_hex("00ff7a"), Some(vec![0, 255, 122]));
        assert_eq!(from_hex(""), Some(Vec::new()));
        for wrong in ["0", "0g", "é0"] {
            assert_eq!(from_hex(wrong), None, "{wrong}");
        }
    }
}

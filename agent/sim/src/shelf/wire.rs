//! Frames between the shelf and its clients: length (u32), request number (u64), JSON body; all big-endian.
//!
//! A client may have many requests in flight; answers carry the request's number and come in any order.

use super::log::{ImportMark, LogPart, Record};
use failover_core::ids::Node;
use failover_core::pr::{PrCommand, PrError, PrReply};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Greatest body of a frame.
pub const BODY_MAX: usize = 16 << 20;
/// Greatest number of records in one answer.
pub const RECORDS_MAX: usize = 20_000;
const HEADER: usize = 12;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// First frame of each connection: which path it is. Without a node: the driver's connection.
    Hello {
        /// Node and number of its path.
        nexus: Option<(Node, u8)>,
    },
    /// A reservation command.
    Reserve {
        /// Number of the disk.
        disk: u32,
        /// The command.
        command: PrCommand,
    },
    /// Write records that follow each other, in one command.
    Append {
        /// Number of the disk.
        disk: u32,
        /// The records.
        records: Vec<Record>,
    },
    /// Read the last records of one disk.
    Tail {
        /// Number of the disk.
        disk: u32,
        /// How many at most.
        count: u32,
    },
    /// An import begins.
    ImportBegins,
    /// Driver: drop every connection of this node and take no new one.
    Cut {
        /// Whose paths.
        node: Node,
    },
    /// Driver: take this node's connections again.
    Mend {
        /// Whose paths.
        node: Node,
    },
    /// Driver: what landed on a disk since the count `from`; forgets what is older than the tail that imports need.
    Audit {
        /// Number of the disk.
        disk: u32,
        /// Count of writes seen already.
        from: u64,
    },
    /// Driver: every import that began, and how many writes were refused for each node.
    Marks,
}

/// What the shelf answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Good,
    /// To `Reserve` and `Append`.
    Disk(Result<PrReply, PrError>),
    /// To `Tail`.
    Records(Vec<Record>),
    /// To `Audit`.
    Log(LogPart),
    /// To `Marks`.
    Marks {
        /// In their order.
        imports: Vec<ImportMark>,
        /// Records refused or aborted, of A and of B.
        refused: [u64; 2],
    },
    /// The request makes no sense; the sentence says why.
    Refused(String),
}

/// One frame's bytes.
pub fn encode<T: Serialize>(number: u64, body: &T) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    // Writing plain data into a Vec has nothing that could fail.
    if serde_json::to_writer(&mut bytes, body).is_err() {
        bytes.truncate(HEADER);
    }
    let length = (bytes.len() - HEADER) as u32;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes[4..HEADER].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// Takes the first whole frame off `buffer`; `None` if it isn't whole yet.
pub fn take<T: DeserializeOwned>(buffer: &mut Vec<u8>) -> Result<Option<(u64, T)>, String> {
    let Some((header, rest)) = buffer.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let mut length = [0; 4];
    length.copy_from_slice(&header[..4]);
    let length = u32::from_be_bytes(length) as usize;
    if length > BODY_MAX {
        return Err(format!(
            "a frame of {length} bytes; at most {BODY_MAX} are taken"
        ));
    }
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    let mut number = [0; 8];
    number.copy_from_slice(&header[4..]);
    let parsed = serde_json::from_slice(body).map_err(|error| format!("a frame's body: {error}"));
    buffer.drain(..HEADER + length);
    Ok(Some((u64::from_be_bytes(number), parsed?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_they_are_cut() {
        let request = Request::Append {
            disk: 3,
            records: vec![Record::new(7, 9, "payload".to_owned())],
        };
        let mut bytes = encode(5, &request);
        bytes.extend(encode(6, &Request::ImportBegins));
        let mut buffer = Vec::new();
        let mut seen = Vec::new();
        for byte in bytes {
            buffer.push(byte);
            while let Some(frame) = take::<Request>(&mut buffer).expect("valid frames") {
                seen.push(frame);
            }
        }
        assert_eq!(seen, vec![(5, request), (6, Request::ImportBegins)]);
    }

    #[test]
    fn an_absurd_length_is_refused() {
        let mut buffer = vec![0xff; 40];
        assert!(take::<Request>(&mut buffer).is_err());
        let mut buffer = vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, b'x'];
        assert!(take::<Request>(&mut buffer).is_err());
    }
}

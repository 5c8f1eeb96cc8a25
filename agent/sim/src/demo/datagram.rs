//! What the client and the service send each other: one UDP datagram per record, one per acknowledgement.

use crate::shelf::log::checksum;
use failover_core::ids::Node;

/// UDP port of the service on the virtual address.
pub const PORT: u16 = 7777;
/// Longest payload of a record.
pub const PAYLOAD_MAX: usize = 128;
/// Room for any datagram of this protocol.
pub const DATAGRAM_MAX: usize = 256;

const ASK: &[u8; 4] = b"REC?";
const ACK: &[u8; 4] = b"ACK!";

/// A record on its way to the service.
pub fn encode_ask(number: u64, payload: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + payload.len());
    bytes.extend_from_slice(ASK);
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&checksum(number, payload.as_bytes()).to_be_bytes());
    bytes.extend_from_slice(payload.as_bytes());
    bytes
}

/// Number and payload of a record; `None` if it isn't one or its checksum is wrong.
pub fn decode_ask(bytes: &[u8]) -> Option<(u64, String)> {
    let rest = bytes.strip_prefix(ASK)?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let (sum, payload) = rest.split_first_chunk::<8>()?;
    let number = u64::from_be_bytes(*number);
    let whole = checksum(number, payload) == u64::from_be_bytes(*sum);
    if !whole || number == 0 || payload.len() > PAYLOAD_MAX {
        return None;
    }
    let payload = std::str::from_utf8(payload).ok()?;
    Some((number, payload.to_owned()))
}

/// An acknowledgement: this record is on the disks; `node` put it there or found it there.
pub fn encode_ack(number: u64, node: Node) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(13);
    bytes.extend_from_slice(ACK);
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.push(node as u8);
    bytes
}

/// Number and node of an acknowledgement.
pub fn decode_ack(bytes: &[u8]) -> Option<(u64, Node)> {
    let rest = bytes.strip_prefix(ACK)?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let node = match rest {
        [0] => Node::A,
        [1] => Node::B,
        _ => return None,
    };
    Some((u64::from_be_bytes(*number), node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_survive_their_bytes() {
        let ask = encode_ask(7, "seven");
        assert_eq!(decode_ask(&ask), Some((7, "seven".to_owned())));
        let mut damaged = ask.clone();
        damaged[21] ^= 1;
        assert_eq!(decode_ask(&damaged), None);
        assert_eq!(decode_ask(&ask[..15]), None);
        assert_eq!(decode_ack(&encode_ack(9, Node::B)), Some((9, Node::B)));
        assert_eq!(decode_ack(&ask), None);
    }
}

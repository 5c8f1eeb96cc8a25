//! Ids by which journald's catalogue knows our messages (`journalctl -x`, `man journalctl`, "MESSAGE_ID").

use ring::digest;

/// Namespace of the ids; systemd/failoverd.catalog is written with the same one.
const NAMESPACE: u128 = 0x7b1d_5c0e_52a6_4f0d_9a3e_6c1f_0e8d_2b47;

/// The id of a message's name: its version 5 UUID (RFC 9562, section 5.5) as 32 hexadecimal digits, the form of
/// journald's `MESSAGE_ID=`.
pub fn message_id(name: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(&NAMESPACE.to_be_bytes());
    context.update(name.as_bytes());
    let digest = context.finish();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_ref()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x50;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    format!("{:032x}", u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_one_of_the_catalogue() {
        let uuid = uuid::Uuid::parse_str(&message_id("STATE")).expect("a UUID");
        assert_eq!(uuid.get_version_num(), 5);
        assert_eq!(message_id("STATE"), "0348b3bc16ba5e128f9c49355a142529");
        assert_eq!(message_id("HALT"), "4d62d5fb4db750fa809c2bc246ddabfd");
    }
}

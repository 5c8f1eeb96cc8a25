//! The key of the pair: a file of 32 random bytes that only its owner can read.

use ring::hmac;
use ring::rand::SecureRandom;
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Length of the key, bytes.
pub const KEY_BYTES: usize = 32;

/// The key, ready to sign with.
#[derive(Clone)]
pub struct PairKey {
    signing: hmac::Key,
    pair: [u8; 16],
}

/// Why a key file was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyError {
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.problem, self.remedy)
    }
}

impl std::error::Error for KeyError {}

impl PairKey {
    /// The key made of these bytes.
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> PairKey {
        // Two uses, two keys: the pair's id is public, the signing key isn't.
        let root = hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let signing = hmac::sign(&root, b"failoverd beat signing");
        let id = hmac::sign(&root, b"failoverd pair id");
        let mut pair = [0; 16];
        pair.copy_from_slice(&id.as_ref()[..16]);
        PairKey {
            signing: hmac::Key::new(hmac::HMAC_SHA256, signing.as_ref()),
            pair,
        }
    }

    /// Reads a key file; refuses one that others can read or that has another length.
    pub fn read(path: &Path) -> Result<PairKey, KeyError> {
        let refuse = |problem: String, remedy: &str| KeyError {
            problem: format!("{}: {problem}", path.display()),
            remedy: remedy.to_owned(),
        };
        let make = "make one with `failoverd new-key FILE` and copy it to the other controller";
        let unreadable = |error: std::io::Error| refuse(format!("can't be read: {error}"), make);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)
            .map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        if !meta.is_file() {
            return Err(refuse("not a regular file".to_owned(), make));
        }
        if meta.mode() & 0o077 != 0 {
            let problem = format!("others may use it (mode {:04o})", meta.mode() & 0o7777);
            return Err(refuse(
                problem,
                "`chmod 600` it, and make a new one if anybody read it",
            ));
        }
        if meta.len() != KEY_BYTES as u64 {
            let problem = format!("{} bytes long, a key has {KEY_BYTES}", meta.len());
            return Err(refuse(problem, make));
        }
        let mut bytes = [0; KEY_BYTES];
        file.read_exact(&mut bytes).map_err(unreadable)?;
        if bytes == [0; KEY_BYTES] {
            return Err(refuse("all bytes are zero".to_owned(), make));
        }
        Ok(PairKey::from_bytes(&bytes))
    }

    /// Writes a new random key, mode 0600; never over an existing file.
    pub fn create(path: &Path) -> Result<(), KeyError> {
        let refuse = |problem: String, remedy: &str| KeyError {
            problem: format!("{}: {problem}", path.display()),
            remedy: remedy.to_owned(),
        };
        let mut bytes = [0; KEY_BYTES];
        ring::rand::SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| refuse("the kernel gave no random bytes".to_owned(), "try again"))?;
        let mut options = std::fs::OpenOptions::new();
        let opened = options.write(true).create_new(true).mode(0o600).open(path);
        let mut file = opened.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => refuse(
                "exists already and is not overwritten".to_owned(),
                "choose another name; both controllers must be given the new key together",
            ),
            _ => refuse(format!("can't be made: {error}"), "check the folder"),
        })?;
        let written = file.write_all(&bytes).and_then(|()| file.sync_all());
        written.map_err(|error| {
            // A half-written key would only be refused later.
            let _ = std::fs::remove_file(path);
            refuse(
                format!("can't be written: {error}"),
                "make room and try again",
            )
        })
    }

    /// Id of the pair, in every beat's header: derived from the key, tells nothing about it.
    pub fn pair_id(&self) -> [u8; 16] {
        self.pair
    }

    /// 16 bits of the pair id, for the registration keys.
    pub fn tag(&self) -> u16 {
        u16::from_be_bytes([self.pair[0], self.pair[1]])
    }

    /// The authentication tag of `bytes`.
    pub fn sign(&self, bytes: &[u8]) -> [u8; 32] {
        let mut tag = [0; 32];
        tag.copy_from_slice(hmac::sign(&self.signing, bytes).as_ref());
        tag
    }

    /// Whether `tag` is the one of `bytes`; takes the same time for every wrong tag.
    pub fn verify(&self, bytes: &[u8], tag: &[u8]) -> bool {
        hmac::verify(&self.signing, bytes, tag).is_ok()
    }
}

impl fmt::Debug for PairKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PairKey(pair {:02x}{:02x}…)", self.pair[0], self.pair[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_new_key_is_private_and_never_overwritten() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("pair.key");
        PairKey::create(&path).expect("a new key");
        let mode = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o600);
        let key = PairKey::read(&path).expect("readable");
        assert!(key.verify(b"beat", &key.sign(b"beat")));
        assert!(!key.verify(b"beaT", &key.sign(b"beat")));
        let error = PairKey::create(&path).expect_err("not overwritten");
        assert!(error.problem.contains("exists already"), "{error}");
    }

    #[test]
    fn a_key_that_others_can_read_or_of_another_length_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("pair.key");
        PairKey::create(&path).expect("a new key");
        for mode in [0o640, 0o604, 0o620, 0o660] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
            let error = PairKey::read(&path).expect_err("refused");
            assert!(error.remedy.contains("chmod 600"), "{error}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        std::fs::write(&path, [7; 31]).expect("shorter");
        let error = PairKey::read(&path).expect_err("refused");
        assert!(error.problem.contains("31 bytes"), "{error}");
    }
}

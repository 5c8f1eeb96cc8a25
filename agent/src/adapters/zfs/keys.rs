//! Keys of encrypted datasets: files that root alone can read. A key never passes through this process or a command
//! line: ZFS reads the file itself.

use super::ZfsPool;
use super::datasets::Dataset;
use nix::fcntl::OFlag;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of a key: 32 raw, 64 hexadecimal, or a passphrase of up to 512.
const KEY_MAX: u64 = 4096;

/// What is to be done for one encryption root whose key isn't loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyPlan {
    /// Load it from this file.
    Load(PathBuf),
    /// It may stay locked, and there is no key for it.
    Leave,
}

/// Where the key of `root` comes from: the configuration's entry, the key store, then the dataset's own `keylocation`.
///
/// # Errors
/// There is none, or its file can't be used.
pub(crate) fn plan(pool: &ZfsPool, root: &Dataset) -> Result<KeyPlan, String> {
    let named = pool.keys.iter().find(|key| key.dataset == root.name);
    if let Some(key) = named {
        check(&key.file)?;
        return Ok(KeyPlan::Load(key.file.clone()));
    }
    let stored = stored(pool, &root.name);
    if is_there(&stored)? {
        check(&stored)?;
        return Ok(KeyPlan::Load(stored));
    }
    let own = root
        .key_location
        .as_deref()
        .and_then(|place| place.strip_prefix("file://"));
    if let Some(own) = own.map(Path::new)
        && is_there(own)?
    {
        check(own)?;
        return Ok(KeyPlan::Load(own.to_owned()));
    }
    if pool.may_stay_locked.contains(&root.name) {
        return Ok(KeyPlan::Leave);
    }
    Err(format!(
        "there is no key for {}: put it into {} (mode 600), name its file under [[pools.keys]], or add the dataset to \
         may_stay_locked",
        root.name,
        stored.display()
    ))
}

/// File of a dataset in the key store.
fn stored(pool: &ZfsPool, dataset: &str) -> PathBuf {
    pool.key_store.join(format!("{dataset}.key"))
}

fn is_there(file: &Path) -> Result<bool, String> {
    match std::fs::symlink_metadata(file) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(error) => Err(format!("key file {}: {error}", file.display())),
    }
}

/// A plain file of root's that nobody else can read or write, neither empty nor large.
pub(crate) fn check(file: &Path) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("key file {}: {what}", file.display()));
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits())
        .open(file);
    let metadata = match opened.and_then(|file| file.metadata()) {
        Ok(metadata) => metadata,
        Err(error) => return wrong(&error.to_string()),
    };
    if !metadata.is_file() {
        return wrong("it is no plain file");
    }
    let owner = metadata.uid();
    if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
        return wrong(&format!("it belongs to user {owner}: `chown root` it"));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return wrong(&format!(
            "others than its owner may use it (mode {mode:o}): `chmod 600` it, and use a new key if it was read"
        ));
    }
    match metadata.len() {
        0 => wrong("it is empty"),
        1..=KEY_MAX => Ok(()),
        _ => wrong("it is too large for a key"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KeyFile;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn write(path: &Path, mode: u32) {
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, "a passphrase").expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    }

    fn root(location: &str) -> Dataset {
        Dataset {
            name: "tank/p".to_owned(),
            is_volume: false,
            mountpoint: None,
            canmount: true,
            is_locked: true,
            encryption_root: Some("tank/p".to_owned()),
            key_location: Some(location.to_owned()),
            is_shared: false,
            hidden_volume: false,
        }
    }

    #[test]
    fn keys_are_found_in_their_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut pool = ZfsPool {
            name: "tank".to_owned(),
            guid: 1,
            disks: Vec::new(),
            key_store: folder.path().join("store"),
            keys: Vec::new(),
            may_stay_locked: Vec::new(),
        };
        let own = folder.path().join("own");
        let location = format!("file://{}", own.display());
        let found = plan(&pool, &root(&location)).expect_err("no key");
        assert!(found.contains("store/tank/p.key"), "{found}");
        pool.may_stay_locked = vec!["tank/p".to_owned()];
        assert_eq!(plan(&pool, &root("prompt")), Ok(KeyPlan::Leave));
        write(&own, 0o600);
        assert_eq!(plan(&pool, &root(&location)), Ok(KeyPlan::Load(own)));
        let stored = folder.path().join("store/tank/p.key");
        write(&stored, 0o400);
        assert_eq!(plan(&pool, &root(&location)), Ok(KeyPlan::Load(stored)));
        let file = folder.path().join("named");
        pool.keys = vec![KeyFile {
            dataset: "tank/p".to_owned(),
            file: file.clone(),
        }];
        assert!(
            plan(&pool, &root(&location)).is_err(),
            "the named file is missing"
        );
        write(&file, 0o600);
        assert_eq!(plan(&pool, &root(&location)), Ok(KeyPlan::Load(file)));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("key");
        for mode in [0o644, 0o640, 0o604, 0o602, 0o660] {
            write(&file, mode);
            assert!(
                check(&file).expect_err("open").contains("chmod 600"),
                "{mode:o}"
            );
        }
        write(&file, 0o600);
        assert_eq!(check(&file), Ok(()));
        fs::write(&file, "").expect("emptied");
        assert!(check(&file).expect_err("empty").contains("empty"));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        assert!(check(&link).is_err(), "a link may lead anywhere");
        assert!(
            check(folder.path())
                .expect_err("a folder")
                .contains("plain file")
        );
    }
}

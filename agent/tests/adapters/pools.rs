//! `mount` pools on loop devices. Needs real root: loop devices belong to no namespace.

use crate::ns::skipped;
use failover_core::adapters::{Change, Pools};
use failover_core::ids::{DiskId, PoolId};
use failoverd::adapters::mount_pools::{MountPool, MountPools};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use tempfile::TempDir;

const POOL: PoolId = PoolId(0);

static ALONE: Mutex<()> = Mutex::new(());

/// Runs `body` with a folder and a pool of ext4 in it, in a mount namespace of its own.
fn with_pool(test: &'static str, body: fn(&Path, MountPools)) {
    if !nix::unistd::geteuid().is_root() {
        return skipped(test, "needs root: loop devices belong to no namespace");
    }
    if !Path::new("/dev/loop-control").exists() {
        return skipped(test, "no /dev/loop-control: load the kernel module loop");
    }
    if Command::new("mkfs.ext4").arg("-V").output().is_err() {
        return skipped(test, "no mkfs.ext4: install e2fsprogs");
    }
    // Loop devices are the machine's: a number that one test lets go of is the next one's in the same moment.
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let thread = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
            return skipped(test, &format!("no mount namespace: {error}"));
        }
        let nothing: Option<&str> = None;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(nothing, "/", nothing, private, nothing).expect("private mounts");
        let folder = TempDir::new().expect("a folder");
        format(&folder.path().join("disk"));
        let pools = MountPools::new(vec![pool(folder.path())]).expect("a good list");
        // Where there are no loop devices at all (containers), the first import says so.
        if let Err(failure) = pools.import(POOL, &[])
            && failure.0.contains("loop device")
        {
            return skipped(test, &failure.0);
        }
        pools.export(POOL).expect("exported");
        body(folder.path(), pools);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn format(file: &Path) {
    let disk = std::fs::File::create(file).expect("a file");
    disk.set_len(16 << 20).expect("16 MiB");
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(file)
        .status();
    assert!(made.expect("mkfs.ext4").success());
}

fn pool(folder: &Path) -> MountPool {
    MountPool {
        name: "tank".to_owned(),
        device: folder.join("disk"),
        mountpoint: folder.join("mnt"),
        fstype: "ext4".to_owned(),
        options: "noatime,errors=remount-ro".to_owned(),
        disks: vec![],
        assembly: None,
    }
}

#[test]
fn a_pool_comes_and_goes_with_its_data() {
    with_pool(
        "pools::a_pool_comes_and_goes_with_its_data",
        |folder, pools| {
            assert_eq!(pools.imported(POOL), Ok(false));
            assert_eq!(pools.export(POOL), Ok(Change::AlreadySo));
            assert_eq!(pools.prescan(POOL), Ok(()));
            assert_eq!(pools.import(POOL, &[]), Ok(Change::Made));
            assert_eq!(pools.import(POOL, &[]), Ok(Change::AlreadySo));
            assert_eq!(pools.imported(POOL), Ok(true));
            assert_eq!(pools.prescan(POOL), Ok(()));
            std::fs::write(folder.join("mnt/file"), "kept").expect("written");
            assert_eq!(pools.export(POOL), Ok(Change::Made));
            assert_eq!(pools.imported(POOL), Ok(false));
            assert!(!folder.join("mnt/file").exists());
            // Clean: no journal to replay.
            let state = Command::new("dumpe2fs")
                .arg("-h")
                .arg(folder.join("disk"))
                .output();
            let state = state.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
            assert!(
                state.is_ok_and(|s| s.contains("Filesystem state:         clean")
                    && !s.contains("needs_recovery"))
            );
            assert_eq!(pools.import(POOL, &[]), Ok(Change::Made));
            assert_eq!(
                std::fs::read_to_string(folder.join("mnt/file"))
                    .ok()
                    .as_deref(),
                Some("kept")
            );
            assert_eq!(pools.export(POOL), Ok(Change::Made));
        },
    );
}

#[test]
fn a_pool_that_somebody_else_mounted_is_not_served_before_it_was_unmounted() {
    with_pool(
        "pools::a_pool_that_somebody_else_mounted_is_not_served_before_it_was_unmounted",
        |folder, by_hand| {
            by_hand.import(POOL, &[]).expect("mounted");
            let pools = || MountPools::new(vec![pool(folder)]).expect("a good list");
            let late = pools();
            let why = late.import(POOL, &[]).expect_err("stale").0;
            assert!(
                why.contains("somebody else") && why.contains("`umount "),
                "{why}"
            );
            // A daemon that starts again where an earlier one owned in this boot.
            let adopted = pools().adopting(true);
            assert_eq!(adopted.import(POOL, &[]), Ok(Change::AlreadySo));
            assert_eq!(late.export(POOL), Ok(Change::Made));
            assert_eq!(late.import(POOL, &[]), Ok(Change::Made));
            assert_eq!(late.import(POOL, &[]), Ok(Change::AlreadySo));
            assert_eq!(late.export(POOL), Ok(Change::Made));
        },
    );
}

#[test]
fn a_disk_that_was_not_won_is_not_given_to_the_import() {
    with_pool(
        "pools::a_disk_that_was_not_won_is_not_given_to_the_import",
        |folder, _| {
            let mut pool = pool(folder);
            pool.disks = vec![DiskId(1), DiskId(2)];
            let pools = MountPools::new(vec![pool]).expect("a good list");
            let refused = pools.import(POOL, &[DiskId(2)]).expect_err("not all");
            assert!(refused.0.contains("0000000000000001"), "{refused}");
            assert_eq!(pools.imported(POOL), Ok(false));
            assert_eq!(
                pools.import(POOL, &[DiskId(2), DiskId(1)]),
                Ok(Change::Made)
            );
            assert_eq!(pools.export(POOL), Ok(Change::Made));
            assert!(pools.import(PoolId(7), &[]).is_err());
        },
    );
}

#[test]
fn a_bad_device_or_filesystem_is_told_plainly_and_nothing_is_left() {
    with_pool(
        "pools::a_bad_device_or_filesystem_is_told_plainly_and_nothing_is_left",
        |folder, pools| {
            let disk = folder.join("disk");
            let refused = |what: &str| {
                let refused = pools.import(POOL, &[]).expect_err(what).0;
                assert_eq!(pools.imported(POOL), Ok(false), "{what}");
                assert_eq!(
                    pools.export(POOL),
                    Ok(Change::AlreadySo),
                    "{what}: the loop device is gone"
                );
                refused
            };
            use std::os::unix::fs::FileExt;
            let file = std::fs::OpenOptions::new()
                .write(true)
                .open(&disk)
                .expect("the disk");
            // The superblock's block count no longer fits its checksum.
            file.write_all_at(&[0xff; 4], 1024 + 4).expect("damaged");
            let text = refused("damaged");
            assert!(
                text.contains("not mounted") && text.contains("log"),
                "{text}"
            );
            file.set_len(0).expect("emptied");
            file.set_len(16 << 20).expect("empty");
            let text = refused("empty");
            assert!(text.contains("no ext4 filesystem"), "{text}");
            file.set_len(512).expect("short");
            refused("short");
            std::fs::remove_file(&disk).expect("removed");
            let text = pools.import(POOL, &[]).expect_err("gone").0;
            assert!(text.contains("can't be found"), "{text}");
            assert_eq!(pools.imported(POOL), Ok(false));
            // A controller that boots before its shelf has nothing to leave.
            assert_eq!(pools.export(POOL), Ok(Change::AlreadySo));
        },
    );
}

#[test]
fn who_keeps_a_pool_busy_is_named() {
    with_pool("pools::who_keeps_a_pool_busy_is_named", |folder, pools| {
        pools.import(POOL, &[]).expect("imported");
        let mut holder = Command::new("sleep")
            .arg("60")
            .current_dir(folder.join("mnt"))
            .spawn()
            .expect("sleep");
        let busy = pools.export(POOL).expect_err("busy");
        let named = busy.0.contains(&format!("sleep ({})", holder.id()));
        holder.kill().expect("killed");
        holder.wait().expect("reaped");
        assert!(named, "{busy}");
        assert_eq!(pools.imported(POOL), Ok(true));
        assert_eq!(pools.export(POOL), Ok(Change::Made));
    });
}

/// A service with a mount namespace of its own could go on writing after our unmount.
#[test]
fn a_filesystem_alive_in_another_namespace_is_no_export() {
    const NAME: &str = "pools::a_filesystem_alive_in_another_namespace_is_no_export";
    with_pool(NAME, |_, pools| {
        pools.import(POOL, &[]).expect("imported");
        let holder = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                "echo ready; exec sleep 60",
            ])
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut holder) = holder else {
            let _ = pools.export(POOL);
            return skipped(NAME, "no `unshare` program");
        };
        let mut ready = [0; 5];
        let mut said = holder.stdout.take().expect("a pipe");
        std::io::Read::read_exact(&mut said, &mut ready).expect("ready");
        let held = pools.export(POOL).expect_err("held elsewhere");
        let named = held.0.contains(&format!("({})", holder.id()));
        holder.kill().expect("killed");
        holder.wait().expect("reaped");
        assert!(named, "{held}");
        assert_eq!(pools.export(POOL), Ok(Change::AlreadySo));
    });
}

#[test]
fn something_else_in_the_way_is_named() {
    with_pool(
        "pools::something_else_in_the_way_is_named",
        |folder, pools| {
            let mountpoint = folder.join("mnt");
            let nothing: Option<&str> = None;
            mount(
                Some("tmpfs"),
                &mountpoint,
                Some("tmpfs"),
                MsFlags::empty(),
                nothing,
            )
            .expect("mounted");
            let refused = pools.import(POOL, &[]).expect_err("in the way");
            assert!(refused.0.contains("tmpfs"), "{refused}");
            assert_eq!(pools.imported(POOL), Ok(false));
            nix::mount::umount(&mountpoint).expect("unmounted");
            assert_eq!(pools.import(POOL, &[]), Ok(Change::Made));
            assert_eq!(pools.export(POOL), Ok(Change::Made));
        },
    );
}

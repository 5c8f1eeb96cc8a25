//! Volumes that must be put together before their filesystem can be mounted: LVM volume groups and md arrays, from the
//! won disks alone, and taken apart again with proof.
//!
//! ```text
//!   up:    disks ──sysfs──▶ their nodes ─▶ vgchange -ay --devices … │ mdadm --assemble --uuid … ─▶ the device is there
//!   down:  vgchange -an │ mdadm --stop ─▶ sysfs: no dm node of the group, no array over the disks
//! ```

use super::disk_paths::{self, Roots, SharedDisk};
use super::program::Runner;
use failover_core::adapters::{Change, Failure};
use failover_core::ids::DiskId;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Devices of one kind that are looked at.
const DEVICES_MAX: usize = 65_536;
/// Interval at which an assembled device's node is looked for.
const NODE_LOOK: Duration = Duration::from_millis(5);

/// What has to be put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assembly {
    /// A volume group of LVM, by its name.
    Lvm(String),
    /// An array of md, by its UUID as `mdadm --detail` prints it.
    MdRaid(String),
}

/// Programs and places.
#[derive(Clone, Debug)]
pub struct Ground {
    /// `vgchange`.
    pub vgchange: PathBuf,
    /// `mdadm`.
    pub mdadm: PathBuf,
    /// The kernel's files.
    pub roots: Roots,
    /// Device nodes.
    pub dev: PathBuf,
}

impl Default for Ground {
    fn default() -> Ground {
        Ground {
            vgchange: "/usr/sbin/vgchange".into(),
            mdadm: "/usr/sbin/mdadm".into(),
            roots: Roots::default(),
            dev: "/dev".into(),
        }
    }
}

/// One volume that is put together and taken apart.
#[derive(Debug)]
pub(crate) struct Assembler {
    pool: String,
    what: Assembly,
    /// Identities of the disks that it lies on.
    disks: Vec<String>,
    ground: Ground,
    runner: Runner,
}

impl Assembler {
    pub(crate) fn new(pool: &str, what: Assembly, disks: Vec<String>, ground: Ground) -> Assembler {
        Assembler {
            pool: pool.to_owned(),
            what,
            disks,
            ground,
            runner: Runner::default(),
        }
    }

    fn say(&self, what: &str) -> Failure {
        Failure(format!("pool {}: {what}", self.pool))
    }

    /// Puts it together from the disks that are `won`, until its `device` is there.
    pub(crate) fn up(
        &self,
        device: &Path,
        won: &[DiskId],
        until: Instant,
    ) -> Result<Change, Failure> {
        if !self.active()?.is_empty() && device.exists() {
            return Ok(Change::AlreadySo);
        }
        let disks: Vec<String> = self
            .disks
            .iter()
            .filter(|disk| won.contains(&DiskId::of(disk)))
            .cloned()
            .collect();
        let nodes: Vec<String> = self
            .members(&disks)?
            .into_iter()
            .map(|name| self.ground.dev.join(name).display().to_string())
            .collect();
        if nodes.is_empty() {
            return Err(
                self.say("not assembled: this machine sees none of the disks that were won")
            );
        }
        let (program, arguments) = match &self.what {
            Assembly::Lvm(group) => {
                let devices = nodes.join(",");
                let arguments = ["-a", "y", "--devices", &devices, group].map(str::to_owned);
                (&self.ground.vgchange, arguments.to_vec())
            }
            Assembly::MdRaid(uuid) => {
                // --run: a disk that wasn't won is missing; mdadm refuses an array that can't do without it.
                let mut arguments = vec!["--assemble".to_owned(), device.display().to_string()];
                arguments.push(format!("--uuid={uuid}"));
                arguments.extend(["--run", "--config=none"].map(str::to_owned));
                arguments.extend(nodes);
                (&self.ground.mdadm, arguments)
            }
        };
        self.run(program, &arguments, until)?;
        while !device.exists() {
            if Instant::now() >= until {
                let device = device.display();
                return Err(self.say(&format!(
                    "assembled, but {device} didn't appear: is it of this volume?"
                )));
            }
            std::thread::sleep(NODE_LOOK);
        }
        Ok(Change::Made)
    }

    /// Says early what an assembly would be refused for. Opens nothing.
    pub(crate) fn look_ahead(&self) -> Result<(), Failure> {
        self.members(&self.disks).map(|_| ())
    }

    /// Takes it apart; `Ok` when the kernel has nothing of it any more.
    pub(crate) fn down(&self, until: Instant) -> Result<Change, Failure> {
        let active = self.active()?;
        if active.is_empty() {
            self.none_is_stuck()?;
            return Ok(Change::AlreadySo);
        }
        let failed = match &self.what {
            Assembly::Lvm(group) => {
                let arguments = ["-a", "n", group].map(str::to_owned);
                self.run(&self.ground.vgchange, &arguments, until).err()
            }
            Assembly::MdRaid(_) => {
                let stop = |name: &String| {
                    let node = self.ground.dev.join(name).display().to_string();
                    let arguments = ["--stop".to_owned(), node];
                    self.run(&self.ground.mdadm, &arguments, until).err()
                };
                active.iter().filter_map(stop).next_back()
            }
        };
        // Whatever the program says: the kernel's word counts.
        let left = self.active()?;
        match (left.is_empty(), failed) {
            (true, _) => self.none_is_stuck().map(|()| Change::Made),
            (false, Some(failure)) => Err(failure),
            (false, None) => Err(self.say(&format!(
                "not taken apart: the kernel still has {}",
                left.join(", ")
            ))),
        }
    }

    /// What hangs in the kernel may still put something together.
    fn none_is_stuck(&self) -> Result<(), Failure> {
        let stuck = self.runner.none_is_stuck();
        stuck.map_err(|error| self.say(&error.to_string()))
    }

    fn run(&self, program: &Path, arguments: &[String], until: Instant) -> Result<(), Failure> {
        let name = program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let plain: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let ran = self.runner.run(program, &plain, until);
        let ran = ran.map_err(|error| self.say(&format!("`{name}`: {error}")))?;
        match ran.ok {
            true => Ok(()),
            false => Err(self.say(&format!(
                "`{name}` failed ({}): {}",
                ran.status,
                ran.errors.replace('\n', " / ")
            ))),
        }
    }

    /// Kernel names of what there is of it; an error counts as "maybe something".
    pub(crate) fn active(&self) -> Result<Vec<String>, Failure> {
        match &self.what {
            Assembly::Lvm(group) => self.mapped(group),
            Assembly::MdRaid(_) => self.arrays(),
        }
    }

    fn blocks(&self) -> Result<Vec<String>, Failure> {
        let folder = self.ground.roots.sys.join("block");
        let unread = |error: std::io::Error| {
            self.say(&format!(
                "{} can't be read: {error}; it counts as active",
                folder.display()
            ))
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(unread)?.take(DEVICES_MAX) {
            names.extend(entry.map_err(unread)?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    /// Device-mapper nodes of the group: LVM doubles each hyphen of a name and joins the names by one.
    fn mapped(&self, group: &str) -> Result<Vec<String>, Failure> {
        let prefix = format!("{}-", group.replace('-', "--"));
        let of_group = |name: &str| {
            // A hyphen after it belongs to a longer name of another group.
            name.strip_prefix(&prefix)
                .is_some_and(|rest| !rest.starts_with('-'))
        };
        let mut found = Vec::new();
        for block in self
            .blocks()?
            .into_iter()
            .filter(|name| name.starts_with("dm-"))
        {
            let place = self.ground.roots.sys.join("block").join(&block).join("dm");
            let read = |file: &str| match fs::read_to_string(place.join(file)) {
                Ok(text) => Ok(Some(text.trim().to_owned())),
                // It went away in this moment.
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(self.say(&format!(
                    "{}: {error}; it counts as active",
                    place.display()
                ))),
            };
            let is_lvm = read("uuid")?.is_some_and(|uuid| uuid.starts_with("LVM-"));
            if is_lvm && read("name")?.is_some_and(|name| of_group(&name)) {
                found.push(block);
            }
        }
        Ok(found)
    }

    /// Arrays that lie on one of the disks, or on a multipath device over it.
    fn arrays(&self) -> Result<Vec<String>, Failure> {
        let nodes = self.with_multipath(self.nodes(&self.disks)?)?;
        let mut found = Vec::new();
        for block in self
            .blocks()?
            .into_iter()
            .filter(|name| name.starts_with("md"))
        {
            let place = self
                .ground
                .roots
                .sys
                .join("block")
                .join(&block)
                .join("slaves");
            let entries = match fs::read_dir(&place) {
                Ok(entries) => entries,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(self.say(&format!(
                        "{}: {error}; it counts as active",
                        place.display()
                    )));
                }
            };
            let mut names = entries
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok());
            if names.any(|name| nodes.contains(&name)) {
                found.push(block);
            }
        }
        Ok(found)
    }

    /// The same nodes, and the device-mapper nodes that are only other ways to them: of multipath, and of the partitions
    /// that kpartx maps on those.
    fn with_multipath(&self, nodes: Vec<String>) -> Result<BTreeSet<String>, Failure> {
        let class = self.ground.roots.sys.join("class/block");
        let unread = |place: &Path, error: std::io::Error| {
            self.say(&format!(
                "{}: {error}; it counts as active",
                place.display()
            ))
        };
        let mut all = BTreeSet::new();
        let mut left = nodes;
        while let Some(node) = left.pop() {
            if all.len() >= DEVICES_MAX || !all.insert(node.clone()) {
                continue;
            }
            let place = class.join(&node).join("holders");
            let holders = match fs::read_dir(&place) {
                Ok(holders) => holders,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(unread(&place, error)),
            };
            for holder in holders.take(DEVICES_MAX) {
                let name = holder.map_err(|error| unread(&place, error))?.file_name();
                let uuid = class.join(&name).join("dm/uuid");
                let is_way = match fs::read_to_string(&uuid) {
                    // `part1-mpath-…` is kpartx's.
                    Ok(text) => text.starts_with("mpath-") || text.starts_with("part"),
                    // No mapped device, or it went away in this moment.
                    Err(error) if error.kind() == ErrorKind::NotFound => false,
                    Err(error) => return Err(unread(&uuid, error)),
                };
                left.extend(name.into_string().ok().filter(|_| is_way));
            }
        }
        Ok(all)
    }

    /// The devices to put it together from: of each disk the multipath device and its partitions, or those of its only
    /// path. Over one of several paths the volume would end with that path.
    fn members(&self, disks: &[String]) -> Result<Vec<String>, Failure> {
        let mut members = Vec::new();
        for disk in self.chosen(disks)? {
            let paths: BTreeSet<String> = disk
                .paths
                .iter()
                .map(|path| path.node.name.clone())
                .collect();
            let all = self.with_multipath(paths.iter().cloned().collect())?;
            let mapped: Vec<String> = all.difference(&paths).cloned().collect();
            let is_multipath = |name: &String| {
                let uuid = self.ground.roots.sys.join("class/block").join(name);
                let uuid = fs::read_to_string(uuid.join("dm/uuid"));
                uuid.is_ok_and(|uuid| uuid.starts_with("mpath-"))
            };
            if mapped.iter().any(is_multipath) {
                members.extend(mapped);
                continue;
            }
            if paths.len() > 1 {
                let paths: Vec<String> = paths.into_iter().collect();
                return Err(self.say(&format!(
                    "not assembled: disk {} has {} paths here ({}) and no multipath device over them, so the volume \
                     would hang on one of them: `systemctl enable --now multipathd`, or leave one path",
                    disk.identity,
                    paths.len(),
                    paths.join(", ")
                )));
            }
            paths
                .iter()
                .for_each(|path| members.extend(self.with_partitions(path)));
        }
        members.sort();
        Ok(members)
    }

    /// Kernel names of disks and their partitions, over every path.
    fn nodes(&self, disks: &[String]) -> Result<Vec<String>, Failure> {
        let disks = self.chosen(disks)?;
        let paths = disks.iter().flat_map(|disk| &disk.paths);
        let mut nodes: Vec<String> = paths
            .flat_map(|path| self.with_partitions(&path.node.name))
            .collect();
        nodes.sort();
        Ok(nodes)
    }

    fn chosen(&self, disks: &[String]) -> Result<Vec<SharedDisk>, Failure> {
        let inventory = disk_paths::scan(&self.ground.roots)
            .map_err(|error| self.say(&format!("this machine's disks can't be listed: {error}")))?;
        let choice = disk_paths::choose(&inventory, disks).map_err(|refusals| {
            let texts: Vec<String> = refusals.iter().map(ToString::to_string).collect();
            self.say(&texts.join("; "))
        })?;
        Ok(choice.disks)
    }

    fn with_partitions(&self, disk: &str) -> Vec<String> {
        let place = self.ground.roots.sys.join("block").join(disk);
        let entries = fs::read_dir(&place).into_iter().flatten().flatten();
        let partitions = entries.filter(|entry| entry.path().join("partition").exists());
        let partitions = partitions.filter_map(|entry| entry.file_name().into_string().ok());
        std::iter::once(disk.to_owned()).chain(partitions).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// Notes its arguments, then makes or removes the kernel's entry.
    const VGCHANGE: &str = "#!/bin/sh\ncd 'FOLDER'\necho \"$*\" >>calls\n[ -e fails ] && { echo 'in use' >&2; exit 5; }\n\
        case $2 in y) mkdir -p sys/block/dm-7/dm dev/vg-a; echo vg--a-data >sys/block/dm-7/dm/name;\n\
        echo LVM-x >sys/block/dm-7/dm/uuid; : >dev/vg-a/data;; n) rm -r sys/block/dm-7 dev/vg-a;; esac\n";
    const MDADM: &str = "#!/bin/sh\ncd 'FOLDER'\necho \"$*\" >>calls\ncase $1 in --assemble) mkdir -p dev/md \
        sys/block/md127/slaves/sdb1; : >dev/md/a;; --stop) rm -r sys/block/md127 dev/md;; esac\n";

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Machine {
            let machine = Machine(tempfile::tempdir().expect("a folder"));
            for folder in [
                "proc/self",
                "sys/block/sdb/sdb1",
                "sys/devices/0:0:0:0",
                "dev",
            ] {
                fs::create_dir_all(machine.at(folder)).expect("made");
            }
            symlink(
                machine.at("sys/devices/0:0:0:0"),
                machine.at("sys/block/sdb/device"),
            )
            .expect("linked");
            for (name, text) in [
                ("proc/self/mountinfo", ""),
                ("sys/devices/0:0:0:0/type", "0"),
                ("sys/devices/0:0:0:0/wwid", "naa.5000c500a1b2c3d4"),
                ("sys/block/sdb/dev", "8:16"),
                ("sys/block/sdb/sdb1/partition", "1"),
                ("calls", ""),
            ] {
                fs::write(machine.at(name), text).expect("written");
            }
            for (name, script) in [("vgchange", VGCHANGE), ("mdadm", MDADM)] {
                let folder = machine.0.path().display().to_string();
                fs::write(machine.at(name), script.replace("FOLDER", &folder)).expect("written");
                fs::set_permissions(machine.at(name), fs::Permissions::from_mode(0o755))
                    .expect("set");
            }
            machine
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn calls(&self) -> String {
            fs::read_to_string(self.at("calls")).expect("read")
        }

        fn assembler(&self, what: Assembly) -> Assembler {
            let ground = Ground {
                vgchange: self.at("vgchange"),
                mdadm: self.at("mdadm"),
                roots: Roots {
                    sys: self.at("sys"),
                    proc: self.at("proc"),
                },
                dev: self.at("dev"),
            };
            let disks = vec![
                "naa.5000c500a1b2c3d4".to_owned(),
                "naa.5000c500a1b2c3d5".to_owned(),
            ];
            Assembler::new("tank", what, disks, ground)
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn won() -> Vec<DiskId> {
        vec![DiskId::of("naa.5000c500a1b2c3d4")]
    }

    #[test]
    fn a_volume_group_comes_and_goes() {
        let machine = Machine::new();
        let group = machine.assembler(Assembly::Lvm("vg-a".to_owned()));
        let device = machine.at("dev/vg-a/data");
        assert_eq!(group.down(soon()), Ok(Change::AlreadySo));
        let none = group.up(&device, &[], soon()).expect_err("nothing won").0;
        assert!(none.contains("none of the disks that were won"), "{none}");
        assert_eq!(machine.calls(), "");
        assert_eq!(group.up(&device, &won(), soon()), Ok(Change::Made));
        assert_eq!(group.up(&device, &won(), soon()), Ok(Change::AlreadySo));
        let dev = machine.at("dev").display().to_string();
        assert_eq!(
            machine.calls(),
            format!("-a y --devices {dev}/sdb,{dev}/sdb1 vg-a\n")
        );
        // `vg` is another group, although its name is the beginning of this one's.
        assert_eq!(
            machine.assembler(Assembly::Lvm("vg".to_owned())).active(),
            Ok(Vec::new())
        );
        fs::write(machine.at("fails"), "").expect("written");
        assert!(group.down(soon()).expect_err("in use").0.contains("in use"));
        fs::remove_file(machine.at("fails")).expect("removed");
        assert_eq!(group.down(soon()), Ok(Change::Made));
        assert_eq!(group.active(), Ok(Vec::new()));
    }

    #[test]
    fn an_array_comes_and_goes() {
        let machine = Machine::new();
        let uuid = "a:b:c:d";
        let array = machine.assembler(Assembly::MdRaid(uuid.to_owned()));
        let device = machine.at("dev/md/a");
        assert_eq!(array.up(&device, &won(), soon()), Ok(Change::Made));
        assert_eq!(array.active(), Ok(vec!["md127".to_owned()]));
        assert_eq!(array.down(soon()), Ok(Change::Made));
        let dev = machine.at("dev").display().to_string();
        let assemble = format!(
            "--assemble {dev}/md/a --uuid={uuid} --run --config=none {dev}/sdb {dev}/sdb1\n"
        );
        assert_eq!(machine.calls(), format!("{assemble}--stop {dev}/md127\n"));
    }

    /// An array that isn't seen would be a false proof of an export.
    #[test]
    fn an_array_over_a_multipath_device_is_seen() {
        let machine = Machine::new();
        let array = machine.assembler(Assembly::MdRaid("a:b:c:d".to_owned()));
        for (node, uuid, on) in [
            ("dm-0", "mpath-35000c500a1b2c3d4", "sdb"),
            ("dm-1", "part1-mpath-35000c500a1b2c3d4", "dm-0"),
            ("dm-2", "LVM-x", "sdb"),
        ] {
            let class = machine.at("sys/class/block");
            fs::create_dir_all(class.join(on).join("holders").join(node)).expect("made");
            fs::create_dir_all(class.join(node).join("dm")).expect("made");
            fs::write(class.join(node).join("dm/uuid"), uuid).expect("written");
        }
        for (slave, seen) in [("dm-0", true), ("dm-1", true), ("dm-2", false)] {
            let slaves = machine.at("sys/block/md127/slaves");
            fs::create_dir_all(slaves.join(slave)).expect("made");
            let found = array.active().expect("read");
            assert_eq!(!found.is_empty(), seen, "an array over {slave}");
            fs::remove_dir_all(slaves).expect("removed");
        }
    }

    /// Over one of the paths it would end with that path; over all of them LVM sees each volume twice.
    #[test]
    fn several_paths_are_used_through_their_multipath_device_alone() {
        let machine = Machine::new();
        for folder in ["sys/block/sdc", "sys/devices/1:0:0:0"] {
            fs::create_dir_all(machine.at(folder)).expect("made");
        }
        let device = machine.at("sys/devices/1:0:0:0");
        symlink(device, machine.at("sys/block/sdc/device")).expect("linked");
        for (name, text) in [
            ("sys/devices/1:0:0:0/type", "0"),
            ("sys/devices/1:0:0:0/wwid", "naa.5000c500a1b2c3d4"),
            ("sys/block/sdc/dev", "8:32"),
        ] {
            fs::write(machine.at(name), text).expect("written");
        }
        let group = machine.assembler(Assembly::Lvm("vg-a".to_owned()));
        let volume = machine.at("dev/vg-a/data");
        let why = group.up(&volume, &won(), soon()).expect_err("two paths").0;
        assert!(
            why.contains("2 paths here (sdb, sdc)") && why.contains("multipathd"),
            "{why}"
        );
        assert!(group.look_ahead().is_err(), "said early");
        assert_eq!(machine.calls(), "");
        for (node, uuid, on) in [
            ("dm-0", "mpath-35000c500a1b2c3d4", "sdb"),
            ("dm-0", "mpath-35000c500a1b2c3d4", "sdc"),
            ("dm-1", "part1-mpath-35000c500a1b2c3d4", "dm-0"),
        ] {
            let class = machine.at("sys/class/block");
            fs::create_dir_all(class.join(on).join("holders").join(node)).expect("made");
            fs::create_dir_all(class.join(node).join("dm")).expect("made");
            fs::write(class.join(node).join("dm/uuid"), uuid).expect("written");
        }
        assert_eq!(group.look_ahead(), Ok(()));
        assert_eq!(group.up(&volume, &won(), soon()), Ok(Change::Made));
        let dev = machine.at("dev").display().to_string();
        let call = format!("-a y --devices {dev}/dm-0,{dev}/dm-1 vg-a\n");
        assert_eq!(machine.calls(), call);
    }

    #[test]
    fn what_cannot_be_read_counts_as_active() {
        let machine = Machine::new();
        let group = machine.assembler(Assembly::Lvm("vg-a".to_owned()));
        fs::create_dir_all(machine.at("sys/block/dm-3/dm/uuid")).expect("made");
        let why = group.active().expect_err("a folder in place of a file").0;
        assert!(why.contains("counts as active"), "{why}");
        assert!(group.down(soon()).is_err());
        fs::remove_dir_all(machine.at("sys")).expect("removed");
        assert!(group.active().is_err());
        assert!(
            machine
                .assembler(Assembly::MdRaid("a".to_owned()))
                .active()
                .is_err()
        );
    }
}

//! Reading sysfs: block devices, what they are, who they are.

use super::{DiskPath, FoundDisk, Inventory, Roots, boot};
use crate::adapters::identity::Identity;
use crate::adapters::ports::{Kind, Node};
use crate::adapters::scsi::inquiry;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// Block devices that are looked at; far more than a controller has.
const DEVICES_MAX: usize = 65_536;
/// Attributes are a page at most.
const ATTRIBUTE_MAX: usize = 65_536;

/// One block device, as far as its kind is used here.
struct Device {
    node: Node,
    address: String,
    identities: Vec<Identity>,
    bytes: u64,
    serial: Option<String>,
}

/// Looks at every block device. Opens none.
///
/// # Errors
/// `/sys/block` or the mounts can't be read.
pub fn scan(roots: &Roots) -> io::Result<Inventory> {
    let folder = roots.sys.join("block");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder)?.take(DEVICES_MAX) {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    let mut inventory = Inventory::default();
    let mut devices = Vec::new();
    for name in &names {
        let place = folder.join(name);
        let looked = if name.starts_with("dm-") {
            note_mapped(&mut inventory, name, &place);
            continue;
        } else if place.join("device/type").exists() {
            scsi(name, &place)
        } else if name.starts_with("nvme") {
            nvme(name, &place)
        } else {
            continue;
        };
        match looked {
            Ok(device) => devices.extend(device),
            Err(why) => inventory.unidentified.push((name.clone(), why)),
        }
    }
    inventory.disks = group(devices);
    boot::note(roots, &names, &mut inventory)?;
    Ok(inventory)
}

fn note_mapped(inventory: &mut Inventory, name: &str, place: &Path) {
    let beneath = slaves(place);
    if let Some(alias) = text(&place.join("dm/name")) {
        inventory.mapped.insert(alias, beneath.clone());
    }
    inventory.mapped.insert(name.to_owned(), beneath);
}

/// Names of the devices beneath one.
pub(super) fn slaves(place: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(place.join("slaves")) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.take(DEVICES_MAX).collect();
    names.sort();
    names
}

/// An attribute's text, without the blanks around it; `None` where it is missing or empty.
pub(super) fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn bytes(path: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(path).ok()?;
    (bytes.len() <= ATTRIBUTE_MAX).then_some(bytes)
}

/// `8:16` as two numbers.
pub(super) fn number(path: &Path) -> Option<(u32, u32)> {
    let text = text(path)?;
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn node(kind: Kind, name: &str, place: &Path) -> Result<Node, String> {
    let number = number(&place.join("dev"));
    Ok(Node {
        kind,
        name: name.to_owned(),
        number: number.ok_or("its device number can't be read")?,
    })
}

fn size(place: &Path) -> u64 {
    let sectors = text(&place.join("size")).and_then(|text| text.parse::<u64>().ok());
    // Sectors of 512 bytes, whatever the disk's own are.
    sectors.unwrap_or(0).saturating_mul(512)
}

/// The last part of what a link leads to.
fn link_name(link: &Path) -> Option<String> {
    let target = fs::canonicalize(link).ok()?;
    target.file_name()?.to_str().map(str::to_owned)
}

/// A SCSI block device; `None` for one that is no disk.
fn scsi(name: &str, place: &Path) -> Result<Option<Device>, String> {
    let device = place.join("device");
    // Disks and host-managed zoned disks; tapes, CD drives and enclosures have other types.
    if !matches!(text(&device.join("type")).as_deref(), Some("0" | "20")) {
        return Ok(None);
    }
    let page = bytes(&device.join("vpd_pg83"));
    let mut identities = match &page {
        Some(page) => match inquiry::decode_designators(page) {
            Ok(designators) => inquiry::identities(&designators),
            Err(error) => return Err(error.to_string()),
        },
        None => Vec::new(),
    };
    if identities.is_empty() {
        let wwid = text(&device.join("wwid"));
        identities.extend(wwid.and_then(|text| Identity::parse(&text).ok()));
    }
    if identities.is_empty() {
        return Err("it has no identity (VPD page 83h names no logical unit)".to_owned());
    }
    let serial = bytes(&device.join("vpd_pg80"));
    let serial = serial.and_then(|page| inquiry::decode_serial(&page).ok());
    Ok(Some(Device {
        node: node(Kind::Scsi, name, place)?,
        address: link_name(&device).ok_or("its SCSI address can't be read")?,
        identities,
        bytes: size(place),
        serial: serial.filter(|serial| !serial.is_empty()),
    }))
}

/// An NVMe namespace; `None` for a hidden path beneath one.
fn nvme(name: &str, place: &Path) -> Result<Option<Device>, String> {
    if text(&place.join("hidden")).as_deref() == Some("1") {
        return Ok(None);
    }
    let mut identities: Vec<Identity> = Vec::new();
    let wwid = text(&place.join("wwid"));
    let nguid = text(&place.join("nguid")).map(|text| text.replace('-', ""));
    // A namespace without a UUID shows its NGUID there, for old programs.
    let uuid = text(&place.join("uuid")).filter(|text| Some(text.replace('-', "")) != nguid);
    let candidates = [
        uuid.map(|text| format!("uuid.{text}")),
        nguid.map(|digits| format!("eui.{digits}")),
        text(&place.join("eui")).map(|text| format!("eui.{}", text.replace([' ', '-'], ""))),
        wwid,
    ];
    for candidate in candidates.into_iter().flatten() {
        if let Ok(identity) = Identity::parse(&candidate)
            && !identities.contains(&identity)
        {
            identities.push(identity);
        }
    }
    if identities.is_empty() {
        return Err("it has neither UUID, NGUID nor EUI-64".to_owned());
    }
    let controller = link_name(&place.join("device")).ok_or("its controller can't be read")?;
    let namespace = text(&place.join("nsid")).ok_or("its namespace number can't be read")?;
    Ok(Some(Device {
        node: node(Kind::Nvme, name, place)?,
        address: format!("{controller}:{namespace}"),
        identities,
        bytes: size(place),
        serial: text(&place.join("device/serial")),
    }))
}

/// Paths with the same most telling identity are one disk, unless size or serial number say that they are two.
fn group(devices: Vec<Device>) -> Vec<FoundDisk> {
    let mut disks: BTreeMap<Identity, FoundDisk> = BTreeMap::new();
    for device in devices {
        let path = DiskPath {
            node: device.node,
            address: device.address,
        };
        let disk = disks
            .entry(device.identities[0].clone())
            .or_insert_with(|| FoundDisk {
                identities: device.identities.clone(),
                paths: Vec::new(),
                bytes: device.bytes,
                serial: device.serial.clone(),
                clash: None,
            });
        if disk.bytes != device.bytes && disk.bytes != 0 && device.bytes != 0 {
            let why = format!("one has {} bytes, the other {}", disk.bytes, device.bytes);
            disk.clash = Some(why);
        }
        if let (Some(one), Some(other)) = (&disk.serial, &device.serial)
            && one != other
        {
            disk.clash = Some(format!("one has serial number {one}, the other {other}"));
        }
        disk.bytes = disk.bytes.max(device.bytes);
        disk.serial = disk.serial.take().or(device.serial);
        disk.paths.push(path);
    }
    let mut disks: Vec<FoundDisk> = disks.into_values().collect();
    for disk in &mut disks {
        disk.paths.sort_by(|a, b| a.address.cmp(&b.address));
    }
    disks
}

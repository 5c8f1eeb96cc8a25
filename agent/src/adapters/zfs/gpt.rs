//! The partition table on a disk against the one that the kernel knows. They differ on a controller that read the disk
//! before the other one wrote the table.

use crate::adapters::disk_paths::Roots;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Bytes from the start of a disk that hold its table: the header in sector 1, 128 entries of 128 bytes from sector 2.
pub(crate) const TABLE_LEN: usize = 24 << 10;
const ENTRIES_MAX: usize = 128;
/// Partitions of one disk that are looked at; ZFS makes two.
const PARTITIONS_MAX: usize = 32;

/// Number of each partition, its first sector and length, in sectors of 512 bytes.
pub(crate) type Partitions = BTreeMap<u32, (u64, u64)>;

/// The table in the first bytes of a disk (UEFI specification, section 5.3); `None` where there is no valid one.
pub(crate) fn on_disk(bytes: &[u8], sector: usize) -> Option<Partitions> {
    let header = bytes.get(sector..sector.checked_mul(2)?)?;
    if !header.starts_with(b"EFI PART") {
        return None;
    }
    let u32_at = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let first = u64::from_le_bytes(header.get(72..80)?.try_into().ok()?);
    let count = usize::try_from(u32_at(80)?).ok()?;
    let size = usize::try_from(u32_at(84)?).ok()?;
    let start = usize::try_from(first).ok()?.checked_mul(sector)?;
    if count > ENTRIES_MAX || !(128..=4096).contains(&size) {
        return None;
    }
    let scale = u64::try_from(sector / 512).ok()?;
    let mut found = Partitions::new();
    for number in 0..count {
        let at = start.checked_add(number * size)?;
        let entry = bytes.get(at..at.checked_add(size)?)?;
        if entry[..16] == [0; 16] {
            continue;
        }
        let first = u64::from_le_bytes(entry[32..40].try_into().ok()?);
        let last = u64::from_le_bytes(entry[40..48].try_into().ok()?);
        let length = last.checked_sub(first)?.checked_add(1)?;
        found.insert(
            u32::try_from(number).ok()? + 1,
            (first.checked_mul(scale)?, length.checked_mul(scale)?),
        );
    }
    Some(found)
}

/// The table that the kernel has of the disk `name`, and the partitions' names.
pub(crate) fn in_kernel(roots: &Roots, name: &str) -> (Partitions, BTreeMap<u32, String>) {
    let (mut table, mut names) = (Partitions::new(), BTreeMap::new());
    let Ok(entries) = fs::read_dir(roots.sys.join("block").join(name)) else {
        return (table, names);
    };
    for entry in entries.flatten() {
        let place = entry.path();
        let Some(number) = number(&place.join("partition")).and_then(|n| u32::try_from(n).ok())
        else {
            continue;
        };
        let (Some(start), Some(size)) = (
            number_or_none(&place, "start"),
            number_or_none(&place, "size"),
        ) else {
            continue;
        };
        if let Ok(name) = entry.file_name().into_string()
            && names.len() < PARTITIONS_MAX
        {
            table.insert(number, (start, size));
            names.insert(number, name);
        }
    }
    (table, names)
}

/// Bytes of the disk's sectors.
pub(crate) fn sector(roots: &Roots, name: &str) -> usize {
    let place = roots
        .sys
        .join("block")
        .join(name)
        .join("queue/logical_block_size");
    number(&place)
        .and_then(|size| usize::try_from(size).ok())
        .filter(|size| (512..=8192).contains(size) && size.is_power_of_two())
        .unwrap_or(512)
}

fn number_or_none(place: &Path, name: &str) -> Option<u64> {
    number(&place.join(name))
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A table with these partitions, sectors of `sector` bytes.
    pub(crate) fn encode(sector: usize, partitions: &[(u32, u64, u64)]) -> Vec<u8> {
        let mut bytes = vec![0; TABLE_LEN];
        bytes[sector..sector + 8].copy_from_slice(b"EFI PART");
        bytes[sector + 72] = 2;
        bytes[sector + 80] = 128;
        bytes[sector + 84] = 128;
        for (number, first, last) in partitions {
            let at = 2 * sector + (*number as usize - 1) * 128;
            bytes[at] = 1;
            bytes[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
            bytes[at + 40..at + 48].copy_from_slice(&last.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn a_table_is_read_in_sectors_of_512_bytes() {
        let bytes = encode(512, &[(1, 2048, 4095), (9, 5000, 5007)]);
        let table = on_disk(&bytes, 512).expect("a table");
        assert_eq!(table, Partitions::from([(1, (2048, 2048)), (9, (5000, 8))]));
        let bytes = encode(4096, &[(1, 256, 511)]);
        assert_eq!(
            on_disk(&bytes, 4096),
            Some(Partitions::from([(1, (2048, 2048))]))
        );
        assert_eq!(on_disk(&bytes, 512), None);
        assert_eq!(on_disk(&[0; 100], 512), None);
    }

    #[test]
    fn changed_tables_never_panic() {
        let whole = encode(512, &[(1, 2048, 4095)]);
        for place in (512..640).chain(1024..1160) {
            for byte in [0, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[place] = byte;
                let _ = on_disk(&changed, 512);
            }
        }
        for length in 0..2000 {
            let _ = on_disk(&whole[..length], 512);
        }
    }
}

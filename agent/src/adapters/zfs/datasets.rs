//! The datasets of a pool, as `zfs list` tells them: what must be unlocked, mounted, shared, and there as a volume.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Columns that are asked for; the text form has them in this order.
pub(crate) const COLUMNS: [&str; 10] = [
    "name",
    "type",
    "mountpoint",
    "canmount",
    "keystatus",
    "encryptionroot",
    "keylocation",
    "sharenfs",
    "sharesmb",
    "volmode",
];
/// Characters of a text that an error shows.
const SHOWN_MAX: usize = 200;

/// A filesystem or a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dataset {
    pub(crate) name: String,
    pub(crate) is_volume: bool,
    /// `none` and `legacy` are none.
    pub(crate) mountpoint: Option<PathBuf>,
    pub(crate) canmount: bool,
    /// Encrypted, and its key isn't loaded.
    pub(crate) is_locked: bool,
    /// Dataset whose key it uses.
    pub(crate) encryption_root: Option<String>,
    pub(crate) key_location: Option<String>,
    pub(crate) is_shared: bool,
    /// The volume has no device, by its own wish.
    pub(crate) hidden_volume: bool,
}

impl Dataset {
    /// Must be mounted while the pool serves.
    pub(crate) fn is_to_mount(&self) -> bool {
        !self.is_volume && self.canmount && self.mountpoint.is_some() && !self.is_locked
    }

    /// Must have a device while the pool serves.
    pub(crate) fn has_device(&self) -> bool {
        self.is_volume && !self.hidden_volume && !self.is_locked
    }

    /// Whether its key is its own and isn't loaded.
    pub(crate) fn is_locked_root(&self) -> bool {
        self.is_locked && self.encryption_root.as_deref() == Some(&self.name)
    }

    fn of(get: impl Fn(&str) -> Result<String, String>) -> Result<Dataset, String> {
        let value = |name: &str| get(name);
        let some = |text: String| (!matches!(text.as_str(), "" | "-" | "none")).then_some(text);
        let name = value("name")?;
        let kind = value("type")?;
        let is_volume = match kind.to_ascii_lowercase().as_str() {
            "filesystem" => false,
            "volume" => true,
            _ => return Err(format!("dataset {name} has the unknown type {kind:?}")),
        };
        let mountpoint = some(value("mountpoint")?).map(PathBuf::from);
        let on = |text: String| !matches!(text.as_str(), "off" | "-" | "");
        Ok(Dataset {
            is_volume,
            mountpoint: mountpoint.filter(|path| path.is_absolute()),
            canmount: value("canmount")? == "on",
            is_locked: value("keystatus")? == "unavailable",
            encryption_root: some(value("encryptionroot")?),
            key_location: some(value("keylocation")?),
            is_shared: on(value("sharenfs")?) || on(value("sharesmb")?),
            hidden_volume: value("volmode")? == "none",
            name,
        })
    }
}

#[derive(Deserialize)]
struct Document {
    datasets: BTreeMap<String, JsonDataset>,
}

#[derive(Deserialize)]
struct JsonDataset {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    properties: BTreeMap<String, JsonProperty>,
}

#[derive(Deserialize)]
struct JsonProperty {
    value: serde_json::Value,
}

/// Reads what `zfs list -j -o COLUMNS` prints (OpenZFS 2.3 and later).
pub(crate) fn from_json(output: &[u8]) -> Result<Vec<Dataset>, String> {
    let document: Document = serde_json::from_slice(output)
        .map_err(|error| format!("the JSON of `zfs list` can't be read: {error}"))?;
    let mut found = Vec::new();
    for dataset in document.datasets.values() {
        found.push(Dataset::of(|column| match column {
            "name" => Ok(dataset.name.clone()),
            "type" => Ok(dataset.kind.clone()),
            _ => match dataset.properties.get(column) {
                Some(property) => Ok(json_text(&property.value)),
                None => Err(format!(
                    "`zfs list` doesn't tell {column} of {}",
                    dataset.name
                )),
            },
        })?);
    }
    Ok(found)
}

pub(crate) fn json_text(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Reads what `zfs list -H -p -o COLUMNS` prints: a line for each, with tabs between the columns.
pub(crate) fn from_text(output: &[u8]) -> Result<Vec<Dataset>, String> {
    let text = std::str::from_utf8(output)
        .map_err(|error| format!("the output of `zfs list` is no text: {error}"))?;
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the output of `zfs list` ends in the middle of a line".to_owned());
    }
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let parts: Vec<&str> = line.split('\t').collect();
        if parts.len() != COLUMNS.len() {
            let shown: String = line.chars().take(SHOWN_MAX).collect();
            return Err(format!(
                "line {} of `zfs list` has {} columns in place of {}: {shown:?}",
                number + 1,
                parts.len(),
                COLUMNS.len()
            ));
        }
        found.push(Dataset::of(|column| {
            let place = COLUMNS.iter().position(|name| *name == column);
            place.and_then(|place| parts.get(place)).map_or_else(
                || Err(format!("no column {column} was asked for")),
                |text| Ok((*text).to_owned()),
            )
        })?);
    }
    Ok(found)
}

/// Filesystems in the order in which they may be mounted: all of one step at the same time.
pub(crate) fn mount_steps<'d>(
    datasets: impl Iterator<Item = &'d Dataset>,
) -> Vec<Vec<&'d Dataset>> {
    let mut left: Vec<(&Path, &Dataset)> = datasets
        .filter_map(|dataset| Some((dataset.mountpoint.as_deref()?, dataset)))
        .collect();
    left.sort_by_key(|(path, _)| *path);
    let mut steps: Vec<Vec<&Dataset>> = Vec::new();
    // Mountpoints above the one at hand, each with its step.
    let mut above: Vec<(&Path, usize)> = Vec::new();
    for (path, dataset) in left {
        while above
            .last()
            .is_some_and(|(upper, _)| !path.starts_with(upper))
        {
            above.pop();
        }
        let step = above.last().map_or(0, |(_, step)| step + 1);
        above.push((path, step));
        if steps.len() <= step {
            steps.resize(step + 1, Vec::new());
        }
        steps[step].push(dataset);
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "tank\tfilesystem\t/tank\ton\t-\t-\tnone\toff\toff\t-\n\
        tank/a\tfilesystem\t/tank/a\ton\tnone\t-\tnone\trw=@10.0.0.0/8\toff\t-\n\
        tank/p\tfilesystem\t/tank/p\ton\tunavailable\ttank/p\tprompt\toff\toff\t-\n\
        tank/p/q\tfilesystem\t/tank/p/q\ton\tunavailable\ttank/p\tnone\toff\toff\t-\n\
        tank/l\tfilesystem\tlegacy\ton\t-\t-\tnone\toff\toff\t-\n\
        tank/n\tfilesystem\t/tank/n\tnoauto\t-\t-\tnone\toff\toff\t-\n\
        tank/v\tvolume\t-\t-\t-\t-\tnone\t-\t-\tdefault\n\
        tank/w\tvolume\t-\t-\t-\t-\tnone\t-\t-\tnone\n";

    fn names(found: &[Dataset], want: fn(&Dataset) -> bool) -> Vec<&str> {
        found
            .iter()
            .filter(|one| want(one))
            .map(|one| one.name.as_str())
            .collect()
    }

    #[test]
    fn the_text_form() {
        let found = from_text(TEXT.as_bytes()).expect("read");
        assert_eq!(names(&found, Dataset::is_to_mount), ["tank", "tank/a"]);
        assert_eq!(names(&found, Dataset::has_device), ["tank/v"]);
        assert_eq!(names(&found, Dataset::is_locked_root), ["tank/p"]);
        assert_eq!(names(&found, |one| one.is_shared), ["tank/a"]);
        assert_eq!(found[2].key_location.as_deref(), Some("prompt"));
        assert_eq!(from_text(b""), Ok(Vec::new()));
    }

    #[test]
    fn cut_and_changed_text_is_an_error_or_another_list_and_never_a_panic() {
        for length in 1..TEXT.len() {
            let cut = from_text(&TEXT.as_bytes()[..length]);
            assert_eq!(
                cut.is_ok(),
                TEXT.as_bytes()[length - 1] == b'\n',
                "{length}"
            );
        }
        for place in 0..TEXT.len() {
            for byte in [0, b'\t', b'\n', 0xff] {
                let mut changed = TEXT.as_bytes().to_vec();
                changed[place] = byte;
                let _ = from_text(&changed);
            }
        }
        let text = TEXT.replace("volume", "bookmark");
        assert!(
            from_text(text.as_bytes())
                .expect_err("type")
                .contains("bookmark")
        );
    }

    /// As `zfs list` of 2.4.4 printed them, of the same pool.
    const JSON_24: &[u8] = include_bytes!("captured/2.4/list.json");
    const TEXT_24: &[u8] = include_bytes!("captured/2.4/list.txt");

    #[test]
    fn captured_lists_say_the_same_in_both_forms() {
        let sorted = |mut found: Vec<Dataset>| {
            found.sort_by(|a, b| a.name.cmp(&b.name));
            found
        };
        let json = sorted(from_json(JSON_24).expect("JSON"));
        assert_eq!(json, sorted(from_text(TEXT_24).expect("text")));
        assert_eq!(json.len(), 13);
        let volumes: Vec<&str> = names(&json, Dataset::has_device);
        assert_eq!(volumes, ["tank/vol"]);
        let secret = json
            .iter()
            .find(|one| one.name == "tank/secret")
            .expect("there");
        assert_eq!(secret.encryption_root.as_deref(), Some("tank/secret"));
        assert!(secret.is_to_mount() && !secret.is_locked);
    }

    #[test]
    fn cut_and_changed_json_is_an_error_and_never_a_panic() {
        for length in (0..JSON_24.len() - 1).step_by(37) {
            let cut = from_json(&JSON_24[..length]);
            assert!(
                cut.expect_err("cut").contains("JSON of `zfs list`"),
                "{length}"
            );
        }
        for place in (0..JSON_24.len()).step_by(61) {
            let mut changed = JSON_24.to_vec();
            changed[place] = b'0';
            let _ = from_json(&changed);
        }
        let without = String::from_utf8_lossy(JSON_24).replace("keystatus", "keystate");
        let why = from_json(without.as_bytes()).expect_err("a column is missing");
        assert!(why.contains("doesn't tell keystatus"), "{why}");
    }

    #[test]
    fn parents_are_mounted_first() {
        let at = |path: &str| Dataset {
            name: path.trim_start_matches('/').to_owned(),
            mountpoint: Some(path.into()),
            ..from_text(TEXT.as_bytes()).expect("read")[0].clone()
        };
        let all = [at("/t/a/b"), at("/t"), at("/t/a"), at("/t/ab"), at("/x/y")];
        let steps = mount_steps(all.iter());
        let steps: Vec<Vec<&str>> = steps
            .iter()
            .map(|step| step.iter().map(|one| one.name.as_str()).collect())
            .collect();
        assert_eq!(
            steps,
            [vec!["t", "x/y"], vec!["t/a", "t/ab"], vec!["t/a/b"]]
        );
    }
}

//! What `zpool status` and `zpool get` say, as JSON (OpenZFS 2.3 and later) and as text.

use super::datasets::json_text;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Vdevs in vdevs that are followed.
const DEPTH_MAX: usize = 8;

/// State of a pool and of its devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) state: String,
    /// Name and state of each device, the inner ones included.
    pub(crate) devices: Vec<(String, String)>,
}

impl Status {
    /// A sentence for each device that doesn't work.
    pub(crate) fn not_online(&self) -> Vec<String> {
        let fine = |state: &str| matches!(state, "ONLINE" | "AVAIL" | "INUSE");
        let bad = self.devices.iter().filter(|(_, state)| !fine(state));
        bad.map(|(name, state)| format!("device {name} is {state}"))
            .collect()
    }
}

#[derive(Deserialize)]
struct Document<P> {
    pools: BTreeMap<String, P>,
}

#[derive(Deserialize)]
struct StatusPool {
    state: String,
    #[serde(default)]
    vdevs: BTreeMap<String, StatusVdev>,
    #[serde(default)]
    logs: BTreeMap<String, StatusVdev>,
    #[serde(default)]
    l2cache: BTreeMap<String, StatusVdev>,
    #[serde(default)]
    spares: BTreeMap<String, StatusVdev>,
}

#[derive(Deserialize)]
struct StatusVdev {
    name: String,
    state: String,
    #[serde(default)]
    vdevs: BTreeMap<String, StatusVdev>,
}

#[derive(Deserialize)]
struct GetPool {
    #[serde(default)]
    properties: BTreeMap<String, GetProperty>,
}

#[derive(Deserialize)]
struct GetProperty {
    value: serde_json::Value,
}

fn pool<P: for<'d> Deserialize<'d>>(output: &[u8], name: &str, tool: &str) -> Result<P, String> {
    let mut document: Document<P> = serde_json::from_slice(output)
        .map_err(|error| format!("the JSON of `{tool}` can't be read: {error}"))?;
    document
        .pools
        .remove(name)
        .ok_or_else(|| format!("the JSON of `{tool}` doesn't have the pool {name}"))
}

/// Reads what `zpool status -j` prints.
pub(crate) fn from_json(output: &[u8], name: &str) -> Result<Status, String> {
    let found: StatusPool = pool(output, name, "zpool status")?;
    let mut status = Status {
        state: found.state,
        devices: Vec::new(),
    };
    for group in [&found.vdevs, &found.logs, &found.l2cache, &found.spares] {
        flatten(group, 0, &mut status.devices);
    }
    Ok(status)
}

fn flatten(vdevs: &BTreeMap<String, StatusVdev>, depth: usize, out: &mut Vec<(String, String)>) {
    for vdev in vdevs.values().filter(|_| depth < DEPTH_MAX) {
        out.push((vdev.name.clone(), vdev.state.clone()));
        flatten(&vdev.vdevs, depth + 1, out);
    }
}

/// Reads what `zpool status` prints for people: `state:`, then after `config:` a line for each device.
pub(crate) fn from_text(output: &[u8], name: &str) -> Result<Status, String> {
    let text = String::from_utf8_lossy(output);
    let mut lines = text.lines();
    let state = lines
        .by_ref()
        .find_map(|line| line.trim().strip_prefix("state:"))
        .ok_or("`zpool status` shows no state")?;
    let mut status = Status {
        state: state.trim().to_owned(),
        devices: Vec::new(),
    };
    let table = lines
        .skip_while(|line| !line.trim_start().starts_with("NAME "))
        .skip(1);
    for line in table.take_while(|line| !line.trim_start().starts_with("errors:")) {
        let mut words = line.split_whitespace();
        if let (Some(device), Some(state)) = (words.next(), words.next()) {
            status.devices.push((device.to_owned(), state.to_owned()));
        }
    }
    match status.devices.first() {
        Some((first, _)) if first == name => Ok(status),
        _ => Err(format!("`zpool status` shows no devices of {name}")),
    }
}

/// Reads one property from what `zpool get -j` prints.
pub(crate) fn property(output: &[u8], name: &str, property: &str) -> Result<String, String> {
    let found: GetPool = pool(output, name, "zpool get")?;
    let value = found.properties.get(property);
    let value = value.ok_or_else(|| format!("the JSON of `zpool get` doesn't have {property}"))?;
    Ok(json_text(&value.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the tools of 2.4.4 printed them.
    const JSON_24: &[u8] = include_bytes!("captured/2.4/status.json");
    const TEXT_24: &[u8] = include_bytes!("captured/2.4/status.txt");
    const GET_24: &[u8] = include_bytes!("captured/2.4/get.json");

    #[test]
    fn captured_states_say_the_same_in_both_forms() {
        let mut json = from_json(JSON_24, "tank").expect("JSON");
        let mut text = from_text(TEXT_24, "tank").expect("text");
        json.devices.sort();
        text.devices.sort();
        assert_eq!(json, text);
        assert_eq!((json.state.as_str(), json.devices.len()), ("ONLINE", 10));
        assert!(json.not_online().is_empty());
        let broken = String::from_utf8_lossy(JSON_24).replace(
            "\"class\":\"normal\",\"state\":\"ONLINE\",\"rep_dev_size\":258998272",
            "\"class\":\"normal\",\"state\":\"UNAVAIL\",\"rep_dev_size\":258998272",
        );
        let broken = from_json(broken.as_bytes(), "tank")
            .expect("JSON")
            .not_online();
        assert_eq!(broken.len(), 8);
        assert!(
            broken[0].ends_with("0000000000000000000000 is UNAVAIL"),
            "{broken:?}"
        );
    }

    #[test]
    fn a_property_is_read() {
        assert_eq!(property(GET_24, "tank", "multihost"), Ok("off".to_owned()));
        assert!(property(GET_24, "tank", "guid").is_err());
        assert!(
            property(GET_24, "store", "multihost")
                .expect_err("no such pool")
                .contains("store")
        );
    }

    #[test]
    fn cut_and_changed_output_is_an_error_or_another_state_and_never_a_panic() {
        for length in (0..JSON_24.len() - 1).step_by(37) {
            assert!(from_json(&JSON_24[..length], "tank").is_err(), "{length}");
        }
        for length in 0..TEXT_24.len() {
            let _ = from_text(&TEXT_24[..length], "tank");
        }
        for place in (0..JSON_24.len()).step_by(41) {
            let mut changed = JSON_24.to_vec();
            changed[place] = b'{';
            let _ = from_json(&changed, "tank");
        }
        assert!(from_text(b"", "tank").is_err() && from_text(TEXT_24, "store").is_err());
    }
}

//! Wall-clock times on the wire: `{"$date": milliseconds since 1970}`, which clients read as a date.
//!
//! For fields of type `Option<u64>`: `#[serde(default, with = "crate::date")]`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
struct Date {
    #[serde(rename = "$date")]
    millis: u64,
}

/// Writes the milliseconds as a date.
pub fn serialize<S: Serializer>(millis: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    millis.map(|millis| Date { millis }).serialize(serializer)
}

/// Reads a date as milliseconds.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(Option::<Date>::deserialize(deserializer)?.map(|date| date.millis))
}

//! What a re-read configuration may change at run time.

use super::Config;

/// What differs between two configurations and may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Keys that differ.
    pub changed: Vec<String>,
}

/// Keys that differ and can't be changed at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub Vec<String>);

/// Compares two configurations.
pub fn difference(_old: &Config, _new: &Config) -> Result<Difference, Refused> {
    Ok(Difference::default())
}

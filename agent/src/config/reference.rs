//! Every key of the configuration in one table.

/// The commented default configuration.
pub fn default_text() -> String {
    "node = \"A\"\n".to_owned()
}

/// The reference of the configuration.
pub fn reference_markdown() -> String {
    String::new()
}

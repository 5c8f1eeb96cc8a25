//! `failoverd --check`: what was read, in words, and what the lease of the virtual addresses can't cover.

use super::Config;

/// Explains a configuration.
pub fn explain(config: &Config) -> String {
    let _ = config;
    String::new()
}

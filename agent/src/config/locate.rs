//! Which line of a TOML file holds which key: enough for messages, no second parser.

/// Where keys stand.
pub(super) struct Locator {
    /// Offset at which each line starts.
    starts: Vec<usize>,
    /// Key path and line, in the file's order.
    keys: Vec<(String, usize)>,
}

impl Locator {
    pub(super) fn new(text: &str) -> Locator {
        let mut locator = Locator {
            starts: Vec::new(),
            keys: Vec::new(),
        };
        let mut table = String::new();
        let mut offset = 0;
        for (index, line) in text.split('\n').enumerate() {
            locator.starts.push(offset);
            offset += line.len() + 1;
            let line = line.trim();
            if let Some(name) = line.strip_prefix("[[").and_then(|l| l.split("]]").next()) {
                let name = name.trim();
                let before = |(key, _): &&(String, usize)| {
                    key.starts_with(&format!("{name}[")) && key.ends_with(']')
                };
                let count = locator.keys.iter().filter(before).count();
                table = format!("{name}[{count}]");
                locator.keys.push((table.clone(), index + 1));
            } else if let Some(name) = line.strip_prefix('[').and_then(|l| l.split(']').next())
                && header(line)
            {
                table = name.trim().to_owned();
                locator.keys.push((table.clone(), index + 1));
            } else if let Some(key) = key_of(line) {
                let dot = if table.is_empty() { "" } else { "." };
                locator.keys.push((format!("{table}{dot}{key}"), index + 1));
            }
        }
        locator
    }

    /// Line, from 1, of the byte at `offset`.
    pub(super) fn line_at(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset).max(1)
    }

    /// Key whose value covers `line`; empty before the first one.
    pub(super) fn key_at(&self, line: usize) -> String {
        let before = self.keys.iter().rev().find(|(_, at)| *at <= line);
        before.map(|(key, _)| key.clone()).unwrap_or_default()
    }

    /// Line of `key`, or of the nearest key that contains it.
    pub(super) fn line_of(&self, key: &str) -> Option<usize> {
        let mut key = key;
        loop {
            if let Some((_, line)) = self.keys.iter().find(|(k, _)| k == key) {
                return Some(*line);
            }
            let cut = key.rfind(['.', '['])?;
            key = &key[..cut];
            // A whole section is no place for a key that is missing from the top of the file.
            if key.is_empty() {
                return None;
            }
        }
    }
}

/// Whether a line that starts with `[` is a table's header and not a row of an array.
fn header(line: &str) -> bool {
    let inside = line.trim_start_matches('[').split(']').next().unwrap_or("");
    !inside.trim().is_empty() && inside.chars().all(|c| key_char(c) || c == '.')
}

fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    (!key.is_empty() && key.chars().all(|c| key_char(c) || c == '.')).then_some(key)
}

fn key_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '"' | '\'')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_keys_find_each_other() {
        let text =
            "node = \"A\"\n# note\n[[links]]\nlocal = 1\n[[links]]\nlocal = [\n  3,\n]\n[timing]\n";
        let locator = Locator::new(text);
        assert_eq!(locator.line_of("links[1].local"), Some(6));
        assert_eq!(locator.line_of("links[0].peer"), Some(3));
        assert_eq!(locator.line_of("timing.beat_ms"), Some(9));
        assert_eq!(locator.line_of("pair_key"), None);
        assert_eq!(locator.key_at(7), "links[1].local");
        assert_eq!(locator.line_at(0), 1);
        assert_eq!(locator.line_at(11), 2);
    }
}

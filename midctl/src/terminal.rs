//! What the terminal can show.

use std::io::IsTerminal;

/// Where the output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// Columns; `None` where nobody reads it on a screen, so that lines aren't cut.
    pub columns: Option<u16>,
    /// Colours are wanted.
    pub colours: bool,
}

impl Terminal {
    /// Standard output.
    pub fn stdout() -> Terminal {
        let is_terminal = std::io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Terminal {
            columns: columns_wanted().or_else(|| {
                if is_terminal {
                    Some(window_columns())
                } else {
                    None
                }
            }),
            colours: is_terminal && !plain,
        }
    }
}

/// `COLUMNS`, if somebody set it on purpose.
fn columns_wanted() -> Option<u16> {
    let columns = std::env::var("COLUMNS").ok()?.parse().ok()?;
    (columns >= MIN_COLUMNS).then_some(columns)
}

/// Narrower than this, nothing is readable anyway.
const MIN_COLUMNS: u16 = 40;

fn window_columns() -> u16 {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one `winsize` to the pointer, which is valid for it during the call.
    let asked = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &mut size) };
    match asked {
        0 if size.ws_col > 0 => size.ws_col.max(MIN_COLUMNS),
        _ => 80,
    }
}

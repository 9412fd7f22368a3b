//! Makes text from files and programs safe to show in messages: an escape sequence could clear a terminal or change what it
//! shows, and a megabyte of text would bury the message around it.

use std::fmt::{Display, Write};

/// Longest text in characters that [`printable`] returns uncut.
const LONGEST: usize = 1000;

/// Text from a file or program for a single line of a message: control characters, line ends and marks that reverse the
/// direction of text are escaped as `\u001b`, and everything after the first 1,000 characters is replaced by their number.
pub fn printable(text: impl Display) -> String {
    escaped(&text.to_string(), false, LONGEST)
}

/// Text of several lines, cut at `most` characters: as [`printable`], but line ends and tabs stay.
pub fn printable_lines(text: impl Display, most: usize) -> String {
    escaped(&text.to_string(), true, most)
}

fn escaped(text: &str, lines: bool, most: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(most));
    let mut rest = text.chars();
    for c in rest.by_ref().take(most) {
        match c {
            '\n' | '\t' if lines => shown.push(c),
            c if c.is_control() || reorders(c) => {
                // A JSON escape too, so that escaped JSON stays JSON. Writing to a String does not fail.
                let _ = write!(shown, "\\u{:04x}", u32::from(c));
            }
            c => shown.push(c),
        }
    }
    let cut = rest.count();
    if cut > 0 {
        let _ = write!(shown, "… ({cut} more characters)");
    }
    shown
}

/// Whether a terminal or browser changes the order or the lines of the text around `c`.
fn reorders(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("Käse 画像 \"x\" \\"), "Käse 画像 \"x\" \\");
        assert_eq!(
            printable("a\u{1b}[2Jb\r\n\tc\0\u{7f}\u{9b}"),
            "a\\u001b[2Jb\\u000d\\u000a\\u0009c\\u0000\\u007f\\u009b"
        );
        assert_eq!(printable("gnp.\u{202e}exe"), "gnp.\\u202eexe");
        assert_eq!(printable_lines("a\u{7}\n\tb", 9), "a\\u0007\n\tb");
        let json = serde_json::to_string("\u{9b}\u{1b}\u{2028}x").unwrap();
        assert_eq!(serde_json::from_str::<String>(&printable(json)).unwrap(), "\u{9b}\u{1b}\u{2028}x");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(printable("ä".repeat(LONGEST)), "ä".repeat(LONGEST));
        assert_eq!(printable("ä".repeat(LONGEST + 7)), format!("{}… (7 more characters)", "ä".repeat(LONGEST)));
        assert_eq!(printable_lines("a\nbc", 3), "a\nb… (1 more characters)");
    }
}

// SPDX-License-Identifier: GPL-2.0
//! Bytes as a line of text that a person can read and a program can undo.

use std::fmt::{self, Write};

/// Shows bytes as text on one line.
///
/// Printable UTF-8 stays as it is. A backslash becomes `\\`, tab, newline and
/// carriage return become `\t`, `\n` and `\r`, every other control character
/// and every byte that is not UTF-8 becomes `\xNN` for each of its bytes.
///
/// ```
/// use hpkv::Escaped;
///
/// assert_eq!(Escaped(b"two\nlines").to_string(), r"two\nlines");
/// assert_eq!(Escaped(&[0xff, 0x00]).to_string(), r"\xff\x00");
/// assert_eq!(Escaped("żółw".as_bytes()).to_string(), "żółw");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(
    /// The bytes to show.
    pub &'a [u8],
);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '\\' => f.write_str("\\\\")?,
                    '\t' => f.write_str("\\t")?,
                    '\n' => f.write_str("\\n")?,
                    '\r' => f.write_str("\\r")?,
                    _ if is_printable(character) => f.write_char(character)?,
                    _ => escape_bytes(f, character.encode_utf8(&mut [0; 4]).as_bytes())?,
                }
            }
            escape_bytes(f, chunk.invalid())?;
        }
        Ok(())
    }
}

/// Whether a terminal shows the character and nothing else happens. Marks that
/// turn the direction of writing are left out: they make a line lie.
fn is_printable(character: char) -> bool {
    let invisible = matches!(
        u32::from(character),
        0x061c | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x2069 | 0xfeff
    );
    !character.is_control() && !invisible
}

fn escape_bytes(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::Escaped;

    #[test]
    fn plain_text_is_left_alone() {
        assert_eq!(Escaped(b"a b:c").to_string(), "a b:c");
        assert_eq!(Escaped(b"").to_string(), "");
    }

    #[test]
    fn what_would_break_a_line_or_a_terminal_is_escaped() {
        assert_eq!(Escaped(b"a\\b\tc\nd\re").to_string(), r"a\\b\tc\nd\re");
        assert_eq!(Escaped(b"\x1b[2J\x7f").to_string(), r"\x1b[2J\x7f");
        assert_eq!(
            Escaped("\u{85}\u{202e}".as_bytes()).to_string(),
            r"\xc2\x85\xe2\x80\xae"
        );
    }

    #[test]
    fn broken_utf8_keeps_every_byte() {
        assert_eq!(Escaped(b"ok\xc3(\xff").to_string(), r"ok\xc3(\xff");
    }
}

// SPDX-License-Identifier: GPL-2.0
//! What was typed, as bytes and numbers.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use crate::cli::Source;
use crate::failure::Failure;

/// A key or value of the command line.
pub(crate) fn bytes(argument: &OsStr, hex: bool) -> Result<Vec<u8>, Failure> {
    if !hex {
        return Ok(argument.as_bytes().to_vec());
    }
    from_hex(argument.as_bytes()).map_err(|reason| {
        let what = format!(
            "\"{}\" is not hexadecimal: {reason}",
            hpkv::Escaped(argument.as_bytes())
        );
        Failure::usage(what, "With --hex, give two digits per byte, as in 00ff.")
    })
}

fn from_hex(digits: &[u8]) -> Result<Vec<u8>, String> {
    let value = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    if let Some(position) = digits.iter().position(|digit| value(*digit).is_none()) {
        return Err(format!("character {} is no digit", position + 1));
    }
    if digits.len() % 2 != 0 {
        return Err(format!("its number of digits, {}, is odd", digits.len()));
    }
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(value(*high)? << 4 | value(*low)?),
        _ => None,
    };
    digits
        .chunks(2)
        .map(pair)
        .collect::<Option<_>>()
        .ok_or_else(|| "broken".to_owned())
}

/// The value of a command, from wherever it comes.
pub(crate) fn value(source: &Source, hex: bool) -> Result<Vec<u8>, Failure> {
    match (&source.value, &source.file) {
        (Some(value), _) if value == "-" => read(io::stdin().lock(), "standard input"),
        (Some(value), _) => bytes(value, hex),
        (None, Some(path)) => {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|error| unreadable(&name, &error))?;
            read(file, &name)
        }
        (None, None) => Err(Failure::usage(
            "no value",
            "Give VALUE, or - for standard input, or --file.",
        )),
    }
}

/// Reads to the end, but never more than a value can hold: the source may be
/// endless.
fn read(source: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    let room = hpkv::VALUE_LEN_MAX + 1;
    source
        .take(room as u64)
        .read_to_end(&mut value)
        .map_err(|error| unreadable(name, &error))?;
    if value.len() == room {
        let reason = format!(
            "{name} is too long for a value: it has more than {} bytes",
            hpkv::VALUE_LEN_MAX
        );
        return Err(Failure::refused(
            reason,
            "Store it in pieces, under several keys.",
        ));
    }
    Ok(value)
}

fn unreadable(name: &str, error: &io::Error) -> Failure {
    Failure::usage(
        format!("cannot read {name}: {error}"),
        "Check the path and its permissions.",
    )
}

/// A time span: a number with its unit.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return Err("give a number with ms, s, m, h or d, as in 15m".to_owned()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "give a whole number before the unit".to_owned())?;
    let ms = number.checked_mul(factor_ms).ok_or("that is too long")?;
    Ok(Duration::from_millis(ms))
}

/// A number of 32 bits, decimal or hexadecimal with 0x.
pub(crate) fn parse_number(text: &str) -> Result<u32, String> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn arguments_are_bytes_not_text() {
        let argument = OsString::from_vec(vec![0xff, 0x01]);
        assert_eq!(bytes(&argument, false).unwrap(), [0xff, 0x01]);
    }

    #[test]
    fn hexadecimal() {
        assert_eq!(from_hex(b"00fFa0").unwrap(), [0x00, 0xff, 0xa0]);
        assert_eq!(from_hex(b"").unwrap(), b"");
        assert_eq!(from_hex(b"0g").unwrap_err(), "character 2 is no digit");
        assert_eq!(
            from_hex(b"000").unwrap_err(),
            "its number of digits, 3, is odd"
        );
        assert!(from_hex("é0".as_bytes()).is_err());
        assert!(from_hex(b"+1").is_err());
    }

    #[test]
    fn spans() {
        assert_eq!(parse_duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(parse_duration("2d").unwrap(), Duration::from_secs(172_800));
        for bad in [
            "",
            "5",
            "m",
            "-5s",
            "1.5h",
            "5 s",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(parse_number("0xff"), Ok(255));
        assert_eq!(parse_number("4294967295"), Ok(u32::MAX));
        assert!(parse_number("4294967296").is_err() && parse_number("-1").is_err());
    }

    #[test]
    fn an_endless_source_is_not_read_for_ever() {
        let failure = read(io::repeat(0), "zeros").unwrap_err();
        assert!(
            failure.to_string().contains("more than 1048576 bytes"),
            "{failure}"
        );
        assert_eq!(read(&[1_u8; 5][..], "five").unwrap().len(), 5);
    }
}

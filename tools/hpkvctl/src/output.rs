// SPDX-License-Identifier: GPL-2.0
//! Results as text and as JSON.

use hpkv::{Entry, Escaped, Metadata, Stat};
use serde_json::{Map, Value, json};

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;

    let mut digits = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

/// Adds bytes to a JSON object: as text under `name` if they are UTF-8, else,
/// or if asked for, in hexadecimal under `name_hex`.
pub(crate) fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8], as_hex: bool) {
    match std::str::from_utf8(bytes) {
        Ok(text) if !as_hex => object.insert(name.to_owned(), json!(text)),
        _ => object.insert(format!("{name}_hex"), json!(hex(bytes))),
    };
}

fn put_metadata(object: &mut Map<String, Value>, metadata: &Metadata) {
    object.insert("version".to_owned(), json!(metadata.version));
    object.insert("expires_ms".to_owned(), json!(metadata.expires_ms));
    object.insert("user_flags".to_owned(), json!(metadata.user_flags));
}

/// A key with its value, as one JSON object.
pub(crate) fn record_json(
    key: &[u8],
    value: Option<&[u8]>,
    value_len: usize,
    metadata: &Metadata,
    as_hex: bool,
) -> Value {
    let mut object = Map::new();
    put_bytes(&mut object, "key", key, as_hex);
    if let Some(value) = value {
        put_bytes(&mut object, "value", value, as_hex);
    }
    object.insert("value_len".to_owned(), json!(value_len));
    put_metadata(&mut object, metadata);
    Value::Object(object)
}

/// What a change came to, as one JSON object.
pub(crate) fn change_json(
    key: &[u8],
    version: u64,
    value_len: Option<usize>,
    as_hex: bool,
) -> Value {
    let mut object = Map::new();
    put_bytes(&mut object, "key", key, as_hex);
    object.insert("version".to_owned(), json!(version));
    if let Some(value_len) = value_len {
        object.insert("value_len".to_owned(), json!(value_len));
    }
    Value::Object(object)
}

/// A value as `get` prints it. The newline after it is the caller's.
pub(crate) fn value_text(value: &[u8], as_hex: bool) -> Vec<u8> {
    if as_hex {
        hex(value).into_bytes()
    } else {
        value.to_vec()
    }
}

/// One line of a scan, without its newline.
pub(crate) fn entry_line(entry: &Entry, as_hex: bool) -> String {
    let shown = |bytes: &[u8]| {
        if as_hex {
            hex(bytes)
        } else {
            Escaped(bytes).to_string()
        }
    };
    let key = shown(&entry.key);
    match &entry.value {
        Some(value) => format!("{key}\t{}", shown(value)),
        None => key,
    }
}

/// The three states with their names.
fn states(stat: &Stat) -> [(&'static str, bool); 3] {
    [
        ("persistent", stat.persistent),
        ("read_only", stat.read_only),
        ("failed", stat.failed),
    ]
}

/// Figures, one per line, each with its newline.
pub(crate) fn stat_text(stat: &Stat) -> String {
    let answer = |yes| if yes { "yes" } else { "no" };
    let states = states(stat)
        .into_iter()
        .map(|(name, yes)| format!("{name}: {}\n", answer(yes)));
    let figures = stat
        .figures()
        .map(|(name, figure)| format!("{name}: {figure}\n"));
    states.chain(figures).collect()
}

/// Figures as one JSON object.
pub(crate) fn stat_json(stat: &Stat) -> Value {
    let states = states(stat)
        .into_iter()
        .map(|(name, yes)| (name.to_owned(), json!(yes)));
    let figures = stat
        .figures()
        .map(|(name, figure)| (name.to_owned(), json!(figure)));
    Value::Object(states.chain(figures).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &[u8], value: Option<&[u8]>) -> Entry {
        Entry {
            key: key.to_vec(),
            value: value.map(<[u8]>::to_vec),
            value_len: value.map_or(5, <[u8]>::len),
            metadata: Metadata {
                version: 7,
                expires_ms: 0,
                user_flags: 2,
            },
        }
    }

    #[test]
    fn an_entry_is_one_line_whatever_it_holds() {
        assert_eq!(entry_line(&entry(b"k", Some(b"v w")), false), "k\tv w");
        assert_eq!(
            entry_line(&entry(b"a\tb", Some(b"1\n2\0")), false),
            "a\\tb\t1\\n2\\x00"
        );
        assert_eq!(entry_line(&entry(b"k\xff", None), false), "k\\xff");
        assert_eq!(entry_line(&entry(b"k", Some(b"\n")), true), "6b\t0a");
    }

    #[test]
    fn json_keeps_every_byte() {
        let of = |key: &[u8], value: Option<&[u8]>, as_hex| {
            let entry = entry(key, value);
            record_json(
                &entry.key,
                entry.value.as_deref(),
                entry.value_len,
                &entry.metadata,
                as_hex,
            )
            .to_string()
        };
        let rest = r#""version":7,"expires_ms":0,"user_flags":2}"#;
        assert_eq!(
            of(b"k", Some(b"v\n"), false),
            format!(r#"{{"key":"k","value":"v\n","value_len":2,{rest}"#)
        );
        assert_eq!(
            of(b"k", Some(b"\xff"), false),
            format!(r#"{{"key":"k","value_hex":"ff","value_len":1,{rest}"#)
        );
        assert_eq!(
            of(b"k", None, true),
            format!(r#"{{"key_hex":"6b","value_len":5,{rest}"#)
        );
    }

    #[test]
    fn changes() {
        assert_eq!(
            change_json(b"k", 3, None, false).to_string(),
            r#"{"key":"k","version":3}"#
        );
        let json = change_json(b"k", 3, Some(9), true).to_string();
        assert_eq!(json, r#"{"key_hex":"6b","version":3,"value_len":9}"#);
    }

    #[test]
    fn figures() {
        let stat = Stat::default();
        let text = stat_text(&stat);
        assert!(text.starts_with("persistent: no\nread_only: no\nfailed: no\nrecords: 0\n"));
        assert_eq!(text.lines().count(), 3 + stat.figures().count());
        let json = stat_json(&stat);
        assert_eq!(json["persistent"], false);
        assert_eq!(json["clients"], 0);
    }

    #[test]
    fn values() {
        assert_eq!(value_text(b"a\0", false), b"a\0");
        assert_eq!(value_text(b"a\0", true), b"6100");
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The line protocol for people with `nc`.
//!
//! | request | answer |
//! |---|---|
//! | `put <key> <value>` | `ok` |
//! | `get <key>` | the value |
//! | `del <key>` | `ok` |
//! | `PING` | `+PONG` |
//!
//! A key that does not exist is answered `not found`, and whatever else goes wrong `error:
//! <reason>`. Requests end in LF or CR LF, answers in LF. The verb is in lower case; the key is
//! everything up to the next space, the value everything after that space up to the end of the
//! line, spaces and all, so that `put k ` with its space at the end stores an empty value.
//!
//! `PING` in upper case is not a request of this protocol: it is what the tools of another one send
//! to see whether anybody is there, and is answered in their way, with CR LF.

/// Longest line in bytes, its end included: verb, key, value, two spaces, CR LF, and a little for
/// a key that is somewhat too long to be told so by name.
pub(crate) const LINE_LEN_MAX: usize = 4 + 1024 + 1 + (1 << 20) + 2 + 64;

/// Answer to a request that did what it asked.
pub(crate) const OK: &[u8] = b"ok\n";
/// Answer about a key that does not exist.
pub(crate) const NOT_FOUND: &[u8] = b"not found\n";
/// Answer to a connection above the limit.
pub(crate) const TOO_MANY_CLIENTS: &[u8] = b"error: too many clients\n";
/// Answer to an inline PING.
pub(crate) const PONG: &[u8] = b"+PONG\r\n";

/// One line, understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    /// Store `value` under `key`.
    Put { key: &'a [u8], value: &'a [u8] },
    /// Answer with the value of `key`.
    Get { key: &'a [u8] },
    /// Remove `key`.
    Delete { key: &'a [u8] },
    /// Say that somebody is there.
    Ping,
}

/// Why a line is not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Nothing on the line.
    Empty,
    /// A verb that is not known.
    UnknownVerb,
    /// `put` without a key and a value.
    PutUsage,
    /// `get` with anything but one key.
    GetUsage,
    /// `del` with anything but one key.
    DeleteUsage,
}

impl Malformed {
    /// The reason, as a client reads it after `error: `.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Empty => "empty line",
            Self::UnknownVerb => "unknown command, expected put, get or del",
            Self::PutUsage => "expected put <key> <value>",
            Self::GetUsage => "expected get <key>",
            Self::DeleteUsage => "expected del <key>",
        }
    }
}

/// The reason given for a line longer than [`LINE_LEN_MAX`].
pub(crate) const LINE_TOO_LONG: &str = "line too long";

/// Understands one line, given without its end.
pub(crate) fn parse(line: &[u8]) -> Result<Request<'_>, Malformed> {
    let (verb, rest) = match split_at_space(line) {
        Some((verb, rest)) => (verb, Some(rest)),
        None => (line, None),
    };
    match verb {
        b"put" => {
            let (key, value) = rest.and_then(split_at_space).ok_or(Malformed::PutUsage)?;
            if key.is_empty() {
                return Err(Malformed::PutUsage);
            }
            Ok(Request::Put { key, value })
        }
        b"get" => {
            let key = only_key(rest).ok_or(Malformed::GetUsage)?;
            Ok(Request::Get { key })
        }
        b"del" => {
            let key = only_key(rest).ok_or(Malformed::DeleteUsage)?;
            Ok(Request::Delete { key })
        }
        b"PING" if rest.is_none() => Ok(Request::Ping),
        b"" if rest.is_none() => Err(Malformed::Empty),
        _ => Err(Malformed::UnknownVerb),
    }
}

/// Writes `error: <reason>` and the end of the line, piece by piece.
pub(crate) fn error<E>(
    reason: &str,
    mut write: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    write(b"error: ")?;
    write(reason.as_bytes())?;
    write(b"\n")
}

/// Returns what is before the first space and what is after it.
fn split_at_space(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().position(|&byte| byte == b' ')?;
    let (before, from_space) = bytes.split_at_checked(space)?;
    Some((before, from_space.get(1..)?))
}

/// Returns the rest of a line if it is one key: not empty, no space in it.
fn only_key(rest: Option<&[u8]>) -> Option<&[u8]> {
    rest.filter(|key| !key.is_empty() && !key.contains(&b' '))
}

#[cfg(test)]
mod tests {
    use super::{error, parse, Malformed, Request, LINE_LEN_MAX};

    #[test]
    fn the_documented_session_is_understood() {
        assert_eq!(
            parse(b"put hello world"),
            Ok(Request::Put {
                key: b"hello",
                value: b"world"
            })
        );
        assert_eq!(parse(b"get hello"), Ok(Request::Get { key: b"hello" }));
        assert_eq!(parse(b"del hello"), Ok(Request::Delete { key: b"hello" }));
    }

    #[test]
    fn a_value_is_the_rest_of_the_line_spaces_and_all() {
        let value = |line| match parse(line) {
            Ok(Request::Put { value, .. }) => value,
            other => panic!("{other:?}"),
        };
        assert_eq!(value(b"put k a b  c "), b"a b  c ");
        assert_eq!(value(b"put k  x"), b" x");
        assert_eq!(value(b"put k "), b"");
        assert_eq!(value(b"put k a\rb"), b"a\rb");
        assert_eq!(value(b"put k \0\xff"), b"\0\xff");
    }

    #[test]
    fn malformed_lines_are_told_apart() {
        for (line, want) in [
            (&b""[..], Malformed::Empty),
            (b" ", Malformed::UnknownVerb),
            (b" put k v", Malformed::UnknownVerb),
            (b"PUT k v", Malformed::UnknownVerb),
            (b"Get k", Malformed::UnknownVerb),
            (b"ping", Malformed::UnknownVerb),
            (b"PING x", Malformed::UnknownVerb),
            (b"put\tk v", Malformed::UnknownVerb),
            (b"\x00\xff\xfe", Malformed::UnknownVerb),
            (b"put", Malformed::PutUsage),
            (b"put ", Malformed::PutUsage),
            (b"put k", Malformed::PutUsage),
            (b"put  v", Malformed::PutUsage),
            (b"get", Malformed::GetUsage),
            (b"get ", Malformed::GetUsage),
            (b"get a b", Malformed::GetUsage),
            (b"get  a", Malformed::GetUsage),
            (b"del", Malformed::DeleteUsage),
            (b"del a b", Malformed::DeleteUsage),
        ] {
            assert_eq!(parse(line), Err(want), "{line:?}");
        }
        assert_eq!(parse(b"PING"), Ok(Request::Ping));
    }

    #[test]
    fn the_longest_put_fits_in_a_line() {
        let longest = "put ".len() + 1024 + " ".len() + (1 << 20) + "\r\n".len();
        assert!(longest <= LINE_LEN_MAX);
    }

    #[test]
    fn an_error_is_one_line() {
        let mut out = Vec::new();
        let done: Result<(), ()> = error(Malformed::Empty.text(), |piece| {
            out.extend_from_slice(piece);
            Ok(())
        });
        assert_eq!(done, Ok(()));
        assert_eq!(out, b"error: empty line\n");
    }

    #[test]
    fn noise_never_panics() {
        // A small generator is enough: every byte pair around the verbs and separators.
        let mut state = 0x2545_f491_4f6c_dd1du64;
        for _ in 0..100_000 {
            let mut line = [0u8; 12];
            for byte in &mut line {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *byte = *b"putgedl PING\r\0\xff".get((state % 15) as usize).unwrap();
            }
            let _ = parse(&line);
        }
    }
}

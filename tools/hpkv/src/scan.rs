// SPDX-License-Identifier: GPL-2.0
//! Keys in order: what to read, and the iterator that fetches it.

use crate::abi;
use crate::backend::{Scanned, Step};
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::{Client, Metadata};

/// Room for entries that a scan begins with. It grows when an entry does not
/// fit.
const ROOM_FIRST: usize = 64 * 1024;

/// Which keys a scan reads. Without any option: all of them, with values.
///
/// ```
/// use hpkv::ScanOptions;
///
/// // The first ten keys from "m" on, without "n" and what follows it.
/// let options = ScanOptions::new().start(b"m").end(b"n").limit(10).keys_only();
/// # let _ = options;
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use]
pub struct ScanOptions {
    start: Vec<u8>,
    after: bool,
    end: Vec<u8>,
    limit: Option<u64>,
    keys_only: bool,
}

impl ScanOptions {
    /// All keys, with values.
    pub fn new() -> Self {
        Self::default()
    }

    /// From this key on. An empty key is the beginning of the store.
    pub fn start(mut self, key: &[u8]) -> Self {
        self.start = key.to_vec();
        self.after = false;
        self
    }

    /// From the key that follows this one.
    pub fn after(mut self, key: &[u8]) -> Self {
        self.start = key.to_vec();
        self.after = true;
        self
    }

    /// Up to this key, without it. An empty key is the end of the store.
    pub fn end(mut self, key: &[u8]) -> Self {
        self.end = key.to_vec();
        self
    }

    /// Keys that begin with these bytes; replaces start and end.
    pub fn prefix(self, prefix: &[u8]) -> Self {
        let end = end_of_prefix(prefix);
        self.start(prefix).end(&end)
    }

    /// At most this many entries.
    pub fn limit(mut self, entries: u64) -> Self {
        self.limit = Some(entries);
        self
    }

    /// Without the values; their lengths are still told.
    pub fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }
}

/// The first key that comes after all keys with this prefix; empty if there is
/// none.
fn end_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    end
}

/// One key of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Vec<u8>,
    /// The value; `None` in a scan for keys only.
    pub value: Option<Vec<u8>>,
    /// The length of the value in bytes.
    pub value_len: usize,
    /// What is stored beside the value.
    pub metadata: Metadata,
}

/// Iterator over the entries of a scan. It ends after the first error.
#[derive(Debug)]
#[must_use = "a scan reads nothing until it is iterated"]
pub struct Entries<'a> {
    client: &'a Client,
    options: ScanOptions,
    /// What may still be returned.
    left: u64,
    cursor: u64,
    buffer: Vec<u8>,
    /// Where the next entry starts in the buffer, and where the last one ends.
    position: usize,
    used_len: usize,
    /// The kernel may have entries after those in the buffer.
    more: bool,
}

impl<'a> Entries<'a> {
    pub(crate) fn new(client: &'a Client, options: ScanOptions) -> Self {
        let left = options.limit.unwrap_or(u64::MAX);
        Entries {
            client,
            options,
            left,
            cursor: 0,
            buffer: Vec::new(),
            position: 0,
            used_len: 0,
            more: true,
        }
    }

    /// Fetches the next entries into the buffer.
    fn fetch(&mut self) -> Result<()> {
        let operation = Operation::Scan;
        let after = if self.options.after {
            abi::HPKV_SCAN_AFTER
        } else {
            0
        };
        let keys_only = if self.options.keys_only {
            abi::HPKV_SCAN_KEYS_ONLY
        } else {
            0
        };
        if self.buffer.is_empty() {
            self.buffer.resize(ROOM_FIRST, 0);
        }
        loop {
            let step = Step {
                start: &self.options.start,
                end: &self.options.end,
                flags: after | keys_only,
                // 0 would be no limit; this is called with something left.
                limit: u32::try_from(self.left).unwrap_or(u32::MAX),
                cursor: self.cursor,
            };
            let answer = self
                .client
                .backend()
                .scan(step, &mut self.buffer)
                .map_err(|errno| Error::from_errno(operation, errno))?;
            match answer {
                Scanned::Entries {
                    count,
                    used_len,
                    cursor,
                    more,
                } => {
                    let consistent = used_len <= self.buffer.len()
                        && (count == 0) == (used_len == 0)
                        && (count > 0 || !more);
                    if !consistent {
                        let reason = format!("the kernel told {count} entries in {used_len} bytes");
                        return Err(Error::found(ErrorKind::Corrupt, operation, reason));
                    }
                    self.position = 0;
                    self.used_len = used_len;
                    self.cursor = cursor;
                    self.more = more;
                    return Ok(());
                }
                Scanned::Room(needed)
                    if needed > self.buffer.len() && needed <= entry_len_max(self.client) =>
                {
                    self.buffer.resize(needed, 0);
                }
                Scanned::Room(needed) => {
                    let reason = format!("the kernel asks for {needed} bytes of room");
                    return Err(Error::found(ErrorKind::Corrupt, operation, reason));
                }
            }
        }
    }

    /// Takes the next entry out of the buffer; `None` if there is none left.
    fn take(&mut self) -> Result<Option<Entry>> {
        let rest = self
            .buffer
            .get(self.position..self.used_len)
            .unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let Some((entry, entry_len)) = decode(rest, self.options.keys_only) else {
            let reason = "an entry from the kernel contradicts itself";
            return Err(Error::found(ErrorKind::Corrupt, Operation::Scan, reason));
        };
        self.position += entry_len;
        // Where to go on when the buffer is used up.
        self.options.start.clone_from(&entry.key);
        self.options.after = true;
        Ok(Some(entry))
    }

    fn advance(&mut self) -> Result<Option<Entry>> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut entry = self.take()?;
        if entry.is_none() && self.more {
            self.fetch()?;
            entry = self.take()?;
        }
        self.left = if entry.is_some() { self.left - 1 } else { 0 };
        Ok(entry)
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().inspect_err(|_| self.left = 0).transpose()
    }
}

impl std::iter::FusedIterator for Entries<'_> {}

/// No entry is longer than this.
fn entry_len_max(client: &Client) -> usize {
    let version = client.version();
    let header = size_of::<abi::hpkv_scan_entry>();
    (header + version.key_len_max)
        .saturating_add(version.value_len_max)
        .next_multiple_of(8)
}

/// Reads the entry at the start of `bytes`; returns it and its length there.
/// `None` if it is not a whole and sound one.
fn decode(bytes: &[u8], keys_only: bool) -> Option<(Entry, usize)> {
    use std::mem::offset_of;

    type Header = abi::hpkv_scan_entry;
    let u32_at = |offset: usize| {
        let bytes = bytes.get(offset..)?.first_chunk::<4>()?;
        Some(u32::from_ne_bytes(*bytes))
    };
    let u64_at = |offset: usize| {
        let bytes = bytes.get(offset..)?.first_chunk::<8>()?;
        Some(u64::from_ne_bytes(*bytes))
    };
    let length_at = |offset: usize| usize::try_from(u32_at(offset)?).ok();

    let entry_len = length_at(offset_of!(Header, entry_len))?;
    let key_len = length_at(offset_of!(Header, key_len))?;
    let value_len = length_at(offset_of!(Header, value_len))?;
    let metadata = Metadata {
        version: u64_at(offset_of!(Header, version))?,
        expires_ms: u64_at(offset_of!(Header, expires_ms))?,
        user_flags: u32_at(offset_of!(Header, user_flags))?,
    };
    let stored_len = if keys_only { 0 } else { value_len };
    let key_start = size_of::<Header>();
    let key_end = key_start.checked_add(key_len)?;
    let value_end = key_end.checked_add(stored_len)?;
    if entry_len % 8 != 0 || entry_len < value_end || entry_len > bytes.len() || key_len == 0 {
        return None;
    }
    let key = bytes.get(key_start..key_end)?.to_vec();
    let value = match keys_only {
        true => None,
        false => Some(bytes.get(key_end..value_end)?.to_vec()),
    };
    Some((
        Entry {
            key,
            value,
            value_len,
            metadata,
        },
        entry_len,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Model, client, encode};
    use crate::{KEY_LEN_MAX, VALUE_LEN_MAX, Value};

    fn filled(count: usize, value_len: usize) -> Client {
        let client = client(Model::default());
        for i in 0..count {
            client
                .put(format!("key{i:05}").as_bytes(), &vec![b'v'; value_len])
                .unwrap();
        }
        client
    }

    fn keys(client: &Client, options: ScanOptions) -> Vec<String> {
        let key = |entry: Result<Entry>| String::from_utf8(entry.unwrap().key).unwrap();
        client.scan(options).map(key).collect()
    }

    #[test]
    fn a_scan_over_many_buffers_has_every_key_once_and_in_order() {
        let client = filled(5000, 100);
        let expected: Vec<_> = (0..5000).map(|i| format!("key{i:05}")).collect();
        assert_eq!(keys(&client, ScanOptions::new()), expected);
        assert_eq!(keys(&client, ScanOptions::new().keys_only()), expected);
        assert_eq!(
            keys(&client, ScanOptions::new().limit(4321)),
            expected[..4321]
        );
    }

    #[test]
    fn ranges() {
        let client = filled(100, 1);
        let range = ScanOptions::new().start(b"key00010").end(b"key00013");
        assert_eq!(
            keys(&client, range.clone()),
            ["key00010", "key00011", "key00012"]
        );
        assert_eq!(keys(&client, range.after(b"key00011")), ["key00012"]);
        assert_eq!(
            keys(&client, ScanOptions::new().limit(0)),
            Vec::<String>::new()
        );
        assert_eq!(
            keys(&client, ScanOptions::new().prefix(b"key0009").limit(2)),
            ["key00090", "key00091"]
        );
        assert_eq!(
            keys(&client, ScanOptions::new().prefix(b"x")),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_prefix_ends_where_no_key_can_begin_with_it() {
        assert_eq!(end_of_prefix(b"ab"), b"ac");
        assert_eq!(end_of_prefix(b"a\xff\xff"), b"b");
        assert_eq!(
            end_of_prefix(b"\xff\xff"),
            b"",
            "nothing comes after: to the end of the store"
        );
        assert_eq!(end_of_prefix(b""), b"");
    }

    #[test]
    fn the_buffer_grows_for_the_longest_entry() {
        let client = client(Model::default());
        client
            .put(&[b'k'; KEY_LEN_MAX], &vec![7; VALUE_LEN_MAX])
            .unwrap();
        client.put(b"z", b"").unwrap();
        let entries: Vec<_> = client
            .scan(ScanOptions::new())
            .collect::<Result<_>>()
            .unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(
            entries[0].value.as_deref(),
            Some(&vec![7; VALUE_LEN_MAX][..])
        );
        assert_eq!(entries[1].value.as_deref(), Some(&b""[..]));
    }

    #[test]
    fn keys_only_tells_the_length() {
        let client = filled(1, 300);
        let entry = client
            .scan(ScanOptions::new().keys_only())
            .next()
            .unwrap()
            .unwrap();
        assert_eq!((entry.value, entry.value_len), (None, 300));
    }

    #[test]
    fn a_switch_of_the_database_ends_the_scan_with_an_error() {
        let client = client(Model {
            switches: true,
            ..Default::default()
        });
        for i in 0..2000 {
            client.put(format!("{i:05}").as_bytes(), &[0; 100]).unwrap();
        }
        let mut entries = client.scan(ScanOptions::new());
        let error = entries.find_map(Result::err).unwrap();
        assert_eq!(error.kind(), ErrorKind::Stale);
        assert!(entries.next().is_none(), "nothing comes after an error");
    }

    #[test]
    fn an_entry_cut_anywhere_or_with_any_wrong_length_is_refused_not_trusted() {
        let found = Value {
            value: b"value".to_vec(),
            metadata: Metadata::default(),
        };
        let good = encode(b"key", &found, false);
        assert!(decode(&good, false).is_some());
        for len in 0..good.len() {
            assert!(decode(&good[..len], false).is_none(), "cut at {len}");
        }
        // entry_len, key_len, value_len in turn
        for offset in [0, 4, 8] {
            for wrong in [0_u32, 1, 7, 4096, u32::MAX - 7, u32::MAX] {
                let mut bad = good.clone();
                bad[offset..offset + 4].copy_from_slice(&wrong.to_ne_bytes());
                let decoded = decode(&bad, false);
                let sane =
                    decoded.is_none_or(|(entry, _)| entry.key.len() + entry.value_len < good.len());
                assert!(sane, "{wrong} at {offset}");
            }
        }
    }
}

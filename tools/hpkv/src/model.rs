// SPDX-License-Identifier: GPL-2.0
//! A store for the unit tests: it answers as the kernel's header says, so that
//! they see what the client makes of the answers.

use std::collections::BTreeMap;
use std::sync::Mutex;

use rustix::io::Errno;

use crate::backend::{Backend, Got, Scanned, Step, Update};
use crate::{
    ABI_VERSION, Client, DeleteOptions, KEY_LEN_MAX, Metadata, PutOptions, Stat, Updated,
    VALUE_LEN_MAX, Value, Version, abi,
};

/// A store that answers as the header says, to see what the client makes
/// of the answers.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) records: Mutex<BTreeMap<Vec<u8>, Value>>,
    pub(crate) cursor: Mutex<u64>,
    pub(crate) abi_version: u32,
    pub(crate) value_len_max: usize,
    /// Bytes that each further request finds longer, as if a writer were
    /// at work.
    pub(crate) growth: usize,
    /// Another database becomes active after each step of a scan.
    pub(crate) switches: bool,
}

impl Default for Model {
    fn default() -> Self {
        Model {
            records: Mutex::default(),
            cursor: Mutex::new(77),
            abi_version: ABI_VERSION,
            value_len_max: VALUE_LEN_MAX,
            growth: 0,
            switches: false,
        }
    }
}

impl Backend for Model {
    fn version(&self) -> Result<Version, Errno> {
        Ok(Version {
            abi_version: self.abi_version,
            key_len_max: KEY_LEN_MAX,
            value_len_max: self.value_len_max,
        })
    }

    fn get(&self, key: &[u8], buffer: &mut [u8]) -> Result<Got, Errno> {
        let mut records = self.records.lock().unwrap();
        let found = records.get_mut(key).ok_or(Errno::NOENT)?;
        if let Some(room) = buffer.get_mut(..found.value.len()) {
            room.copy_from_slice(&found.value);
            return Ok(Got::Value {
                value_len: found.value.len(),
                metadata: found.metadata,
            });
        }
        let needed = found.value.len();
        let grown = (needed + self.growth).min(self.value_len_max);
        found.value.resize(grown, b'+');
        Ok(Got::Room(needed))
    }

    fn put(&self, key: &[u8], value: &[u8], options: &PutOptions) -> Result<u64, Errno> {
        let mut records = self.records.lock().unwrap();
        let present = records.get(key).map(|found| found.metadata.version);
        match (options.flags(), present) {
            (abi::HPKV_WRITE_CREATE, Some(_)) => return Err(Errno::EXIST),
            (abi::HPKV_WRITE_REPLACE | abi::HPKV_WRITE_IF_VERSION, None) => {
                return Err(Errno::NOENT);
            }
            (abi::HPKV_WRITE_IF_VERSION, Some(version))
                if version != options.expected_version() =>
            {
                return Err(Errno::CANCELED);
            }
            _ => {}
        }
        let version = records
            .values()
            .map(|found| found.metadata.version)
            .max()
            .unwrap_or(0)
            + 1;
        let metadata = Metadata {
            version,
            expires_ms: options.stored_expires_ms(),
            user_flags: options.stored_user_flags(),
        };
        records.insert(
            key.to_vec(),
            Value {
                value: value.to_vec(),
                metadata,
            },
        );
        Ok(version)
    }

    fn delete(&self, key: &[u8], _: &DeleteOptions) -> Result<u64, Errno> {
        self.records
            .lock()
            .unwrap()
            .remove(key)
            .map(|_| 9)
            .ok_or(Errno::NOENT)
    }

    fn update(&self, key: &[u8], update: Update<'_>) -> Result<Updated, Errno> {
        let mut records = self.records.lock().unwrap();
        let found = records.entry(key.to_vec()).or_default();
        let start = match update.offset {
            None => found.value.len(),
            Some(offset) => usize::try_from(offset).map_err(|_| Errno::FBIG)?,
        };
        let end = start.checked_add(update.data.len()).ok_or(Errno::FBIG)?;
        if end > self.value_len_max {
            return Err(Errno::FBIG);
        }
        found.value.resize(found.value.len().max(end), 0);
        found.value[start..end].copy_from_slice(update.data);
        Ok(Updated {
            version: 5,
            value_len: found.value.len(),
        })
    }

    fn scan(&self, step: Step<'_>, buffer: &mut [u8]) -> Result<Scanned, Errno> {
        let mut active = self.cursor.lock().unwrap();
        let cursor = *active;
        if step.cursor != 0 && step.cursor != cursor {
            return Err(Errno::STALE);
        }
        let records = self.records.lock().unwrap();
        let after = step.flags & abi::HPKV_SCAN_AFTER != 0;
        let keys_only = step.flags & abi::HPKV_SCAN_KEYS_ONLY != 0;
        let (mut used_len, mut count, mut more) = (0, 0, false);
        for (key, found) in records.iter() {
            let before = key.as_slice() < step.start || (after && key.as_slice() == step.start);
            if before {
                continue;
            }
            if !step.end.is_empty() && key.as_slice() >= step.end {
                break;
            }
            if step.limit != 0 && count == step.limit as usize {
                more = true;
                break;
            }
            let entry = encode(key, found, keys_only);
            let Some(room) = buffer.get_mut(used_len..used_len + entry.len()) else {
                if count == 0 {
                    return Ok(Scanned::Room(entry.len()));
                }
                more = true;
                break;
            };
            room.copy_from_slice(&entry);
            used_len += entry.len();
            count += 1;
        }
        if self.switches {
            *active += 1;
        }
        Ok(Scanned::Entries {
            count,
            used_len,
            cursor,
            more,
        })
    }

    fn stat(&self) -> Result<Stat, Errno> {
        Ok(Stat::default())
    }

    fn sync(&self) -> Result<u64, Errno> {
        Err(Errno::IO)
    }

    fn purge(&self) -> Result<(), Errno> {
        Err(Errno::PERM)
    }
}

pub(crate) fn client(model: Model) -> Client {
    Client::with_backend(Box::new(model)).unwrap()
}

/// An entry as the kernel writes it.
pub(crate) fn encode(key: &[u8], found: &Value, keys_only: bool) -> Vec<u8> {
    let stored = if keys_only { &[][..] } else { &found.value };
    let entry_len =
        (size_of::<abi::hpkv_scan_entry>() + key.len() + stored.len()).next_multiple_of(8);
    let mut entry = Vec::new();
    for number in [
        u32::try_from(entry_len).unwrap(),
        u32::try_from(key.len()).unwrap(),
        u32::try_from(found.value.len()).unwrap(),
        found.metadata.user_flags,
    ] {
        entry.extend_from_slice(&number.to_ne_bytes());
    }
    entry.extend_from_slice(&found.metadata.version.to_ne_bytes());
    entry.extend_from_slice(&found.metadata.expires_ms.to_ne_bytes());
    entry.extend_from_slice(key);
    entry.extend_from_slice(stored);
    entry.resize(entry_len, 0);
    entry
}

// SPDX-License-Identifier: GPL-2.0
//! The client: one request of a program, made of as many requests to the
//! kernel as it takes.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use crate::backend::{Backend, Got, Update};
use crate::device::Device;
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::{ABI_VERSION, DEFAULT_DEVICE, DeleteOptions, PutOptions, Stat, UpdateOptions};
use crate::{Entries, ScanOptions};

/// Room for a value that a lookup begins with. Most values fit, and a longer
/// one takes a second request.
const VALUE_ROOM_FIRST: usize = 4096;

/// What is stored beside a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Metadata {
    /// The version of the value: the number of the change that stored it.
    pub version: u64,
    /// When the value ends, in milliseconds since the beginning of 1970 by the
    /// wall clock; 0 = never.
    pub expires_ms: u64,
    /// The number that a program stored beside the value.
    pub user_flags: u32,
}

impl Metadata {
    /// When the value ends; `None` is never.
    pub fn expires(&self) -> Option<SystemTime> {
        match self.expires_ms {
            0 => None,
            // An end beyond what the clock can express never comes.
            ms => UNIX_EPOCH.checked_add(Duration::from_millis(ms)),
        }
    }
}

/// A value with what is stored beside it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Value {
    /// The bytes of the value.
    pub value: Vec<u8>,
    /// What is stored beside them.
    pub metadata: Metadata,
}

/// What a change of a part of a value made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Updated {
    /// The version of the new value.
    pub version: u64,
    /// The length of the new value in bytes.
    pub value_len: usize,
}

/// What a running module speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Version {
    /// The version of its `ioctl` interface.
    pub abi_version: u32,
    /// The longest key it takes, in bytes.
    pub key_len_max: usize,
    /// The longest value it takes, in bytes.
    pub value_len_max: usize,
}

/// A connection to the store.
///
/// It holds the device open, and so the module loaded, until it is dropped.
#[derive(Debug)]
pub struct Client {
    backend: Box<dyn Backend>,
    version: Version,
}

impl Client {
    /// Opens the store at its usual place, [`DEFAULT_DEVICE`], for reading and
    /// writing.
    ///
    /// # Errors
    ///
    /// As for [`Client::open`].
    pub fn open_default() -> Result<Self> {
        Self::open(DEFAULT_DEVICE)
    }

    /// Opens the store at `path` for reading and writing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] if the module is not loaded,
    /// [`ErrorKind::PermissionDenied`] if the caller may not open the device,
    /// [`ErrorKind::Unsupported`] if `path` is not the device of the module or
    /// the module speaks another version of the interface.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_device(path.as_ref(), true)
    }

    /// Opens the store at `path` for reading. Changes are refused with
    /// [`ErrorKind::WrongAccess`].
    ///
    /// # Errors
    ///
    /// As for [`Client::open`].
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_device(path.as_ref(), false)
    }

    fn open_device(path: &Path, write: bool) -> Result<Self> {
        let device = Device::open(path, write)
            .map_err(|errno| Error::from_errno(Operation::Open, errno).with_device(path))?;
        Self::with_backend(Box::new(device)).map_err(|error| error.with_device(path))
    }

    /// Checks that both sides speak the same interface.
    pub(crate) fn with_backend(backend: Box<dyn Backend>) -> Result<Self> {
        let version = backend
            .version()
            .map_err(|errno| Error::from_errno(Operation::Version, errno))?;
        if version.abi_version != ABI_VERSION {
            let reason = format!(
                "the module speaks version {} of the interface, this program version {ABI_VERSION}",
                version.abi_version
            );
            return Err(Error::found(
                ErrorKind::Unsupported,
                Operation::Version,
                reason,
            ));
        }
        Ok(Client { backend, version })
    }

    /// What the running module speaks, as it said when the store was opened.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Reads a value; `None` if there is no such key.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), hpkv::Error> {
    /// let client = hpkv::Client::open_default()?;
    /// match client.get(b"name")? {
    ///     Some(value) => println!("{}", hpkv::Escaped(&value)),
    ///     None => println!("not found"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidKey`], [`ErrorKind::Io`], [`ErrorKind::Corrupt`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.get_with(key)?.map(|found| found.value))
    }

    /// Reads a value and what is stored beside it; `None` if there is no such
    /// key.
    ///
    /// # Errors
    ///
    /// As for [`Client::get`].
    pub fn get_with(&self, key: &[u8]) -> Result<Option<Value>> {
        let mut value = Vec::new();
        Ok(self
            .get_into(key, &mut value)?
            .map(|metadata| Value { value, metadata }))
    }

    /// Reads a value into a buffer that is used again and again. Its former
    /// content is replaced, and its room is kept.
    ///
    /// If there is no such key, the answer is `None` and the buffer is empty;
    /// it is empty after an error too.
    ///
    /// # Errors
    ///
    /// As for [`Client::get`].
    pub fn get_into(&self, key: &[u8], value: &mut Vec<u8>) -> Result<Option<Metadata>> {
        let answer = self.fill(key, value);
        if !matches!(answer, Ok(Some(_))) {
            value.clear();
        }
        answer.map_err(|error| error.with_key(key))
    }

    fn fill(&self, key: &[u8], value: &mut Vec<u8>) -> Result<Option<Metadata>> {
        let operation = Operation::Get;
        self.check_key(operation, key)?;
        let mut room = value
            .capacity()
            .max(VALUE_ROOM_FIRST)
            .min(self.version.value_len_max);
        loop {
            value.resize(room, 0);
            match self.backend.get(key, value) {
                Ok(Got::Value {
                    value_len,
                    metadata,
                }) if value_len <= room => {
                    value.truncate(value_len);
                    return Ok(Some(metadata));
                }
                // The value may grow between two requests, so this can happen
                // again; the room grows each time and has an end.
                Ok(Got::Room(needed)) if needed > room && needed <= self.version.value_len_max => {
                    room = needed;
                }
                Ok(
                    Got::Value {
                        value_len: told, ..
                    }
                    | Got::Room(told),
                ) => {
                    let reason =
                        format!("the kernel told a length of {told} with {room} bytes of room");
                    return Err(Error::found(ErrorKind::Corrupt, operation, reason));
                }
                Err(Errno::NOENT) => return Ok(None),
                Err(errno) => return Err(Error::from_errno(operation, errno)),
            }
        }
    }

    /// Stores a value, whether the key exists or not. Returns the version of
    /// the new value.
    ///
    /// # Errors
    ///
    /// As for [`Client::put_with`], without those of conditions.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<u64> {
        self.put_with(key, value, &PutOptions::new())
    }

    /// Stores a value under conditions. Returns the version of the new value.
    ///
    /// ```no_run
    /// use hpkv::{Client, ErrorKind, PutOptions};
    ///
    /// # fn main() -> Result<(), hpkv::Error> {
    /// let client = Client::open_default()?;
    /// let lock = PutOptions::new().create_only().sync();
    /// match client.put_with(b"lock", b"mine", &lock) {
    ///     Ok(version) => println!("locked, version {version}"),
    ///     Err(error) if error.kind() == ErrorKind::Exists => println!("taken"),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Exists`], [`ErrorKind::NotFound`] and
    /// [`ErrorKind::VersionMismatch`] if the condition does not hold;
    /// [`ErrorKind::InvalidKey`] and [`ErrorKind::ValueTooLong`] outside the
    /// limits; [`ErrorKind::NoSpace`], [`ErrorKind::ReadOnly`],
    /// [`ErrorKind::Interrupted`] and [`ErrorKind::NoMemory`] if the store
    /// cannot take it now: in all these cases nothing was changed. With the
    /// option `sync` there is also [`ErrorKind::Io`]: the device failed, and
    /// the change is visible but not on stable storage.
    pub fn put_with(&self, key: &[u8], value: &[u8], options: &PutOptions) -> Result<u64> {
        let operation = Operation::Put;
        let put = || {
            self.check_key(operation, key)?;
            self.check_value(operation, value)?;
            self.backend
                .put(key, value, options)
                .map_err(|errno| Error::from_errno(operation, errno))
        };
        put().map_err(|error| error.with_key(key))
    }

    /// Removes a key. Returns the version of the removal, or `None` if there
    /// was no such key.
    ///
    /// # Errors
    ///
    /// As for [`Client::delete_with`].
    pub fn delete(&self, key: &[u8]) -> Result<Option<u64>> {
        self.delete_with(key, &DeleteOptions::new())
    }

    /// Removes a key under conditions. Returns the version of the removal, or
    /// `None` if there was no such key.
    ///
    /// # Errors
    ///
    /// As for [`Client::put_with`], but never [`ErrorKind::NoSpace`]: a full
    /// store can be emptied.
    pub fn delete_with(&self, key: &[u8], options: &DeleteOptions) -> Result<Option<u64>> {
        let operation = Operation::Delete;
        let delete = || {
            self.check_key(operation, key)?;
            match self.backend.delete(key, options) {
                Ok(version) => Ok(Some(version)),
                Err(Errno::NOENT) => Ok(None),
                Err(errno) => Err(Error::from_errno(operation, errno)),
            }
        };
        delete().map_err(|error| error.with_key(key))
    }

    /// Adds bytes to the end of a value; a key that does not exist counts as
    /// an empty value. What else is stored beside the value stays as it is.
    ///
    /// # Errors
    ///
    /// As for [`Client::put_with`]; [`ErrorKind::ValueTooLong`] if the result
    /// would be longer than the store takes.
    pub fn append(&self, key: &[u8], data: &[u8]) -> Result<Updated> {
        self.append_with(key, data, &UpdateOptions::new())
    }

    /// Adds bytes to the end of a value under conditions.
    ///
    /// # Errors
    ///
    /// As for [`Client::append`].
    pub fn append_with(&self, key: &[u8], data: &[u8], options: &UpdateOptions) -> Result<Updated> {
        self.update(Operation::Append, key, data, None, options)
    }

    /// Writes bytes into a value at an offset from its start. A gap between
    /// the end of the value and `offset` is filled with zero bytes; a key that
    /// does not exist counts as an empty value.
    ///
    /// # Errors
    ///
    /// As for [`Client::append`].
    pub fn write_at(&self, key: &[u8], offset: u64, data: &[u8]) -> Result<Updated> {
        self.write_at_with(key, offset, data, &UpdateOptions::new())
    }

    /// Writes bytes into a value at an offset from its start, under
    /// conditions.
    ///
    /// # Errors
    ///
    /// As for [`Client::append`].
    pub fn write_at_with(
        &self,
        key: &[u8],
        offset: u64,
        data: &[u8],
        options: &UpdateOptions,
    ) -> Result<Updated> {
        self.update(Operation::WriteAt, key, data, Some(offset), options)
    }

    fn update(
        &self,
        operation: Operation,
        key: &[u8],
        data: &[u8],
        offset: Option<u64>,
        options: &UpdateOptions,
    ) -> Result<Updated> {
        let update = || {
            self.check_key(operation, key)?;
            self.check_value(operation, data)?;
            let update = Update {
                data,
                offset,
                flags: options.flags(),
                expected_version: options.expected_version(),
            };
            self.backend
                .update(key, update)
                .map_err(|errno| Error::from_errno(operation, errno))
        };
        update().map_err(|error| error.with_key(key))
    }

    /// Reads keys in ascending order of their bytes.
    ///
    /// ```no_run
    /// use hpkv::{Client, ScanOptions};
    ///
    /// # fn main() -> Result<(), hpkv::Error> {
    /// let client = Client::open_default()?;
    /// for entry in client.scan(ScanOptions::new().prefix(b"user:").limit(100)) {
    ///     let entry = entry?;
    ///     println!("{} has {} bytes", hpkv::Escaped(&entry.key), entry.value_len);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The entries are fetched as the iterator goes on, many at a time, and
    /// other clients are never stopped by it: what they change meanwhile may
    /// or may not be seen, key by key. A key that is there all the time comes
    /// exactly once.
    pub fn scan(&self, options: ScanOptions) -> Entries<'_> {
        Entries::new(self, options)
    }

    /// Figures of the active database.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WrongAccess`] and what every request may give.
    pub fn stat(&self) -> Result<Stat> {
        self.backend
            .stat()
            .map_err(|errno| Error::from_errno(Operation::Stat, errno))
    }

    /// Waits until every change made before is on stable storage. Returns the
    /// version up to which that holds. A store without a device returns at
    /// once.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the device failed.
    pub fn sync(&self) -> Result<u64> {
        self.backend
            .sync()
            .map_err(|errno| Error::from_errno(Operation::Sync, errno))
    }

    /// Removes everything, for good. Returns when the empty store is on stable
    /// storage.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PermissionDenied`] if the caller lacks CAP_SYS_ADMIN,
    /// [`ErrorKind::ReadOnly`], [`ErrorKind::Io`].
    pub fn purge(&self) -> Result<()> {
        self.backend
            .purge()
            .map_err(|errno| Error::from_errno(Operation::Purge, errno))
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// Refuses here what the kernel would refuse with an error that does not
    /// say which argument it means.
    fn check_key(&self, operation: Operation, key: &[u8]) -> Result<()> {
        let longest = self.version.key_len_max;
        let reason = match key.len() {
            0 => format!("the key is empty; keys are 1 to {longest} bytes"),
            len if len > longest => {
                format!("the key has {len} bytes; keys are 1 to {longest} bytes")
            }
            _ => return Ok(()),
        };
        Err(Error::found(ErrorKind::InvalidKey, operation, reason).with_errno(Errno::INVAL))
    }

    fn check_value(&self, operation: Operation, value: &[u8]) -> Result<()> {
        let longest = self.version.value_len_max;
        if value.len() <= longest {
            return Ok(());
        }
        let reason = format!(
            "{} bytes of value; values are 0 to {longest} bytes",
            value.len()
        );
        Err(Error::found(ErrorKind::ValueTooLong, operation, reason).with_errno(Errno::FBIG))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Model, client};
    use crate::{KEY_LEN_MAX, VALUE_LEN_MAX};

    #[test]
    fn a_module_of_another_interface_is_refused() {
        let model = Model {
            abi_version: ABI_VERSION + 1,
            ..Default::default()
        };
        let error = Client::with_backend(Box::new(model)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("version 2"), "{error}");
    }

    #[test]
    fn a_path_that_is_no_store_says_so() {
        let error = Client::open("/dev/null").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.errno(), Some(25));
        assert!(error.to_string().contains("/dev/null"), "{error}");
        let error = Client::open("/nonexistent/hpkv").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(error.device(), Some(Path::new("/nonexistent/hpkv")));
    }

    #[test]
    fn a_long_value_takes_a_second_request_and_keeps_its_bytes() {
        let client = client(Model::default());
        let value: Vec<u8> = (0..VALUE_LEN_MAX)
            .map(|i| u8::try_from(i % 251).unwrap())
            .collect();
        client.put(b"k", &value).unwrap();
        assert_eq!(client.get(b"k").unwrap().unwrap(), value);
    }

    #[test]
    fn a_value_that_grows_between_requests_is_still_read() {
        let client = client(Model {
            growth: 5000,
            ..Default::default()
        });
        client.put(b"k", &[1; 5000]).unwrap();
        let value = client.get(b"k").unwrap().unwrap();
        assert_eq!(value.len(), VALUE_LEN_MAX, "it ends at the longest value");
    }

    #[test]
    fn a_buffer_is_used_again_and_empty_when_there_is_nothing() {
        let client = client(Model::default());
        let options = PutOptions::new().user_flags(3).expires_ms(9);
        let version = client.put_with(b"k", b"abc", &options).unwrap();
        let mut buffer = b"old content".to_vec();
        let metadata = client.get_into(b"k", &mut buffer).unwrap();
        assert_eq!(buffer, b"abc");
        assert_eq!(
            metadata,
            Some(Metadata {
                version,
                expires_ms: 9,
                user_flags: 3
            })
        );
        assert_eq!(client.get_into(b"none", &mut buffer).unwrap(), None);
        assert!(buffer.is_empty() && buffer.capacity() >= VALUE_ROOM_FIRST);
    }

    #[test]
    fn limits_are_checked_before_the_kernel_is_asked() {
        let client = client(Model::default());
        for key in [&b""[..], &[b'k'; KEY_LEN_MAX + 1]] {
            for error in [
                client.get(key).unwrap_err(),
                client.put(key, b"").unwrap_err(),
                client.delete(key).unwrap_err(),
                client.append(key, b"").unwrap_err(),
            ] {
                assert_eq!(error.kind(), ErrorKind::InvalidKey);
                assert_eq!(error.errno(), Some(22));
                assert_eq!(error.key(), Some(key));
            }
        }
        let error = client.put(b"k", &vec![0; VALUE_LEN_MAX + 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ValueTooLong);
        assert!(error.to_string().contains("1048577 bytes"), "{error}");
        client.put(&[b'k'; KEY_LEN_MAX], b"").unwrap();
    }

    #[test]
    fn conditions_that_do_not_hold_are_errors_of_their_own() {
        let client = client(Model::default());
        let replace = PutOptions::new().replace_only();
        let error = client.put_with(b"k", b"v", &replace).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let version = client.put(b"k", b"v").unwrap();
        let create = PutOptions::new().create_only();
        let error = client.put_with(b"k", b"v", &create).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists);
        let other = PutOptions::new().if_version(version + 1);
        let error = client.put_with(b"k", b"v", &other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::VersionMismatch);
        let same = PutOptions::new().if_version(version);
        assert!(client.put_with(b"k", b"v2", &same).unwrap() > version);
    }

    #[test]
    fn a_missing_key_is_no_error_of_get_and_delete() {
        let client = client(Model::default());
        assert_eq!(client.get(b"k").unwrap(), None);
        assert_eq!(client.delete(b"k").unwrap(), None);
        client.put(b"k", b"").unwrap();
        assert_eq!(client.get(b"k").unwrap().as_deref(), Some(&b""[..]));
        assert_eq!(client.delete(b"k").unwrap(), Some(9));
    }

    #[test]
    fn parts_of_values() {
        let client = client(Model::default());
        assert_eq!(client.append(b"k", b"abc").unwrap().value_len, 3);
        assert_eq!(client.write_at(b"k", 5, b"f").unwrap().value_len, 6);
        assert_eq!(client.get(b"k").unwrap().unwrap(), b"abc\0\0f");
        let error = client.write_at(b"k", u64::MAX, b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ValueTooLong);
        assert_eq!(error.operation(), Operation::WriteAt);
    }

    #[test]
    fn errors_without_a_key() {
        let client = client(Model::default());
        assert_eq!(client.sync().unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(
            client.purge().unwrap_err().kind(),
            ErrorKind::PermissionDenied
        );
        assert_eq!(client.stat().unwrap(), Stat::default());
    }

    #[test]
    fn a_client_serves_many_threads() {
        fn is_shared<T: Send + Sync>() {}
        is_shared::<Client>();
        is_shared::<Error>();
    }
}

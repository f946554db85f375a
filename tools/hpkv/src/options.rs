// SPDX-License-Identifier: GPL-2.0
//! What can be asked of a change besides the change itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::abi;

/// What must hold of the key for a change to be made. One of them at most:
/// the kernel refuses combinations that say nothing or contradict themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Condition {
    #[default]
    None,
    Create,
    Replace,
    Version(u64),
}

impl Condition {
    fn flag(self) -> u32 {
        match self {
            Condition::None => 0,
            Condition::Create => abi::HPKV_WRITE_CREATE,
            Condition::Replace => abi::HPKV_WRITE_REPLACE,
            Condition::Version(_) => abi::HPKV_WRITE_IF_VERSION,
        }
    }

    fn version(self) -> u64 {
        match self {
            Condition::Version(version) => version,
            _ => 0,
        }
    }
}

fn sync_flag(sync: bool) -> u32 {
    if sync { abi::HPKV_WRITE_SYNC } else { 0 }
}

/// How a value is stored.
///
/// Of the conditions [`create_only`](Self::create_only),
/// [`replace_only`](Self::replace_only) and [`if_version`](Self::if_version)
/// the last one given counts.
///
/// ```
/// use std::time::Duration;
/// use hpkv::PutOptions;
///
/// let options = PutOptions::new()
///     .create_only()
///     .expires_in(Duration::from_secs(3600))
///     .user_flags(7)
///     .sync();
/// # let _ = options;
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use]
pub struct PutOptions {
    condition: Condition,
    expires_ms: u64,
    user_flags: u32,
    sync: bool,
}

impl PutOptions {
    /// No condition, no end, no user flags, buffered.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if the key does not exist.
    pub fn create_only(mut self) -> Self {
        self.condition = Condition::Create;
        self
    }

    /// Only if the key exists.
    pub fn replace_only(mut self) -> Self {
        self.condition = Condition::Replace;
        self
    }

    /// Only if the key exists and has this version.
    pub fn if_version(mut self, version: u64) -> Self {
        self.condition = Condition::Version(version);
        self
    }

    /// The value ends at this moment of the wall clock. A moment before 1970
    /// is taken as the first millisecond of 1970.
    pub fn expires_at(self, when: SystemTime) -> Self {
        let since_epoch = when.duration_since(UNIX_EPOCH).unwrap_or_default();
        // 0 means never: what has ended long ago must not become immortal.
        self.expires_ms(millis(since_epoch).max(1))
    }

    /// The value ends after this time, counted from now by the wall clock.
    pub fn expires_in(self, after: Duration) -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.expires_ms(millis(now.saturating_add(after)).max(1))
    }

    /// The value ends this many milliseconds after the beginning of 1970 by
    /// the wall clock; 0 = never.
    pub fn expires_ms(mut self, expires_ms: u64) -> Self {
        self.expires_ms = expires_ms;
        self
    }

    /// A number to store beside the value.
    pub fn user_flags(mut self, user_flags: u32) -> Self {
        self.user_flags = user_flags;
        self
    }

    /// Return only when the change is on stable storage.
    pub fn sync(mut self) -> Self {
        self.sync = true;
        self
    }

    pub(crate) fn flags(&self) -> u32 {
        self.condition.flag() | sync_flag(self.sync)
    }

    pub(crate) fn expected_version(&self) -> u64 {
        self.condition.version()
    }

    pub(crate) fn stored_expires_ms(&self) -> u64 {
        self.expires_ms
    }

    pub(crate) fn stored_user_flags(&self) -> u32 {
        self.user_flags
    }
}

/// How a key is removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use]
pub struct DeleteOptions {
    condition: Condition,
    sync: bool,
}

impl DeleteOptions {
    /// No condition, buffered.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if the key has this version.
    pub fn if_version(mut self, version: u64) -> Self {
        self.condition = Condition::Version(version);
        self
    }

    /// Return only when the removal is on stable storage.
    pub fn sync(mut self) -> Self {
        self.sync = true;
        self
    }

    pub(crate) fn flags(&self) -> u32 {
        self.condition.flag() | sync_flag(self.sync)
    }

    pub(crate) fn expected_version(&self) -> u64 {
        self.condition.version()
    }
}

/// How a part of a value is changed. A key that does not exist counts as an
/// empty value, unless a condition says otherwise; of
/// [`replace_only`](Self::replace_only) and [`if_version`](Self::if_version)
/// the last one given counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use]
pub struct UpdateOptions {
    condition: Condition,
    sync: bool,
}

impl UpdateOptions {
    /// No condition, buffered.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if the key exists.
    pub fn replace_only(mut self) -> Self {
        self.condition = Condition::Replace;
        self
    }

    /// Only if the key exists and has this version.
    pub fn if_version(mut self, version: u64) -> Self {
        self.condition = Condition::Version(version);
        self
    }

    /// Return only when the change is on stable storage.
    pub fn sync(mut self) -> Self {
        self.sync = true;
        self
    }

    pub(crate) fn flags(&self) -> u32 {
        self.condition.flag() | sync_flag(self.sync)
    }

    pub(crate) fn expected_version(&self) -> u64 {
        self.condition.version()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_a_put() {
        assert_eq!(PutOptions::new().flags(), 0);
        assert_eq!(PutOptions::new().create_only().flags(), 1);
        assert_eq!(PutOptions::new().replace_only().sync().flags(), 2 | 8);
        let options = PutOptions::new().create_only().if_version(9);
        assert_eq!(options.flags(), 4, "the last condition counts");
        assert_eq!(options.expected_version(), 9);
        assert_eq!(options.create_only().expected_version(), 0);
    }

    #[test]
    fn flags_of_the_others() {
        assert_eq!(DeleteOptions::new().if_version(3).sync().flags(), 4 | 8);
        assert_eq!(UpdateOptions::new().replace_only().flags(), 2);
        assert_eq!(UpdateOptions::new().if_version(3).expected_version(), 3);
    }

    #[test]
    fn an_end_is_counted_in_milliseconds_and_never_becomes_never() {
        let at = |ms| PutOptions::new().expires_at(UNIX_EPOCH + Duration::from_millis(ms));
        assert_eq!(at(1234).stored_expires_ms(), 1234);
        assert_eq!(at(0).stored_expires_ms(), 1);
        let before = PutOptions::new().expires_at(UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(before.stored_expires_ms(), 1);
        let for_ever = PutOptions::new().expires_in(Duration::MAX);
        assert_eq!(for_ever.stored_expires_ms(), u64::MAX);
    }
}

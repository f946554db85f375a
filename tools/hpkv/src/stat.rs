// SPDX-License-Identifier: GPL-2.0
//! Figures of the active database.

use crate::abi;

/// Defines the structure, its conversion and the list of its figures from one
/// list, so that none of them can miss a field.
macro_rules! stat {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// Figures of the active database.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct Stat {
            /// There is a device behind the store.
            pub persistent: bool,
            /// The store takes no changes.
            pub read_only: bool,
            /// The device failed.
            pub failed: bool,
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Stat {
            pub(crate) fn from_abi(stat: &abi::hpkv_stat) -> Self {
                let is = |bit| stat.state & bit != 0;
                Stat {
                    persistent: is(abi::HPKV_STATE_PERSISTENT),
                    read_only: is(abi::HPKV_STATE_READ_ONLY),
                    failed: is(abi::HPKV_STATE_FAILED),
                    $($field: stat.$field,)*
                }
            }

            /// All figures with their names, in the order of the fields.
            ///
            /// ```
            /// let stat = hpkv::Stat::default();
            /// assert!(stat.figures().any(|(name, _)| name == "records"));
            /// ```
            pub fn figures(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field),)*].into_iter()
            }
        }
    };
}

stat! {
    /// Keys in the store.
    records,
    /// Bytes of their keys.
    key_bytes,
    /// Bytes of their values.
    value_bytes,
    /// Size of the device, 0 without one.
    device_bytes,
    /// Bytes of the device that hold something live.
    used_bytes,
    /// Bytes of records that the device can hold, 0 = no limit.
    capacity_bytes,
    /// Units of 4096 bytes that hold something live.
    live_sectors,
    /// Units of 4096 bytes in segments that are free.
    free_sectors,
    /// Version of the newest commit.
    version,
    /// Every commit up to this one is on stable storage.
    durable_version,
    /// Lookups.
    gets,
    /// Lookups that found their key.
    hits,
    /// Values stored, updates included.
    puts,
    /// Keys removed.
    deletes,
    /// Scans.
    scans,
    /// Flushes of the device.
    flushes,
    /// Log frames written.
    frames,
    /// Bytes written to the device.
    written_bytes,
    /// Bytes of records written to the device for their first time.
    payload_bytes,
    /// Bytes of records written again by compaction.
    relocated_bytes,
    /// Segments emptied by compaction.
    compactions,
    /// Bytes that wait in the write buffer.
    pending_bytes,
    /// Failed reads, writes and flushes of the device.
    errors,
    /// Clients connected over TCP.
    clients,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_of_the_kernel_is_there() {
        let figures = Stat::default().figures().count();
        let fields = (size_of::<abi::hpkv_stat>() - 2 * size_of::<u32>()) / size_of::<u64>();
        assert_eq!(
            figures, fields,
            "the header has a figure that this list lacks"
        );
    }

    #[test]
    fn states_are_bits() {
        let state = abi::HPKV_STATE_PERSISTENT | abi::HPKV_STATE_FAILED;
        let stat = Stat::from_abi(&abi::hpkv_stat {
            state,
            records: 3,
            ..Default::default()
        });
        assert!(stat.persistent && stat.failed && !stat.read_only);
        assert_eq!(stat.figures().next(), Some(("records", 3)));
    }
}

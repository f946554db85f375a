// SPDX-License-Identifier: GPL-2.0
//! Acknowledgements as they leave the guest.
//!
//! The guest writes a line for each change that the store acknowledged to a
//! serial port of its own, and goes on only when the line is out. A kill may
//! cut the last line short. The lines:
//!
//! ```text
//! A <thread> <change number> <version, 0 = the change was refused as it must be>
//! S <version>      a SYNC call returned
//! X <text>         the store answered what it must not: the run is a failure
//! ```

use std::collections::BTreeMap;

#[derive(Debug, Default, Clone)]
pub struct Journal {
    /// Versions by thread and number of the change.
    pub acknowledged: BTreeMap<u64, BTreeMap<u64, u64>>,
    /// Highest version that a SYNC call told.
    pub synced: Option<u64>,
    pub complaints: Vec<String>,
}

impl Journal {
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut journal = Journal::default();
        // What follows the last line feed may be half a number.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines().map(|l| l.trim_end_matches('\r')) {
            let mut words = line.split(' ');
            match words.next() {
                Some("A") => {
                    let numbers: Vec<u64> = words.filter_map(|w| w.parse().ok()).collect();
                    if let [thread, k, version] = numbers[..] {
                        journal
                            .acknowledged
                            .entry(thread)
                            .or_default()
                            .insert(k, version);
                    } else {
                        journal.complaints.push(format!("unreadable line {line:?}"));
                    }
                }
                Some("S") => {
                    let version = words.next().and_then(|w| w.parse().ok());
                    journal.synced = journal.synced.max(version);
                }
                Some("X") => journal.complaints.push(line.to_string()),
                _ => {}
            }
        }
        journal
    }

    /// How many changes of a thread are known to be acknowledged, if it began
    /// at change number `start`.
    #[must_use]
    pub fn done(&self, thread: u64, start: u64) -> u64 {
        self.acknowledged
            .get(&thread)
            .and_then(|acks| acks.keys().next_back())
            .map_or(start, |k| k + 1)
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.acknowledged.values().map(BTreeMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cut_short_is_not_an_acknowledgement() {
        let journal = Journal::parse("A 0 0 17\r\nA 1 4 18\nS 18\nA 0 1 1");
        assert_eq!(journal.done(0, 0), 1);
        assert_eq!(journal.done(1, 4), 5);
        assert_eq!(journal.done(2, 9), 9);
        assert_eq!(journal.synced, Some(18));
        assert_eq!(journal.count(), 2);
        assert!(Journal::parse("A 0 0").acknowledged.is_empty());
    }
}

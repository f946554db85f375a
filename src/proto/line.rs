// SPDX-License-Identifier: GPL-2.0

//! Lines out of a stream that arrives in chunks of any size.
//!
//! The buffer starts small, grows towards the longest line that is allowed while such a line is
//! arriving, and goes back to its small size when it is empty again, so that an idle connection
//! holds little memory whatever it once sent. Each byte is looked at once, however the line was
//! split.

/// Room for bytes that can change its size.
///
/// The one thing this module needs from outside: memory. The implementor keeps the first bytes
/// when the size changes.
pub(crate) trait Storage {
    /// The whole room.
    fn bytes(&self) -> &[u8];

    /// The whole room, to be written.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Makes the room `len` bytes long; the first `min(len, old length)` bytes stay. Returns false
    /// and changes nothing if there is no memory.
    fn resize(&mut self, len: usize) -> bool;
}

/// What [`LineBuffer::next_line`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    /// A line, without its LF or CR LF.
    Line(&'a [u8]),
    /// No whole line is buffered: read more.
    More,
    /// The line that is arriving is longer than is allowed. The stream cannot be followed any
    /// further.
    TooLong,
}

/// There is no memory for a line of this length.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoMemory;

/// A buffer between a stream and its lines.
///
/// # Invariants
///
/// `start <= searched <= end <= storage.bytes().len()`; the bytes `start..end` have arrived and are
/// not yet taken, and there is no LF in `start..searched`.
pub(crate) struct LineBuffer<S> {
    storage: S,
    start: usize,
    searched: usize,
    end: usize,
    /// Room of an empty buffer, in bytes.
    len_min: usize,
    /// Longest line, in bytes, its end included.
    len_max: usize,
}

impl<S: Storage> LineBuffer<S> {
    /// Makes a buffer of `len_min` bytes for lines up to `len_max` bytes, LF included.
    pub(crate) fn new(mut storage: S, len_min: usize, len_max: usize) -> Result<Self, NoMemory> {
        let len_min = len_min.clamp(1, len_max.max(1));
        if !storage.resize(len_min) {
            return Err(NoMemory);
        }
        Ok(Self {
            storage,
            start: 0,
            searched: 0,
            end: 0,
            len_min,
            len_max: len_max.max(1),
        })
    }

    /// Takes the next line out of the buffer.
    pub(crate) fn next_line(&mut self) -> Next<'_> {
        let unseen = self.storage.bytes().get(self.searched..self.end);
        let lf = unseen.and_then(|bytes| bytes.iter().position(|&byte| byte == b'\n'));
        let Some(lf) = lf else {
            self.searched = self.end;
            let waiting = self.end.saturating_sub(self.start);
            return if waiting >= self.len_max {
                Next::TooLong
            } else {
                Next::More
            };
        };

        // INVARIANT: `searched + lf` is the place of an LF below `end`.
        let line_end = self.searched.saturating_add(lf);
        let line = self.start..line_end;
        self.start = line_end.saturating_add(1).min(self.end);
        self.searched = self.start;

        if line.len() >= self.len_max {
            return Next::TooLong;
        }
        let line = self.storage.bytes().get(line).unwrap_or_default();
        Next::Line(line.strip_suffix(b"\r").unwrap_or(line))
    }

    /// Returns room for the next chunk, never empty. Whole lines must have been taken out before;
    /// what was returned by them is gone.
    ///
    /// After [`Next::TooLong`] there may be no room: that is an error too.
    pub(crate) fn spare(&mut self) -> Result<&mut [u8], NoMemory> {
        let waiting = self.end.saturating_sub(self.start);
        let room = self.storage.bytes().len();

        if waiting == 0 {
            self.start = 0;
            self.searched = 0;
            self.end = 0;
            if room > self.len_min {
                // Staying large is no harm if this cannot be had.
                let _ = self.storage.resize(self.len_min);
            }
        } else if self.end == room {
            // Move what waits to the front once the room is used up, and double the room when
            // more than half of it waits: a long line is moved a logarithmic number of times.
            if self.start > 0 {
                self.storage
                    .bytes_mut()
                    .copy_within(self.start..self.end, 0);
                self.searched = self.searched.saturating_sub(self.start);
                self.end = waiting;
                self.start = 0;
            }
            if waiting > room / 2 {
                let grown = room.saturating_mul(2).min(self.len_max);
                if grown > room && !self.storage.resize(grown) {
                    return Err(NoMemory);
                }
            }
        }

        match self.storage.bytes_mut().get_mut(self.end..) {
            Some(spare) if !spare.is_empty() => Ok(spare),
            _ => Err(NoMemory),
        }
    }

    /// Says that `len` bytes were written to the front of [`spare`](Self::spare).
    pub(crate) fn filled(&mut self, len: usize) {
        // INVARIANT: never beyond the room, whatever the caller says.
        self.end = self.end.saturating_add(len).min(self.storage.bytes().len());
    }

    /// Returns the size of the room at present.
    #[cfg(test)]
    fn room(&self) -> usize {
        self.storage.bytes().len()
    }
}

#[cfg(test)]
mod tests {
    use super::{LineBuffer, Next, NoMemory, Storage};

    struct Heap {
        bytes: Vec<u8>,
        limit: usize,
    }

    impl Storage for Heap {
        fn bytes(&self) -> &[u8] {
            &self.bytes
        }
        fn bytes_mut(&mut self) -> &mut [u8] {
            &mut self.bytes
        }
        fn resize(&mut self, len: usize) -> bool {
            if len > self.limit {
                return false;
            }
            self.bytes.resize(len, 0xee);
            true
        }
    }

    fn buffer(len_min: usize, len_max: usize) -> LineBuffer<Heap> {
        let heap = Heap {
            bytes: Vec::new(),
            limit: usize::MAX,
        };
        LineBuffer::new(heap, len_min, len_max).unwrap()
    }

    /// Feeds `input` in chunks of at most `chunk` bytes and returns the lines, and whether the
    /// stream ended in a line that is too long.
    fn run(buffer: &mut LineBuffer<Heap>, input: &[u8], chunk: usize) -> (Vec<Vec<u8>>, bool) {
        let mut lines = Vec::new();
        let mut rest = input;
        loop {
            loop {
                match buffer.next_line() {
                    Next::Line(line) => lines.push(line.to_vec()),
                    Next::More => break,
                    Next::TooLong => return (lines, true),
                }
            }
            if rest.is_empty() {
                return (lines, false);
            }
            let spare = buffer.spare().unwrap();
            let len = spare.len().min(chunk).min(rest.len());
            spare[..len].copy_from_slice(&rest[..len]);
            buffer.filled(len);
            rest = &rest[len..];
        }
    }

    #[test]
    fn lines_are_the_same_however_they_are_split() {
        let input = b"one\r\ntwo\n\n\r\nput a  b \r \nlast one without an end";
        let want: Vec<&[u8]> = vec![b"one", b"two", b"", b"", b"put a  b \r "];
        for chunk in 1..input.len() {
            for len_min in [1, 2, 3, 7, 64] {
                let (lines, too_long) = run(&mut buffer(len_min, 64), input, chunk);
                assert_eq!(lines, want, "chunk {chunk}, len_min {len_min}");
                assert!(!too_long);
            }
        }
    }

    #[test]
    fn the_longest_line_passes_and_one_byte_more_does_not() {
        for chunk in [1, 5, 100] {
            let mut exact = vec![b'x'; 31];
            exact.push(b'\n');
            let (lines, too_long) = run(&mut buffer(4, 32), &exact, chunk);
            assert_eq!(lines, vec![vec![b'x'; 31]]);
            assert!(!too_long);

            let mut over = vec![b'x'; 32];
            over.push(b'\n');
            let (lines, too_long) = run(&mut buffer(4, 32), &over, chunk);
            assert!(lines.is_empty());
            assert!(too_long, "chunk {chunk}");
        }
    }

    #[test]
    fn ten_mebibytes_without_an_end_are_refused_within_the_bound() {
        let input = vec![b'x'; 10 << 20];
        let mut lines = buffer(4096, 1 << 20);
        assert_eq!(run(&mut lines, &input, 65536), (Vec::new(), true));
        assert!(lines.room() <= 1 << 20);
    }

    #[test]
    fn the_room_goes_back_after_a_long_line() {
        let mut lines = buffer(16, 4096);
        let mut input = vec![b'x'; 3000];
        input.push(b'\n');
        let (got, _) = run(&mut lines, &input, 100);
        assert_eq!(got.len(), 1);
        assert!(lines.room() >= 3001);
        assert!(!lines.spare().unwrap().is_empty());
        assert_eq!(lines.room(), 16);
    }

    #[test]
    fn no_memory_is_an_error_and_not_a_panic() {
        let heap = Heap {
            bytes: Vec::new(),
            limit: 16,
        };
        let mut lines = LineBuffer::new(heap, 16, 64).unwrap();
        lines.spare().unwrap().fill(b'x');
        lines.filled(16);
        assert_eq!(lines.next_line(), Next::More);
        assert_eq!(lines.spare(), Err(NoMemory));
    }

    #[test]
    fn a_caller_that_overstates_its_chunk_is_held_to_the_room() {
        let mut lines = buffer(8, 64);
        lines.spare().unwrap().fill(b'a');
        lines.filled(usize::MAX);
        assert_eq!(lines.next_line(), Next::More);
        assert_eq!(lines.spare().unwrap().len(), 8);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Sorting on a small stack.
//!
//! The sorts of `core` recurse, with a frame of more than a kilobyte each: a few thousand entries
//! are enough to run over the stack of a kernel thread, which has 16 KiB. This is a heap sort: in
//! place, no recursion, no allocation, and at worst n log n steps.

/// Sorts by a key, in ascending order. Equal keys end up in any order.
pub(super) fn sort_by_key<T, K: Ord>(items: &mut [T], key: impl Fn(&T) -> K) {
    let is_less = |items: &[T], a: usize, b: usize| match (items.get(a), items.get(b)) {
        (Some(a), Some(b)) => key(a) < key(b),
        _ => false,
    };
    // Moves the item at `at` down until both of its children among the first `len` are smaller.
    let sift_down = |items: &mut [T], mut at: usize, len: usize| loop {
        let left = at.saturating_mul(2).saturating_add(1);
        if left >= len {
            return;
        }
        let right = left.saturating_add(1);
        let child = if right < len && is_less(items, left, right) {
            right
        } else {
            left
        };
        if !is_less(items, at, child) {
            return;
        }
        items.swap(at, child);
        at = child;
    };

    // Most of the time the items come in order, for they were made so.
    if items.windows(2).all(|pair| match pair {
        [a, b] => key(a) <= key(b),
        _ => true,
    }) {
        return;
    }
    for at in (0..items.len() / 2).rev() {
        let len = items.len();
        sift_down(items, at, len);
    }
    for last in (1..items.len()).rev() {
        items.swap(0, last);
        sift_down(items, 0, last);
    }
}

#[cfg(test)]
mod tests {
    use super::sort_by_key;

    #[test]
    fn sorts_what_the_standard_library_sorts() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for len in (0..40).chain([1000, 4097]) {
            for span in [1, 3, 1 << 40] {
                let mut items: Vec<u64> = (0..len)
                    .map(|_| {
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        state % span
                    })
                    .collect();
                let mut want = items.clone();
                want.sort();
                sort_by_key(&mut items, |item| *item);
                assert_eq!(items, want);
                sort_by_key(&mut items, |item| core::cmp::Reverse(*item));
                want.reverse();
                assert_eq!(items, want);
            }
        }
    }
}

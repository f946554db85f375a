// SPDX-License-Identifier: GPL-2.0

//! The ordered index of one shard: a red-black tree over the keys of live records.
//!
//! The nodes live in an arena and refer to each other by number, which keeps the tree free of
//! `unsafe`, the same on kernel and host, and a node at 24 bytes. Number 0 is the sentinel that
//! stands for every missing child. The algorithms are those of Cormen, Leiserson, Rivest and
//! Stein, "Introduction to Algorithms", chapter 13.
//!
//! The lock of the shard guards the tree. A record knows its node's number, so that a new version
//! of a key takes over the node of the old one without a search.

use core::cmp::Ordering;

use super::error::{Error, Result};
use super::record::{key_of, Record};
use crate::sys::Vec;

type NodeId = u32;
const NIL: NodeId = 0;

/// Nodes in one piece of the arena. Small pieces never need one large allocation.
const CHUNK_NODES: usize = 256;

struct Node {
    left: NodeId,
    right: NodeId,
    /// Parent, or the next free node while this one is free.
    parent: NodeId,
    red: bool,
    record: Option<Record>,
}

impl Node {
    const fn empty() -> Self {
        Node {
            left: NIL,
            right: NIL,
            parent: NIL,
            red: false,
            record: None,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Left,
    Right,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Side::Left => Side::Right,
            Side::Right => Side::Left,
        }
    }
}

/// Live records in ascending order of their keys.
pub(crate) struct Order {
    chunks: Vec<Vec<Node>>,
    root: NodeId,
    free: NodeId,
    len: usize,
}

impl Order {
    pub(crate) fn new() -> Self {
        Order {
            chunks: Vec::new(),
            root: NIL,
            free: NIL,
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Makes sure that the next [`Order::insert`] finds a free node. Allocates.
    pub(crate) fn prepare_insert(&mut self) -> Result {
        if self.free != NIL {
            return Ok(());
        }
        let base = self
            .chunks
            .len()
            .checked_mul(CHUNK_NODES)
            .ok_or(Error::NoMemory)?;
        // The highest number is below the bit that a later change may want for itself.
        if base
            .checked_add(CHUNK_NODES)
            .is_none_or(|end| end > i32::MAX as usize)
        {
            return Err(Error::NoMemory);
        }
        let mut chunk = Vec::with_capacity(CHUNK_NODES)?;
        for at in 0..CHUNK_NODES {
            let mut node = Node::empty();
            if at + 1 < CHUNK_NODES {
                node.parent = (base + at + 1) as NodeId;
            }
            chunk.push(node)?;
        }
        self.chunks.push(chunk)?;
        // The very first node is the sentinel and never handed out.
        self.free = if base == 0 { 1 } else { base as NodeId };
        Ok(())
    }

    // Node numbers come from this arena alone, never from outside, so they are in range.
    fn node(&self, id: NodeId) -> &Node {
        &self.chunks[id as usize / CHUNK_NODES][id as usize % CHUNK_NODES]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.chunks[id as usize / CHUNK_NODES][id as usize % CHUNK_NODES]
    }

    fn child(&self, id: NodeId, side: Side) -> NodeId {
        match side {
            Side::Left => self.node(id).left,
            Side::Right => self.node(id).right,
        }
    }

    fn set_child(&mut self, id: NodeId, side: Side, child: NodeId) {
        match side {
            Side::Left => self.node_mut(id).left = child,
            Side::Right => self.node_mut(id).right = child,
        }
    }

    fn parent(&self, id: NodeId) -> NodeId {
        self.node(id).parent
    }

    fn is_red(&self, id: NodeId) -> bool {
        self.node(id).red
    }

    fn set_red(&mut self, id: NodeId, red: bool) {
        self.node_mut(id).red = red;
    }

    fn key(&self, id: NodeId) -> &[u8] {
        self.node(id)
            .record
            .as_ref()
            .map_or(&[], |record| key_of(record))
    }

    fn side_of(&self, id: NodeId) -> Side {
        if self.node(self.parent(id)).left == id {
            Side::Left
        } else {
            Side::Right
        }
    }

    /// Lets `id`'s child on the other side rise above it, and `id` sink to `side`.
    fn rotate(&mut self, id: NodeId, side: Side) {
        let riser = self.child(id, side.other());
        let inner = self.child(riser, side);
        self.set_child(id, side.other(), inner);
        if inner != NIL {
            self.node_mut(inner).parent = id;
        }
        self.replace_in_parent(id, riser);
        self.set_child(riser, side, id);
        self.node_mut(id).parent = riser;
    }

    /// Hangs `with` where `id` hangs. `with` may be the sentinel, whose parent then is set too:
    /// the repair after a removal starts from it.
    fn replace_in_parent(&mut self, id: NodeId, with: NodeId) {
        let parent = self.parent(id);
        if parent == NIL {
            self.root = with;
        } else {
            let side = self.side_of(id);
            self.set_child(parent, side, with);
        }
        self.node_mut(with).parent = parent;
    }

    /// Adds a record whose key is not in the tree, after [`Order::prepare_insert`], and notes its
    /// node in it.
    pub(crate) fn insert(&mut self, record: Record) -> Result {
        let id = self.free;
        if id == NIL {
            return Err(Error::NoMemory);
        }
        let key = key_of(&record);
        let mut parent = NIL;
        let mut side = Side::Left;
        let mut at = self.root;
        while at != NIL {
            parent = at;
            side = if key < self.key(at) {
                Side::Left
            } else {
                Side::Right
            };
            at = self.child(at, side);
        }
        self.free = self.parent(id);
        record.header().set_order_node(id);
        *self.node_mut(id) = Node {
            left: NIL,
            right: NIL,
            parent,
            red: true,
            record: Some(record),
        };
        if parent == NIL {
            self.root = id;
        } else {
            self.set_child(parent, side, id);
        }
        self.repair_after_insert(id);
        self.len += 1;
        Ok(())
    }

    fn repair_after_insert(&mut self, mut id: NodeId) {
        while self.is_red(self.parent(id)) {
            // A red parent is not the root, so there is a grandparent.
            let mut parent = self.parent(id);
            let grandparent = self.parent(parent);
            let side = self.side_of(parent);
            let uncle = self.child(grandparent, side.other());
            if self.is_red(uncle) {
                self.set_red(parent, false);
                self.set_red(uncle, false);
                self.set_red(grandparent, true);
                id = grandparent;
                continue;
            }
            if self.side_of(id) != side {
                id = parent;
                self.rotate(id, side);
                parent = self.parent(id);
            }
            self.set_red(parent, false);
            self.set_red(grandparent, true);
            self.rotate(grandparent, side.other());
        }
        let root = self.root;
        self.set_red(root, false);
    }

    /// Lets `record` take over the node of the older version `old`, which is given back.
    pub(crate) fn replace(&mut self, old: &Record, record: Record) -> Option<Record> {
        let id = old.header().order_node();
        if id == NIL {
            return None;
        }
        record.header().set_order_node(id);
        self.node_mut(id).record.replace(record)
    }

    /// Takes a record out of the tree.
    pub(crate) fn remove(&mut self, record: &Record) -> Option<Record> {
        let id = record.header().order_node();
        if id == NIL {
            return None;
        }
        record.header().set_order_node(NIL);
        let removed = self.node_mut(id).record.take();
        self.unlink(id);
        *self.node_mut(id) = Node {
            parent: self.free,
            ..Node::empty()
        };
        self.free = id;
        self.len -= 1;
        removed
    }

    fn unlink(&mut self, id: NodeId) {
        let (left, right) = (self.node(id).left, self.node(id).right);
        let lost_red;
        let hole;
        if left == NIL || right == NIL {
            hole = if left == NIL { right } else { left };
            lost_red = self.is_red(id);
            self.replace_in_parent(id, hole);
        } else {
            let heir = self.leftmost(right);
            lost_red = self.is_red(heir);
            hole = self.node(heir).right;
            if self.parent(heir) == id {
                self.node_mut(hole).parent = heir;
            } else {
                self.replace_in_parent(heir, hole);
                self.node_mut(heir).right = right;
                self.node_mut(right).parent = heir;
            }
            self.replace_in_parent(id, heir);
            self.node_mut(heir).left = left;
            self.node_mut(left).parent = heir;
            let red = self.is_red(id);
            self.set_red(heir, red);
        }
        if !lost_red {
            self.repair_after_remove(hole);
        }
        *self.node_mut(NIL) = Node::empty();
    }

    fn repair_after_remove(&mut self, mut id: NodeId) {
        while id != self.root && !self.is_red(id) {
            let parent = self.parent(id);
            // The sentinel may stand on either side, but only one side of a node that lost a
            // black node can be the sentinel that `id` is: the other has a black node at least.
            let side = if self.node(parent).left == id {
                Side::Left
            } else {
                Side::Right
            };
            let mut sibling = self.child(parent, side.other());
            if self.is_red(sibling) {
                self.set_red(sibling, false);
                self.set_red(parent, true);
                self.rotate(parent, side);
                sibling = self.child(parent, side.other());
            }
            let near = self.child(sibling, side);
            let far = self.child(sibling, side.other());
            if !self.is_red(near) && !self.is_red(far) {
                self.set_red(sibling, true);
                id = parent;
                continue;
            }
            if !self.is_red(far) {
                self.set_red(near, false);
                self.set_red(sibling, true);
                self.rotate(sibling, side.other());
                sibling = self.child(parent, side.other());
            }
            let parent_red = self.is_red(parent);
            self.set_red(sibling, parent_red);
            self.set_red(parent, false);
            let far = self.child(sibling, side.other());
            self.set_red(far, false);
            self.rotate(parent, side);
            id = self.root;
        }
        self.set_red(id, false);
    }

    fn leftmost(&self, mut id: NodeId) -> NodeId {
        while self.node(id).left != NIL {
            id = self.node(id).left;
        }
        id
    }

    fn successor(&self, mut id: NodeId) -> NodeId {
        let right = self.node(id).right;
        if right != NIL {
            return self.leftmost(right);
        }
        let mut parent = self.parent(id);
        while parent != NIL && self.node(parent).right == id {
            id = parent;
            parent = self.parent(id);
        }
        parent
    }

    /// Records from the first key that is not before `start` (with `after`: behind it) on.
    pub(crate) fn range<'a>(
        &'a self,
        start: &[u8],
        after: bool,
    ) -> impl Iterator<Item = &'a Record> + 'a {
        let mut found = NIL;
        let mut at = self.root;
        while at != NIL {
            let before = match self.key(at).cmp(start) {
                Ordering::Less => true,
                Ordering::Equal => after,
                Ordering::Greater => false,
            };
            if before {
                at = self.node(at).right;
            } else {
                found = at;
                at = self.node(at).left;
            }
        }
        core::iter::from_fn(move || {
            if found == NIL {
                return None;
            }
            let id = found;
            found = self.successor(id);
            self.node(id).record.as_ref()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Staged;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn record(key: u16) -> Record {
        let mut staged = Staged::new(2, 0).unwrap();
        staged.key_mut().copy_from_slice(&key.to_be_bytes());
        staged.record.take().unwrap().share()
    }

    impl Order {
        /// Black nodes on every path below `id`, after checking order and colours there.
        fn check(&self, id: NodeId) -> usize {
            if id == NIL {
                return 1;
            }
            let node = self.node(id);
            for child in [node.left, node.right] {
                assert!(
                    child == NIL || self.parent(child) == id,
                    "parent link of {child}"
                );
                assert!(!(node.red && self.is_red(child)), "two red nodes in a row");
            }
            if node.left != NIL {
                assert!(self.key(node.left) < self.key(id));
            }
            if node.right != NIL {
                assert!(self.key(node.right) > self.key(id));
            }
            let (left, right) = (self.check(node.left), self.check(node.right));
            assert_eq!(left, right, "paths with different numbers of black nodes");
            left + usize::from(!node.red)
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_map_and_stays_balanced(
            steps in prop::collection::vec((0u16..300, 0u8..3), 1..2000),
            from in 0u16..300,
            after: bool,
        ) {
            let mut order = Order::new();
            let mut model: BTreeMap<u16, Record> = BTreeMap::new();
            for (key, what) in steps {
                match (what, model.get(&key).cloned()) {
                    (0, Some(old)) => {
                        order.remove(&old).unwrap();
                        model.remove(&key);
                    }
                    (_, Some(old)) => {
                        let new = record(key);
                        order.replace(&old, new.clone()).unwrap();
                        model.insert(key, new);
                    }
                    (_, None) => {
                        let new = record(key);
                        order.prepare_insert().unwrap();
                        order.insert(new.clone()).unwrap();
                        model.insert(key, new);
                    }
                }
                prop_assert!(!order.chunks.is_empty());
                order.check(order.root);
                prop_assert_eq!(order.len(), model.len());
            }
            let expected: std::vec::Vec<&Record> = model
                .iter()
                .filter(|(key, _)| if after { **key > from } else { **key >= from })
                .map(|(_, record)| record)
                .collect();
            let found: std::vec::Vec<&Record> =
                order.range(&from.to_be_bytes(), after).collect();
            prop_assert_eq!(found.len(), expected.len());
            for (a, b) in found.iter().zip(&expected) {
                prop_assert!(Record::ptr_eq(a, b));
            }
        }
    }
}

//! How a rule states what a node must say once channels have left. It only states; `rewrite` is the writer.

use super::cx::NodeCx;
use super::relate::Loc;
use std::collections::BTreeMap;

/// A change to an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttrEdit {
    /// Set an integer.
    Int(i64),
    /// Set an integer list.
    Ints(Vec<i64>),
    /// Drop it.
    Remove,
}

/// What a node must say.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    /// Attribute changes by name.
    pub attrs: BTreeMap<String, AttrEdit>,
    /// Integer inputs by slot: required elements; `None` leaves an element as it computes itself.
    pub ints: BTreeMap<usize, Vec<Option<i64>>>,
}

/// One node's axes before and after.
pub struct Patch<'a> {
    /// The node as it was.
    pub cx: NodeCx<'a>,
    pub(crate) removed: &'a dyn Fn(Loc) -> &'a [usize],
    pub(crate) edits: Edits,
}

impl<'a> Patch<'a> {
    /// Indices that leave an axis, ascending, in its original numbering.
    pub fn removed(&self, loc: Loc) -> &'a [usize] {
        (self.removed)(loc)
    }

    /// Where original index `i` is now (or would be: the number of kept indices before it).
    pub fn position(&self, loc: Loc, i: usize) -> usize {
        i - self.removed(loc).partition_point(|&r| r < i)
    }

    /// Whether original index `i` stays.
    pub fn stays(&self, loc: Loc, i: usize) -> bool {
        self.removed(loc).binary_search(&i).is_err()
    }

    /// Kept indices of an axis of original length `n`.
    pub fn kept(&self, loc: Loc, n: usize) -> Vec<usize> {
        (0..n).filter(|&i| self.stays(loc, i)).collect()
    }

    /// Sets an integer attribute.
    pub fn set_int(&mut self, name: &str, v: i64) {
        self.edits.attrs.insert(name.into(), AttrEdit::Int(v));
    }

    /// Sets an integer-list attribute.
    pub fn set_list(&mut self, name: &str, v: Vec<i64>) {
        self.edits.attrs.insert(name.into(), AttrEdit::Ints(v));
    }

    /// Drops an attribute.
    pub fn drop_attr(&mut self, name: &str) {
        self.edits.attrs.insert(name.into(), AttrEdit::Remove);
    }

    /// States what an integer input must hold.
    pub fn require(&mut self, slot: usize, elements: Vec<Option<i64>>) {
        self.edits.ints.insert(slot, elements);
    }

    /// States what a list must hold that is an attribute in older opsets and an input in newer ones.
    pub fn require_list(&mut self, name: &str, slot: usize, old: &[i64], new: Vec<Option<i64>>) {
        if self.cx.list(name).is_some() {
            self.set_list(name, new.iter().zip(old).map(|(n, o)| n.unwrap_or(*o)).collect());
        } else {
            self.require(slot, new);
        }
    }
}

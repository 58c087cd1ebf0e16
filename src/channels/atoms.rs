//! The union-find over atoms: one atom per index of every tracked axis.

use super::model::AxisId;
use crate::graph::NodeId;

/// Index of a pin's reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PinId(u32);

/// Who pins, and why.
#[derive(Clone, Debug)]
pub struct PinReason {
    /// The node; `None` for graph inputs and outputs (the reason then names them).
    pub node: Option<NodeId>,
    /// Why.
    pub reason: String,
}

const FREE: u32 = u32::MAX;

/// Union-find with pins. The representative of a class is its smallest atom, so that nothing depends on call order.
#[derive(Debug, Default)]
pub struct Atoms {
    base: Vec<u32>,
    parent: Vec<u32>,
    pin: Vec<u32>,
    reasons: Vec<PinReason>,
}

/// A state of the union-find, to try an alternative and take it back.
pub struct Snapshot {
    parent: Vec<u32>,
    pin: Vec<u32>,
    reasons: usize,
}

impl Atoms {
    /// Atoms for axes of these lengths. `None` when there are more than 2^28 in all.
    pub fn new(lens: impl IntoIterator<Item = usize>) -> Option<Self> {
        let mut base = Vec::new();
        let mut total: usize = 0;
        for n in lens {
            base.push(total as u32);
            total = total.checked_add(n).filter(|&t| t < 1 << 28)?;
        }
        Some(Atoms { base, parent: (0..total as u32).collect(), pin: vec![FREE; total], reasons: Vec::new() })
    }

    fn atom(&self, axis: AxisId, i: usize) -> u32 {
        self.base[axis.0 as usize] + i as u32
    }

    fn span(&self, axis: AxisId) -> std::ops::Range<u32> {
        let from = self.base[axis.0 as usize];
        let to = self.base.get(axis.0 as usize + 1).copied().unwrap_or(self.parent.len() as u32);
        from..to
    }

    fn root(&mut self, mut a: u32) -> u32 {
        while self.parent[a as usize] != a {
            let up = self.parent[self.parent[a as usize] as usize];
            self.parent[a as usize] = up;
            a = up;
        }
        a
    }

    /// Representative of an atom.
    pub fn find(&mut self, axis: AxisId, i: usize) -> u32 {
        let a = self.atom(axis, i);
        self.root(a)
    }

    /// Joins two atoms.
    pub fn union(&mut self, x: AxisId, i: usize, y: AxisId, j: usize) {
        let (a, b) = (self.atom(x, i), self.atom(y, j));
        let (a, b) = (self.root(a), self.root(b));
        if a == b {
            return;
        }
        let (low, high) = if a < b { (a, b) } else { (b, a) };
        self.parent[high as usize] = low;
        let pin = self.pin[low as usize].min(self.pin[high as usize]);
        self.pin[low as usize] = pin;
    }

    /// What [`Atoms::restore`] brings back.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { parent: self.parent.clone(), pin: self.pin.clone(), reasons: self.reasons.len() }
    }

    /// Takes back everything since the snapshot.
    pub fn restore(&mut self, s: &Snapshot) {
        self.parent.copy_from_slice(&s.parent);
        self.pin.copy_from_slice(&s.pin);
        self.reasons.truncate(s.reasons);
    }

    /// Registers a reason.
    pub fn reason(&mut self, node: Option<NodeId>, reason: &str) -> PinId {
        if let Some(last) = self.reasons.last()
            && last.node == node
            && last.reason == reason
        {
            return PinId(self.reasons.len() as u32 - 1);
        }
        self.reasons.push(PinReason { node, reason: reason.to_owned() });
        PinId(self.reasons.len() as u32 - 1)
    }

    /// Pins a whole axis. The earliest reason of a class is kept.
    pub fn pin(&mut self, axis: AxisId, why: PinId) {
        for a in self.span(axis) {
            let r = self.root(a) as usize;
            self.pin[r] = self.pin[r].min(why.0);
        }
    }

    /// Pins one atom.
    pub fn pin_one(&mut self, axis: AxisId, i: usize, why: PinId) {
        let r = self.find(axis, i) as usize;
        self.pin[r] = self.pin[r].min(why.0);
    }

    /// Why an atom is pinned, if it is.
    pub fn pinned(&mut self, axis: AxisId, i: usize) -> Option<&PinReason> {
        let r = self.find(axis, i) as usize;
        self.reasons.get(self.pin[r] as usize)
    }

    /// How many classes of this axis are free.
    pub fn free_on(&mut self, axis: AxisId) -> usize {
        let span = self.span(axis);
        span.filter(|&a| {
            let root = self.root(a);
            self.pin[root as usize] == FREE
        })
        .count()
    }
}

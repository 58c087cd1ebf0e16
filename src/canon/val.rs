//! Contents of small tensors that analysis can compute: shapes, axes, pads, and the arithmetic between them.

use crate::graph::ValueId;
use std::sync::Arc;

/// Largest number of elements that is folded.
pub const MAX_FOLD: usize = 4096;

/// Axes whose sizes an element was computed from, sorted.
pub type Deps = Arc<[(ValueId, usize)]>;

/// A folded tensor. Integers up to 2^53 are exact in `f64`; larger ones only occur as "to the end" and saturate.
#[derive(Clone, Debug, PartialEq)]
pub struct Val {
    /// Shape.
    pub dims: Vec<usize>,
    /// Row-major elements.
    pub data: Vec<f64>,
    /// Whether the element type is floating point (division does not truncate).
    pub float: bool,
    /// Whether the element type is a 32-bit integer.
    pub int32: bool,
    /// Per element: the sizes it came from; `None` when none did.
    pub deps: Vec<Option<Deps>>,
}

impl Val {
    /// A value that depends on no size.
    pub fn new(dims: Vec<usize>, data: Vec<f64>, float: bool) -> Self {
        let deps = vec![None; data.len()];
        Val { dims, data, float, int32: false, deps }
    }

    /// A one-dimensional integer value.
    pub fn from_ints(v: &[i64]) -> Self {
        Val::new(vec![v.len()], v.iter().map(|&x| x as f64).collect(), false)
    }

    /// Whether the shape can be counted in, an empty axis taken for one of size 1: `[0, n, n]` has no element, but strides.
    pub fn countable(&self) -> bool {
        let total = self.dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
        total.is_some_and(|n| n <= MAX_FOLD)
    }

    /// Elements as integers (saturating).
    pub fn ints(&self) -> Vec<i64> {
        self.data.iter().map(|&x| x as i64).collect()
    }

    /// All sizes that any element came from.
    pub fn all_deps(&self) -> Vec<(ValueId, usize)> {
        let mut all: Vec<_> = self.deps.iter().flatten().flat_map(|d| d.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// A value whose element `k` is this value's element `map[k]`.
    pub fn pick(&self, dims: Vec<usize>, map: impl IntoIterator<Item = usize>) -> Option<Val> {
        let mut data = Vec::new();
        let mut deps = Vec::new();
        for i in map {
            data.push(*self.data.get(i)?);
            deps.push(self.deps.get(i)?.clone());
        }
        (data.len() == dims.iter().product::<usize>()).then_some(Val {
            dims,
            data,
            float: self.float,
            int32: self.int32,
            deps,
        })
    }
}

/// Union of two dependency sets.
pub fn join(a: &Option<Deps>, b: &Option<Deps>) -> Option<Deps> {
    match (a, b) {
        (None, x) | (x, None) => x.clone(),
        (Some(x), Some(y)) if Arc::ptr_eq(x, y) => Some(x.clone()),
        (Some(x), Some(y)) => {
            let mut all: Vec<_> = x.iter().chain(y.iter()).copied().collect();
            all.sort_unstable();
            all.dedup();
            Some(all.into())
        }
    }
}

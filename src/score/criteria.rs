//! Which criterion a name stands for: the standard ones, and those that a caller adds.

use super::{CRITERIA, Criterion};
use crate::error::{Error, Result};
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

/// The criteria that a run knows: all of [`CRITERIA`], and those that were added.
///
/// # Examples
/// ```
/// use onnx_prune::channels::Group;
/// use onnx_prune::error::Result;
/// use onnx_prune::score::{Aggregate, Criteria, Criterion, CriterionSpec, ScoreContext};
///
/// /// Channels in the middle of their layer are the important ones.
/// struct Middle;
///
/// impl Criterion for Middle {
///     fn name(&self) -> &str {
///         "middle"
///     }
///     fn about(&self) -> &str {
///         "distance to the ends of the layer"
///     }
///     fn score(&self, _: &ScoreContext<'_>, group: &Group, _: Aggregate) -> Result<Option<Vec<f64>>> {
///         let n = group.channels.len();
///         Ok(Some((0..n).map(|i| i.min(n - 1 - i) as f64).collect()))
///     }
/// }
///
/// let criteria = Criteria::default().with(Middle)?;
/// let spec = CriterionSpec::parse("middle=0.5,l2", &criteria)?;
/// assert_eq!(spec.parts.len(), 2);
/// assert!("middle".parse::<CriterionSpec>().is_err(), "the standard criteria do not know it");
/// assert!(criteria.with(Middle).is_err(), "a name stands for one criterion");
/// # Ok::<(), onnx_prune::error::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Criteria {
    own: Vec<Arc<dyn Criterion>>,
}

impl Criteria {
    /// [`CRITERIA`] alone.
    pub const STANDARD: Self = Self { own: Vec::new() };

    /// Adds a criterion.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that cannot stand in a specification, and for one that is taken.
    pub fn with(mut self, criterion: impl Criterion + 'static) -> Result<Self> {
        let name = criterion.name();
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || matches!(c, ',' | '=')) {
            return Err(Error::Usage(format!(
                "{name:?} cannot name a criterion: expected a word without commas and ="
            )));
        }
        if self.all().any(|known| known.name() == name) {
            return Err(Error::Usage(format!("there is a criterion {name} already; choose another name")));
        }
        self.own.push(Arc::new(criterion));
        Ok(self)
    }

    /// All criteria: the standard ones, then the added ones in the order of adding.
    pub fn all(&self) -> impl Iterator<Item = &dyn Criterion> {
        CRITERIA.iter().map(|&c| c as &dyn Criterion).chain(self.own.iter().map(|c| &**c))
    }

    /// The criterion of that name.
    ///
    /// # Errors
    /// [`Error::Usage`] with all names there are, and the one that may have been meant.
    pub fn get(&self, name: &str) -> Result<&dyn Criterion> {
        self.all().find(|criterion| criterion.name() == name).ok_or_else(|| {
            let names: Vec<_> = self.all().map(Criterion::name).collect();
            let meant = crate::error::meant(name, names.iter().copied());
            Error::Usage(format!("unknown criterion {name:?}{meant}; there are: {}", names.join(", ")))
        })
    }
}

// As models with their rules: what is only asked leaves nothing half changed.
impl UnwindSafe for Criteria {}
impl RefUnwindSafe for Criteria {}

impl fmt::Debug for Criteria {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.own.iter().map(|c| c.name())).finish()
    }
}

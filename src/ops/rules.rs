//! Which rule an operator has: the standard table, and rules that a caller adds for operators of their own.

use super::{OpRule, RULES};
use crate::error::{Error, Result};
use crate::graph::is_default_domain;
use crate::onnx::Model;
use crate::onnx::proto::{FunctionProto, ModelProto};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Arc, OnceLock};

/// `(domain, operator)`; the default domain is the empty one.
type Key = (String, String);

/// The rules that a model is read with: all of [`RULES`], and those that were added.
///
/// A value, not a setting of the process: it travels with the [`Model`] ([`Model::with_rules`]) and with every model that is
/// derived from it, so that analysis, rewriting and verification see the same rules.
///
/// An added rule is a claim. It is believed where the pruned model can be compared with the masked original, which takes a
/// runtime that knows the operator, or a [definition](Rules::defined) of it in standard operators. Where numbers cannot be
/// compared, [`prune`](crate::prune::prune) refuses to make a model, unless
/// [`verify`](crate::prune::Options::verify) is turned off.
///
/// # Examples
/// ```
/// use onnx_prune::ops::{Answer, NodeCx, OpRule, Rules, Shapes, relate::{In, Out, Relate}};
///
/// /// `y = x` moved along the last axis: channels (axis 1) pass.
/// struct Shift;
///
/// impl OpRule for Shift {
///     fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
///         Ok(vec![Some(cx.shape(0)?.to_vec())])
///     }
///
///     fn relate(&self, r: &mut Relate) -> Answer<()> {
///         r.tie(In(0, 1), Out(0, 1))
///     }
/// }
///
/// let rules = Rules::default().with("com.example:Shift", Shift)?;
/// assert!(rules.get("com.example", "Shift").is_some());
/// assert!(Rules::default().get("com.example", "Shift").is_none());
/// assert!(rules.with("Conv", Shift).is_err());
/// # Ok::<(), onnx_prune::error::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Rules {
    own: Arc<BTreeMap<Key, Own>>,
}

#[derive(Clone)]
struct Own {
    rule: Arc<dyn OpRule>,
    definition: Option<FunctionProto>,
}

impl Rules {
    /// Adds the rule of one operator: `domain:Operator`, or the bare name of a standard operator that has no rule.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that is not one, and for an operator that has a rule.
    pub fn with(mut self, name: &str, rule: impl OpRule + 'static) -> Result<Self> {
        let key = key(name)?;
        if self.get(&key.0, &key.1).is_some() {
            return Err(Error::Usage(format!("operator {name} has a rule; a rule can be added, not replaced")));
        }
        Arc::make_mut(&mut self.own).insert(key, Own { rule: Arc::new(rule), definition: None });
        Ok(self)
    }

    /// Says what an operator with an [added](Rules::with) rule computes, as an ONNX function of standard operators.
    ///
    /// Verification runs the function in place of the operator; nothing else does, and it is not written into the pruned
    /// model. A function without operator sets is taken to be written for those of the model.
    ///
    /// # Errors
    /// [`Error::Usage`] when the function has another name than an operator with an added rule, and for a second definition.
    pub fn defined(mut self, definition: FunctionProto) -> Result<Self> {
        let key = (domain(definition.domain()).to_owned(), definition.name().to_owned());
        let name = format!("{}:{}", key.0, key.1);
        match Arc::make_mut(&mut self.own).get_mut(&key) {
            None => Err(Error::Usage(format!("the definition of {name} belongs to no added rule; add the rule first"))),
            Some(own) if own.definition.is_some() => Err(Error::Usage(format!("operator {name} is defined twice"))),
            Some(own) => {
                own.definition = Some(definition);
                Ok(self)
            }
        }
    }

    /// The rule of an operator; `None`: it pins every axis that it touches.
    pub fn get(&self, domain: &str, op_type: &str) -> Option<&dyn OpRule> {
        match standard(domain, op_type) {
            Some(rule) => Some(rule),
            None => self.added(domain, op_type),
        }
    }

    /// The same where the rule was [added](Rules::with).
    pub fn added(&self, of: &str, op_type: &str) -> Option<&dyn OpRule> {
        if self.own.is_empty() {
            return None;
        }
        self.own.get(&(domain(of).to_owned(), op_type.to_owned())).map(|own| &*own.rule)
    }

    /// Names of the added rules, in order.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.own.keys().map(|(domain, op)| if domain.is_empty() { op.clone() } else { format!("{domain}:{op}") })
    }

    /// The model with the [definitions](Rules::defined) of its operators as functions, to be run.
    pub(crate) fn define<'m>(&self, model: &'m Model) -> Cow<'m, Model> {
        let known = |f: &FunctionProto| {
            model.proto.functions.iter().any(|g| domain(g.domain()) == domain(f.domain()) && g.name() == f.name())
        };
        let new: Vec<FunctionProto> =
            self.own.values().filter_map(|o| o.definition.clone()).filter(|f| !known(f)).collect();
        if new.is_empty() {
            return Cow::Borrowed(model);
        }
        let sets = &model.proto.opset_import;
        let for_model = |mut f: FunctionProto| {
            if f.opset_import.is_empty() {
                f.opset_import.clone_from(sets);
            }
            f
        };
        let mut proto = ModelProto { functions: model.proto.functions.clone(), ..model.proto.clone() };
        proto.functions.extend(new.into_iter().map(for_model));
        Cow::Owned(model.derive(proto))
    }
}

// A rule is only asked, and cannot leave the model half changed: models may cross `catch_unwind` with any rule.
impl UnwindSafe for Rules {}
impl RefUnwindSafe for Rules {}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rules").field(&self.names().collect::<Vec<_>>()).finish()
    }
}

/// Both spellings of the default domain are one.
fn domain(d: &str) -> &str {
    if is_default_domain(d) { "" } else { d }
}

fn key(name: &str) -> Result<Key> {
    let (of, op) = name.rsplit_once(':').unwrap_or(("", name));
    if op.is_empty() || name.starts_with(':') || name.contains(char::is_whitespace) {
        return Err(Error::Usage(format!(
            "{name:?} names no operator; expected domain:Operator, as in com.example:Shift"
        )));
    }
    Ok((domain(of).to_owned(), op.to_owned()))
}

/// The rule of [`RULES`].
pub(crate) fn standard(of: &str, op_type: &str) -> Option<&'static dyn OpRule> {
    static INDEX: OnceLock<HashMap<(&'static str, &'static str), &'static dyn OpRule>> = OnceLock::new();
    let index = INDEX.get_or_init(|| {
        let named = RULES.iter().flat_map(|&(names, rule)| names.iter().map(move |&n| (n, rule)));
        named.map(|(name, rule)| (name.rsplit_once(':').unwrap_or(("", name)), rule)).collect()
    });
    index.get(&(domain(of), op_type)).copied()
}

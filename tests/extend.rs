//! Rules and criteria of a caller's own.

#[path = "../examples/extend.rs"]
#[allow(dead_code)]
mod extend;

use extend::{Largest, Shift, definition, model};
use onnx_prune::error::Error;
use onnx_prune::graph::attribute;
use onnx_prune::onnx::Model;
use onnx_prune::ops::relate::{In, Out};
use onnx_prune::ops::{Answer, NodeCx, OpRule, Relate, Rules, Shapes};
use onnx_prune::plan::{Budget, RoundTo};
use onnx_prune::prune::{Options, Pruned, prune};
use onnx_prune::score::{Criteria, CriterionSpec};

fn options() -> Options {
    Options { budget: Budget::Ratio(0.5), round_to: RoundTo::Multiple(1), ..Options::default() }
}

fn half(model: &Model, options: &Options) -> Result<Pruned, Error> {
    prune(model, options, &|_| ())
}

fn error(rules: Rules, options: &Options) -> Error {
    half(&model().with_rules(rules), options).err().expect("an error")
}

#[test]
fn the_example_prunes_through_its_operator() {
    let pruned = extend::run().unwrap();
    let report = &pruned.report;
    assert_eq!((report.channels_prunable, report.channels_removed), (16, 8));
    assert_eq!(report.groups[0].criterion, "largest");
    let graph = pruned.model.as_ref().unwrap().proto.graph.as_ref().unwrap();
    let shift = graph.node.iter().find(|n| n.op_type() == "Shift").unwrap();
    assert_eq!(attribute(shift, "channels").unwrap().i, Some(8), "patched");
    assert_eq!(shift.domain(), "com.example", "the operator stays");
    assert!(pruned.model.as_ref().unwrap().proto.functions.is_empty(), "its definition is not written");
    let gain = graph.initializer.iter().find(|t| t.name() == "gain").unwrap();
    assert_eq!(gain.dims, [8]);
    if cfg!(feature = "tract") {
        assert!(report.verify.max_rel_diff.is_some(), "{}", report.verify.note);
    }
    let again = extend::run().unwrap();
    assert_eq!(again.model.unwrap().to_bytes().unwrap(), pruned.model.unwrap().to_bytes().unwrap());
}

#[test]
fn without_a_rule_everything_is_held_back() {
    let pruned = half(&model(), &Options { budget: Budget::Ratio(0.0), ..options() }).unwrap();
    assert_eq!(pruned.report.channels_prunable, 0);
    assert!(pruned.report.pins.iter().any(|p| p.op == "com.example:Shift" && p.reason.contains("no rule")));
}

/// Nothing runs the operator, so that nothing confirms the rule.
#[test]
fn a_rule_that_nothing_confirms_makes_no_model() {
    let rules = Rules::default().with("com.example:Shift", Shift).unwrap();
    let e = error(rules.clone(), &options());
    assert!(matches!(&e, Error::Usage(_)), "{e}");
    for words in ["com.example:Shift", "Rules::defined", "extended.onnx"] {
        assert!(e.to_string().contains(words), "{e}");
    }
    let unchecked = half(&model().with_rules(rules), &Options { verify: false, ..options() }).unwrap();
    assert_eq!(unchecked.report.channels_removed, 8);
}

/// Says that channel `i` of the input becomes the last but `i` of the output.
struct Reversed;

impl OpRule for Reversed {
    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        Shift.infer(cx)
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let n = r.size(In(0, 1))?;
        r.tie_map(In(0, 1), Out(0, 1), (0..n).map(|i| (i, n - 1 - i)))?;
        r.tie(In(1, 0), In(0, 1))
    }
}

#[test]
#[cfg(feature = "tract")]
fn a_wrong_rule_is_found_out() {
    let rules = Rules::default().with("com.example:Shift", Reversed).unwrap().defined(definition()).unwrap();
    let e = error(rules, &options());
    assert!(matches!(e, Error::Verify { .. }), "{e}");
}

#[test]
fn names_are_known_and_taken_once() {
    let rules = || Rules::default().with("com.example:Shift", Shift).unwrap();
    assert_eq!(rules().names().collect::<Vec<_>>(), ["com.example:Shift"]);
    let taken = [
        rules().with("com.example:Shift", Shift).err(),
        Rules::default().with("Conv", Shift).err(),
        Rules::default().with("ai.onnx:Conv", Shift).err(),
        Rules::default().with("com.microsoft:FusedConv", Shift).err(),
    ];
    assert!(taken.iter().all(|e| e.as_ref().is_some_and(|e| e.to_string().contains("has a rule"))), "{taken:?}");
    for name in ["", "com.example:", ":Shift", "two words"] {
        assert!(Rules::default().with(name, Shift).is_err(), "{name:?}");
    }
    assert!(Rules::default().defined(definition()).is_err(), "of no rule");
    assert!(rules().defined(definition()).unwrap().defined(definition()).is_err(), "twice");

    let criteria = Criteria::default().with(Largest).unwrap();
    assert!(criteria.clone().with(Largest).is_err());
    let parsed = CriterionSpec::parse("largest=0.5,l2", &criteria).unwrap();
    assert_eq!(parsed.to_string(), "largest=0.5,l2");
    let e = CriterionSpec::parse("larges", &criteria).err().unwrap().to_string();
    assert!(e.contains("did you mean \"largest\"?"), "{e}");
    // The specification alone does not bring its criterion.
    let e = half(&model(), &Options { criterion: Some(parsed), ..options() });
    assert!(e.is_err() || e.unwrap().report.channels_prunable == 0);
}

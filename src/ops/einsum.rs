//! `Einsum`: one class of indices per letter.

use super::cx::{Answer, NodeCx, Refusal};
use super::relate::{In, Loc, Out, Relate};
use super::{OpRule, Shapes};
use crate::channels::model::Role;
use crate::refuse;
use std::collections::BTreeMap;

pub(super) const EINSUM: &[&str] = &["Einsum"];

/// `Einsum` with an explicit or implicit output, batch dimensions under `...` included.
pub struct Einsum;

/// What an axis is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    /// A dimension under `...`, counted from its right end: they align like a broadcast.
    Batch(usize),
    Letter(char),
}

/// An equation, with one label per axis of every operand and of the output.
#[derive(Debug, PartialEq, Eq)]
struct Equation {
    operands: Vec<Vec<Label>>,
    output: Vec<Label>,
}

/// The labels of one term for a tensor of this rank; `batch` dimensions stand for `...`.
fn labels(term: &str, batch: impl Fn(usize) -> Option<usize>) -> Answer<Vec<Label>> {
    let (before, after) = match term.split_once("...") {
        Some((b, a)) => (b, Some(a)),
        None => (term, None),
    };
    let letters = |s: &str| -> Answer<Vec<Label>> {
        s.chars()
            .map(
                |c| if c.is_ascii_alphabetic() { Ok(Label::Letter(c)) } else { Err(Refusal(format!("term {term:?}"))) },
            )
            .collect()
    };
    let mut out = letters(before)?;
    let after = after.map(letters).transpose()?;
    let n = batch(out.len() + after.as_ref().map_or(0, Vec::len))
        .filter(|&n| n == 0 || after.is_some())
        .ok_or_else(|| Refusal(format!("term {term:?} does not fit its operand")))?;
    out.extend((0..n).rev().map(Label::Batch));
    out.extend(after.unwrap_or_default());
    Ok(out)
}

impl Equation {
    fn parse(equation: &str, ranks: &[usize]) -> Answer<Self> {
        let text: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match text.split_once("->") {
            Some((l, r)) => (l, Some(r)),
            None => (text.as_str(), None),
        };
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != ranks.len() {
            refuse!("equation {equation:?} for {} operands", ranks.len());
        }
        let operands: Vec<Vec<Label>> =
            terms.iter().zip(ranks).map(|(t, &r)| labels(t, |n| r.checked_sub(n))).collect::<Answer<_>>()?;
        let mut count: BTreeMap<Label, usize> = BTreeMap::new();
        for &l in operands.iter().flatten() {
            *count.entry(l).or_default() += 1;
        }
        let batch = count.keys().filter(|l| matches!(l, Label::Batch(_))).count();
        let output = match right {
            Some(r) => labels(r, |_| Some(if r.contains("...") { batch } else { 0 }))?,
            None => {
                let single = |l: &Label| matches!(l, Label::Letter(_)) && count.get(l) == Some(&1);
                (0..batch).rev().map(Label::Batch).chain(count.keys().copied().filter(single)).collect()
            }
        };
        if let Some(l) = output.iter().find(|l| !count.contains_key(l) || output.iter().filter(|x| x == l).count() > 1)
        {
            refuse!("{l:?} in the output of equation {equation:?}");
        }
        Ok(Equation { operands, output })
    }

    fn read(cx: &NodeCx) -> Answer<Self> {
        let equation = cx.string("equation").ok_or("its equation is missing")?;
        let ranks: Vec<usize> = (0..cx.n_inputs()).map(|s| cx.rank(s)).collect::<Answer<_>>()?;
        Self::parse(equation, &ranks)
    }

    /// Size per label; axes of size 1 stretch.
    fn sizes(&self, cx: &NodeCx) -> Answer<BTreeMap<Label, usize>> {
        let mut out: BTreeMap<Label, usize> = BTreeMap::new();
        for (s, labels) in self.operands.iter().enumerate() {
            for (&l, &d) in labels.iter().zip(cx.shape(s)?) {
                let n = out.entry(l).or_insert(d);
                if *n == 1 {
                    *n = d;
                } else if d != 1 && d != *n {
                    refuse!("{l:?} has sizes {n} and {d}");
                }
            }
        }
        Ok(out)
    }

    /// Where a label stands among the operands.
    fn places(&self, label: Label) -> Vec<(usize, usize)> {
        let axes = |(s, labels): (usize, &Vec<Label>)| {
            let found: Vec<_> = labels.iter().enumerate().filter(|(_, l)| **l == label).map(|(a, _)| (s, a)).collect();
            found
        };
        self.operands.iter().enumerate().flat_map(axes).collect()
    }
}

impl OpRule for Einsum {
    fn weight_slots(&self) -> &'static [usize] {
        &[0, 1, 2, 3, 4, 5, 6, 7]
    }

    fn infer(&self, cx: &NodeCx) -> Answer<Shapes> {
        let e = Equation::read(cx)?;
        let sizes = e.sizes(cx)?;
        Ok(vec![Some(e.output.iter().map(|l| sizes.get(l).copied().unwrap_or(1)).collect())])
    }

    fn relate(&self, r: &mut Relate) -> Answer<()> {
        let e = Equation::read(&r.cx)?;
        if e != Equation::read(&r.other)? {
            refuse!("what its equation means depends on a dynamic size");
        }
        if let Some(t) = e.operands.iter().find(|t| (1..t.len()).any(|i| t[..i].contains(&t[i]))) {
            refuse!("a letter stands twice in one operand: {t:?}");
        }
        if !r.cx.string("equation").unwrap_or_default().contains("->") && mixed_case(&e.output) {
            refuse!("the order of small and capital letters in an implicit output");
        }
        let sizes = e.sizes(&r.cx)?;
        let mut summed: Vec<usize> = Vec::new();
        let mut macs: Vec<Loc> = Vec::new();
        for (&label, &n) in &sizes {
            let places = e.places(label);
            let output = e.output.iter().position(|&l| l == label);
            let mut full = Vec::new();
            for &(s, a) in &places {
                // An axis of size 1 is read for every index: it ties nothing.
                if r.size(In(s, a))? == n {
                    full.push((s, a));
                } else {
                    r.free(In(s, a));
                }
            }
            let Some(&(s, a)) = full.first() else { continue };
            let hub = output.map_or(In(s, a), |o| Out(0, o));
            macs.push(hub);
            for &(s, a) in &full {
                if hub == In(s, a) {
                    r.free(hub);
                } else {
                    r.tie(In(s, a), hub)?;
                }
            }
            if output.is_some() {
                continue;
            }
            // Where the oracle puts its zeros: the last operand that is a weight, as in a matrix product.
            let weight = full.iter().rev().find(|&&(s, _)| r.is_weight(s));
            match weight {
                _ if places.len() == 1 => r.pin(hub, "it sums over this axis of one operand"),
                _ if full.len() < places.len() => r.pin(hub, "an operand of size 1 is summed as often as this is long"),
                Some(&(s, a)) => {
                    r.contract(s, a);
                    summed.push(s);
                }
                None => r.pin(
                    hub,
                    "all operands are activations; removing an index of the summed axis would change their product",
                ),
            }
        }
        for (s, labels) in e.operands.iter().enumerate().filter(|(s, _)| summed.contains(s)) {
            for (a, &label) in labels.iter().enumerate() {
                if e.output.contains(&label) && e.places(label).len() == 1 {
                    r.site(Role::Producer, s, a);
                }
            }
        }
        if e.operands.len() > 1 { r.macs(1.0, &macs) } else { Ok(()) }
    }
}

fn mixed_case(labels: &[Label]) -> bool {
    let any = |f: fn(&char) -> bool| labels.iter().any(|l| matches!(l, Label::Letter(c) if f(c)));
    any(char::is_ascii_lowercase) && any(char::is_ascii_uppercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(labels: &[Label]) -> String {
        labels
            .iter()
            .map(|l| match l {
                Label::Batch(n) => char::from_digit(*n as u32, 10).unwrap(),
                Label::Letter(c) => *c,
            })
            .collect()
    }

    fn parse(equation: &str, ranks: &[usize]) -> Option<Vec<String>> {
        let e = Equation::parse(equation, ranks).ok()?;
        Some(e.operands.iter().chain([&e.output]).map(|l| text(l)).collect())
    }

    #[test]
    fn equations() {
        let is = |equation: &str, ranks: &[usize], want: &[&str]| {
            let want = (!want.is_empty()).then(|| want.iter().map(|s| (*s).to_owned()).collect());
            assert_eq!(parse(equation, ranks), want, "{equation}");
        };
        is("ij,jk->ik", &[2, 2], &["ij", "jk", "ik"]);
        is(" b i , i o -> b o ", &[2, 2], &["bi", "io", "bo"]);
        is("ij,jk", &[2, 2], &["ij", "jk", "ik"]);
        is("ba", &[2], &["ba", "ab"]);
        is("ii->i", &[2], &["ii", "i"]);
        is("ii", &[2], &["ii", ""]);
        is("i->", &[1], &["i", ""]);
        is("...ij,...jk->...ik", &[4, 3], &["10ij", "0jk", "10ik"]);
        is("...ij,jk", &[4, 2], &["10ij", "jk", "10ik"]);
        is("i...j->ij...", &[4], &["i10j", "ij10"]);
        is("...i->i", &[3], &["10i", "i"]);
        is("ij,jk->ik", &[2, 3], &[]);
        is("ij,jk->ik", &[2], &[]);
        is("i->j", &[1], &[]);
        is("i->ii", &[1], &[]);
        is("...ij->ij", &[1], &[]);
        is("i1->i", &[2], &[]);
        is("i..j->ij", &[2], &[]);
        is("......i->i", &[1], &[]);
    }
}

//! A rule against central differences: `(L(x + h·u) − L(x − h·u)) / 2h` in `float64`, for `L = Σ r · y` with random `r`.

use crate::common::{Build, seeded};
use crate::{Case, Draw};
use onnx_prune::runtime::{self, Array, Data, Session};
use onnx_prune::train::vjp::{gradient_name, seed_name, vjp};
use rand::Rng as _;
use std::collections::BTreeMap;

/// Step of the differences, and the accepted difference relative to the largest gradient (at least 1).
const DOUBLE: (f64, f64) = (1e-5, 2e-6);
/// The same for operators that are tested in `float32`.
const SINGLE: (f64, f64) = (1e-2, 1e-3);
/// Distance from kinks.
const AWAY: f64 = 0.03;
/// Elements of each tensor that are moved, at most.
const MOVED: usize = 24;

/// Values of everything that enters, by name.
pub type Point = BTreeMap<String, Array>;

fn array(dims: Vec<usize>, v: Vec<f64>, double: bool) -> Array {
    let data = if double { Data::F64(v) } else { Data::F32(v.iter().map(|&v| v as f32).collect()) };
    Array { dims, data }
}

fn values(a: &Array) -> Vec<f64> {
    a.to_f64()
}

/// `Σ r · y`.
fn loss(outputs: &[(String, Array)], seeds: &Point) -> f64 {
    let term = |(name, y): &(String, Array)| -> f64 {
        let Some(r) = seeds.get(name) else { return 0.0 };
        values(y).iter().zip(values(r)).map(|(y, r)| y * r).sum()
    };
    outputs.iter().map(term).sum()
}

/// What enters a case: values, the extents of the inputs, and what to differentiate by.
struct Setting {
    point: Point,
    shapes: Vec<(String, Vec<usize>)>,
    wrt: Vec<String>,
    seeds: Point,
}

impl Setting {
    fn feed(&self, point: &Point) -> Vec<(String, Array)> {
        let mut feed: Vec<(String, Array)> = point.iter().map(|(n, a)| (n.clone(), a.clone())).collect();
        feed.extend(self.seeds.iter().map(|(n, a)| (seed_name(n), a.clone())));
        feed
    }
}

fn setting(b: &Build, case: &Case, double: bool) -> Result<Setting, String> {
    let mut rng = seeded(b.g.node.len() as u64 + 7);
    let mut point = Point::new();
    let mut shapes = Vec::new();
    let mut wrt: Vec<String> = Vec::new();
    let mut draw = || loop {
        let v: f64 = rng.random_range(-1.5..1.5);
        match case.draw {
            Draw::Away(from) if from.iter().any(|f| (v - f).abs() < AWAY) => {}
            Draw::Positive => return v.abs() + 0.3,
            _ => return v,
        }
    };
    for input in &b.g.input {
        let dims = b.shape(input.name());
        let drawn = (0..dims.iter().product()).map(|_| draw()).collect();
        point.insert(input.name().into(), array(dims.clone(), drawn, double));
        shapes.push((input.name().to_owned(), dims));
        wrt.push(input.name().into());
    }
    for t in b.g.initializer.iter().filter(|t| case.initializers.iter().any(|n| n == t.name())) {
        let a = Array::from_tensor(t).map_err(|e| e.to_string())?.ok_or("an odd type")?;
        point.insert(t.name().into(), array(a.dims.clone(), a.to_f64(), double));
        wrt.push(t.name().into());
    }
    let mut seeds = Point::new();
    for output in &b.g.output {
        let dims = b.shape(output.name());
        let r = (0..dims.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect();
        seeds.insert(output.name().into(), array(dims, r, double));
    }
    Ok(Setting { point, shapes, wrt, seeds })
}

/// Whether a runtime computes the same gradients in `float32` as the embedded one.
pub fn agree(b: &Build, case: &Case, other: &dyn runtime::Runtime) -> Result<(), String> {
    let s = setting(b, case, false)?;
    let made = vjp(&b.model(), &s.shapes, &s.wrt, case.batch_norms, false).map_err(|e| e.to_string())?;
    let feed = s.feed(&s.point);
    let run = |r: &dyn runtime::Runtime| {
        let mut session = r.load(&made).map_err(|e| e.to_string())?;
        session.run(&feed).map_err(|e| e.to_string())
    };
    let embedded = runtime::embedded().ok_or("no embedded runtime")?;
    for ((name, one), (_, two)) in run(embedded)?.iter().zip(&run(other)?) {
        let (one, two) = (values(one), values(two));
        let scale = one.iter().fold(1.0f64, |m, v| m.max(v.abs()));
        let off = one.iter().zip(&two).map(|(x, y)| (x - y).abs()).fold(0.0f64, f64::max);
        if one.len() != two.len() || off.is_nan() || off > SINGLE.1 * scale {
            return Err(format!("{name}: {} says {two:?}, {} {one:?}", other.name(), embedded.name()));
        }
    }
    Ok(())
}

/// Compares the gradients of the model's outputs with respect to all float inputs and the named initializers.
pub fn check(b: &Build, case: &Case, double: bool) -> Result<(), String> {
    let (step, tolerance) = if double { DOUBLE } else { SINGLE };
    let s = setting(b, case, double)?;
    let (point, wrt, seeds) = (&s.point, &s.wrt, &s.seeds);
    let made = vjp(&b.model(), &s.shapes, wrt, case.batch_norms, double).map_err(|e| e.to_string())?;
    let runtime = runtime::embedded().ok_or("no embedded runtime")?;
    let mut session = runtime.load(&made).map_err(|e| e.to_string())?;
    let mut run = |point: &Point| -> Result<Vec<(String, Array)>, String> {
        let feed = s.feed(point);
        Session::run(session.as_mut(), &feed).map_err(|e| e.to_string())
    };
    let all = run(point)?;
    for name in wrt {
        let wanted = gradient_name(name);
        let (_, g) = all.iter().find(|(n, _)| *n == wanted).ok_or_else(|| format!("no output {wanted}"))?;
        let (g, x) = (values(g), values(&point[name]));
        if g.len() != x.len() {
            return Err(format!("{name}: {} gradients for {} values", g.len(), x.len()));
        }
        let scale = g.iter().fold(1.0f64, |m, v| m.max(v.abs()));
        let every = (x.len() / MOVED).max(1);
        for i in (0..x.len()).step_by(every) {
            let mut moved = |h: f64| {
                let mut x = x.clone();
                x[i] += h;
                let mut point = point.clone();
                let dims = point[name].dims.clone();
                point.insert(name.clone(), array(dims, x, double));
                run(&point).map(|y| loss(&y, seeds))
            };
            let measured = (moved(step)? - moved(-step)?) / (2.0 * step);
            let off = (measured - g[i]).abs();
            if off.is_nan() || off > tolerance * scale {
                return Err(format!("{name}[{i}]: the rule says {}, differences say {measured}", g[i]));
            }
        }
    }
    Ok(())
}

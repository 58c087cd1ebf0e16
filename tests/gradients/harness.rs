//! A rule against central differences: `(L(x + h·u) − L(x − h·u)) / 2h` in `float64`, for `L = Σ r · y` with random `r`.

use crate::common::{Build, seeded};
use onnx_prune::runtime::{self, Array, Data, Session};
use onnx_prune::train::grad::BatchNorms;
use onnx_prune::train::vjp::{gradient_name, seed_name, vjp};
use rand::Rng as _;
use std::collections::BTreeMap;

/// Step of the differences.
const H: f64 = 1e-5;
/// Accepted difference, relative to the largest gradient (at least 1).
const TOLERANCE: f64 = 2e-6;
/// Elements of each tensor that are moved, at most.
const MOVED: usize = 24;

/// Values of everything that enters, by name.
pub type Point = BTreeMap<String, Array>;

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

/// Compares the gradients of the model's outputs with respect to all float inputs and the named initializers. `at` may
/// choose the values of an input (those of initializers are their own).
pub fn check(
    b: &Build,
    initializers: &[&str],
    batch_norms: BatchNorms,
    at: &dyn Fn(&str, usize) -> Option<Vec<f64>>,
) -> Result<(), String> {
    let model = b.model();
    let mut rng = seeded(b.g.node.len() as u64 + 7);
    let mut point = Point::new();
    let mut shapes = Vec::new();
    let mut wrt: Vec<String> = Vec::new();
    for input in &b.g.input {
        let dims = b.shape(input.name());
        let n: usize = dims.iter().product();
        let drawn = || (0..n).map(|_| rng.random_range(-1.5..1.5)).collect();
        let data = Data::F64(at(input.name(), n).unwrap_or_else(drawn));
        point.insert(input.name().into(), Array { dims: dims.clone(), data });
        shapes.push((input.name().to_owned(), dims));
        wrt.push(input.name().into());
    }
    for t in b.g.initializer.iter().filter(|t| initializers.contains(&t.name())) {
        let a = Array::from_tensor(t).map_err(|e| e.to_string())?.ok_or("an odd type")?;
        point.insert(t.name().into(), Array { data: Data::F64(a.to_f64()), dims: a.dims });
        wrt.push(t.name().into());
    }
    let made = vjp(&model, &shapes, &wrt, batch_norms, true).map_err(|e| e.to_string())?;
    let runtime = runtime::embedded().ok_or("no embedded runtime")?;
    let mut session = runtime.load(&made).map_err(|e| e.to_string())?;
    let mut seeds = Point::new();
    for output in &b.g.output {
        let dims = b.shape(output.name());
        let r = (0..dims.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect();
        seeds.insert(output.name().into(), Array { dims, data: Data::F64(r) });
    }
    let mut run = |point: &Point| -> Result<Vec<(String, Array)>, String> {
        let mut feed: Vec<(String, Array)> = point.iter().map(|(n, a)| (n.clone(), a.clone())).collect();
        feed.extend(seeds.iter().map(|(n, a)| (seed_name(n), a.clone())));
        Session::run(session.as_mut(), &feed).map_err(|e| e.to_string())
    };
    let all = run(&point)?;
    for name in &wrt {
        let wanted = gradient_name(name);
        let (_, g) = all.iter().find(|(n, _)| *n == wanted).ok_or_else(|| format!("no output {wanted}"))?;
        let (g, x) = (values(g), values(&point[name]));
        if g.len() != x.len() {
            return Err(format!("{name}: {} gradients for {} values", g.len(), x.len()));
        }
        let scale = g.iter().fold(1.0f64, |m, v| m.max(v.abs()));
        let step = (x.len() / MOVED).max(1);
        for i in (0..x.len()).step_by(step) {
            let mut moved = |h: f64| {
                let mut x = x.clone();
                x[i] += h;
                let mut point = point.clone();
                let dims = point[name].dims.clone();
                point.insert(name.clone(), Array { dims, data: Data::F64(x) });
                run(&point).map(|y| loss(&y, &seeds))
            };
            let measured = (moved(H)? - moved(-H)?) / (2.0 * H);
            let off = (measured - g[i]).abs();
            if off.is_nan() || off > TOLERANCE * scale {
                return Err(format!("{name}[{i}]: the rule says {}, differences say {measured}", g[i]));
            }
        }
    }
    Ok(())
}

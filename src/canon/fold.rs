//! Folds the shape arithmetic that exporters write: `Shape → Gather → Concat → Reshape` and its kin.
//!
//! Requires: shapes of the node's inputs where known. Ensures: a returned [`Val`] equals what a runtime would compute
//! under the lane's assignment, and carries the sizes it depends on. `None` means "not folded", never a guess.

use super::val::{MAX_FOLD, Val, join};
use crate::graph::{Graph, NodeId, ValueId, attribute, is_default_domain};
use crate::onnx::{proto::TensorProto, proto::tensor_proto::DataType, tensor};
use crate::ops::cx::{NodeCx, broadcast, norm_axes, norm_axis};

/// Contents of a small constant tensor: any integer tensor up to [`MAX_FOLD`] elements, floats up to 64.
pub fn of_tensor(t: &TensorProto) -> Option<Val> {
    let dims = tensor::dims(t).ok()?;
    let n = tensor::numel(t).ok()?;
    let float = tensor::is_float(t.data_type());
    if n > if float { 64 } else { MAX_FOLD } {
        return None;
    }
    let data = tensor::to_f64(t).ok()?;
    let int32 = t.data_type() == DataType::Int32 as i32;
    Some(Val { int32, ..Val::new(dims, data, float) }).filter(Val::countable)
}

/// Contents of a `Constant` node that holds no tensor (`value_int`, `value_ints`, `value_float`, `value_floats`).
fn of_constant(cx: &NodeCx) -> Option<Val> {
    if let Some(t) = attribute(cx.node, "value").and_then(|a| a.t.as_ref()) {
        return of_tensor(t);
    }
    let get = |n| attribute(cx.node, n);
    if let Some(i) = get("value_int").and_then(|a| a.i) {
        return Some(Val::new(vec![], vec![i as f64], false));
    }
    if let Some(f) = get("value_float").and_then(|a| a.f) {
        return Some(Val::new(vec![], vec![f64::from(f)], true));
    }
    if let Some(a) = get("value_ints").filter(|a| a.ints.len() <= MAX_FOLD) {
        return Some(Val::from_ints(&a.ints));
    }
    let a = get("value_floats").filter(|a| a.floats.len() <= 64)?;
    Some(Val::new(vec![a.floats.len()], a.floats.iter().map(|&f| f64::from(f)).collect(), true))
}

/// The node's outputs, folded; `None` (or nothing) for those that are not.
pub fn eval(cx: &NodeCx) -> Vec<Option<Val>> {
    if !is_default_domain(cx.node.domain()) {
        return Vec::new();
    }
    if cx.node.op_type() == "Split" {
        return split(cx).unwrap_or_default();
    }
    vec![first(cx).filter(Val::countable)]
}

/// The parts of a vector.
fn split(cx: &NodeCx) -> Option<Vec<Option<Val>>> {
    let x = cx.val(0).filter(|x| x.dims.len() == 1)?;
    let mut at = 0;
    let parts = (0..cx.n_outputs()).map(|o| {
        let n = *cx.out_shape(o).ok()?.first()?;
        at += n;
        x.pick(vec![n], at - n..at)
    });
    Some(parts.collect())
}

fn clip(cx: &NodeCx) -> Option<Val> {
    let mut v = cx.val(0)?.clone();
    let bound = |slot: usize, name: &str, default: f32| {
        if cx.has(slot) { cx.val(slot)?.data.first().copied() } else { Some(cx.float(name, default)) }
    };
    let (lo, hi) = (bound(1, "min", f32::MIN)?, bound(2, "max", f32::MAX)?);
    for x in &mut v.data {
        *x = x.max(lo).min(hi);
    }
    Some(v)
}

fn first(cx: &NodeCx) -> Option<Val> {
    match cx.node.op_type() {
        "Constant" => of_constant(cx),
        "Shape" => {
            let s = cx.shape(0).ok()?;
            let x = cx.graph.input(cx.id, 0)?;
            let r = s.len() as i64;
            let clamp = |v: i64| if v < 0 { (v + r).clamp(0, r) } else { v.min(r) } as usize;
            let (a, b) = (clamp(cx.int("start", 0)), clamp(cx.int("end", i64::MAX)));
            let picked: Vec<usize> = (a..b.max(a)).collect();
            let mut v = Val::from_ints(&picked.iter().map(|&i| s[i] as i64).collect::<Vec<_>>());
            for (d, &i) in v.deps.iter_mut().zip(&picked) {
                *d = Some([(x, i)].into());
            }
            Some(v)
        }
        "Size" => {
            let s = cx.shape(0).ok()?;
            let x = cx.graph.input(cx.id, 0)?;
            let n = s.iter().try_fold(1usize, |a, &d| a.checked_mul(d))?;
            let mut v = Val::new(vec![], vec![n as f64], false);
            v.deps[0] = Some((0..s.len()).map(|i| (x, i)).collect::<Vec<_>>().into());
            Some(v)
        }
        "Identity" => cx.val(0).cloned(),
        "Cast" => cast(cx),
        "Neg" | "Abs" | "Floor" | "Ceil" | "Sqrt" | "Not" | "Round" | "Sign" => unary(cx),
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow" | "Min" | "Max" | "Equal" | "Greater" | "Less"
        | "GreaterOrEqual" | "LessOrEqual" | "And" | "Or" => binary_chain(cx),
        "Where" => where_(cx),
        "Gather" => gather(cx),
        "Concat" => concat(cx),
        "Slice" => slice(cx),
        "Clip" => clip(cx),
        "Squeeze" | "Unsqueeze" | "Reshape" | "Flatten" => {
            // Only the shape changes; `infer` has computed it.
            let v = cx.val(0)?;
            let dims = cx.out_shape(0).ok()?.to_vec();
            v.pick(dims, 0..v.data.len())
        }
        "Transpose" => transpose(cx),
        "Expand" | "Tile" => spread(cx),
        "ConstantOfShape" => {
            let dims = cx.out_shape(0).ok()?.to_vec();
            let n = dims.iter().try_fold(1usize, |a, &d| a.checked_mul(d))?;
            let fill = match attribute(cx.node, "value").and_then(|a| a.t.as_ref()) {
                Some(t) => of_tensor(t)?,
                None => Val::new(vec![1], vec![0.0], true),
            };
            let x = *fill.data.first()?;
            (n <= MAX_FOLD).then(|| Val::new(dims, vec![x; n], fill.float))
        }
        "Range" => range(cx),
        "ReduceProd" | "ReduceSum" | "ReduceMin" | "ReduceMax" => reduce(cx),
        _ => None,
    }
}

fn cast(cx: &NodeCx) -> Option<Val> {
    let mut v = cx.val(0)?.clone();
    let to = cx.int("to", 0) as i32;
    v.float = tensor::is_float(to);
    v.int32 = to == DataType::Int32 as i32;
    if !v.float {
        for x in &mut v.data {
            *x = x.trunc();
        }
        if to == DataType::Bool as i32 {
            for x in &mut v.data {
                *x = f64::from(*x != 0.0);
            }
        }
    }
    Some(v)
}

fn unary(cx: &NodeCx) -> Option<Val> {
    let mut v = cx.val(0)?.clone();
    for x in &mut v.data {
        *x = match cx.node.op_type() {
            "Neg" => -*x,
            "Abs" => x.abs(),
            "Floor" => x.floor(),
            "Ceil" => x.ceil(),
            "Sqrt" => x.sqrt(),
            "Not" => f64::from(*x == 0.0),
            "Round" => x.round_ties_even(),
            "Sign" => {
                if *x == 0.0 {
                    0.0
                } else {
                    x.signum()
                }
            }
            _ => return None,
        };
    }
    Some(v)
}

/// Row-major index into `dims` for each output position of a broadcast.
fn broadcast_map(dims: &[usize], out: &[usize]) -> impl Fn(usize) -> usize + use<> {
    let (dims, out) = (dims.to_vec(), out.to_vec());
    move |k| {
        let (mut rest, mut idx, mut stride) = (k, 0, 1);
        for a in (0..out.len()).rev() {
            let i = rest % out[a].max(1);
            rest /= out[a].max(1);
            if let Some(d) = (a + dims.len()).checked_sub(out.len()) {
                if dims[d] != 1 {
                    idx += i * stride;
                }
                stride *= dims[d];
            }
        }
        idx
    }
}

fn binary(op: &str, a: &Val, b: &Val) -> Option<Val> {
    let dims = broadcast(&[&a.dims, &b.dims]).ok()?;
    let n: usize = dims.iter().product();
    if n > MAX_FOLD {
        return None;
    }
    let (ia, ib) = (broadcast_map(&a.dims, &dims), broadcast_map(&b.dims, &dims));
    let logical = matches!(op, "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" | "And" | "Or");
    let float = a.float && !logical;
    let int32 = a.int32 && !logical;
    let mut out = Val { dims, data: Vec::with_capacity(n), float, int32, deps: Vec::with_capacity(n) };
    for k in 0..n {
        let (i, j) = (ia(k), ib(k));
        let (x, y) = (*a.data.get(i)?, *b.data.get(j)?);
        out.data.push(match op {
            "Add" => x + y,
            "Sub" => x - y,
            "Mul" => x * y,
            "Div" if float => x / y,
            "Div" if y == 0.0 => return None,
            "Div" => (x / y).trunc(),
            "Mod" if y == 0.0 => return None,
            // Integer Mod takes the divisor's sign; fmod (the only form for floats) the dividend's.
            "Mod" if float => x % y,
            "Mod" => x - (x / y).floor() * y,
            "Pow" => x.powf(y),
            "Min" => x.min(y),
            "Max" => x.max(y),
            "Equal" => f64::from(x == y),
            "Greater" => f64::from(x > y),
            "Less" => f64::from(x < y),
            "GreaterOrEqual" => f64::from(x >= y),
            "LessOrEqual" => f64::from(x <= y),
            "And" => f64::from(x != 0.0 && y != 0.0),
            "Or" => f64::from(x != 0.0 || y != 0.0),
            _ => return None,
        });
        out.deps.push(join(&a.deps[i], &b.deps[j]));
    }
    Some(out)
}

fn binary_chain(cx: &NodeCx) -> Option<Val> {
    if cx.node.op_type() == "Mod" && cx.int("fmod", 0) == 1 && !cx.val(0)?.float {
        return None;
    }
    let mut acc = cx.val(0)?.clone();
    for s in 1..cx.n_inputs() {
        acc = binary(cx.node.op_type(), &acc, cx.val(s)?)?;
    }
    Some(acc)
}

fn where_(cx: &NodeCx) -> Option<Val> {
    let (c, a, b) = (cx.val(0)?, cx.val(1)?, cx.val(2)?);
    let dims = broadcast(&[&c.dims, &a.dims, &b.dims]).ok()?;
    let n: usize = dims.iter().product();
    if n > MAX_FOLD {
        return None;
    }
    let (ic, ia, ib) = (broadcast_map(&c.dims, &dims), broadcast_map(&a.dims, &dims), broadcast_map(&b.dims, &dims));
    let mut out = Val { dims, data: Vec::new(), float: a.float, int32: a.int32, deps: Vec::new() };
    for k in 0..n {
        let (i, j, l) = (ic(k), ia(k), ib(k));
        let (x, d) = if *c.data.get(i)? != 0.0 { (a.data.get(j)?, &a.deps[j]) } else { (b.data.get(l)?, &b.deps[l]) };
        out.data.push(*x);
        out.deps.push(join(&c.deps[i], d));
    }
    Some(out)
}

fn gather(cx: &NodeCx) -> Option<Val> {
    let (x, idx) = (cx.val(0)?, cx.val(1)?);
    let axis = cx.axis(0, x.dims.len()).ok()?;
    let outer: usize = x.dims[..axis].iter().product();
    let inner: usize = x.dims[axis + 1..].iter().product();
    let d = x.dims[axis];
    let mut dims = x.dims[..axis].to_vec();
    dims.extend(&idx.dims);
    dims.extend(&x.dims[axis + 1..]);
    let picks: Option<Vec<usize>> = idx.ints().iter().map(|&i| norm_axis(i, d).ok()).collect();
    let picks = picks?;
    if outer * picks.len() * inner > MAX_FOLD {
        return None;
    }
    let mut map = Vec::new();
    for o in 0..outer {
        for &p in &picks {
            map.extend((0..inner).map(|i| (o * d + p) * inner + i));
        }
    }
    x.pick(dims, map)
}

fn concat(cx: &NodeCx) -> Option<Val> {
    let parts: Option<Vec<&Val>> = (0..cx.n_inputs()).map(|s| cx.val(s)).collect();
    let parts = parts?;
    // Only vectors and the like: concatenation along the first axis.
    if parts.iter().any(|p| p.dims.is_empty()) || cx.axis(0, parts.first()?.dims.len()).ok()? != 0 {
        return None;
    }
    let mut out = (*parts.first()?).clone();
    for p in &parts[1..] {
        if p.dims.get(1..) != out.dims.get(1..) {
            return None;
        }
        out.dims[0] += p.dims[0];
        out.data.extend(&p.data);
        out.deps.extend(p.deps.iter().cloned());
    }
    (out.data.len() <= MAX_FOLD).then_some(out)
}

fn slice(cx: &NodeCx) -> Option<Val> {
    let x = cx.val(0)?;
    let spec = crate::ops::select::slice_spec(cx).ok()?;
    let mut picks: Vec<Vec<usize>> = x.dims.iter().map(|&d| (0..d).collect()).collect();
    for s in spec {
        picks[s.axis] = s.indices().collect();
    }
    let dims: Vec<usize> = picks.iter().map(Vec::len).collect();
    let n: usize = dims.iter().product();
    let strides = strides(&x.dims);
    let map: Vec<usize> = (0..n)
        .map(|k| {
            let mut rest = k;
            let mut idx = 0;
            for a in (0..dims.len()).rev() {
                idx += picks[a][rest % dims[a]] * strides[a];
                rest /= dims[a];
            }
            idx
        })
        .collect();
    x.pick(dims, map)
}

fn strides(dims: &[usize]) -> Vec<usize> {
    let mut s = vec![1; dims.len()];
    for a in (0..dims.len().saturating_sub(1)).rev() {
        s[a] = s[a + 1] * dims[a + 1];
    }
    s
}

fn transpose(cx: &NodeCx) -> Option<Val> {
    let x = cx.val(0)?;
    let r = x.dims.len();
    let perm = match cx.list("perm") {
        Some(p) => norm_axes(&p, r).ok().filter(|p| p.len() == r)?,
        None => (0..r).rev().collect(),
    };
    let dims: Vec<usize> = perm.iter().map(|&p| x.dims[p]).collect();
    let st = strides(&x.dims);
    let map: Vec<usize> = (0..x.data.len())
        .map(|k| {
            let (mut rest, mut idx) = (k, 0);
            for a in (0..r).rev() {
                idx += (rest % dims[a]) * st[perm[a]];
                rest /= dims[a];
            }
            idx
        })
        .collect();
    x.pick(dims, map)
}

/// Expand and Tile: every output position reads its coordinate modulo the input's size.
fn spread(cx: &NodeCx) -> Option<Val> {
    let x = cx.val(0)?;
    let dims = cx.out_shape(0).ok()?.to_vec();
    let n = dims.iter().try_fold(1usize, |a, &d| a.checked_mul(d)).filter(|&n| n <= MAX_FOLD)?;
    let st = strides(&x.dims);
    let map: Vec<usize> = (0..n)
        .map(|k| {
            let (mut rest, mut idx) = (k, 0);
            for a in (0..dims.len()).rev() {
                let i = rest % dims[a];
                rest /= dims[a];
                if let Some(d) = (a + x.dims.len()).checked_sub(dims.len()) {
                    idx += (i % x.dims[d].max(1)) * st[d];
                }
            }
            idx
        })
        .collect();
    x.pick(dims, map)
}

fn range(cx: &NodeCx) -> Option<Val> {
    let (a, b, d) = (cx.val(0)?, cx.val(1)?, cx.val(2)?);
    let (x, y, step) = (*a.data.first()?, *b.data.first()?, *d.data.first()?);
    let n = ((y - x) / step).ceil().max(0.0);
    if !n.is_finite() || n > MAX_FOLD as f64 {
        return None;
    }
    let deps = join(&join(a.deps.first()?, b.deps.first()?), d.deps.first()?);
    let data: Vec<f64> = (0..n as usize).map(|i| x + i as f64 * step).collect();
    Some(Val { dims: vec![data.len()], deps: vec![deps; data.len()], data, float: a.float, int32: a.int32 })
}

fn reduce(cx: &NodeCx) -> Option<Val> {
    let x = cx.val(0)?;
    // Only a full reduction, which is what shape arithmetic uses.
    if let Some(axes) = cx.list_or_input("axes", 1).ok()? {
        let axes = norm_axes(&axes, x.dims.len()).ok()?;
        if axes.len() != x.dims.len() {
            return None;
        }
    }
    let keep = cx.int("keepdims", 1) != 0;
    let op = cx.node.op_type();
    let mut acc = match op {
        "ReduceProd" => 1.0,
        "ReduceSum" => 0.0,
        _ => *x.data.first()?,
    };
    let mut deps = None;
    for (v, d) in x.data.iter().zip(&x.deps) {
        acc = match op {
            "ReduceProd" => acc * v,
            "ReduceSum" => acc + v,
            "ReduceMin" => acc.min(*v),
            _ => acc.max(*v),
        };
        deps = join(&deps, d);
    }
    Some(Val {
        dims: if keep { vec![1; x.dims.len()] } else { vec![] },
        data: vec![acc],
        float: x.float,
        int32: x.int32,
        deps: vec![deps],
    })
}

/// Follows `Identity` nodes back to the constant they pass on.
pub fn constant_source(graph: &Graph, mut value: ValueId) -> Option<ValueId> {
    loop {
        if graph.constant(value).is_some() {
            return Some(value);
        }
        let crate::graph::Origin::Node(n, 0) = graph.value(value).origin else { return None };
        value = identity_input(graph, n)?;
    }
}

/// The input of an `Identity` node.
pub fn identity_input(graph: &Graph, node: NodeId) -> Option<ValueId> {
    let n = graph.node(node);
    if n.op_type() == "Identity" && is_default_domain(n.domain()) { graph.input(node, 0) } else { None }
}

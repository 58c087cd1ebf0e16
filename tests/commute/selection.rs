//! Concat, Split, Slice, Gather, Pad.

use crate::Expect::{self, Carries, Pins};
use crate::Gen;
use crate::common::{A, Build, sample};
use crate::norms::sizes;

/// Operators and their generators.
pub const CASES: &[(&[&str], Gen)] =
    &[(&["Concat"], concat), (&["Split"], split), (&["Slice"], slice), (&["Gather"], gather), (&["Pad"], pad)];

fn sign(b: &mut Build, axis: usize, rank: usize) -> i64 {
    if b.coin() { axis as i64 } else { axis as i64 - rank as i64 }
}

fn concat(b: &mut Build, op: &str) -> Expect {
    let dims = sizes(b, 2, 4);
    let rank = dims.len();
    let axis = b.r(1, rank - 1);
    let mut parts = Vec::new();
    for _ in 0..b.r(1, 4) {
        let mut d = dims.clone();
        d[axis] = b.r(1, 5);
        parts.push(match b.r(0, 5) {
            0 if !b.dynamic => b.w(&d),
            1 if !parts.is_empty() => b.pick(&parts),
            _ => b.channels(&d, 1),
        });
    }
    let mut d = dims.clone();
    d[axis] = 4;
    parts.push(b.channels(&d, 1));
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let at = sign(b, axis, rank);
    let y = b.op(op, &parts, &[("axis", A::I(at))]);
    b.sink(&y, 1);
    Carries
}

fn split(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[7, 11, 13, 18]);
    let n = b.r(1, 4);
    let equal = b.coin();
    let mut parts: Vec<usize> = (0..n).map(|_| b.r(1, 4)).collect();
    parts[0] = parts[0].max(2);
    let parts = if equal { vec![b.r(2, 3); n] } else { parts };
    let mut dims = sizes(b, 2, 4);
    dims[1] = parts.iter().sum::<usize>();
    let uneven = b.opset == 18 && !equal && n > 1 && b.coin();
    if uneven {
        // One part more or less at the end.
        dims[1] = 4 * n - 1;
    }
    let x = b.channels(&dims, 1);
    let at = sign(b, 1, dims.len());
    let mut attrs = vec![("axis", A::I(at))];
    let by_input = b.opset >= 13 && !uneven && (!equal || b.coin());
    let ys = if by_input {
        let list = b.sizes(&parts);
        b.op_n(op, &[&x, &list], &attrs, n)
    } else {
        if b.opset < 13 && (!equal || b.coin()) {
            attrs.push(("split", A::list(&parts)));
        } else if b.opset >= 18 {
            attrs.push(("num_outputs", A::I(n as i64)));
        }
        b.op_n(op, &[&x], &attrs, n)
    };
    if n > 1 && b.one_in(4) {
        // Back together in another order.
        let order = b.perm(n);
        let again: Vec<&str> = order.iter().map(|&i| ys[i].as_str()).collect();
        let y = b.op("Concat", &again, &[("axis", A::I(1))]);
        b.sink(&y, 1);
    } else {
        for y in &ys {
            b.sink(y, 1);
        }
    }
    if b.one_in(3) {
        b.sink(&x, 1);
    }
    Carries
}

/// `Slice` in the form of the opset, with these starts, ends, axes, steps.
pub fn slice_node(b: &mut Build, x: &str, starts: &[i64], ends: &[i64], axes: &[i64], steps: Option<&[i64]>) -> String {
    if b.opset < 10 {
        let mut attrs = vec![("starts", A::L(starts.to_vec())), ("ends", A::L(ends.to_vec()))];
        if axes != [0] {
            attrs.push(("axes", A::L(axes.to_vec())));
        }
        return b.op("Slice", &[x], &attrs);
    }
    let (s, e, a) = (b.ints(starts), b.ints(ends), b.ints(axes));
    match steps {
        Some(t) => {
            let t = b.ints(t);
            b.op("Slice", &[x, &s, &e, &a, &t], &[])
        }
        None => b.op("Slice", &[x, &s, &e, &a], &[]),
    }
}

/// The older form knows no negative axes.
fn slice_axis(b: &mut Build, axis: usize, rank: usize) -> i64 {
    if b.opset < 10 { axis as i64 } else { sign(b, axis, rank) }
}

fn slice(b: &mut Build, _: &str) -> Expect {
    b.opset = b.pick(&[7, 10, 13]);
    let mut dims = sizes(b, 3, 4);
    dims[1] = b.r(5, 9);
    let rank = dims.len();
    let c = dims[1] as i64;
    let x = b.channels(&dims, 1);
    let (from, n) = (b.r(0, 2) as i64, b.r(2, 3) as i64);
    let start = if b.coin() { from } else { from - c };
    let end = match b.r(0, 3) {
        0 => from + n - c,
        1 => i64::MAX,
        2 => c + 3,
        _ => from + n,
    };
    let (mut starts, mut ends, mut axes) = (vec![start], vec![end], vec![slice_axis(b, 1, rank)]);
    if b.coin() {
        let at = slice_axis(b, rank - 1, rank);
        let all = b.coin();
        starts.insert(0, 0);
        ends.insert(0, if all { i64::MAX } else { 1 });
        axes.insert(0, at);
    }
    let stepped = b.opset >= 10 && b.one_in(5);
    let mut steps = vec![1; axes.len()];
    if stepped {
        *steps.last_mut().unwrap_or(&mut 0) = 2;
    }
    let given = (stepped || b.coin()).then_some(steps.as_slice());
    let y = slice_node(b, &x, &starts, &ends, &axes, given);
    b.sink(&y, 1);
    if stepped {
        return Pins;
    }
    if b.coin() {
        b.sink(&x, 1);
    }
    Carries
}

fn gather(b: &mut Build, op: &str) -> Expect {
    let mut dims = sizes(b, 2, 4);
    dims[1] = b.r(4, 8);
    let (c, rank) = (dims[1], dims.len());
    let x = b.channels(&dims, 1);
    let axis = sign(b, 1, rank);
    let ids: Vec<i64> = match b.r(0, 3) {
        0 => b.perm(c).iter().map(|&i| i as i64).collect(),
        1 => (0..b.r(2, 2 * c)).map(|_| b.r(0, c - 1) as i64).collect(),
        2 => (0..b.r(2, c)).map(|_| b.r(0, c - 1) as i64 - c as i64).collect(),
        _ => {
            let n = b.r(2, c);
            sample(&mut b.rng, c, n).iter().map(|&i| i as i64).collect()
        }
    };
    if rank > 2 && b.one_in(6) {
        // Along another axis.
        let ids = b.ints(&[1, 0, 1]);
        let y = b.op(op, &[&x, &ids], &[("axis", A::I(2))]);
        b.sink(&y, 1);
        return Carries;
    }
    if b.one_in(6) {
        // A scalar index takes one channel away; the others are free.
        let id = b.int(0);
        let y = b.op(op, &[&x, &id], &[("axis", A::I(axis))]);
        b.output(&y);
        b.sink(&x, 1);
        return Carries;
    }
    let ids = b.ints(&ids);
    let y = b.op(op, &[&x, &ids], &[("axis", A::I(axis))]);
    b.sink(&y, 1);
    if b.one_in(3) {
        let z = b.op(op, &[&x, &ids], &[("axis", A::I(axis))]);
        b.sink(&z, 1);
    }
    if b.one_in(3) {
        b.sink(&x, 1);
    }
    Carries
}

fn pad(b: &mut Build, op: &str) -> Expect {
    b.opset = b.pick(&[7, 11, 13, 18]);
    let dims = sizes(b, 3, 4);
    let rank = dims.len();
    let x = b.channels(&dims, 1);
    let mode = b.pick(&["constant", "constant", "constant", "reflect", "edge"]);
    let mut axes: Vec<usize> = (1..rank).collect();
    let on_channels = b.coin();
    if !on_channels {
        axes.remove(0);
    }
    let (mut begin, mut end): (Vec<i64>, Vec<i64>) = axes.iter().map(|_| (b.r(0, 1) as i64, b.r(0, 1) as i64)).unzip();
    if on_channels {
        let constant = mode == "constant";
        (begin[0], end[0]) = (b.r(0, if constant { 4 } else { 1 }) as i64, b.r(1, if constant { 4 } else { 1 }) as i64);
    }
    let by_axes = b.opset >= 18 && b.coin();
    if !by_axes {
        let mut full = [vec![0; rank], vec![0; rank]];
        for (i, &a) in axes.iter().enumerate() {
            (full[0][a], full[1][a]) = (begin[i], end[i]);
        }
        [begin, end] = full;
    }
    let pads = [begin, end].concat();
    let mut attrs = vec![];
    if mode != "constant" || b.coin() {
        attrs.push(("mode", A::S(mode)));
    }
    let y = if b.opset < 11 {
        attrs.push(("pads", A::L(pads)));
        if b.coin() {
            attrs.push(("value", A::F(0.5)));
        }
        b.op(op, &[&x], &attrs)
    } else {
        let pads = b.ints(&pads);
        let value = if b.coin() { b.f(&[], &[0.5]) } else { String::new() };
        let mut inputs = vec![x, pads, value];
        if by_axes {
            let axes: Vec<i64> = axes.iter().map(|&a| sign(b, a, rank)).collect();
            inputs.push(b.ints(&axes));
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        b.op(op, &inputs, &attrs)
    };
    b.sink(&y, 1);
    if on_channels && mode != "constant" { Pins } else { Carries }
}

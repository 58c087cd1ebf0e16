//! Functions of one tensor, element by element.

use super::{Back, Fore, Gradient, Kind};
use crate::ops::NodeCx;
use crate::ops::cx::Answer;
use crate::refuse;
use crate::train::tape::{Tape, Var, float};
use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// An operator of one input: what the gradient of its output becomes on the way to its input.
pub struct Unary(pub fn(&mut Back, Var) -> Answer<Var>);

impl Gradient for Unary {
    fn backward(&self, b: &mut Back) -> Answer<()> {
        let dy = b.dy()?;
        let dx = self.0(b, dy)?;
        b.give(0, dx)
    }
}

/// `1 / (1 + e^−x)`.
pub fn sigmoid(b: &mut Back, dy: Var) -> Answer<Var> {
    let y = b.y(0)?;
    let slope = logistic_slope(b.t, y)?;
    b.t.mul(dy, slope)
}

/// `s · (1 − s)`.
fn logistic_slope(t: &mut Tape, s: Var) -> Answer<Var> {
    let square = t.square(s)?;
    t.sub(s, square)
}

/// `1 − v`.
fn one_minus(t: &mut Tape, v: Var) -> Answer<Var> {
    let one = t.scalar(1.0)?;
    t.sub(one, v)
}

/// `1 − v²`.
fn one_minus_square(t: &mut Tape, v: Var) -> Answer<Var> {
    let square = t.square(v)?;
    one_minus(t, square)
}

/// `tanh`.
pub fn tanh(b: &mut Back, dy: Var) -> Answer<Var> {
    let y = b.y(0)?;
    let slope = one_minus_square(b.t, y)?;
    b.t.mul(dy, slope)
}

/// `max(0, min(1, α · x + β))`.
pub fn hard_sigmoid(b: &mut Back, dy: Var) -> Answer<Var> {
    let y = b.y(0)?;
    let on = b.t.between(y, 0.0, 1.0)?;
    let slope = b.t.scale(on, b.cx.float("alpha", 0.2))?;
    b.t.mul(dy, slope)
}

/// `x · h` with `h = max(0, min(1, x / 6 + 1 / 2))`.
pub fn hard_swish(b: &mut Back, dy: Var) -> Answer<Var> {
    let x = b.x(0)?;
    let dims = b.t.dims(x).to_vec();
    let h = b.t.node("HardSigmoid", &[x], vec![float("alpha", 1.0 / 6.0), float("beta", 0.5)], dims);
    let on = b.t.between(x, -3.0, 3.0)?;
    let moving = b.t.mul(x, on)?;
    let moving = b.t.scale(moving, 1.0 / 6.0)?;
    let slope = b.t.add(h, moving)?;
    b.t.mul(dy, slope)
}

/// `x` above 0, `α · x` below.
pub fn leaky_relu(b: &mut Back, dy: Var) -> Answer<Var> {
    let x = b.x(0)?;
    let alpha = b.cx.float("alpha", 0.01);
    let on = b.t.above(x, 0.0)?;
    let part = b.t.scale(on, 1.0 - alpha)?;
    let slope = b.t.add_scalar(part, alpha)?;
    b.t.mul(dy, slope)
}

/// `dy · (a + [x < 0] · (k · y + c))`: what is linear above 0 and exponential below.
fn exponential_below(b: &mut Back, dy: Var, a: f64, k: f64, c: f64) -> Answer<Var> {
    let (x, y) = (b.x(0)?, b.y(0)?);
    let off = b.t.below(x, 0.0)?;
    let scaled = b.t.scale(y, k)?;
    let moved = if c == 0.0 { scaled } else { b.t.add_scalar(scaled, c)? };
    let part = b.t.mul(off, moved)?;
    let slope = b.t.add_scalar(part, a)?;
    b.t.mul(dy, slope)
}

/// `x` above 0, `α · (e^x − 1)` below.
pub fn elu(b: &mut Back, dy: Var) -> Answer<Var> {
    let alpha = b.cx.float("alpha", 1.0);
    exponential_below(b, dy, 1.0, 1.0, alpha - 1.0)
}

/// `γ` times an [`elu`].
pub fn selu(b: &mut Back, dy: Var) -> Answer<Var> {
    // The defaults are the format's.
    let (alpha, gamma) = (b.cx.float("alpha", 1.673_263_2), b.cx.float("gamma", 1.050_701));
    exponential_below(b, dy, gamma, 1.0, (alpha - 1.0) * gamma)
}

/// `x` above 0, `α · (e^(x / α) − 1)` below.
pub fn celu(b: &mut Back, dy: Var) -> Answer<Var> {
    let alpha = b.cx.float("alpha", 1.0);
    if alpha == 0.0 {
        refuse!("its alpha is 0");
    }
    exponential_below(b, dy, 1.0, 1.0 / alpha, 0.0)
}

/// `x` above `α`, else 0.
pub fn thresholded_relu(b: &mut Back, dy: Var) -> Answer<Var> {
    let x = b.x(0)?;
    let on = b.t.above(x, b.cx.float("alpha", 1.0))?;
    b.t.mul(dy, on)
}

/// `1 − e^−v`: for `v = ln(1 + e^x)` that is the logistic function of `x`.
fn logistic_of_softplus(t: &mut Tape, v: Var) -> Answer<Var> {
    let minus = t.neg(v);
    let e = t.unary("Exp", minus);
    one_minus(t, e)
}

/// `ln(1 + e^x)`.
pub fn softplus(b: &mut Back, dy: Var) -> Answer<Var> {
    let y = b.y(0)?;
    let slope = logistic_of_softplus(b.t, y)?;
    b.t.mul(dy, slope)
}

/// `x / (1 + |x|)`.
pub fn softsign(b: &mut Back, dy: Var) -> Answer<Var> {
    let y = b.y(0)?;
    let size = b.t.unary("Abs", y);
    let rest = one_minus(b.t, size)?;
    let slope = b.t.square(rest)?;
    b.t.mul(dy, slope)
}

/// `x · tanh(ln(1 + e^x))`.
pub fn mish(b: &mut Back, dy: Var) -> Answer<Var> {
    let x = b.x(0)?;
    let plus = b.t.unary("Softplus", x);
    let tanh = b.t.unary("Tanh", plus);
    let inner = logistic_of_softplus(b.t, plus)?;
    let outer = one_minus_square(b.t, tanh)?;
    let slope = b.t.mul(inner, outer)?;
    let slope = b.t.mul(x, slope)?;
    let slope = b.t.add(tanh, slope)?;
    b.t.mul(dy, slope)
}

/// `x · s` with `s` the logistic function of `α · x`: the slope is `s + α · y · (1 − s)`.
fn swish_of(b: &mut Back, dy: Var, alpha: f64) -> Answer<Var> {
    let (x, y) = (b.x(0)?, b.y(0)?);
    let scaled = b.t.scale(x, alpha)?;
    let s = b.t.unary("Sigmoid", scaled);
    let rest = one_minus(b.t, s)?;
    let rest = b.t.mul(y, rest)?;
    let rest = b.t.scale(rest, alpha)?;
    let slope = b.t.add(s, rest)?;
    b.t.mul(dy, slope)
}

/// `Swish`.
pub fn swish(b: &mut Back, dy: Var) -> Answer<Var> {
    let alpha = b.cx.float("alpha", 1.0);
    swish_of(b, dy, alpha)
}

/// `QuickGelu`.
pub fn quick_gelu(b: &mut Back, dy: Var) -> Answer<Var> {
    let alpha = b.cx.float("alpha", 1.702);
    swish_of(b, dy, alpha)
}

/// `x · Φ(x)`, exactly or by a hyperbolic tangent.
pub fn gelu(b: &mut Back, dy: Var) -> Answer<Var> {
    let x = b.x(0)?;
    let slope = if b.cx.string("approximate") == Some("tanh") { tanh_slope(b.t, x) } else { erf_slope(b.t, x) };
    b.t.mul(dy, slope?)
}

/// `FastGelu` without its bias.
pub fn fast_gelu(b: &mut Back, dy: Var) -> Answer<Var> {
    if b.cx.has(1) {
        refuse!("it has a bias");
    }
    let x = b.x(0)?;
    let slope = tanh_slope(b.t, x)?;
    b.t.mul(dy, slope)
}

/// `Φ(x) + x · φ(x)`.
fn erf_slope(t: &mut Tape, x: Var) -> Answer<Var> {
    let scaled = t.scale(x, FRAC_1_SQRT_2)?;
    let erf = t.unary("Erf", scaled);
    let cumulated = t.add_scalar(erf, 1.0)?;
    let cumulated = t.scale(cumulated, 0.5)?;
    let square = t.square(scaled)?;
    let minus = t.neg(square);
    let density = t.unary("Exp", minus);
    let part = t.mul(x, density)?;
    let part = t.scale(part, 1.0 / (2.0 * PI).sqrt())?;
    t.add(cumulated, part)
}

/// The same for `Φ(x) ≈ (1 + tanh(u)) / 2`, `u = √(2/π) · (x + 0.044715 · x³)`.
fn tanh_slope(t: &mut Tape, x: Var) -> Answer<Var> {
    const CUBE: f64 = 0.044_715;
    let root = (2.0 / PI).sqrt();
    let square = t.square(x)?;
    let inner = t.scale(square, root * CUBE)?;
    let inner = t.add_scalar(inner, root)?;
    let u = t.mul(x, inner)?;
    let tanh = t.unary("Tanh", u);
    let steep = t.scale(square, 1.5 * root * CUBE)?;
    let steep = t.add_scalar(steep, 0.5 * root)?;
    let steep = t.mul(x, steep)?;
    let outer = one_minus_square(t, tanh)?;
    let part = t.mul(steep, outer)?;
    let half = t.scale(tanh, 0.5)?;
    let half = t.add_scalar(half, 0.5)?;
    t.add(half, part)
}

/// The error function: `2 / √π · e^(−x²)`.
pub fn erf(b: &mut Back, dy: Var) -> Answer<Var> {
    let x = b.x(0)?;
    let square = b.t.square(x)?;
    let minus = b.t.neg(square);
    let e = b.t.unary("Exp", minus);
    let slope = b.t.scale(e, 2.0 / PI.sqrt())?;
    b.t.mul(dy, slope)
}

/// `e^x`.
pub fn exp(b: &mut Back, dy: Var) -> Answer<Var> {
    let y = b.y(0)?;
    b.t.mul(dy, y)
}

/// `ln(x)`.
pub fn log(b: &mut Back, dy: Var) -> Answer<Var> {
    let x = b.x(0)?;
    b.t.div(dy, x)
}

/// `√x`.
pub fn sqrt(b: &mut Back, dy: Var) -> Answer<Var> {
    let y = b.y(0)?;
    let half = b.t.scale(dy, 0.5)?;
    b.t.div(half, y)
}

/// `1 / x`.
pub fn reciprocal(b: &mut Back, dy: Var) -> Answer<Var> {
    let y = b.y(0)?;
    let square = b.t.square(y)?;
    let slope = b.t.neg(square);
    b.t.mul(dy, slope)
}

/// `−x`.
pub fn neg(b: &mut Back, dy: Var) -> Answer<Var> {
    Ok(b.t.neg(dy))
}

/// `|x|`.
pub fn abs(b: &mut Back, dy: Var) -> Answer<Var> {
    let x = b.x(0)?;
    let sign = b.t.sign(x)?;
    b.t.mul(dy, sign)
}

/// The sine.
pub fn sin(b: &mut Back, dy: Var) -> Answer<Var> {
    let x = b.x(0)?;
    let slope = b.t.unary("Cos", x);
    b.t.mul(dy, slope)
}

/// The cosine.
pub fn cos(b: &mut Back, dy: Var) -> Answer<Var> {
    let x = b.x(0)?;
    let sin = b.t.unary("Sin", x);
    let slope = b.t.neg(sin);
    b.t.mul(dy, slope)
}

/// Each of the bounds of a `Clip` may be missing, an attribute or an input. What stands at a bound moves with the bound, as
/// behind a `Relu`.
pub fn clip(b: &mut Back, dy: Var) -> Answer<Var> {
    if b.wants(1) || b.wants(2) {
        refuse!("a bound depends on a trained tensor");
    }
    let x = b.x(0)?;
    let mut on = Vec::new();
    for (slot, name, op) in [(1, "min", "Greater"), (2, "max", "Less")] {
        let given = crate::graph::attribute(b.cx.node, name).and_then(|a| a.f);
        let bound = match given {
            // The defaults of the attributes are the largest numbers.
            Some(v) if v.abs() >= f32::MAX => continue,
            Some(v) => b.t.scalar(f64::from(v))?,
            None if b.cx.has(slot) => b.x(slot)?,
            None => continue,
        };
        on.push(b.t.binary(op, x, bound)?);
    }
    let holds = match *on.as_slice() {
        [one] => one,
        [one, two] => b.t.binary("And", one, two)?,
        _ => return Ok(dy),
    };
    let on = b.t.to_float(holds);
    b.t.mul(dy, on)
}

/// `PRelu`: a slope below 0 that is trained.
pub struct PRelu;

impl Gradient for PRelu {
    fn parameters(&self, _cx: &NodeCx) -> Vec<(usize, Kind)> {
        vec![(1, Kind::Norm)]
    }

    fn backward(&self, b: &mut Back) -> Answer<()> {
        let (dy, x, slope) = (b.dy()?, b.x(0)?, b.x(1)?);
        let on = b.t.above(x, 0.0)?;
        if b.wants(0) {
            let rest = one_minus(b.t, slope)?;
            let part = b.t.mul(on, rest)?;
            let factor = b.t.add(part, slope)?;
            let dx = b.t.mul(dy, factor)?;
            b.give(0, dx)?;
        }
        if b.wants(1) {
            let positive = b.t.mul(x, on)?;
            let negative = b.t.sub(x, positive)?;
            let ds = b.t.mul(dy, negative)?;
            b.give(1, ds)?;
        }
        Ok(())
    }
}

/// `Dropout`: training as inference, nothing is dropped.
pub struct Dropout;

impl Gradient for Dropout {
    fn forward(&self, f: &mut Fore) -> Answer<bool> {
        // The third input asks for random zeros.
        if !f.cx.has(2) {
            return Ok(false);
        }
        if f.cx.graph.output(f.cx.id, 1).is_some_and(|v| !f.cx.graph.value(v).readers.is_empty()) {
            refuse!("its mask is read");
        }
        let x = f.x(0)?;
        f.output(0, x);
        Ok(true)
    }

    fn backward(&self, b: &mut Back) -> Answer<()> {
        let dy = b.dy()?;
        b.give(0, dy)
    }
}

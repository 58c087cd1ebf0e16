//! Layers that multiply channels with a constant weight, seen as what they are: matrices.
//!
//! Every output of a convolution, a transposed convolution or a matrix product is `Σ_c Σ_t W[o, c, t] · x[c, t] + b[o]`,
//! where `c` runs over the input channels of one convolution group and `t` over the kernel's taps. [`Layer`] tells where
//! the `x` and the `W` are, for whoever computes with them.

use super::cx::NodeCx;
use crate::graph::is_default_domain;

/// One layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Convolution groups; 1 for matrix products.
    pub groups: usize,
    /// Input channels of one group.
    pub inputs: usize,
    /// Output channels of one group.
    pub outputs: usize,
    /// Kernel taps; 1 for matrix products.
    pub taps: usize,
    /// How the weight is stored, and which inputs meet in one output.
    pub form: Form,
}

/// The operator behind a layer.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// `Conv`: weight `[groups·outputs, inputs, taps…]`, channels on axis 1 of input and output.
    Conv(Slide),
    /// `ConvTranspose`: weight `[groups·inputs, outputs, taps…]`.
    ConvTranspose(Slide),
    /// `Gemm` and `MatMul`: channels on the last axis; the weight is `[outputs, inputs]` when `rows` is set, else
    /// `[inputs, outputs]`.
    Product {
        /// Outputs first.
        rows: bool,
    },
}

/// How a kernel moves.
#[derive(Clone, Debug, PartialEq)]
pub struct Slide {
    /// Kernel sizes.
    pub kernel: Vec<usize>,
    /// Strides.
    pub strides: Vec<usize>,
    /// Dilations.
    pub dilations: Vec<usize>,
    /// Padding before each axis; `None` under `auto_pad = SAME_*`.
    pub before: Option<Vec<usize>>,
    /// `SAME_LOWER`.
    pub lower: bool,
}

impl Slide {
    /// Padding before axis `i` for sizes of input and output.
    pub fn begin(&self, i: usize, input: usize, output: usize) -> usize {
        match &self.before {
            Some(before) => before[i],
            None => {
                let extent = (self.kernel[i] - 1) * self.dilations[i] + 1;
                let total = ((output.max(1) - 1) * self.strides[i] + extent).saturating_sub(input);
                if self.lower { total.div_ceil(2) } else { total / 2 }
            }
        }
    }

    /// The position on axis `i` of the input that tap `t` reads for output position `p`.
    pub fn reads(&self, i: usize, p: usize, t: usize, begin: usize, input: usize, transposed: bool) -> Option<usize> {
        let at = if transposed {
            let at = (p + begin).checked_sub(t * self.dilations[i])?;
            at.is_multiple_of(self.strides[i]).then(|| at / self.strides[i])?
        } else {
            (p * self.strides[i] + t * self.dilations[i]).checked_sub(begin)?
        };
        (at < input).then_some(at)
    }
}

/// The layer that a node is: a constant weight in slot 1 and data in slot 0, plain arithmetic.
pub fn layer(cx: &NodeCx) -> Option<Layer> {
    if !is_default_domain(cx.node.domain()) {
        return None;
    }
    let w = cx.shape(1).ok()?;
    match cx.node.op_type() {
        "Conv" => {
            let groups = super::conv::group(cx).ok()?;
            let slide = slide(cx, w.get(2..)?)?;
            let (outputs, inputs) = (w.first()?.checked_div(groups)?, *w.get(1)?);
            Some(Layer { groups, inputs, outputs, taps: slide.kernel.iter().product(), form: Form::Conv(slide) })
        }
        "ConvTranspose" => {
            let groups = super::conv::group(cx).ok()?;
            let slide = slide(cx, w.get(2..)?)?;
            // Padding that follows from a wanted size is not followed here.
            slide.before.as_ref().filter(|_| cx.list("output_shape").is_none_or(|s| s.is_empty()))?;
            let (inputs, outputs) = (w.first()?.checked_div(groups)?, *w.get(1)?);
            let taps = slide.kernel.iter().product();
            Some(Layer { groups, inputs, outputs, taps, form: Form::ConvTranspose(slide) })
        }
        "Gemm" => {
            let plain = cx.float("alpha", 1.0) == 1.0 && cx.float("beta", 1.0) == 1.0 && cx.int("transA", 0) == 0;
            let rows = cx.int("transB", 0) != 0;
            plain.then(|| product(w, rows)).flatten()
        }
        "MatMul" => product(w, false),
        _ => None,
    }
}

fn product(w: &[usize], rows: bool) -> Option<Layer> {
    let &[a, b] = w else { return None };
    let (outputs, inputs) = if rows { (a, b) } else { (b, a) };
    Some(Layer { groups: 1, inputs, outputs, taps: 1, form: Form::Product { rows } })
}

fn slide(cx: &NodeCx, kernel: &[usize]) -> Option<Slide> {
    let w = super::conv::Window::read(cx, kernel).ok()?;
    let before = w.pads.map(|pads| pads.into_iter().map(|p| p.0).collect());
    (w.kernel == kernel && !kernel.is_empty()).then_some(Slide {
        kernel: w.kernel,
        strides: w.strides,
        dilations: w.dilations,
        before,
        lower: cx.string("auto_pad") == Some("SAME_LOWER"),
    })
}

impl Layer {
    /// Columns of one group's matrix: `input · taps + tap`.
    pub fn columns(&self) -> usize {
        self.inputs * self.taps
    }

    /// Elements of the weight.
    pub fn elements(&self) -> usize {
        self.groups * self.outputs * self.columns()
    }

    /// Where `W[o, c, t]` of group `g` lies in the stored weight.
    pub fn at(&self, g: usize, o: usize, c: usize, t: usize) -> usize {
        match &self.form {
            Form::Conv(_) => ((g * self.outputs + o) * self.inputs + c) * self.taps + t,
            Form::ConvTranspose(_) => ((g * self.inputs + c) * self.outputs + o) * self.taps + t,
            Form::Product { rows: true } => o * self.inputs + c,
            Form::Product { rows: false } => c * self.outputs + o,
        }
    }

    /// The stored axis that lists input channels, and the one that lists output channels.
    pub fn axes(&self) -> (usize, usize) {
        match &self.form {
            Form::Conv(_) | Form::Product { rows: true } => (1, 0),
            Form::ConvTranspose(_) | Form::Product { rows: false } => (0, 1),
        }
    }

    /// One weight for each input and output channel of its own.
    pub fn depthwise(&self) -> bool {
        self.groups > 1 && self.inputs == 1
    }

    /// Group `g` of the stored weight as a matrix `[outputs][columns]`, row-major.
    pub fn matrix(&self, stored: &[f64], g: usize) -> Vec<f64> {
        let mut m = Vec::with_capacity(self.outputs * self.columns());
        for o in 0..self.outputs {
            for c in 0..self.inputs {
                m.extend((0..self.taps).map(|t| stored.get(self.at(g, o, c, t)).copied().unwrap_or(0.0)));
            }
        }
        m
    }

    /// Puts a matrix `[outputs][columns]` back.
    pub fn store(&self, matrix: &[f64], g: usize, stored: &mut [f64]) {
        let mut values = matrix.iter();
        for o in 0..self.outputs {
            for c in 0..self.inputs {
                for t in 0..self.taps {
                    if let (Some(&v), Some(s)) = (values.next(), stored.get_mut(self.at(g, o, c, t))) {
                        *s = v;
                    }
                }
            }
        }
    }
}

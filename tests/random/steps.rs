//! The steps.

use super::{Net, T};
use crate::common::{A, Build};
use onnx_prune::onnx::proto::tensor_proto::DataType;

/// Sizes beyond which a step is not taken.
pub const MOST_CHANNELS: usize = 24;
/// See [`MOST_CHANNELS`].
pub const MOST_SIDE: usize = 12;

impl Net {
    /// `name`, with the sizes of `x` but `n` along `axis`.
    pub fn with(&self, name: String, x: &T, axis: usize, n: usize) -> T {
        let mut dims = x.dims;
        dims[axis] = n;
        T { name, dims }
    }

    /// A convolution, or `x` when the kind drawn does not fit.
    pub fn conv(&mut self, x: &T, out: Option<usize>, kernel: usize) -> T {
        let c = x.dims[1];
        let b = &mut self.b;
        let m = out.unwrap_or_else(|| b.pick(&[4, 6, 8, 8, 12]));
        let w =
            if b.opset >= 13 && b.one_in(5) { Self::quantized(b, m, c, kernel) } else { b.w(&[m, c, kernel, kernel]) };
        let bias = b.w(&[m]);
        let mut attrs = vec![];
        if kernel > 1 {
            attrs.push(("pads", A::L(vec![kernel as i64 / 2; 4])));
        }
        let inputs: &[&str] = if b.coin() { &[&x.name, &w, &bias] } else { &[&x.name, &w] };
        let y = b.op("Conv", inputs, &attrs);
        self.with(y, x, 1, m)
    }

    /// A weight of 8-bit integers, with a scale for each output channel or one for all.
    fn quantized(b: &mut Build, m: usize, c: usize, kernel: usize) -> String {
        let n = m * c * kernel * kernel;
        let bytes = (0..n).map(|_| (b.r(0, 200) as i64 - 100) as i8 as u8).collect();
        let w = b.raw(DataType::Int8, &[m, c, kernel, kernel], bytes);
        let scale: Vec<f32> = (0..m).map(|_| 1e-3 * b.r(2, 9) as f32).collect();
        if b.coin() {
            let (s, z) = (b.f(&[m], &scale), b.raw(DataType::Int8, &[m], vec![0; m]));
            return b.op("DequantizeLinear", &[&w, &s, &z], &[("axis", A::I(0))]);
        }
        let s = b.f(&[], &scale[..1]);
        b.op("DequantizeLinear", &[&w, &s], &[])
    }

    /// One step on from `x`; `x` itself when the step drawn does not fit.
    pub fn step(&mut self, x: &T) -> T {
        match self.b.r(0, 37) {
            0..=2 => {
                let kernel = self.b.pick(&[1, 3]);
                self.conv(x, None, kernel)
            }
            3 => self.strided(x),
            4 => self.grouped(x),
            5 => self.depthwise(x),
            6 | 7 => self.batch_norm(x),
            8 | 9 => self.activation(x),
            10..=12 => self.residual(x),
            13 => self.concat(x),
            14 => self.split(x),
            15 => self.shuffle(x),
            16 => self.excite(x),
            17 => self.pad(x),
            18 => self.reshaped(x),
            19 => self.transposed(x),
            20 => self.resize(x),
            21 => self.channels_last(x),
            22 => self.space(x),
            23 => self.prelu(x),
            24 => self.tied(x),
            25 => self.gate(x),
            26 => self.biases(x),
            27 => self.normalised(x),
            28 => self.reordered(x),
            29 => self.attention(x),
            30 | 31 => self.heads(x),
            32 | 33 => self.gated(x),
            34 => self.norm_groups(x),
            35 => self.sub_pixel(x),
            36 => self.windows(x),
            _ => self.pool(x),
        }
    }

    fn strided(&mut self, x: &T) -> T {
        let [_, c, h, w] = x.dims;
        if h < 4 || w < 4 {
            return x.clone();
        }
        let m = self.b.pick(&[4, 8]);
        let k = self.b.w(&[m, c, 3, 3]);
        let y = self.b.op("Conv", &[&x.name, &k], &[("pads", A::L(vec![1; 4])), ("strides", A::L(vec![2, 2]))]);
        T { name: y, dims: [2, m, h.div_ceil(2), w.div_ceil(2)] }
    }

    fn grouped(&mut self, x: &T) -> T {
        let c = x.dims[1];
        let g = self.b.pick(&[2, 3, 4]);
        if !c.is_multiple_of(g) || c / g < 2 {
            return x.clone();
        }
        let m = g * self.b.r(2, 4);
        let w = self.b.w(&[m, c / g, 1, 1]);
        let bias = self.b.w(&[m]);
        let y = self.b.op("Conv", &[&x.name, &w, &bias], &[("group", A::I(g as i64))]);
        self.with(y, x, 1, m)
    }

    fn depthwise(&mut self, x: &T) -> T {
        let c = x.dims[1];
        let k = if c <= MOST_CHANNELS / 2 { self.b.r(1, 2) } else { 1 };
        let w = self.b.w(&[c * k, 1, 3, 3]);
        let y = self.b.op("Conv", &[&x.name, &w], &[("group", A::I(c as i64)), ("pads", A::L(vec![1; 4]))]);
        self.with(y, x, 1, c * k)
    }

    fn batch_norm(&mut self, x: &T) -> T {
        let c = x.dims[1];
        // Deduplicated parameters: the same constants for several layers, in several slots.
        let known = self.shared.iter().find(|s| s.0 == c).cloned();
        let (ones, zeros) = match known.filter(|_| self.b.coin()) {
            Some((_, ones, zeros)) => (ones, zeros),
            None => (self.b.pos(&[c]), self.b.w(&[c])),
        };
        self.shared.push((c, ones.clone(), zeros.clone()));
        let inputs: [&str; 5] = if self.b.coin() {
            [&x.name, &ones, &zeros, &zeros, &ones]
        } else {
            let (g, s) = (self.b.w(&[c]), self.b.w(&[c]));
            let y = self.b.op("BatchNormalization", &[&x.name, &g, &s, &zeros, &ones], &[]);
            return self.with(y, x, 1, c);
        };
        let y = self.b.op("BatchNormalization", &inputs, &[]);
        self.with(y, x, 1, c)
    }

    fn activation(&mut self, x: &T) -> T {
        let op =
            self.b.pick(&["Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "Elu", "Softplus", "Clip", "SiLU"]);
        let y = match op {
            "Clip" => {
                let (low, high) = (self.b.f(&[], &[-1.0]), self.b.f(&[], &[2.0]));
                self.b.op(op, &[&x.name, &low, &high], &[])
            }
            "SiLU" => {
                let s = self.b.op("Sigmoid", &[&x.name], &[]);
                self.b.op("Mul", &[&x.name, &s], &[])
            }
            _ => self.b.op(op, &[&x.name], &[]),
        };
        self.with(y, x, 1, x.dims[1])
    }

    fn earlier(&mut self, fits: impl Fn(&T) -> bool) -> Option<T> {
        let all: Vec<T> = self.seen.iter().filter(|t| fits(t)).cloned().collect();
        (!all.is_empty()).then(|| self.b.pick(&all))
    }

    fn residual(&mut self, x: &T) -> T {
        let d = x.dims;
        let other = match self.earlier(|t| t.dims == d && t.name != x.name) {
            Some(t) if !self.b.one_in(3) => t,
            _ => match self.earlier(|t| t.dims[2..] == d[2..]) {
                Some(t) => self.conv(&t, Some(d[1]), 1),
                None => return x.clone(),
            },
        };
        let op = self.b.pick(&["Add", "Add", "Mul", "Sub", "Max"]);
        let y = self.b.op(op, &[&x.name, &other.name], &[]);
        T { name: y, dims: d }
    }

    fn concat(&mut self, x: &T) -> T {
        let d = x.dims;
        let Some(t) = self.earlier(|t| t.dims[2..] == d[2..] && t.dims[1] + d[1] <= MOST_CHANNELS) else {
            return x.clone();
        };
        let y = self.b.op("Concat", &[&x.name, &t.name], &[("axis", A::I(1))]);
        self.with(y, x, 1, d[1] + t.dims[1])
    }

    /// `Split` in the form of the opset.
    pub fn parts(b: &mut Build, x: &str, sizes: &[usize]) -> Vec<String> {
        if b.opset < 13 {
            return b.op_n("Split", &[x], &[("axis", A::I(1)), ("split", A::list(sizes))], sizes.len());
        }
        let list = b.sizes(sizes);
        b.op_n("Split", &[x, &list], &[("axis", A::I(1))], sizes.len())
    }

    fn split(&mut self, x: &T) -> T {
        let c = x.dims[1];
        if c < 4 {
            return x.clone();
        }
        let at = if self.b.coin() { c / 2 } else { self.b.r(1, c - 1) };
        let parts = if self.b.coin() {
            Self::parts(&mut self.b, &x.name, &[at, c - at])
        } else {
            let (zero, mid, end, axis) =
                (self.b.ints(&[0]), self.b.sizes(&[at]), self.b.ints(&[i64::MAX]), self.b.ints(&[1]));
            let p = self.b.op("Slice", &[&x.name, &zero, &mid, &axis], &[]);
            let q = self.b.op("Slice", &[&x.name, &mid, &end, &axis], &[]);
            vec![p, q]
        };
        let mut left = T { name: parts[0].clone(), dims: [2, at, x.dims[2], x.dims[3]] };
        if self.b.coin() {
            left = self.conv(&left, Some(at), 1);
        }
        let order: [&str; 2] = if self.b.coin() { [&left.name, &parts[1]] } else { [&parts[1], &left.name] };
        let y = self.b.op("Concat", &order, &[("axis", A::I(-3))]);
        self.with(y, x, 1, c)
    }

    fn shuffle(&mut self, x: &T) -> T {
        let [_, c, h, w] = x.dims;
        let g = self.b.pick(&[2, 4]);
        if !c.is_multiple_of(g) || c / g < 2 {
            return x.clone();
        }
        let [ci, gi, hi, wi] = [c, g, h, w].map(|v| v as i64);
        let b = &mut self.b;
        let (there, back) = if b.coin() {
            let n = if b.dynamic { 0 } else { 2 };
            (b.ints(&[n, gi, ci / gi, hi, wi]), b.ints(&[n, -1, hi, wi]))
        } else {
            let s = b.op("Shape", &[&x.name], &[]);
            let at = |b: &mut Build, i: i64| {
                let i = b.ints(&[i]);
                b.op("Gather", &[&s, &i], &[])
            };
            let (n, ch, hh, ww) = (at(b, 0), at(b, 1), at(b, 2), at(b, 3));
            let groups = b.ints(&[gi]);
            let per = b.op("Div", &[&ch, &groups], &[]);
            let there = b.op("Concat", &[&n, &groups, &per, &hh, &ww], &[("axis", A::I(0))]);
            let back = b.op("Concat", &[&n, &ch, &hh, &ww], &[("axis", A::I(0))]);
            (there, back)
        };
        let y = b.op("Reshape", &[&x.name, &there], &[]);
        let y = b.op("Transpose", &[&y], &[("perm", A::L(vec![0, 2, 1, 3, 4]))]);
        let y = b.op("Reshape", &[&y, &back], &[]);
        self.with(y, x, 1, c)
    }

    fn excite(&mut self, x: &T) -> T {
        let c = x.dims[1];
        let y = self.b.op("GlobalAveragePool", &[&x.name], &[]);
        let p = T { name: y, dims: [2, c, 1, 1] };
        let p = self.conv(&p, Some(4), 1);
        let y = self.b.op("Relu", &[&p.name], &[]);
        let p = self.conv(&T { name: y, dims: p.dims }, Some(c), 1);
        let act = self.b.pick(&["Sigmoid", "HardSigmoid"]);
        let g = self.b.op(act, &[&p.name], &[]);
        let y = self.b.op("Mul", &[&x.name, &g], &[]);
        self.with(y, x, 1, c)
    }

    fn pad(&mut self, x: &T) -> T {
        let (p, q) = (self.b.r(0, 3), self.b.r(0, 3));
        if x.dims[1] + p + q > MOST_CHANNELS {
            return x.clone();
        }
        let pads = self.b.sizes(&[0, p, 0, 0, 0, q, 0, 0]);
        let y = self.b.op("Pad", &[&x.name, &pads], &[]);
        self.with(y, x, 1, x.dims[1] + p + q)
    }

    /// Positions merged by computed sizes, something done, and apart again.
    fn reshaped(&mut self, x: &T) -> T {
        let [_, c, h, w] = x.dims;
        let b = &mut self.b;
        let s = b.op("Shape", &[&x.name], &[]);
        let (ids, rest) = (b.ints(&[0, 1]), b.ints(&[-1]));
        let head = b.op("Gather", &[&s, &ids], &[]);
        let to = b.op("Concat", &[&head, &rest], &[("axis", A::I(0))]);
        let y = b.op("Reshape", &[&x.name, &to], &[]);
        let y = if b.coin() {
            let k = b.w(&[c, c, 1]);
            b.op("Conv", &[&y, &k], &[])
        } else {
            b.op("Softmax", &[&y], &[("axis", A::I(2))])
        };
        let y = if b.coin() {
            b.op("Reshape", &[&y, &s], &[])
        } else {
            let to = b.ints(&[0, c as i64, h as i64, w as i64]);
            b.op("Reshape", &[&y, &to], &[])
        };
        self.with(y, x, 1, c)
    }

    fn transposed(&mut self, x: &T) -> T {
        let [_, c, h, w] = x.dims;
        if h * 2 > MOST_SIDE || w * 2 > MOST_SIDE {
            return x.clone();
        }
        let m = self.b.pick(&[4, 6, 8]);
        let g = if c % 2 == 0 && c > 2 { self.b.pick(&[1, 2]) } else { 1 };
        let k = self.b.w(&[c, m / g, 2, 2]);
        let attrs = [("strides", A::L(vec![2, 2])), ("group", A::I(g as i64))];
        let y = self.b.op("ConvTranspose", &[&x.name, &k], &attrs);
        T { name: y, dims: [2, m, h * 2, w * 2] }
    }

    fn resize(&mut self, x: &T) -> T {
        let [_, c, h, w] = x.dims;
        if h * 2 > MOST_SIDE || w * 2 > MOST_SIDE {
            return x.clone();
        }
        let attrs = [
            ("mode", A::S("nearest")),
            ("coordinate_transformation_mode", A::S("asymmetric")),
            ("nearest_mode", A::S("floor")),
        ];
        let y = if self.b.coin() {
            let s = self.b.f(&[4], &[1.0, 1.0, 2.0, 2.0]);
            let none = if self.b.opset < 13 { self.b.f(&[0], &[]) } else { String::new() };
            self.b.op("Resize", &[&x.name, &none, &s], &attrs)
        } else {
            let s = self.b.op("Shape", &[&x.name], &[]);
            let ids = self.b.ints(&[0, 1]);
            let head = self.b.op("Gather", &[&s, &ids], &[]);
            let tail = self.b.sizes(&[h * 2, w * 2]);
            let to = self.b.op("Concat", &[&head, &tail], &[("axis", A::I(0))]);
            let none = if self.b.opset < 13 { self.b.f(&[0], &[]) } else { String::new() };
            self.b.op("Resize", &[&x.name, &none, &none, &to], &attrs)
        };
        T { name: y, dims: [2, c, h * 2, w * 2] }
    }
}

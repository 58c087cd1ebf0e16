//! More steps: axes that move, weights that are shared, gates, attention.

use super::steps::{MOST_CHANNELS, MOST_SIDE};
use super::{Net, T};
use crate::common::A;

impl Net {
    /// To NHWC, a product over the channels there, and back.
    pub fn channels_last(&mut self, x: &T) -> T {
        let c = x.dims[1];
        let b = &mut self.b;
        let y = b.op("Transpose", &[&x.name], &[("perm", A::L(vec![0, 2, 3, 1]))]);
        let m = b.pick(&[c, 4, 8]);
        let y = match b.r(0, 2) {
            0 => {
                let w = b.w(&[m, c]);
                let w = b.op("Transpose", &[&w], &[("perm", A::L(vec![1, 0]))]);
                b.op("MatMul", &[&y, &w], &[])
            }
            _ => {
                let (w, bias) = (b.w(&[c, m]), b.w(&[m]));
                let y = b.op("MatMul", &[&y, &w], &[]);
                b.op("Add", &[&y, &bias], &[])
            }
        };
        let y = b.op("Transpose", &[&y], &[("perm", A::L(vec![0, 3, 1, 2]))]);
        self.with(y, x, 1, m)
    }

    pub fn space(&mut self, x: &T) -> T {
        let [_, c, h, w] = x.dims;
        let mode = self.b.pick(&["DCR", "CRD"]);
        if c % 4 == 0 && h * 2 <= MOST_SIDE && w * 2 <= MOST_SIDE {
            let y = self.b.op("DepthToSpace", &[&x.name], &[("blocksize", A::I(2)), ("mode", A::S(mode))]);
            return T { name: y, dims: [2, c / 4, h * 2, w * 2] };
        }
        if c * 4 <= MOST_CHANNELS && h % 2 == 0 && w % 2 == 0 {
            let y = self.b.op("SpaceToDepth", &[&x.name], &[("blocksize", A::I(2))]);
            return T { name: y, dims: [2, c * 4, h / 2, w / 2] };
        }
        x.clone()
    }

    pub fn prelu(&mut self, x: &T) -> T {
        let c = x.dims[1];
        let slope = if self.b.coin() { self.b.w(&[c, 1, 1]) } else { self.b.w(&[1, 1, 1]) };
        let y = self.b.op("PRelu", &[&x.name, &slope], &[]);
        self.with(y, x, 1, c)
    }

    /// One weight for two layers.
    pub fn tied(&mut self, x: &T) -> T {
        let c = x.dims[1];
        let w = match self.tied.clone().filter(|t| t.1 == c) {
            Some(t) => t,
            None => {
                let m = if self.b.coin() { c } else { 6 };
                (m, c, self.b.w(&[m, c, 1, 1]))
            }
        };
        let y = self.b.op("Conv", &[&x.name, &w.2], &[]);
        let y = if w.0 == c && self.b.coin() { self.b.op("Conv", &[&y, &w.2], &[]) } else { y };
        let y = self.with(y, x, 1, w.0);
        self.tied = Some(w);
        y
    }

    /// A map of one channel, or a constant, spread over the channels.
    pub fn gate(&mut self, x: &T) -> T {
        let [_, c, h, w] = x.dims;
        let b = &mut self.b;
        let g = match b.r(0, 3) {
            0 => {
                let one = self.conv(x, Some(1), 1).name;
                let to = self.b.sizes(&[1, c, h, w]);
                self.b.op("Expand", &[&one, &to], &[])
            }
            1 => {
                let one = self.conv(x, Some(1), 1).name;
                let to = self.b.sizes(&[1, c, 1, 1]);
                self.b.op("Tile", &[&one, &to], &[])
            }
            2 => {
                let s = b.op("Shape", &[&x.name], &[]);
                let one = b.w(&[1, c, 1, 1]);
                b.op("Expand", &[&one, &s], &[])
            }
            _ => self.conv(x, Some(1), 1).name,
        };
        let y = self.b.op("Mul", &[&x.name, &g], &[]);
        self.with(y, x, 1, c)
    }

    /// A bias behind `Identity`, perhaps shared with another layer.
    pub fn biases(&mut self, x: &T) -> T {
        let c = x.dims[1];
        let source = match self.shared.iter().find(|s| s.0 == c) {
            Some(s) => s.2.clone(),
            None => {
                let (one, zero) = (self.b.pos(&[c]), self.b.w(&[c]));
                self.shared.push((c, one, zero.clone()));
                zero
            }
        };
        let bias = self.b.op("Identity", &[&source], &[]);
        let w = self.b.w(&[c, c, 1, 1]);
        let y = self.b.op("Conv", &[&x.name, &w, &bias], &[]);
        self.with(y, x, 1, c)
    }

    pub fn normalised(&mut self, x: &T) -> T {
        let c = x.dims[1];
        let (g, s) = (self.b.w(&[c]), self.b.w(&[c]));
        let y = self.b.op("InstanceNormalization", &[&x.name, &g, &s], &[("epsilon", A::F(0.01))]);
        self.with(y, x, 1, c)
    }

    /// Channels in another order, some twice, some never.
    pub fn reordered(&mut self, x: &T) -> T {
        let c = x.dims[1];
        let n = self.b.r(2, c.max(2));
        let order = self.b.perm(c);
        let ids: Vec<usize> = if self.b.coin() { order } else { (0..n).map(|_| self.b.r(0, c - 1)).collect() };
        let list = self.b.sizes(&ids);
        let y = self.b.op("Gather", &[&x.name, &list], &[("axis", A::I(1))]);
        self.with(y, x, 1, ids.len())
    }

    /// Every position weighs all others; queries and keys meet, values are weighted.
    pub fn attention(&mut self, x: &T) -> T {
        let [_, c, h, w] = x.dims;
        let mut flat = || {
            let y = self.conv(x, Some(c), 1).name;
            let to = self.b.ints(&[0, 0, -1]);
            self.b.op("Reshape", &[&y, &to], &[])
        };
        let (q, k, v) = (flat(), flat(), flat());
        let q = self.b.op("Transpose", &[&q], &[("perm", A::L(vec![0, 2, 1]))]);
        let s = self.b.op("MatMul", &[&q, &k], &[]);
        let s = self.b.op("Softmax", &[&s], &[("axis", A::I(2))]);
        let y = self.b.op("MatMul", &[&v, &s], &[]);
        let to = self.b.sizes(&[0, c, h, w]);
        let y = self.b.op("Reshape", &[&y, &to], &[]);
        self.with(y, x, 1, c)
    }

    pub fn pool(&mut self, x: &T) -> T {
        let [_, c, h, w] = x.dims;
        if h < 4 || w < 4 {
            return x.clone();
        }
        let op = self.b.pick(&["MaxPool", "AveragePool"]);
        let y = self.b.op(op, &[&x.name], &[("kernel_shape", A::L(vec![2, 2])), ("strides", A::L(vec![2, 2]))]);
        T { name: y, dims: [2, c, h / 2, w / 2] }
    }
}

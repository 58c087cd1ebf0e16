//! Blocks of transformers and their kin: heads, gated widths, norm groups, sub-pixel reshapes, windows.

use super::steps::MOST_SIDE;
use super::{Net, T};
use crate::common::A;

impl Net {
    /// `[2,C,H,W] → [2,H·W,C]`.
    fn tokens(&mut self, x: &T) -> String {
        let to = self.b.ints(&[0, x.dims[1] as i64, -1]);
        let y = self.b.op("Reshape", &[&x.name, &to], &[]);
        self.b.op("Transpose", &[&y], &[("perm", A::L(vec![0, 2, 1]))])
    }

    /// The way back, with `c` channels.
    fn untokens(&mut self, y: &str, x: &T, c: usize) -> T {
        let y = self.b.op("Transpose", &[y], &[("perm", A::L(vec![0, 2, 1]))]);
        let to = self.b.sizes(&[0, c, x.dims[2], x.dims[3]]);
        let y = self.b.op("Reshape", &[&y, &to], &[]);
        self.with(y, x, 1, c)
    }

    fn linear(&mut self, x: &str, from: usize, to: usize) -> String {
        let w = self.b.w(&[from, to]);
        let y = self.b.op("MatMul", &[x, &w], &[]);
        if self.b.coin() {
            return y;
        }
        let bias = self.b.w(&[to]);
        self.b.op("Add", &[&y, &bias], &[])
    }

    /// Attention with heads: queries, keys and values from one layer or from three.
    pub fn heads(&mut self, x: &T) -> T {
        let c = x.dims[1];
        let (h, d) = (self.b.r(2, 4) as i64, self.b.r(1, 3) as i64);
        let hd = (h * d) as usize;
        let t = self.tokens(x);
        let [q, k, v] = if self.b.coin() {
            let y = self.linear(&t, c, 3 * hd);
            let to = self.b.ints(&[0, 0, 3, h, d]);
            let y = self.b.op("Reshape", &[&y, &to], &[]);
            let y = self.b.op("Transpose", &[&y], &[("perm", A::L(vec![2, 0, 3, 1, 4]))]);
            [0, 1, 2].map(|i| {
                let i = self.b.int(i);
                self.b.op("Gather", &[&y, &i], &[("axis", A::I(0))])
            })
        } else {
            [0; 3].map(|_| {
                let y = self.linear(&t, c, hd);
                let to = self.b.ints(&[0, 0, h, d]);
                let y = self.b.op("Reshape", &[&y, &to], &[]);
                self.b.op("Transpose", &[&y], &[("perm", A::L(vec![0, 2, 1, 3]))])
            })
        };
        let k = self.b.op("Transpose", &[&k], &[("perm", A::L(vec![0, 1, 3, 2]))]);
        let s = self.b.op("MatMul", &[&q, &k], &[]);
        let s = self.b.op("Softmax", &[&s], &[("axis", A::I(3))]);
        let y = self.b.op("MatMul", &[&s, &v], &[]);
        let y = self.b.op("Transpose", &[&y], &[("perm", A::L(vec![0, 2, 1, 3]))]);
        let to = self.b.ints(&[0, 0, if self.b.opset > 11 { -1 } else { h * d }]);
        let y = self.b.op("Reshape", &[&y, &to], &[]);
        let y = self.linear(&y, hd, c);
        let y = if self.b.coin() { self.b.op("Add", &[&t, &y], &[]) } else { y };
        self.untokens(&y, x, c)
    }

    /// A hidden width in two halves, one of them a gate; the gate may be normalised first.
    pub fn gated(&mut self, x: &T) -> T {
        let c = x.dims[1];
        let m = self.b.r(3, 5);
        let t = self.tokens(x);
        let y = self.linear(&t, c, 2 * m);
        let halves = self.b.op_n("Split", &[&y], &[("axis", A::I(2))], 2);
        let (u, v) = (halves[0].clone(), halves[1].clone());
        let v = if self.b.opset >= 17 && self.b.coin() {
            let (g, s) = (self.b.pos(&[m]), self.b.w(&[m]));
            self.b.op("LayerNormalization", &[&v, &g, &s], &[("epsilon", A::F(0.01))])
        } else {
            self.b.op("Sigmoid", &[&v], &[])
        };
        let y = self.b.op("Mul", &[&u, &v], &[]);
        let y = self.linear(&y, m, c);
        self.untokens(&y, x, c)
    }

    /// Group normalization, as exporters write it.
    pub fn norm_groups(&mut self, x: &T) -> T {
        let [_, c, h, w] = x.dims;
        let g = self.b.pick(&[2, 3, 4]);
        if !c.is_multiple_of(g) {
            return x.clone();
        }
        let to = self.b.ints(&[0, g as i64, -1]);
        let y = self.b.op("Reshape", &[&x.name, &to], &[]);
        let (one, zero) = (self.b.f(&[g], &vec![1.0; g]), self.b.f(&[g], &vec![0.0; g]));
        let y = self.b.op("InstanceNormalization", &[&y, &one, &zero], &[("epsilon", A::F(0.01))]);
        let back = if self.b.coin() { self.b.op("Shape", &[&x.name], &[]) } else { self.b.sizes(&[0, c, h, w]) };
        let y = self.b.op("Reshape", &[&y, &back], &[]);
        let (scale, shift) = (self.b.w(&[c, 1, 1]), self.b.w(&[c, 1, 1]));
        let y = self.b.op("Mul", &[&y, &scale], &[]);
        let y = self.b.op("Add", &[&y, &shift], &[]);
        self.with(y, x, 1, c)
    }

    /// Sub-pixel rearrangement as Reshape → Transpose → Reshape, either order of the factors.
    pub fn sub_pixel(&mut self, x: &T) -> T {
        let [_, c, h, w] = x.dims;
        if c % 4 != 0 || h * 2 > MOST_SIDE || w * 2 > MOST_SIDE {
            return x.clone();
        }
        let (to, perm) = if self.b.coin() {
            ([0, c / 4, 2, 2, h, w], vec![0, 1, 4, 2, 5, 3])
        } else {
            ([0, 2, 2, c / 4, h, w], vec![0, 3, 4, 1, 5, 2])
        };
        let to = self.b.sizes(&to);
        let y = self.b.op("Reshape", &[&x.name, &to], &[]);
        let y = self.b.op("Transpose", &[&y], &[("perm", A::L(perm))]);
        let to = self.b.sizes(&[0, c / 4, h * 2, w * 2]);
        let y = self.b.op("Reshape", &[&y, &to], &[]);
        T { name: y, dims: [2, c / 4, h * 2, w * 2] }
    }

    /// Windows cut out, a layer within, and put together again.
    pub fn windows(&mut self, x: &T) -> T {
        let [_, c, h, w] = x.dims;
        if h % 2 != 0 || w % 2 != 0 || self.b.dynamic {
            return x.clone();
        }
        let y = self.b.op("Transpose", &[&x.name], &[("perm", A::L(vec![0, 2, 3, 1]))]);
        let to = self.b.sizes(&[2, h / 2, 2, w / 2, 2, c]);
        let y = self.b.op("Reshape", &[&y, &to], &[]);
        let swap = ("perm", A::L(vec![0, 1, 3, 2, 4, 5]));
        let y = self.b.op("Transpose", &[&y], std::slice::from_ref(&swap));
        let to = self.b.sizes(&[h / 2 * (w / 2) * 2, 4, c]);
        let y = self.b.op("Reshape", &[&y, &to], &[]);
        let m = self.b.pick(&[c, 6]);
        let y = self.linear(&y, c, m);
        let to = self.b.sizes(&[2, h / 2, w / 2, 2, 2, m]);
        let y = self.b.op("Reshape", &[&y, &to], &[]);
        let y = self.b.op("Transpose", &[&y], &[swap]);
        let to = self.b.sizes(&[2, h, w, m]);
        let y = self.b.op("Reshape", &[&y, &to], &[]);
        let y = self.b.op("Transpose", &[&y], &[("perm", A::L(vec![0, 3, 1, 2]))]);
        self.with(y, x, 1, m)
    }
}

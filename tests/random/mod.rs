//! Networks of random steps.

mod blocks;
mod more;
mod steps;

use crate::common::build::info;
use crate::common::{A, Build};
use onnx_prune::onnx::Model;
use onnx_prune::onnx::proto::tensor_proto::DataType;

/// A tensor on the way through the network.
#[derive(Clone, Debug)]
pub struct T {
    /// Its name.
    pub name: String,
    /// `[2, channels, height, width]`.
    pub dims: [usize; 4],
}

/// A network in the making.
pub struct Net {
    /// The model.
    pub b: Build,
    /// Every feature map so far.
    pub seen: Vec<T>,
    /// Names of shared parameters by length: γ-like, β-like.
    pub shared: Vec<(usize, String, String)>,
    /// A weight to use twice: out, in, name.
    pub tied: Option<(usize, usize, String)>,
}

/// The network of a seed.
pub fn network(seed: u64) -> Model {
    let mut b = Build::new(seed ^ 0x5eed);
    b.opset = b.pick(&[11, 13, 17, 18]);
    let side = b.pick(&[4, 6, 8]);
    let dims = [2, 3, side, side];
    let name = b.input(&dims);
    let mut net = Net { b, seen: Vec::new(), shared: Vec::new(), tied: None };
    let mut x = net.conv(&T { name, dims }, None, 1);
    net.seen.push(x.clone());
    for _ in 0..net.b.r(5, 25) {
        x = net.step(&x);
        net.seen.push(x.clone());
    }
    net.head(&x);
    net.dress();
    net.b.model()
}

impl Net {
    /// What exporters do besides: declared inner shapes, initializers among the inputs, nodes without names.
    fn dress(&mut self) {
        if self.b.one_in(3) {
            for t in &self.seen {
                let mut dims = t.dims.map(|d| d as i64);
                if self.b.dynamic {
                    dims[0] = -1;
                }
                let declared = self.b.g.value_info.iter().chain(&self.b.g.input).chain(&self.b.g.output);
                if declared.into_iter().all(|v| v.name() != t.name) {
                    self.b.g.value_info.push(info(&t.name, DataType::Float, &dims));
                }
            }
        }
        if self.b.one_in(6) {
            for t in &self.b.g.initializer {
                let elem = DataType::try_from(t.data_type()).unwrap_or(DataType::Float);
                self.b.g.input.push(info(t.name(), elem, &t.dims));
            }
        }
        if self.b.one_in(5) {
            self.b.g.node.iter_mut().for_each(|n| n.name = None);
        }
    }

    /// The end: pooled and classified, flattened and classified, or a map of its own.
    fn head(&mut self, x: &T) {
        let c = x.dims[1];
        let y = match self.b.r(0, 3) {
            0 => self.conv(x, Some(2), 1).name,
            1 => {
                let y = self.b.op("Flatten", &[&x.name], &[]);
                let w = self.b.w(&[4, c * x.dims[2] * x.dims[3]]);
                self.b.op("Gemm", &[&y, &w], &[("transB", A::I(1))])
            }
            2 => {
                // Flattened with computed sizes.
                let s = self.b.op("Shape", &[&x.name], &[]);
                let at = self.b.int(0);
                let n = self.b.op("Gather", &[&s, &at], &[]);
                let flat = self.b.ints(&[-1]);
                let n = self.b.op("Reshape", &[&n, &flat], &[]);
                let to = self.b.op("Concat", &[&n, &flat], &[("axis", A::I(0))]);
                let y = self.b.op("Reshape", &[&x.name, &to], &[]);
                let (w, bias) = (self.b.w(&[c * x.dims[2] * x.dims[3], 4]), self.b.w(&[4]));
                self.b.op("Gemm", &[&y, &w, &bias], &[])
            }
            _ => {
                let y = self.b.op("GlobalAveragePool", &[&x.name], &[]);
                let y = self.b.op("Flatten", &[&y], &[]);
                let w = self.b.w(&[c, 4]);
                self.b.op("MatMul", &[&y, &w], &[])
            }
        };
        let dims: Vec<i64> = vec![-1; if y.starts_with("Conv") { 4 } else { 2 }];
        self.b.g.output.push(info(&y, DataType::Float, &dims));
    }
}

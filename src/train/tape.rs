//! Writing ONNX nodes one after the other, shapes included: what gradients, losses and updates are made of.

mod attributes;
mod movement;

pub use attributes::{float, int, ints};

use crate::onnx::proto::{AttributeProto, NodeProto, TensorProto, tensor_proto::DataType};
use crate::onnx::tensor;
use crate::ops::Answer;
use crate::ops::cx::broadcast;
use crate::refuse;
use crate::rewrite::Names;
use std::collections::HashMap;

/// A tensor of the graph under construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Var(u32);

/// A graph under construction. Every tensor has a name and a shape of known sizes.
///
/// Methods append the node for what they are called, in the form of the operator set, and refuse shapes that do not fit.
pub struct Tape {
    vars: Vec<(String, Vec<usize>)>,
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    /// Constants by shape, bits and kind, so that each is stored once.
    known: HashMap<(Vec<usize>, Vec<u64>, bool), Var>,
    names: Names,
    opset: i64,
    /// Element type of everything that is not an integer.
    elem: i32,
}

impl Tape {
    /// Begins with the nodes and names of a graph. `elem`: `FLOAT` or `DOUBLE`.
    pub(crate) fn new(names: Names, opset: i64, elem: DataType) -> Self {
        let (vars, nodes, constants) = (Vec::new(), Vec::new(), Vec::new());
        Tape { vars, nodes, constants, known: HashMap::new(), names, opset, elem: elem as i32 }
    }

    /// Version of the default operator set.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// The element type of everything that is not an integer.
    pub fn elem(&self) -> i32 {
        self.elem
    }

    /// The tensor's name.
    pub fn name(&self, v: Var) -> &str {
        self.vars.get(v.0 as usize).map_or("", |v| &v.0)
    }

    /// The tensor's shape.
    pub fn dims(&self, v: Var) -> &[usize] {
        self.vars.get(v.0 as usize).map_or(&[], |v| &v.1)
    }

    /// The number of elements.
    pub fn numel(&self, v: Var) -> usize {
        self.dims(v).iter().product()
    }

    /// A tensor that exists under this name: an input, or the output of a node that was or will be [pushed](Self::push).
    pub fn existing(&mut self, name: &str, dims: &[usize]) -> Var {
        self.vars.push((name.to_owned(), dims.to_vec()));
        Var((self.vars.len() - 1) as u32)
    }

    /// A name that nothing has yet.
    pub fn fresh(&mut self, wish: &str) -> String {
        self.names.fresh(wish)
    }

    /// Numbered, since most operators occur very often.
    fn fresh_of(&mut self, what: &str) -> String {
        let n = self.vars.len();
        self.names.fresh(&format!("train/{what}_{n}"))
    }

    /// Appends a finished node.
    pub fn push(&mut self, node: NodeProto) {
        self.nodes.push(node);
    }

    /// Moves the nodes from `from` on, which read nothing that nodes make, before all others.
    pub fn to_front(&mut self, from: usize) {
        let n = self.nodes.len().saturating_sub(from);
        self.nodes.rotate_right(n);
    }

    /// The nodes and constants. Names of nodes are set apart from those of tensors: tract makes names such as `conv.bias` from
    /// the former.
    pub fn finish(mut self) -> (Vec<NodeProto>, Vec<TensorProto>) {
        for (i, n) in self.nodes.iter_mut().enumerate() {
            n.name = n.name.as_ref().map(|name| format!("train/node_{i}/{name}"));
        }
        (self.nodes, self.constants)
    }

    /// The number of nodes so far.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are no nodes yet.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Appends a node with one output of this shape.
    pub fn node(&mut self, op: &str, inputs: &[Var], attributes: Vec<AttributeProto>, dims: Vec<usize>) -> Var {
        let input = inputs.iter().map(|&v| self.name(v).to_owned()).collect();
        let output = self.fresh_of(op);
        let node = NodeProto {
            op_type: Some(op.into()),
            name: Some(output.clone()),
            input,
            output: vec![output.clone()],
            attribute: attributes,
            ..NodeProto::default()
        };
        self.nodes.push(node);
        self.existing(&output, &dims)
    }

    /// The same tensor under a name that the caller chose.
    pub fn named(&mut self, v: Var, name: &str) -> Var {
        let node = NodeProto {
            op_type: Some("Identity".into()),
            name: Some(name.into()),
            input: vec![self.name(v).to_owned()],
            output: vec![name.into()],
            ..NodeProto::default()
        };
        self.nodes.push(node);
        let dims = self.dims(v).to_vec();
        self.existing(name, &dims)
    }

    fn constant_of(&mut self, dims: &[usize], values: Vec<u64>, is_int: bool, make: TensorProto) -> Var {
        let key = (dims.to_vec(), values, is_int);
        if let Some(&v) = self.known.get(&key) {
            return v;
        }
        let name = self.fresh_of("constant");
        self.constants.push(TensorProto { name: Some(name.clone()), ..make });
        let v = self.existing(&name, dims);
        self.known.insert(key, v);
        v
    }

    /// Floating-point constants.
    pub fn constant(&mut self, dims: &[usize], values: &[f64]) -> Answer<Var> {
        let like = TensorProto { data_type: Some(self.elem), ..TensorProto::default() };
        let make = tensor::from_f64_like(&like, dims, values).map_err(|e| e.to_string())?;
        Ok(self.constant_of(dims, values.iter().map(|v| v.to_bits()).collect(), false, make))
    }

    /// A constant without axes.
    pub fn scalar(&mut self, value: f64) -> Answer<Var> {
        self.constant(&[], &[value])
    }

    /// A constant list of integers.
    pub fn ints(&mut self, values: &[i64]) -> Var {
        let make = tensor::from_i64("", &[values.len()], values);
        self.constant_of(&[values.len()], values.iter().map(|&v| v as u64).collect(), true, make)
    }

    /// An operator that keeps the shape.
    pub fn unary(&mut self, op: &str, x: Var) -> Var {
        let dims = self.dims(x).to_vec();
        self.node(op, &[x], vec![], dims)
    }

    /// An operator of two tensors that broadcasts.
    pub fn binary(&mut self, op: &str, a: Var, b: Var) -> Answer<Var> {
        let dims = broadcast(&[self.dims(a), self.dims(b)])?;
        Ok(self.node(op, &[a, b], vec![], dims))
    }

    /// `a + b`.
    pub fn add(&mut self, a: Var, b: Var) -> Answer<Var> {
        self.binary("Add", a, b)
    }

    /// `a − b`.
    pub fn sub(&mut self, a: Var, b: Var) -> Answer<Var> {
        self.binary("Sub", a, b)
    }

    /// `a · b`, element by element.
    pub fn mul(&mut self, a: Var, b: Var) -> Answer<Var> {
        self.binary("Mul", a, b)
    }

    /// `a / b`.
    pub fn div(&mut self, a: Var, b: Var) -> Answer<Var> {
        self.binary("Div", a, b)
    }

    /// `x + c`.
    pub fn add_scalar(&mut self, x: Var, c: f64) -> Answer<Var> {
        let c = self.scalar(c)?;
        self.add(x, c)
    }

    /// `c · x`.
    pub fn scale(&mut self, x: Var, c: f64) -> Answer<Var> {
        if c == 1.0 {
            return Ok(x);
        }
        let c = self.scalar(c)?;
        self.mul(x, c)
    }

    /// `−x`.
    pub fn neg(&mut self, x: Var) -> Var {
        self.unary("Neg", x)
    }

    /// `x²`.
    pub fn square(&mut self, x: Var) -> Answer<Var> {
        self.mul(x, x)
    }

    /// 1 where a comparison (`Greater`, `Less`, `Equal`) holds, else 0. `Where` would do, but is slow in ONNX Runtime.
    pub fn indicator(&mut self, op: &str, a: Var, b: Var) -> Answer<Var> {
        let holds = self.binary(op, a, b)?;
        Ok(self.to_float(holds))
    }

    /// Booleans or integers as numbers.
    pub fn to_float(&mut self, x: Var) -> Var {
        let dims = self.dims(x).to_vec();
        let to = int("to", i64::from(self.elem));
        self.node("Cast", &[x], vec![to], dims)
    }

    /// 1 where `x > c`, else 0.
    pub fn above(&mut self, x: Var, c: f64) -> Answer<Var> {
        let c = self.scalar(c)?;
        self.indicator("Greater", x, c)
    }

    /// 1 where `x < c`, else 0.
    pub fn below(&mut self, x: Var, c: f64) -> Answer<Var> {
        let c = self.scalar(c)?;
        self.indicator("Less", x, c)
    }

    /// 1 where `low < x < high`, else 0.
    pub fn between(&mut self, x: Var, low: f64, high: f64) -> Answer<Var> {
        let (low, high) = (self.scalar(low)?, self.scalar(high)?);
        let over = self.binary("Greater", x, low)?;
        let under = self.binary("Less", x, high)?;
        let both = self.binary("And", over, under)?;
        Ok(self.to_float(both))
    }

    /// 1 where `a = b`, else 0.
    pub fn equal(&mut self, a: Var, b: Var) -> Answer<Var> {
        if self.opset >= 11 {
            return self.indicator("Equal", a, b);
        }
        // Equality was one of integers first.
        let over = self.binary("Greater", a, b)?;
        let under = self.binary("Less", a, b)?;
        let differs = self.binary("Or", over, under)?;
        let same = self.unary("Not", differs);
        Ok(self.to_float(same))
    }

    /// −1, 0 or 1.
    pub fn sign(&mut self, x: Var) -> Answer<Var> {
        if self.opset >= 9 {
            return Ok(self.unary("Sign", x));
        }
        let (over, under) = (self.above(x, 0.0)?, self.below(x, 0.0)?);
        self.sub(over, under)
    }

    /// The sum of all.
    pub fn sum_of(&mut self, all: &[Var]) -> Answer<Var> {
        let Some((&first, rest)) = all.split_first() else { refuse!("a sum of nothing") };
        let mut sum = first;
        for &v in rest {
            sum = self.add(sum, v)?;
        }
        Ok(sum)
    }

    /// `ReduceSum`, `ReduceMean` or another reduction over axes.
    pub fn reduce(&mut self, op: &str, x: Var, axes: &[usize], keep: bool) -> Answer<Var> {
        let dims = self.dims(x).to_vec();
        if let Some(a) = axes.iter().find(|&&a| a >= dims.len()) {
            refuse!("axis {a} of a tensor of shape {dims:?}");
        }
        let out = dims.iter().enumerate().filter_map(|(a, &d)| match axes.contains(&a) {
            true if keep => Some(1),
            true => None,
            false => Some(d),
        });
        let out: Vec<usize> = out.collect();
        if axes.is_empty() {
            return Ok(x);
        }
        let list: Vec<i64> = axes.iter().map(|&a| a as i64).collect();
        let keep = int("keepdims", i64::from(keep));
        // ReduceSum took its axes as an input first.
        if self.opset >= if op == "ReduceSum" { 13 } else { 18 } {
            let axes = self.ints(&list);
            return Ok(self.node(op, &[x, axes], vec![keep], out));
        }
        Ok(self.node(op, &[x], vec![ints("axes", &list), keep], out))
    }

    /// The sum over axes.
    pub fn sum(&mut self, x: Var, axes: &[usize], keep: bool) -> Answer<Var> {
        self.reduce("ReduceSum", x, axes, keep)
    }

    /// The mean over axes.
    pub fn mean(&mut self, x: Var, axes: &[usize], keep: bool) -> Answer<Var> {
        self.reduce("ReduceMean", x, axes, keep)
    }

    /// The sum of all elements, without axes.
    pub fn total(&mut self, x: Var) -> Answer<Var> {
        let axes: Vec<usize> = (0..self.dims(x).len()).collect();
        self.sum(x, &axes, false)
    }

    /// Sums what broadcasting repeated, so that the result has this shape.
    pub fn sum_to(&mut self, x: Var, to: &[usize]) -> Answer<Var> {
        let dims = self.dims(x).to_vec();
        if dims == to {
            return Ok(x);
        }
        let Some(lead) = dims.len().checked_sub(to.len()) else {
            refuse!("a gradient of shape {dims:?} for a tensor of shape {to:?}")
        };
        let mut axes: Vec<usize> = (0..lead).collect();
        for (i, (&d, &t)) in dims.iter().skip(lead).zip(to).enumerate() {
            if t == 1 && d != 1 {
                axes.push(lead + i);
            } else if d != t {
                refuse!("a gradient of shape {dims:?} for a tensor of shape {to:?}");
            }
        }
        let summed = self.sum(x, &axes, true)?;
        self.reshape(summed, to)
    }

    /// The product of (stacks of) matrices.
    pub fn matmul(&mut self, a: Var, b: Var) -> Answer<Var> {
        let (da, db) = (self.dims(a), self.dims(b));
        let (Some((&[m, k], la)), Some((&[j, n], lb))) = (last_two(da), last_two(db)) else {
            refuse!("a product of matrices of shapes {da:?} and {db:?}")
        };
        if k != j {
            refuse!("a product of matrices of shapes {da:?} and {db:?}");
        }
        let mut out = broadcast(&[la, lb])?;
        out.extend([m, n]);
        Ok(self.node("MatMul", &[a, b], vec![], out))
    }

    /// The product of two matrices, each transposed or not.
    pub fn gemm(&mut self, a: Var, turn_a: bool, b: Var, turn_b: bool) -> Answer<Var> {
        let (&[p, q], &[r, s]) = (self.dims(a), self.dims(b)) else {
            refuse!("a product of matrices of shapes {:?} and {:?}", self.dims(a), self.dims(b))
        };
        let ((m, k), (j, n)) = (if turn_a { (q, p) } else { (p, q) }, if turn_b { (s, r) } else { (r, s) });
        if k != j {
            refuse!("a product of matrices of shapes {:?} and {:?}", self.dims(a), self.dims(b));
        }
        let attributes = vec![int("transA", i64::from(turn_a)), int("transB", i64::from(turn_b))];
        // What is added was not optional at first.
        if self.opset < 11 {
            let zero = self.scalar(0.0)?;
            return Ok(self.node("Gemm", &[a, b, zero], attributes, vec![m, n]));
        }
        Ok(self.node("Gemm", &[a, b], attributes, vec![m, n]))
    }
}

/// The last two sizes, and those before.
fn last_two(dims: &[usize]) -> Option<(&[usize; 2], &[usize])> {
    let (lead, last) = dims.split_last_chunk::<2>()?;
    Some((last, lead))
}

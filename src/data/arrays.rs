//! Files of arrays: which array is which input, and how its samples are laid out.

use super::element::{Arrangement, Kind, Stored, empty, is_float};
use super::npy::{self, Npz};
use super::preprocess::{Layout, Preprocess, Values};
use super::{Feed, Source, bad, quoted, shown};
use crate::error::Result;
use crate::onnx;
use crate::onnx::tensor::type_name;
use crate::runtime::{Array, Data, InputSpec};
use bytes::Bytes;
use safetensors::{Dtype, SafeTensors};
use std::path::Path;

/// Arrays of these names are labels, unless the model has an input of that name.
const LABELS: [&str; 2] = ["labels", "y"];

/// An array for each input, in the inputs' order, and the name it has in messages.
pub(super) struct Assigned {
    pub arrays: Vec<(String, Stored)>,
    pub labels: Option<(String, Stored)>,
    pub notes: Vec<String>,
}

/// A file of arrays.
pub(super) enum Container {
    Npy(Bytes),
    Npz(Npz),
    Safetensors(Bytes),
}

impl Container {
    /// Opens by content; the extension only decides what is expected.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = onnx::map(path)?;
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        if npy::is_npy(&bytes) {
            Ok(Self::Npy(bytes))
        } else if bytes.starts_with(b"PK") {
            Npz::open(bytes).map(Self::Npz).map_err(|why| bad(path, why))
        } else if extension == "safetensors" {
            SafeTensors::deserialize(&bytes).map_err(|e| bad(path, format!("not a readable safetensors file: {e}")))?;
            Ok(Self::Safetensors(bytes))
        } else if bytes.is_empty() {
            Err(bad(path, "the file is empty"))
        } else if matches!(extension.as_str(), "npy" | "npz") {
            Err(bad(path, format!("not a NumPy .{extension} file: it begins with something else")))
        } else {
            let wanted = "expected .npz, .npy or .safetensors, a folder of images, or a folder of ONNX test data";
            Err(bad(path, format!("data of an unknown kind: {wanted}")))
        }
    }

    /// The arrays' names, sorted. The only array of a `.npy` file has none.
    fn names(&self) -> Vec<String> {
        let mut names = match self {
            Self::Npy(_) => vec![String::new()],
            Self::Npz(npz) => npz.names(),
            Self::Safetensors(bytes) => SafeTensors::deserialize(bytes)
                .map(|t| t.names().into_iter().map(str::to_owned).collect())
                .unwrap_or_default(),
        };
        names.sort();
        names
    }

    fn array(&mut self, name: &str) -> Result<Stored, String> {
        match self {
            Self::Npy(bytes) => npy::array(bytes),
            Self::Npz(npz) => npz.array(name),
            Self::Safetensors(bytes) => tensor(bytes, name).map_err(|why| format!("array {name:?}: {why}")),
        }
    }

    /// Finds an array for each input.
    pub fn assign(mut self, path: &Path, specs: &[InputSpec], input: Option<&str>) -> Result<Assigned> {
        let mut others = self.names();
        let all = quoted(&others);
        let mut chosen: Vec<Option<String>> =
            specs.iter().map(|spec| others.iter().position(|n| *n == spec.name).map(|at| others.remove(at))).collect();
        let mut labels = Vec::new();
        for name in LABELS {
            labels.extend(others.iter().position(|n| n == name).map(|at| others.remove(at)));
        }
        // An array of another name goes to the input that it can only be meant for.
        let single = match (input, specs) {
            (Some(input), _) => specs.iter().position(|s| s.name == input),
            (None, [_]) => Some(0),
            _ => None,
        };
        if let Some(slot) = single.and_then(|at| chosen.get_mut(at)).filter(|slot| slot.is_none()) {
            match others.len() {
                1 => *slot = others.pop(),
                0 => {}
                _ => {
                    let name = single.and_then(|at| specs.get(at)).map(|s| s.name.as_str()).unwrap_or_default();
                    let why =
                        format!("which of the arrays {} is input {name:?}? Name it like the input", quoted(&others));
                    return Err(bad(path, why));
                }
            }
        }
        let mut arrays = Vec::new();
        for (spec, name) in specs.iter().zip(chosen) {
            let Some(name) = name else {
                let hint = match others.as_slice() {
                    [_] if input.is_none() => "; --input NAME says which input the array is for",
                    _ => "",
                };
                let here = if matches!(self, Self::Npy(_)) { "one unnamed array".to_owned() } else { all };
                let inputs: Vec<&str> = specs.iter().map(|s| s.name.as_str()).collect();
                let why = format!(
                    "no array for the model's input {:?} (its inputs: {}; in the file: {here}){hint}",
                    spec.name,
                    quoted(&inputs)
                );
                return Err(bad(path, why));
            };
            let stored = self.array(&name).map_err(|why| bad(path, why))?;
            arrays.push((if name.is_empty() { "the array".into() } else { format!("array {name:?}") }, stored));
        }
        let mut notes = Vec::new();
        others.extend(labels.drain(1.min(labels.len())..));
        if !others.is_empty() {
            notes.push(format!("arrays that are no input were left out: {}", quoted(&others)));
        }
        let labels = match labels.pop() {
            Some(name) => Some((format!("array {name:?}"), self.array(&name).map_err(|why| bad(path, why))?)),
            None => None,
        };
        Ok(Assigned { arrays, labels, notes })
    }
}

fn tensor(bytes: &Bytes, name: &str) -> Result<Stored, String> {
    let all = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
    let view = all.tensor(name).map_err(|e| e.to_string())?;
    let kind = match view.dtype() {
        Dtype::BOOL => Kind::Bool,
        Dtype::U8 => Kind::U8,
        Dtype::I8 => Kind::I8,
        Dtype::U16 => Kind::U16,
        Dtype::I16 => Kind::I16,
        Dtype::U32 => Kind::U32,
        Dtype::I32 => Kind::I32,
        Dtype::U64 => Kind::U64,
        Dtype::I64 => Kind::I64,
        Dtype::F16 => Kind::F16,
        Dtype::BF16 => Kind::Bf16,
        Dtype::F32 => Kind::F32,
        Dtype::F64 => Kind::F64,
        other => return Err(format!("elements of type {other:?} cannot be read")),
    };
    Stored::new(view.shape().to_vec(), kind, bytes.slice_ref(view.data()))
}

/// No elements of the type that an input wants.
pub(super) fn wanted(path: &Path, spec: &InputSpec) -> Result<Data> {
    empty(spec.elem_type).ok_or_else(|| {
        let kind = type_name(spec.elem_type);
        bad(path, format!("the model's input {:?} has element type {kind}, which cannot be fed", spec.name))
    })
}

/// Whether a sample has the extents that an input wants; any will do where it declares no shape.
fn fits(sample: &[usize], dims: &[Option<usize>]) -> bool {
    let Some(wanted) = dims.get(1..) else { return true };
    sample.len() == wanted.len() && sample.iter().zip(wanted).all(|(n, wanted)| wanted.is_none_or(|w| w == *n))
}

/// Joins an array to its input. `options` are those that apply to it, if they do.
pub(super) fn feed(
    path: &Path,
    spec: &InputSpec,
    (name, stored): (String, Stored),
    options: Option<&Preprocess>,
    notes: &mut Vec<String>,
) -> Result<Feed> {
    let like = wanted(path, spec)?;
    let input = &spec.name;
    let done = |source, values| Feed { spec: spec.clone(), like: like.clone(), source, values, name: name.clone() };
    let misfit = |hint: &str| {
        let (has, wants) = (&stored.dims, shown(&spec.dims));
        bad(path, format!("{name} has shape {has:?}, but the model's input {input:?} wants {wants}{hint}"))
    };
    if stored.dims.contains(&0) {
        return Err(bad(path, format!("{name} of shape {:?} has no elements", stored.dims)));
    }
    if stored.dims.is_empty() {
        if !spec.dims.is_empty() {
            return Err(misfit(""));
        }
        let order = Arrangement { channels: 1, source_last: false, target_last: false };
        let data = super::element::prepare(&stored.bytes, stored.kind, order, &Values::unchanged(), &like)
            .map_err(|why| bad(path, format!("{name}: {why}")))?;
        return Ok(done(Source::Constant(Array { dims: Vec::new(), data }), Values::unchanged()));
    }
    if let Some(what) = options.and_then(|o| o.resize.map(|_| "--resize").or(o.crop.map(|_| "--crop"))) {
        return Err(bad(path, format!("{what} is for images, and {name} is data of shape {:?}", stored.dims)));
    }
    let told = options.and_then(|o| o.layout);
    let declared =
        if spec.dims.is_empty() { stored.dims.iter().map(|&d| Some(d)).collect() } else { spec.dims.clone() };
    let layout = told.unwrap_or(Layout::of_input(&declared));
    let sample = stored.sample_dims();
    let turned = layout.other().to_other(sample);
    let transpose = match &turned {
        Some(turned) if !fits(sample, &spec.dims) => fits(turned, &spec.dims),
        // Where the model leaves the channels open, the number of an image's channels still tells.
        Some(turned) if told.is_some() && fits(turned, &spec.dims) => {
            let channels = |dims: &[usize]| if layout == Layout::Nchw { dims.first() } else { dims.last() }.copied();
            !matches!(channels(sample), Some(1 | 3 | 4)) && matches!(channels(turned), Some(1 | 3))
        }
        _ => false,
    };
    let dims = match turned.filter(|_| transpose) {
        Some(turned) => turned,
        None if fits(sample, &spec.dims) => sample.to_vec(),
        None if fits(&stored.dims, &[&[None], spec.dims.as_slice()].concat()) => {
            return Err(misfit("; it has an axis too many"));
        }
        None if stored.dims.len() + 1 == spec.dims.len() && fits(&stored.dims, &spec.dims) => {
            return Err(misfit("; the first axis has to be the samples"));
        }
        None => return Err(misfit("")),
    };
    if transpose {
        let (from, to) = (layout.other().name(), layout.name());
        notes.push(format!("{name} of shape {:?} is {from} and was transposed to the model's {to}", stored.dims));
    }
    let target_last = layout == Layout::Nhwc;
    let channels = if target_last { dims.last() } else { dims.first() }.copied().unwrap_or(1);
    let order = Arrangement { channels, source_last: target_last != transpose, target_last };
    let pixels = stored.kind == Kind::U8;
    let values = match options {
        Some(o) => {
            notes.extend(o.suspicion(pixels && is_float(&like)));
            o.values(pixels, is_float(&like))
        }
        None => Values::unchanged(),
    };
    values.check(channels).map_err(|why| bad(path, format!("{name} for input {input:?}: {why}")))?;
    Ok(done(Source::Rows { stored: stored.clone(), order, dims }, values))
}

/// Labels from an array of `samples` integers.
pub(super) fn labels(path: &Path, (name, stored): (String, Stored), samples: usize) -> Result<Vec<i64>> {
    let dims = &stored.dims;
    if !matches!(dims.as_slice(), [_] | [_, 1]) {
        return Err(bad(path, format!("{name} has shape {dims:?}, but labels are one integer a sample: [{samples}]")));
    }
    let n = dims.first().copied().unwrap_or(0);
    if n != samples {
        return Err(bad(path, format!("{name} has {n} labels for {samples} samples")));
    }
    let odd = |x: String| bad(path, format!("{name}: the label {x} is not an integer"));
    if stored.kind.is_float() {
        let whole = |x: f64| (x.fract() == 0.0 && x.abs() < 1e15).then_some(x as i64).ok_or_else(|| odd(x.to_string()));
        return stored.kind.floats(&stored.bytes).into_iter().map(whole).collect();
    }
    let narrow = |x: i128| i64::try_from(x).map_err(|_| odd(x.to_string()));
    stored.kind.integers(&stored.bytes).into_iter().map(narrow).collect()
}

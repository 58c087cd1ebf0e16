//! ONNX test data: folders `test_data_set_0`, `test_data_set_1`, … with a tensor file `input_0.pb`, `input_1.pb`, … for each
//! of the model's inputs, in their order.

use super::bad;
use super::element::{Kind, Stored};
use crate::error::Result;
use crate::onnx::proto::TensorProto;
use crate::onnx::tensor;
use crate::onnx::{self};
use crate::runtime::InputSpec;
use bytes::{Bytes, BytesMut};
use prost::Message;
use std::fs;
use std::path::{Path, PathBuf};

/// The inputs of all sets, joined along their first axis, and each sample's name.
pub(super) struct Sets {
    pub arrays: Vec<(String, Stored)>,
    pub names: Vec<String>,
}

/// The sets in or at a folder, in the order of their numbers; none where it is another kind of folder.
pub(super) fn find(dir: &Path) -> Vec<PathBuf> {
    let is_set = |dir: &Path| dir.join("input_0.pb").is_file();
    if is_set(dir) {
        return vec![dir.to_owned()];
    }
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let number = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("test_data_set_")?.parse::<u64>().ok();
    let mut sets: Vec<(u64, PathBuf)> = entries.filter(|p| is_set(p)).filter_map(|p| Some((number(&p)?, p))).collect();
    sets.sort();
    sets.into_iter().map(|(_, path)| path).collect()
}

/// Reads and joins them.
pub(super) fn read(sets: &[PathBuf], specs: &[InputSpec]) -> Result<Sets> {
    let mut names = Vec::new();
    let mut arrays = Vec::new();
    for (k, spec) in specs.iter().enumerate() {
        let mut parts: Vec<(PathBuf, Stored)> = Vec::new();
        for set in sets {
            let path = set.join(format!("input_{k}.pb"));
            if !path.is_file() {
                return Err(bad(&path, format!("no such file; it is to hold the model's input {:?}", spec.name)));
            }
            let stored = stored(&path)?;
            if k == 0 {
                let name = set.file_name().unwrap_or_default().to_string_lossy();
                match stored.dims.first() {
                    Some(&n) if n != 1 => names.extend((0..n).map(|i| format!("{name}[{i}]"))),
                    _ => names.push(name.into_owned()),
                }
            }
            parts.push((path, stored));
        }
        arrays.push((format!("input_{k}.pb"), join(parts)?));
    }
    let extra = |set: &PathBuf| Some(set.join(format!("input_{}.pb", specs.len()))).filter(|p| p.is_file());
    match sets.iter().find_map(extra) {
        Some(path) => Err(bad(&path, format!("the model has only {} inputs", specs.len()))),
        None => Ok(Sets { arrays, names }),
    }
}

fn stored(path: &Path) -> Result<Stored> {
    let proto = TensorProto::decode(onnx::map(path)?)
        .map_err(|e| bad(path, format!("not an ONNX tensor (TensorProto): {e}")))?;
    let read = |e: onnx::OnnxError| bad(path, e);
    let Some(kind) = Kind::of_onnx(proto.data_type()) else {
        let kind = tensor::type_name(proto.data_type());
        return Err(bad(path, format!("elements of type {kind} cannot be read")));
    };
    let (dims, bytes) = (tensor::dims(&proto).map_err(read)?, tensor::raw_le(&proto).map_err(read)?);
    Stored::new(dims, kind, bytes).map_err(|why| bad(path, why))
}

fn join(parts: Vec<(PathBuf, Stored)>) -> Result<Stored> {
    let mut parts = parts.into_iter();
    let Some((first_path, mut all)) = parts.next() else {
        return Ok(Stored { dims: vec![0], kind: Kind::U8, bytes: Bytes::new() });
    };
    let first = all.dims.clone();
    let mut bytes = BytesMut::new();
    for (path, part) in parts {
        if bytes.is_empty() {
            bytes.extend_from_slice(&all.bytes);
        }
        let same = part.kind == all.kind && part.dims.len() == first.len() && part.dims.get(1..) == first.get(1..);
        if !same {
            let why = format!(
                "has shape {:?} of {:?}, but {} has {first:?} of {:?}",
                part.dims,
                part.kind,
                first_path.display(),
                all.kind
            );
            return Err(bad(&path, why));
        }
        match (all.dims.first_mut(), part.dims.first()) {
            (Some(n), Some(more)) => *n = n.saturating_add(*more),
            _ if part.bytes != all.bytes => {
                let why = format!("has another value than {}, and an input without axes has one", first_path.display());
                return Err(bad(&path, why));
            }
            _ => continue,
        }
        bytes.extend_from_slice(&part.bytes);
    }
    if !first.is_empty() && !bytes.is_empty() {
        all.bytes = bytes.freeze();
    }
    Ok(all)
}

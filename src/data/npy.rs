//! NumPy's file format: one array (`.npy`), or a ZIP archive of them (`.npz`).

use super::element::{Kind, Stored};
use bytes::Bytes;
use std::io::{Cursor, Read};
use zip::ZipArchive;

const MAGIC: &[u8] = b"\x93NUMPY";

/// What the header says.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    dims: Vec<usize>,
    kind: Kind,
    big_endian: bool,
    fortran: bool,
    /// Where the elements begin.
    start: usize,
}

/// Whether the bytes look like an array file.
pub(super) fn is_npy(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// The array. The error is why not, without the file.
pub(super) fn array(bytes: &Bytes) -> Result<Stored, String> {
    let header = header(bytes)?;
    let size = Stored::size(&header.dims, header.kind)
        .ok_or_else(|| format!("shape {:?} has more elements than can be counted", header.dims))?;
    let end = header.start.checked_add(size).filter(|&end| end <= bytes.len()).ok_or_else(|| {
        let rest = bytes.len().saturating_sub(header.start);
        format!("the file is truncated: shape {:?} takes {size} bytes, but there are {rest}", header.dims)
    })?;
    let mut elements = bytes.slice(header.start..end);
    if header.big_endian && header.kind.width() > 1 {
        let mut swapped = elements.to_vec();
        swapped.chunks_exact_mut(header.kind.width()).for_each(<[u8]>::reverse);
        elements = swapped.into();
    }
    let stored = Stored::new(header.dims, header.kind, elements)?;
    Ok(if header.fortran { stored.row_major() } else { stored })
}

fn header(bytes: &[u8]) -> Result<Header, String> {
    let broken = || "not a NumPy array: its header is damaged".to_owned();
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| "not a NumPy array".to_owned())?;
    let (&[major, _minor], rest) = rest.split_first_chunk().ok_or_else(broken)?;
    let (len, rest, before) = match major {
        1 => rest.split_first_chunk().map(|(n, rest)| (usize::from(u16::from_le_bytes(*n)), rest, 10)),
        2 | 3 => rest.split_first_chunk().map(|(n, rest)| (u32::from_le_bytes(*n) as usize, rest, 12)),
        v => return Err(format!("a NumPy array of the unknown format version {v}")),
    }
    .ok_or_else(broken)?;
    let text = rest.get(..len).and_then(|t| std::str::from_utf8(t).ok()).ok_or_else(broken)?;
    let field = |name: &str| {
        let at = text.find(&format!("'{name}'"))?;
        text.get(at + name.len() + 2..)?.trim_start().strip_prefix(':').map(str::trim_start)
    };
    let (kind, big_endian) = kind(field("descr").ok_or_else(broken)?)?;
    let order = field("fortran_order").ok_or_else(broken)?;
    let fortran = order.starts_with("True");
    if !fortran && !order.starts_with("False") {
        return Err(broken());
    }
    let shape = field("shape").and_then(|s| s.strip_prefix('(')?.split_once(')')).ok_or_else(broken)?.0;
    let extents = shape.split(',').map(|d| d.trim().trim_end_matches('L')).filter(|d| !d.is_empty());
    let dims = extents.map(str::parse).collect::<Result<_, _>>().map_err(|_| broken())?;
    Ok(Header { dims, kind, big_endian, fortran, start: before + len })
}

/// The element type of a description such as `'<f4'`, and whether it is big-endian.
fn kind(descr: &str) -> Result<(Kind, bool), String> {
    let refuse = |what: &str| {
        Err(format!(
            "elements of NumPy type {what} cannot be read; booleans, integers and floats of at most 64 bits can"
        ))
    };
    let Some(name) = descr.strip_prefix('\'').and_then(|d| Some(d.split_once('\'')?.0)) else {
        return refuse("with fields");
    };
    let big_endian = name.starts_with('>');
    let kind = match name.trim_start_matches(['<', '>', '|', '=']) {
        "b1" | "?" => Kind::Bool,
        "u1" | "B" => Kind::U8,
        "i1" | "b" => Kind::I8,
        "u2" => Kind::U16,
        "i2" => Kind::I16,
        "u4" => Kind::U32,
        "i4" => Kind::I32,
        "u8" => Kind::U64,
        "i8" => Kind::I64,
        "f2" => Kind::F16,
        "f4" => Kind::F32,
        "f8" => Kind::F64,
        _ => return refuse(&format!("{name:?}")),
    };
    Ok((kind, big_endian))
}

/// An archive of arrays.
pub(super) struct Npz(ZipArchive<Cursor<Bytes>>);

impl Npz {
    pub fn open(bytes: Bytes) -> Result<Self, String> {
        ZipArchive::new(Cursor::new(bytes)).map(Self).map_err(|e| format!("not a readable .npz archive: {e}"))
    }

    /// The arrays' names, in the archive's order.
    pub fn names(&self) -> Vec<String> {
        let names = self.0.file_names().filter_map(Result::ok);
        names.filter_map(|n| n.strip_suffix(".npy").map(str::to_owned)).collect()
    }

    pub fn array(&mut self, name: &str) -> Result<Stored, String> {
        let unreadable = |e: &dyn std::fmt::Display| format!("array {name:?} cannot be read: {e}");
        let mut entry = self.0.by_name(&format!("{name}.npy")).map_err(|e| unreadable(&e))?;
        let mut bytes = Vec::new();
        // Not reserved ahead: the size that the archive states may be anything.
        entry.read_to_end(&mut bytes).map_err(|e| unreadable(&e))?;
        array(&bytes.into()).map_err(|e| format!("array {name:?}: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str, data: &[u8]) -> Bytes {
        let mut bytes = [MAGIC, &[version, 0]].concat();
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes.into()
    }

    fn dict(descr: &str, fortran: &str, shape: &str) -> String {
        format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}   \n")
    }

    #[test]
    fn headers_of_every_version_are_read() {
        for version in 1..=3 {
            let stored = array(&file(version, &dict("<i2", "False", "(2, 1)"), &[1, 0, 2, 0])).unwrap();
            assert_eq!((stored.dims, stored.kind), (vec![2, 1], Kind::I16));
        }
        let scalar = array(&file(1, &dict("|b1", "False", "()"), &[1])).unwrap();
        assert_eq!((scalar.dims, scalar.kind), (vec![], Kind::Bool));
        assert_eq!(array(&file(1, &dict("|u1", "False", "(3,)"), &[1, 2, 3])).unwrap().dims, [3]);
    }

    #[test]
    fn byte_order_and_fortran_order_are_undone() {
        let stored = array(&file(1, &dict(">i4", "False", "(2,)"), &[0, 0, 0, 1, 0, 0, 1, 0])).unwrap();
        assert_eq!(stored.kind.integers(&stored.bytes), [1, 256]);
        let stored = array(&file(1, &dict("|u1", "True", "(2, 2)"), &[1, 2, 3, 4])).unwrap();
        assert_eq!(stored.bytes.to_vec(), [1, 3, 2, 4]);
    }

    #[test]
    fn every_truncation_and_other_types_are_errors() {
        let whole = file(1, &dict("<f4", "False", "(2,)"), &[0; 8]);
        for end in 0..whole.len() {
            assert!(array(&whole.slice(..end)).is_err(), "{end}");
        }
        let refused = |descr: &str, shape: &str| array(&file(1, &dict(descr, "False", shape), &[0; 8])).unwrap_err();
        assert!(refused("<U12", "(1,)").contains("<U12"));
        assert!(refused("<f4", "(3,)").contains("truncated"));
        assert!(refused("<f4", "(18446744073709551615, 2)").contains("counted"));
        assert!(refused("<f4", "(-1,)").contains("damaged"));
        assert!(array(&file(9, "", &[])).unwrap_err().contains("version 9"));
        let fields = "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }";
        assert!(array(&file(1, fields, &[0; 4])).unwrap_err().contains("with fields"));
    }
}

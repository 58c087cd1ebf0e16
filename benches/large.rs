//! A model of 3 GB with external data, pruned by the binary: wall time against a plain copy, and peak memory.
//!
//! ```text
//! cargo bench --bench large -- 3       # size in GB; needs twice that in the temporary directory, takes a minute
//! ```

use onnx_prune::onnx::proto::tensor_shape_proto::{Dimension, dimension::Value};
use onnx_prune::onnx::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};
use prost::Message;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// Width of the hidden layers: 64 MiB of weights each.
const WIDTH: usize = 4096;
const LAYER: u64 = (WIDTH * WIDTH * 4) as u64;

fn main() -> ExitCode {
    let size = std::env::args().skip(1).find_map(|a| a.parse().ok());
    let Some(size) = size else {
        println!("large: not run; it writes gigabytes: cargo bench --bench large -- 3");
        return ExitCode::SUCCESS;
    };
    match run(size) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(gigabytes: f64) -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let layers = ((gigabytes * 1e9) as u64).div_ceil(LAYER).max(2) as usize;
    let model = dir.path().join("large.onnx");
    write_model(&model, layers)?;
    let data = dir.path().join("large.data");
    let size = fs::metadata(&data)?.len();
    let start = Instant::now();
    let copy = dir.path().join("copy");
    fs::copy(&data, &copy)?;
    let copied = start.elapsed();
    fs::remove_file(copy)?;
    let start = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnx-prune"));
    let out = dir.path().join("small.onnx");
    command.arg(&model).args(["--ratio", "0.4", "--no-verify", "-q", "-o"]).arg(&out);
    let peak = peak(command)?;
    let took = start.elapsed();
    let after = fs::metadata(dir.path().join("small.onnx.data"))?.len();
    println!("{layers} layers, {:.2} GB of external data → {:.2} GB", size as f64 / 1e9, after as f64 / 1e9);
    println!("copy {copied:.2?}, pruned in {took:.2?}: {:.1} x the copy", took.as_secs_f64() / copied.as_secs_f64());
    match peak {
        Some(kb) => println!("peak memory {:.2} GB = {:.2} x the file", kb * 1024.0 / 1e9, kb * 1024.0 / size as f64),
        None => println!("peak memory: not known on this system"),
    }
    Ok(())
}

/// Runs to the end; highest resident memory in kB (Linux only).
fn peak(mut command: Command) -> io::Result<Option<f64>> {
    let mut child = command.spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = None;
    loop {
        if let Some(code) = child.try_wait()? {
            return if code.success() { Ok(peak) } else { Err(io::Error::other(format!("onnx-prune: {code}"))) };
        }
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        peak = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse().ok()).or(peak);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Gemm → Relu, `layers` times, written layer by layer: never in memory as a whole.
fn write_model(path: &Path, layers: usize) -> io::Result<()> {
    let mut data = BufWriter::new(File::create(path.with_extension("data"))?);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut row = vec![0u8; WIDTH * 4];
    let mut g = GraphProto { name: Some("large".into()), ..Default::default() };
    let mut x = "x".to_owned();
    for i in 0..layers {
        for _ in 0..WIDTH {
            for v in row.chunks_exact_mut(4) {
                let uniform = rng.next_u32() as f32 / u32::MAX as f32 - 0.5;
                v.copy_from_slice(&(uniform * 0.03).to_le_bytes());
            }
            data.write_all(&row)?;
        }
        let entry = |k: &str, v: String| StringStringEntryProto { key: Some(k.into()), value: Some(v) };
        g.initializer.push(TensorProto {
            name: Some(format!("w{i}")),
            data_type: Some(1),
            dims: vec![WIDTH as i64; 2],
            data_location: Some(1),
            external_data: vec![
                entry("location", "large.data".into()),
                entry("offset", (i as u64 * LAYER).to_string()),
                entry("length", LAYER.to_string()),
            ],
            ..Default::default()
        });
        let node = |op: &str, inputs: &[&str], out: String| NodeProto {
            name: Some(format!("{op}{i}")),
            op_type: Some(op.into()),
            input: inputs.iter().map(|s| (*s).to_owned()).collect(),
            output: vec![out],
            ..Default::default()
        };
        g.node.push(node("Gemm", &[&x, &format!("w{i}")], format!("y{i}")));
        x = format!("y{i}");
        if i + 1 < layers {
            g.node.push(node("Relu", &[&x], format!("z{i}")));
            x = format!("z{i}");
        }
    }
    data.flush()?;
    g.input.push(info("x"));
    g.output.push(info(&x));
    let model = ModelProto {
        ir_version: Some(8),
        graph: Some(g),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        ..Default::default()
    };
    fs::write(path, model.encode_to_vec())
}

fn info(name: &str) -> ValueInfoProto {
    let dim = [1, WIDTH as i64].map(|d| Dimension { denotation: None, value: Some(Value::DimValue(d)) }).to_vec();
    let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}

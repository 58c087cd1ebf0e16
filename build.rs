//! Compiles `proto/onnx.proto` to Rust with protox, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/onnx.proto");
    let files = protox::compile(["proto/onnx.proto"], ["proto"])?;
    prost_build::Config::new()
        // Raw tensor data stays inside the memory-mapped file.
        .bytes([".onnx.TensorProto.raw_data"])
        .compile_fds(files)?;
    Ok(())
}

//! `onnx-prune data`: every kind of data, as a user meets it.

mod build;

use build::run::{fixture, ok, refused, run, with_net};
use build::{info, model, node};
use image::{GrayImage, Luma, Rgb, RgbImage};
use onnx_prune::onnx::proto::ModelProto;
use onnx_prune::onnx::tensor::from_f32;
use prost::Message;
use std::fs;
use std::io::Write;
use std::path::Path;
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A `.npy` file.
fn npy(descr: &str, fortran: bool, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let order = if fortran { "True" } else { "False" };
    let extents: String = shape.iter().map(|d| format!("{d}, ")).collect();
    let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({extents}), }}\n");
    [b"\x93NUMPY\x01\0", (header.len() as u16).to_le_bytes().as_slice(), header.as_bytes(), data].concat()
}

fn npz(path: &Path, method: CompressionMethod, arrays: &[(&str, Vec<u8>)]) {
    let mut zip = ZipWriter::new(fs::File::create(path).unwrap());
    for (name, bytes) in arrays {
        let options = SimpleFileOptions::default().compression_method(method);
        zip.start_file(format!("{name}.npy"), options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

fn longs(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Relu alone, so that any shape can be fed.
fn write_model(dir: &TempDir, name: &str, inputs: &[(&str, &[i64])]) {
    let nodes = inputs.iter().map(|(x, _)| node("Relu", &format!("relu_{x}"), &[x], &[&format!("out_{x}")])).collect();
    let outputs = inputs.iter().map(|(x, dims)| info(&format!("out_{x}"), dims)).collect();
    let proto: ModelProto = model(nodes, vec![], inputs.iter().map(|(x, dims)| info(x, dims)).collect(), outputs);
    fs::write(dir.path().join(name), proto.encode_to_vec()).unwrap();
}

fn json(dir: &TempDir, args: &str) -> serde_json::Value {
    serde_json::from_str(&ok(dir, &format!("data --format json {args}"))).unwrap()
}

/// The figures of one channel.
fn channel(json: &serde_json::Value, c: usize, key: &str) -> f64 {
    json["inputs"][0]["channels"][c][key].as_f64().unwrap()
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-6 * b.abs().max(1.0), "{a} is not {b}");
}

fn notes(json: &serde_json::Value) -> String {
    json["notes"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_fixture_is_shown() {
    let dir = with_net();
    fs::copy(fixture("fashion_test.npz"), dir.path().join("d.npz")).unwrap();
    let text = ok(&dir, "data net.onnx --data d.npz --mean .2860 --std .3530 --first 500");
    for word in
        ["d.npz for net.onnx", "500, in 16 batches of 32", "10 classes (0:", "[32, 1, 28, 28]", "FLOAT", "input"]
    {
        assert!(text.contains(word), "{word}:\n{text}");
    }
    assert!(text.lines().all(|l| l.chars().count() <= 100), "{text}");
    let all = json(&dir, "net.onnx --data d.npz --mean .2860 --std .3530 --first 500");
    assert_eq!((&all["samples"], &all["measured"], &all["batches"]), (&500.into(), &500.into(), &16.into()));
    close(channel(&all, 0, "min"), -0.2860 / 0.3530);
    close(channel(&all, 0, "max"), (1.0 - 0.2860) / 0.3530);
    // The statistics of Fashion-MNIST.
    assert!(channel(&all, 0, "mean").abs() < 0.05 && (channel(&all, 0, "std") - 1.0).abs() < 0.05, "{all:#}");
    let labelled: u64 = all["labels"].as_array().unwrap().iter().map(|l| l["samples"].as_u64().unwrap()).sum();
    assert_eq!(labelled, 500);
    assert_eq!(ok(&dir, "data net.onnx --data d.npz --quiet"), "");

    let some = "net.onnx --data d.npz --samples 100 --batch 50";
    let a = json(&dir, some);
    assert_eq!((&a["samples"], &a["batches"], &a["batch_size"]), (&100.into(), &2.into(), &50.into()));
    assert_eq!(a, json(&dir, &format!("{some} --threads 1")));
    assert_ne!(a, json(&dir, &format!("{some} --seed 1")));
    assert!(
        notes(&json(&dir, "net.onnx --data d.npz --samples 501"))
            .contains("501 samples were asked for, but there are 500")
    );
}

#[test]
fn arrays_are_read_in_every_form() {
    let dir = TempDir::new().unwrap();
    write_model(&dir, "m.onnx", &[("x", &[-1, 2, 3])]);
    let at = |name: &str| dir.path().join(name);
    // 0 to 11 in two samples, and the same in Fortran's order.
    let c: Vec<f32> = (0..12u8).map(f32::from).collect();
    let f: Vec<f32> =
        (0..3).flat_map(|k| (0..2).flat_map(move |j| (0..2).map(move |i| (i * 6 + j * 3 + k) as f32))).collect();
    let shape = [2, 2, 3];
    fs::write(at("c.npy"), npy("<f4", false, &shape, &floats(&c))).unwrap();
    fs::write(at("f.npy"), npy("<f4", true, &shape, &floats(&f))).unwrap();
    let y = ("y", npy("<i4", false, &[2], &[5, 0, 0, 0, 6, 0, 0, 0]));
    let x = ("x", npy("<f4", true, &shape, &floats(&f)));
    npz(&at("stored.npz"), CompressionMethod::Stored, &[x.clone(), y.clone()]);
    npz(&at("deflated.npz"), CompressionMethod::Deflated, &[x, y]);
    npz(&at("other.npz"), CompressionMethod::Stored, &[("arr_0", npy("<f4", false, &shape, &floats(&c)))]);
    let bytes = floats(&c);
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), &bytes).unwrap();
    fs::write(at("s.safetensors"), safetensors::serialize([("x", view)], None).unwrap()).unwrap();
    for name in ["c.npy", "f.npy", "stored.npz", "deflated.npz", "other.npz", "s.safetensors"] {
        let found = json(&dir, &format!("m.onnx --data {name}"));
        assert_eq!(found["inputs"][0]["shape"], serde_json::json!([2, 2, 3]), "{name}");
        // Channel 0 is 0 1 2 6 7 8, channel 1 is 3 4 5 9 10 11.
        assert_eq!([0, 1].map(|c| channel(&found, c, "mean")), [4.0, 7.0], "{name}");
        assert_eq!(notes(&found), "", "{name}");
        let labelled = found["labels"].as_array().map(|l| l.len());
        assert_eq!(labelled, name.contains("ed.npz").then_some(2), "{name}");
    }
    let all: Vec<f64> = (0..12).map(f64::from).collect();
    for (descr, bytes) in [
        ("|u1", all.iter().map(|&v| v as u8).collect::<Vec<u8>>()),
        ("|i1", all.iter().map(|&v| v as u8).collect()),
        ("<i2", all.iter().flat_map(|&v| (v as i16).to_le_bytes()).collect()),
        (">i4", all.iter().flat_map(|&v| (v as i32).to_be_bytes()).collect()),
        ("<i8", all.iter().flat_map(|&v| (v as i64).to_le_bytes()).collect()),
        ("<f2", all.iter().flat_map(|&v| half::f16::from_f64(v).to_le_bytes()).collect()),
        ("<f8", all.iter().flat_map(|&v| v.to_le_bytes()).collect()),
    ] {
        fs::write(at("t.npy"), npy(descr, false, &shape, &bytes)).unwrap();
        let found = json(&dir, "m.onnx --data t.npy --scale 1");
        assert_eq!([0, 1].map(|c| channel(&found, c, "mean")), [4.0, 7.0], "{descr}");
    }
    fs::write(at("t.npy"), npy("|b1", false, &[1, 2, 3], &[1, 0, 1, 0, 0, 0])).unwrap();
    close(channel(&json(&dir, "m.onnx --data t.npy"), 0, "mean"), 2.0 / 3.0);
}

#[test]
fn bad_arrays_are_refused() {
    let dir = with_net();
    let at = |name: &str| dir.path().join(name);
    let pixels = |n: usize| npy("|u1", false, &[n, 1, 28, 28], &vec![9; n * 784]);
    fs::write(at("shape.npy"), npy("|u1", false, &[2, 3, 32, 32], &vec![0; 6144])).unwrap();
    fs::write(at("text.npy"), npy("<U4", false, &[2], &[0; 32])).unwrap();
    fs::write(at("short.npy"), &pixels(2)[..900]).unwrap();
    fs::write(at("fake.npz"), "no archive").unwrap();
    fs::write(at("fake.safetensors"), "no archive").unwrap();
    fs::write(at("empty.npy"), "").unwrap();
    fs::write(at("notes.txt"), "notes").unwrap();
    let mut nan = vec![0.0; 784];
    nan[5] = f32::NAN;
    fs::write(at("nan.npy"), npy("<f4", false, &[1, 1, 28, 28], &floats(&nan))).unwrap();
    for (file, words) in [
        ("shape.npy", ["[2, 3, 32, 32]", "[?, 1, 28, 28]"]),
        ("text.npy", ["<U4", "cannot be read"]),
        ("short.npy", ["truncated", "1568 bytes"]),
        ("fake.npz", ["not a NumPy .npz", "file"]),
        ("fake.safetensors", ["not a readable safetensors", "file"]),
        ("empty.npy", ["is empty", "file"]),
        ("notes.txt", ["unknown kind", ".npz"]),
        ("nan.npy", ["sample 0", "element 5 is NaN"]),
        ("missing.npz", ["no such file", "folder"]),
    ] {
        refused(&dir, &format!("data net.onnx --data {file}"), &[file, words[0], words[1]]);
    }
    let labels = |dims: &[usize], values: &[i64]| ("labels", npy("<i8", false, dims, &longs(values)));
    let write = |arrays: &[(&str, Vec<u8>)]| npz(&at("d.npz"), CompressionMethod::Deflated, arrays);
    let short = "data net.onnx --data d.npz";
    write(&[("input", pixels(2)), labels(&[3], &[1, 2, 3])]);
    refused(&dir, short, &["d.npz", "\"labels\" has 3 labels for 2 samples"]);
    write(&[("input", pixels(2)), ("labels", npy("<f4", false, &[2], &floats(&[1.0, 0.5])))]);
    refused(&dir, short, &["d.npz", "the label 0.5 is not an integer"]);
    write(&[("a", pixels(2)), ("b", pixels(2))]);
    refused(&dir, short, &["d.npz", "which of the arrays \"a\", \"b\" is input \"input\""]);
    write(&[labels(&[1], &[1])]);
    refused(&dir, short, &["d.npz", "no array for the model's input \"input\""]);
    write(&[("input", pixels(2))]);
    // A flipped bit in what is stored.
    let mut bytes = fs::read(at("d.npz")).unwrap();
    let middle = bytes.windows(4).position(|w| w == b"PK\x01\x02").unwrap() - 4;
    bytes[middle] ^= 0x10;
    fs::write(at("broken.npz"), bytes).unwrap();
    refused(&dir, "data net.onnx --data broken.npz", &["broken.npz", "\"input\" cannot be read"]);
    for (flags, words) in [
        ("--samples 0", ["samples", "at least 1"]),
        ("--batch 0", ["batch", "at least 1"]),
        ("--mean 1,2", ["mean has 2 values", "1 channels"]),
        ("--std 0", ["std", "above 0"]),
        ("--mean abc", ["--mean", "not a number"]),
        ("--scale 0", ["scale", "other than 0"]),
        ("--resize 3x", ["--resize", "192x48"]),
        ("--resize 30", ["--resize is for images", "[2, 1, 28, 28]"]),
        ("--channel-order bgr", ["bgr", "3 channels"]),
        ("--input nope", ["no input \"nope\"", "\"input\""]),
        ("--first 0", ["--first", "at least 1"]),
    ] {
        refused(&dir, &format!("{short} {flags}"), &words);
    }
    refused(&dir, "data net.onnx", &["no data", "--data PATH", "onnx-prune.toml"]);
    refused(&dir, "data net.onnx --samples 3", &["--samples", "there is none"]);
}

#[test]
fn images_of_one_folder_a_class() {
    let dir = TempDir::new().unwrap();
    write_model(&dir, "m.onnx", &[("x", &[-1, 3, 4, 4])]);
    for (class, name, colour) in
        [("b", "1.png", [0, 51, 255]), ("a", "2.bmp", [255, 51, 0]), ("a", "3.webp", [0, 51, 0])]
    {
        fs::create_dir_all(dir.path().join("photos").join(class)).unwrap();
        RgbImage::from_pixel(7, 5, Rgb(colour)).save(dir.path().join("photos").join(class).join(name)).unwrap();
    }
    let found = json(&dir, "m.onnx --data photos");
    assert_eq!(found["inputs"][0]["shape"], serde_json::json!([3, 3, 4, 4]));
    let means: Vec<f64> = (0..3).map(|c| channel(&found, c, "mean")).collect();
    for (mean, expected) in means.iter().zip([1.0 / 3.0, 0.2, 1.0 / 3.0]) {
        close(*mean, expected);
    }
    assert_eq!(found["labels"], serde_json::json!([{"label": 0, "samples": 2}, {"label": 1, "samples": 1}]));

    // By hand: class a alone in blue, green, red order.
    let found = json(&dir, "m.onnx --data photos/a --channel-order bgr --preprocess imagenet-tf");
    close(channel(&found, 2, "max"), 1.0);
    close(channel(&found, 0, "max"), -1.0);
    close(channel(&found, 1, "mean"), (51.0 - 127.5) / 127.5);
    let found = json(&dir, "m.onnx --data photos/a --preprocess imagenet");
    close(channel(&found, 0, "max"), (1.0 - 0.485) / 0.229);
    close(channel(&found, 1, "mean"), (0.2 - 0.456) / 0.224);
    close(channel(&found, 2, "min"), -0.406 / 0.225);
    let found = json(&dir, "m.onnx --data photos/a --preprocess imagenet --std .5 --mean -1,0,1");
    close(channel(&found, 0, "max"), 4.0);
    close(channel(&found, 2, "min"), -2.0);
    assert_eq!(channel(&json(&dir, "m.onnx --data photos/a --preprocess none"), 0, "max"), 255.0);
    close(channel(&json(&dir, "m.onnx --data photos/a --preprocess unit"), 1, "max"), 0.2);
    let note = notes(&json(&dir, "m.onnx --data photos/a --mean 127 --std 128"));
    assert!(note.contains("--scale 1"), "{note}");

    refused(&dir, "data m.onnx --data photos/a --resize 4", &["photos/a/2.bmp", "5x4 after resizing", "4x4"]);
    refused(&dir, "data m.onnx --data photos/a --crop 3", &["3x3", "[?, 3, 4, 4]"]);
    assert_eq!(json(&dir, "m.onnx --data photos/a --resize 4 --crop 4")["samples"], 2);
    fs::write(dir.path().join("photos/a/4.jpg"), "no image").unwrap();
    refused(&dir, "data m.onnx --data photos", &["photos/a/4.jpg", "cannot be read"]);
    fs::create_dir(dir.path().join("none")).unwrap();
    refused(&dir, "data m.onnx --data none", &["none", "no images"]);
    write_model(&dir, "two.onnx", &[("x", &[-1, 3, 4, 4]), ("mask", &[-1, 2])]);
    refused(&dir, "data two.onnx --data photos --input x", &["photos", "the model has 2", "\"mask\""]);
}

#[test]
fn images_of_a_flat_folder_with_labels() {
    let dir = TempDir::new().unwrap();
    write_model(&dir, "grey.onnx", &[("x", &[1, 6, 6, 1])]);
    fs::create_dir(dir.path().join("p")).unwrap();
    for (name, level) in [("0003_a.png", 51), ("0001_b.png", 102)] {
        GrayImage::from_pixel(6, 6, Luma([level])).save(dir.path().join("p").join(name)).unwrap();
    }
    let found = json(&dir, "grey.onnx --data p");
    assert_eq!(found["inputs"][0]["shape"], serde_json::json!([1, 6, 6, 1]));
    assert_eq!((&found["batches"], &found["labels"]), (&2.into(), &serde_json::Value::Null));
    close(channel(&found, 0, "mean"), 0.3);
    let named = json(&dir, "grey.onnx --data p --labels-from name");
    assert_eq!(named["labels"], serde_json::json!([{"label": 1, "samples": 1}, {"label": 3, "samples": 1}]));
    fs::write(dir.path().join("p/labels.csv"), "file,label\n0001_b.png,8\n0003_a.png,8\n").unwrap();
    assert_eq!(json(&dir, "grey.onnx --data p")["labels"], serde_json::json!([{"label": 8, "samples": 2}]));
    fs::write(dir.path().join("p/labels.csv"), "0001_b.png,8\n").unwrap();
    refused(&dir, "data grey.onnx --data p", &["labels.csv", "1 of 2 images have no label"]);
    fs::write(dir.path().join("p/labels.csv"), "0001_b.png,8\n0003_a.png,cat\n").unwrap();
    refused(&dir, "data grey.onnx --data p", &["labels.csv", "\"cat\"", "not an integer"]);
    write_model(&dir, "open.onnx", &[("x", &[-1, 3, -1, -1])]);
    fs::remove_file(dir.path().join("p/labels.csv")).unwrap();
    GrayImage::from_pixel(8, 6, Luma([9])).save(dir.path().join("p/0002_c.png")).unwrap();
    refused(
        &dir,
        "data open.onnx --data p",
        &["0001_b.png has shape [3, 6, 6]", "0002_c.png has [3, 6, 8]", "--batch 1"],
    );
    assert_eq!(json(&dir, "open.onnx --data p --batch 1")["batches"], 3);
    assert_eq!(json(&dir, "open.onnx --data p --resize 8x4")["inputs"][0]["shape"], serde_json::json!([3, 3, 4, 8]));
}

#[test]
fn onnx_test_data() {
    let dir = TempDir::new().unwrap();
    write_model(&dir, "m.onnx", &[("a", &[1, 2]), ("b", &[1, 3])]);
    let put = |set: &str, file: &str, dims: &[usize], values: &[f32]| {
        fs::create_dir_all(dir.path().join(set)).unwrap();
        fs::write(dir.path().join(set).join(file), from_f32("t", dims, values).encode_to_vec()).unwrap();
    };
    for (k, set) in ["t/test_data_set_0", "t/test_data_set_2", "t/test_data_set_10"].iter().enumerate() {
        put(set, "input_0.pb", &[1, 2], &[k as f32, k as f32]);
        put(set, "input_1.pb", &[1, 3], &[10.0, 10.0, 10.0 + k as f32]);
        put(set, "output_0.pb", &[1], &[0.0]);
    }
    let found = json(&dir, "m.onnx --data t");
    assert_eq!((&found["samples"], &found["batches"]), (&3.into(), &3.into()));
    assert_eq!((channel(&found, 0, "mean"), channel(&found, 0, "max")), (1.0, 2.0));
    assert_eq!(found["inputs"][1]["channels"][0]["max"], 12.0);
    assert_eq!(json(&dir, "m.onnx --data t/test_data_set_10")["inputs"][0]["channels"][0]["mean"], 2.0);
    put("t/test_data_set_2", "input_1.pb", &[1, 4], &[0.0; 4]);
    refused(&dir, "data m.onnx --data t", &["test_data_set_2/input_1.pb", "[1, 4]", "[1, 3]"]);
    fs::remove_file(dir.path().join("t/test_data_set_2/input_1.pb")).unwrap();
    refused(&dir, "data m.onnx --data t", &["test_data_set_2/input_1.pb", "no such file", "\"b\""]);
    write_model(&dir, "one.onnx", &[("a", &[1, 2])]);
    refused(&dir, "data one.onnx --data t", &["input_1.pb", "only 1"]);
    fs::write(dir.path().join("t/test_data_set_10/input_0.pb"), [0xff; 9]).unwrap();
    refused(&dir, "data m.onnx --data t/test_data_set_10", &["input_0.pb", "not an ONNX tensor"]);
}

#[test]
fn a_file_beside_the_model_says_it_all() {
    let dir = with_net();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::copy(fixture("fashion_test.npz"), dir.path().join("sub/d.npz")).unwrap();
    fs::rename(dir.path().join("net.onnx"), dir.path().join("sub/net.onnx")).unwrap();
    let write = |text: &str| fs::write(dir.path().join("sub/onnx-prune.toml"), text).unwrap();
    write("[data]\npath = \"d.npz\"\nsamples = 40\nbatch = 16\nmean = 0.286\nstd = [0.353]\n");
    let found = json(&dir, "sub/net.onnx");
    assert_eq!((&found["samples"], &found["batches"]), (&40.into(), &3.into()));
    close(channel(&found, 0, "min"), -0.286 / 0.353);
    let found = json(&dir, "sub/net.onnx --samples 50 --std 1");
    assert_eq!(found["samples"], 50);
    close(channel(&found, 0, "min"), -0.286);
    close(channel(&json(&dir, "sub/net.onnx --preprocess none"), 0, "max"), 255.0);
    refused(&dir, "data sub/net.onnx --no-data", &["no data"]);
    write("[data]\npath = \"d.npz\"\nsample = 40\n");
    refused(&dir, "data sub/net.onnx", &["onnx-prune.toml", "line 3", "sample", "samples", "channel-order"]);
    write("[data]\npath = \"gone.npz\"\n");
    refused(&dir, "data sub/net.onnx", &["sub/gone.npz", "no such file"]);
    let ran = run(&dir, "data sub/net.onnx --data sub/d.npz --mean");
    assert_eq!(ran.code, 2);
}

/// The accuracy that the fixtures' README states, so arithmetic, order and labels are right all the way.
#[cfg(feature = "tract")]
#[test]
fn a_trained_network_recognises_what_it_is_fed() {
    use onnx_prune::data::{DataOptions, Dataset, Preprocess};
    let model = onnx_prune::onnx::load(&fixture("residual.bn.onnx")).unwrap();
    let preprocess = Preprocess { mean: Some(vec![0.2860]), std: Some(vec![0.3530]), ..Default::default() };
    let options = DataOptions { batch: Some(64), preprocess, ..Default::default() };
    let data = Dataset::open(&fixture("fashion_test.npz"), &model, &options).unwrap();
    let mut session = onnx_prune::runtime::embedded().unwrap().load(&model).unwrap();
    let mut right = 0;
    for k in 0..data.batches() {
        let logits = session.run(&data.batch(k).unwrap()).unwrap().remove(0).1.to_f64();
        let labels = &data.labels().unwrap()[data.range(k)];
        assert_eq!(logits.len(), labels.len() * 10);
        for (row, &label) in logits.chunks(10).zip(labels) {
            right += usize::from(row.iter().all(|x| *x <= row[label as usize]));
        }
    }
    assert_eq!(right, 451);
}

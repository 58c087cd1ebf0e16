use super::*;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{
    GraphProto, ModelProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};
use safetensors::{Dtype, tensor::TensorView};
use std::fs;
use tempfile::TempDir;

/// A model that has inputs; 0 is an open extent.
fn model(inputs: &[(&str, DataType, &[i64])]) -> Model {
    let info = |&(name, kind, dims): &(&str, DataType, &[i64])| {
        let dim = |&d: &i64| tensor_shape_proto::Dimension {
            value: (d > 0).then_some(tensor_shape_proto::dimension::Value::DimValue(d)),
            ..Default::default()
        };
        let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
        let value = Some(type_proto::Value::TensorType(type_proto::Tensor { elem_type: Some(kind as i32), shape }));
        let r#type = Some(TypeProto { value, ..Default::default() });
        ValueInfoProto { name: Some(name.into()), r#type, ..Default::default() }
    };
    let graph = GraphProto { input: inputs.iter().map(info).collect(), ..Default::default() };
    Model::from_proto(ModelProto { graph: Some(graph), ..Default::default() }, "m.onnx")
}

fn image_model(dims: &[i64]) -> Model {
    model(&[("x", DataType::Float, dims)])
}

/// A safetensors file of arrays.
fn tensors(dir: &TempDir, arrays: &[(&str, Dtype, &[usize], Vec<u8>)]) -> PathBuf {
    let views =
        arrays.iter().map(|(name, kind, dims, bytes)| (*name, TensorView::new(*kind, dims.to_vec(), bytes).unwrap()));
    let path = dir.path().join("d.safetensors");
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    path
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn longs(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn refused(path: &Path, model: &Model, options: &DataOptions, words: &[&str]) {
    let message = Dataset::open(path, model, options).map(|d| d.len()).unwrap_err().to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message}");
    }
}

#[test]
fn batches_go_through_all_samples() {
    let dir = TempDir::new().unwrap();
    let path = tensors(
        &dir,
        &[
            ("x", Dtype::U8, &[5, 1, 1, 2], (0..10).map(|v| v * 5).collect()),
            ("y", Dtype::I64, &[5], longs(&[4, 3, 2, 1, 0])),
        ],
    );
    let options = DataOptions { batch: Some(2), ..Default::default() };
    let data = Dataset::open(&path, &image_model(&[0, 1, 1, 2]), &options).unwrap();
    assert_eq!((data.len(), data.batch_size(), data.batches()), (5, 2, 3));
    assert_eq!([data.range(0), data.range(2), data.range(3)], [0..2, 4..5, 5..5]);
    assert_eq!(data.labels(), Some([4, 3, 2, 1, 0].as_slice()));
    let (name, array) = data.batch(2).unwrap().remove(0);
    assert_eq!((name.as_str(), array.dims), ("x", vec![1, 1, 1, 2]));
    assert_eq!(array.data, Data::F32(vec![40.0 / 255.0, 45.0 / 255.0]));
    assert_eq!(data.name(3), "3");
    assert!(data.batch(3).unwrap_err().to_string().contains("no batch 3, only 3"));
    assert!(data.notes().is_empty(), "{:?}", data.notes());

    let part = data.select(&[4, 1]).unwrap();
    assert_eq!((part.labels(), part.name(0)), (Some([0, 3].as_slice()), "4".to_owned()));
    let (a, b) = data.split(3).unwrap();
    assert_eq!((a.len(), b.len(), b.labels()), (3, 2, Some([1, 0].as_slice())));
    assert_eq!(b.batch(0).unwrap()[0].1.data, Data::F32([30, 35, 40, 45].map(|v| v as f32 / 255.0).to_vec()));
    assert!(
        data.split(0).is_err() && data.split(5).is_err() && data.select(&[5]).is_err() && data.select(&[]).is_err()
    );
}

#[test]
fn datasets_can_be_shared_between_threads() {
    fn shared<T: Clone + Send + Sync>() {}
    shared::<Dataset>();
}

#[test]
fn a_draw_is_the_same_for_the_same_seed() {
    let dir = TempDir::new().unwrap();
    let path = tensors(
        &dir,
        &[
            ("x", Dtype::F32, &[50, 1], floats(&(0..50).map(|v| v as f32).collect::<Vec<_>>())),
            ("labels", Dtype::I64, &[50], longs(&(0..50).collect::<Vec<_>>())),
        ],
    );
    let model = image_model(&[0, 1]);
    let open = |samples, seed| {
        Dataset::open(&path, &model, &DataOptions { samples: Some(samples), seed, ..Default::default() }).unwrap()
    };
    let data = open(10, 1);
    let values = data.batch(0).unwrap()[0].1.to_f64();
    assert_eq!(values, open(10, 1).batch(0).unwrap()[0].1.to_f64());
    assert_ne!(values, open(10, 2).batch(0).unwrap()[0].1.to_f64());
    assert!(values.windows(2).all(|w| w[0] < w[1]));
    assert_eq!(data.labels().unwrap().iter().map(|&l| l as f64).collect::<Vec<_>>(), values);
    assert!(open(60, 1).notes()[0].contains("60 samples were asked for, but there are 50"));
    for (options, word) in [
        (DataOptions { samples: Some(0), ..Default::default() }, "samples: expected at least 1"),
        (DataOptions { batch: Some(0), ..Default::default() }, "batch: expected at least 1"),
    ] {
        refused(&path, &model, &options, &[word]);
    }
}

#[test]
fn a_fixed_batch_is_respected() {
    let dir = TempDir::new().unwrap();
    let path = tensors(&dir, &[("x", Dtype::F32, &[7, 1], floats(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))]);
    let options = DataOptions { batch: Some(5), ..Default::default() };
    let data = Dataset::open(&path, &image_model(&[3, 1]), &options).unwrap();
    assert_eq!((data.len(), data.batch_size(), data.batches()), (6, 3, 2));
    let notes = data.notes().join("\n");
    assert!(notes.contains("fixes the batch to 3, so a batch of 5") && notes.contains("the last 1 of 7"), "{notes}");
    assert_eq!(data.select(&[5, 4, 3, 2]).unwrap().len(), 3);
    refused(&path, &image_model(&[8, 1]), &options, &["fixes the batch to 8", "only 7 samples"]);
}

#[test]
fn layouts_are_transposed_where_the_shape_says_so() {
    let dir = TempDir::new().unwrap();
    let path = tensors(&dir, &[("x", Dtype::U8, &[1, 2, 1, 3], vec![1, 2, 3, 4, 5, 6])]);
    let options = DataOptions {
        preprocess: Preprocess { scale: Some(1.0), mean: Some(vec![0.0, 1.0, 2.0]), ..Default::default() },
        ..Default::default()
    };
    let data = Dataset::open(&path, &image_model(&[0, 3, 2, 1]), &options).unwrap();
    let array = data.batch(0).unwrap().remove(0).1;
    assert_eq!((array.dims.clone(), array.to_f64()), (vec![1, 3, 2, 1], vec![1.0, 4.0, 1.0, 4.0, 1.0, 4.0]));
    assert!(data.notes()[0].contains("[1, 2, 1, 3] is NHWC and was transposed to the model's NCHW"));
    // Into a model that wants channels last, as it is.
    let data = Dataset::open(&path, &image_model(&[0, 2, 1, 3]), &options).unwrap();
    assert_eq!(data.batch(0).unwrap()[0].1.to_f64(), [1.0, 1.0, 1.0, 4.0, 4.0, 4.0]);
    assert!(data.notes().is_empty());
    // Open extents, and a layout that is told.
    let told = Preprocess { layout: Some(Layout::Nchw), ..options.preprocess.clone() };
    let options = DataOptions { preprocess: told, ..options };
    let data = Dataset::open(&path, &image_model(&[0, 0, 0, 0]), &options).unwrap();
    assert_eq!(data.batch(0).unwrap()[0].1.dims, [1, 3, 2, 1]);
}

#[test]
fn several_inputs_go_by_name() {
    let dir = TempDir::new().unwrap();
    let two = model(&[("x", DataType::Float, &[0, 3, 1, 1]), ("mask", DataType::Int64, &[0, 2])]);
    let pixels: Vec<u8> = vec![255; 6];
    let image = ("x", Dtype::U8, [2usize, 3, 1, 1].as_slice(), pixels.clone());
    let mask = ("mask", Dtype::U8, [2usize, 2].as_slice(), vec![1, 2, 3, 4]);
    let path = tensors(&dir, &[image.clone(), mask.clone()]);
    let options = DataOptions::default();
    let data = Dataset::open(&path, &two, &options).unwrap();
    let batch = data.batch(0).unwrap();
    assert_eq!(batch[0].1.data, Data::F32(vec![1.0; 6]));
    // Preprocessing is not for it.
    assert_eq!(batch[1], ("mask".to_owned(), Array { dims: vec![2, 2], data: Data::I64(vec![1, 2, 3, 4]) }));

    let other = ("pictures", image.1, image.2, pixels);
    let path = tensors(&dir, &[other, mask.clone()]);
    refused(&path, &two, &options, &["no array for the model's input \"x\"", "\"mask\", \"pictures\"", "--input NAME"]);
    let told = DataOptions { input: Some("x".into()), ..Default::default() };
    assert_eq!(Dataset::open(&path, &two, &told).unwrap().batch(0).unwrap(), batch);
    let wrong = DataOptions { input: Some("z".into()), ..Default::default() };
    refused(&path, &two, &wrong, &["no input \"z\"", "\"x\", \"mask\""]);

    let three = ("mask", Dtype::U8, [3usize, 2].as_slice(), vec![0; 6]);
    let path = tensors(&dir, &[image.clone(), three]);
    refused(&path, &two, &options, &["d.safetensors", "array \"x\" has 2 samples, but array \"mask\" has 3"]);
    let path = tensors(&dir, &[image]);
    refused(&path, &two, &told, &["no array for the model's input \"mask\""]);
}

#[test]
fn an_input_without_axes_is_the_same_for_all() {
    let dir = TempDir::new().unwrap();
    let two = model(&[("x", DataType::Float, &[0, 1]), ("t", DataType::Double, &[])]);
    let path =
        tensors(&dir, &[("x", Dtype::F32, &[2, 1], floats(&[1.0, 2.0])), ("t", Dtype::F32, &[], floats(&[0.5]))]);
    let data = Dataset::open(&path, &two, &DataOptions { batch: Some(1), ..Default::default() }).unwrap();
    assert_eq!(data.batch(1).unwrap()[1].1, Array { dims: vec![], data: Data::F64(vec![0.5]) });
}

#[test]
fn data_that_does_not_fit_is_refused_with_both_shapes() {
    let dir = TempDir::new().unwrap();
    let options = DataOptions::default();
    let one = |dims: &[usize]| tensors(&dir, &[("x", Dtype::U8, dims, vec![0; dims.iter().product()])]);
    let cifar = image_model(&[0, 3, 32, 32]);
    let wants = "[?, 3, 32, 32]";
    refused(&one(&[2, 3, 28, 28]), &cifar, &options, &["d.safetensors", "\"x\"", "[2, 3, 28, 28]", wants]);
    refused(&one(&[3, 32, 32]), &cifar, &options, &["[3, 32, 32]", wants, "the first axis has to be the samples"]);
    refused(&one(&[4, 5, 3, 32, 32]), &cifar, &options, &["[4, 5, 3, 32, 32]", wants]);
    refused(&one(&[0, 3, 32, 32]), &cifar, &options, &["no elements"]);
    refused(&one(&[]), &cifar, &options, &["shape []", wants]);
    let text = model(&[("x", DataType::String, &[0, 3])]);
    refused(&one(&[1, 3]), &text, &options, &["\"x\" has element type STRING"]);
    refused(&one(&[1, 3]), &model(&[]), &options, &["no inputs"]);
    let mean = Preprocess { mean: Some(vec![0.1, 0.2]), ..Default::default() };
    let options = DataOptions { preprocess: mean, ..Default::default() };
    refused(&one(&[1, 3, 32, 32]), &cifar, &options, &["mean has 2 values, but there are 3 channels"]);
    let resize = Preprocess { resize: Some(Size::Side(4)), ..Default::default() };
    let options = DataOptions { preprocess: resize, ..Default::default() };
    refused(&one(&[1, 3, 32, 32]), &cifar, &options, &["--resize is for images"]);
    let options = DataOptions { labels_from: Some(LabelsFrom::Name), ..Default::default() };
    refused(&one(&[1, 3, 32, 32]), &cifar, &options, &["only for a folder of images"]);
    refused(&dir.path().join("none.npz"), &cifar, &DataOptions::default(), &["none.npz", "no such file"]);
}

#[test]
fn values_that_are_not_finite_are_found_at_once() {
    let dir = TempDir::new().unwrap();
    let path = tensors(&dir, &[("x", Dtype::F32, &[3, 2], floats(&[0.0, 1.0, 2.0, f32::NAN, f32::INFINITY, 5.0]))]);
    refused(&path, &image_model(&[0, 2]), &DataOptions::default(), &["d.safetensors", "sample 1", "element 1 is NaN"]);
    let path = tensors(&dir, &[("x", Dtype::F32, &[1, 2], floats(&[0.5, 1.0]))]);
    let data = Dataset::open(&path, &model(&[("x", DataType::Int32, &[0, 2])]), &DataOptions::default()).unwrap();
    let message = data.batch(0).unwrap_err().to_string();
    assert!(message.contains("array \"x\", sample 0: the value 0.5 is not an integer"), "{message}");
}

#[test]
fn labels_are_one_integer_a_sample() {
    let dir = TempDir::new().unwrap();
    let x = ("x", Dtype::F32, [2usize, 1].as_slice(), floats(&[0.0, 1.0]));
    let with = |kind, dims: &'static [usize], bytes| tensors(&dir, &[x.clone(), ("labels", kind, dims, bytes)]);
    let model = image_model(&[0, 1]);
    let labels = |path: PathBuf| {
        let data = Dataset::open(&path, &model, &DataOptions::default());
        data.map(|d| d.labels().unwrap().to_vec()).map_err(|e| e.to_string())
    };
    assert_eq!(labels(with(Dtype::U8, &[2], vec![7, 9])), Ok(vec![7, 9]));
    assert_eq!(labels(with(Dtype::I64, &[2, 1], longs(&[-1, 9]))), Ok(vec![-1, 9]));
    assert_eq!(labels(with(Dtype::F32, &[2], floats(&[3.0, 4.0]))), Ok(vec![3, 4]));
    let no = |path| labels(path).unwrap_err();
    assert!(no(with(Dtype::F32, &[2], floats(&[3.0, 4.5]))).contains("the label 4.5 is not an integer"));
    assert!(no(with(Dtype::F32, &[2], floats(&[3.0, f32::NAN]))).contains("NaN is not an integer"));
    assert!(no(with(Dtype::U8, &[3], vec![0; 3])).contains("array \"labels\" has 3 labels for 2 samples"));
    assert!(no(with(Dtype::U8, &[2, 10], vec![0; 20])).contains("[2, 10]"));
    // An input of that name is no label.
    let named = self::model(&[("labels", DataType::Int64, &[0])]);
    let path = with(Dtype::U8, &[2], vec![7, 9]);
    let data = Dataset::open(&path, &named, &DataOptions::default()).unwrap();
    assert!(data.labels().is_none() && data.notes()[0].contains("left out: \"x\""));
}

#[test]
fn floats_stay_unless_something_is_told() {
    let dir = TempDir::new().unwrap();
    let path = tensors(&dir, &[("other", Dtype::F32, &[1, 2], floats(&[0.1, 300.0]))]);
    let open = |preprocess| {
        let options = DataOptions { preprocess, ..Default::default() };
        Dataset::open(&path, &image_model(&[0, 2]), &options).unwrap().batch(0).unwrap()[0].1.data.clone()
    };
    assert_eq!(open(Preprocess::default()), Data::F32(vec![0.1, 300.0]));
    let told = Preprocess { mean: Some(vec![1.0, 100.0]), std: Some(vec![2.0]), ..Default::default() };
    assert_eq!(open(told), Data::F32(vec![((f64::from(0.1f32) - 1.0) / 2.0) as f32, 100.0]));
}

#[test]
fn small_floats_under_a_preset_for_pixels_are_pointed_out() {
    let dir = TempDir::new().unwrap();
    let notes = |values: &[f32], scale| {
        let path = tensors(&dir, &[("x", Dtype::F32, &[1, 2], floats(values))]);
        let preprocess = Preprocess { preset: Some(Preset::Unit), scale, ..Default::default() };
        let options = DataOptions { preprocess, ..Default::default() };
        Dataset::open(&path, &image_model(&[0, 2]), &options).unwrap().notes().join("")
    };
    assert!(notes(&[0.0, 1.0], None).contains("--scale 1"));
    assert_eq!([notes(&[0.0, 200.0], None), notes(&[0.0, 1.0], Some(1.0 / 255.0))], ["", ""]);
}

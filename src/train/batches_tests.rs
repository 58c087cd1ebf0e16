use super::*;
use crate::data::DataOptions;
use crate::onnx::Model;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{GraphProto, ModelProto};
use crate::train::fixed::value_info;
use safetensors::{Dtype, tensor::TensorView};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// An open extent: −1, as some exporters write it.
const OPEN: usize = usize::MAX;

type Inputs<'a> = &'a [(&'a str, DataType, &'a [usize])];

fn model(inputs: Inputs) -> Model {
    let input = inputs.iter().map(|(name, kind, dims)| value_info(name, *kind as i32, Some(dims))).collect();
    Model::from_proto(ModelProto { graph: Some(GraphProto { input, ..Default::default() }), ..Default::default() }, "m")
}

fn store(dir: &TempDir, arrays: &[(&str, Dtype, &[usize], Vec<u8>)]) -> std::path::PathBuf {
    let views = arrays.iter().map(|(n, kind, dims, bytes)| (*n, TensorView::new(*kind, dims.to_vec(), bytes).unwrap()));
    let path = dir.path().join("d.safetensors");
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    path
}

fn open(path: &Path, model: &Model, batch: Option<usize>) -> Dataset {
    Dataset::open(path, model, &DataOptions { batch, ..Default::default() }).unwrap()
}

/// Ten images of 3 × 4 × 5, whose first value is ten times their number, with labels.
fn pictures(dir: &TempDir, last: bool) -> Dataset {
    let mut values = vec![0.0f32; 10 * 60];
    for i in 0..10 {
        for c in 0..3 {
            for p in 0..20 {
                let at = if last { p * 3 + c } else { c * 20 + p };
                values[i * 60 + at] = (i * 10 + c) as f32 + p as f32 / 16.0;
            }
        }
    }
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let labels = (0..10i64).rev().flat_map(i64::to_le_bytes).collect();
    let dims: &[usize] = if last { &[10, 4, 5, 3] } else { &[10, 3, 4, 5] };
    let path = store(dir, &[("x", Dtype::F32, dims, bytes), ("y", Dtype::I64, &[10], labels)]);
    let dims: &[usize] = if last { &[OPEN, 4, 5, 3] } else { &[OPEN, 3, 4, 5] };
    open(&path, &model(&[("x", DataType::Float, dims)]), None)
}

fn options(batch: usize, augment: &str) -> BatchOptions {
    BatchOptions { batch, augment: augment.parse().unwrap(), seed: 5, ..BatchOptions::default() }
}

fn floats(batch: &Batch) -> &[f32] {
    let Data::F32(v) = &batch.feed[0].1.data else { panic!("no floats") };
    v
}

const ALL: &str = "flip,crop=2,jitter=0.3,mixup=0.4";

#[test]
fn orders_are_permutations_of_their_own() {
    let dir = TempDir::new().unwrap();
    let data = pictures(&dir, false);
    let b = Batches::new(&data, &options(4, "none")).unwrap();
    assert_eq!((b.len(), b.batch_size(), b.steps(), b.is_empty()), (10, 4, 2, false));
    let orders: Vec<Vec<usize>> = (0..5).map(|e| b.order(e)).collect();
    for (e, order) in orders.iter().enumerate() {
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        assert_eq!(b.order(e), *order);
        assert!(orders[..e].iter().all(|other| other != order), "{orders:?}");
    }
    let other = Batches::new(&data, &BatchOptions { seed: 6, ..options(4, "none") }).unwrap();
    assert_ne!(other.order(0), orders[0]);
    assert!(b.batch(0, 2).unwrap_err().to_string().contains("no step 2 in an epoch of 2"));
    // Each place is equally likely for each sample.
    let mut counts = [[0; 10]; 10];
    (0..2000).for_each(|e| b.order(e).iter().enumerate().for_each(|(at, &i)| counts[at][i] += 1));
    assert!(counts.iter().flatten().all(|n| (140..260).contains(n)), "{counts:?}");
}

#[test]
fn batches_hold_the_samples_that_they_name() {
    let dir = TempDir::new().unwrap();
    let b = Batches::new(&pictures(&dir, false), &options(4, "none")).unwrap();
    assert_eq!(b.extents(), [("x".to_owned(), vec![4, 3, 4, 5])]);
    let batch = b.batch(3, 1).unwrap();
    assert_eq!(batch.samples, b.order(3)[4..8]);
    assert_eq!((batch.feed[0].0.as_str(), batch.feed[0].1.dims.as_slice()), ("x", [4, 3, 4, 5].as_slice()));
    let firsts: Vec<usize> = floats(&batch).chunks(60).map(|image| image[0] as usize / 10).collect();
    assert_eq!((firsts, batch.mix), (batch.samples.clone(), None));
    let labels = b.labels().unwrap();
    assert!(batch.samples.iter().all(|&i| labels[i] == 9 - i as i64));
}

#[test]
fn nothing_depends_on_threads_memory_or_what_came_before() {
    let dir = TempDir::new().unwrap();
    let data = pictures(&dir, false);
    let of = |threads: usize, memory: usize, steps: &[(usize, usize)]| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let b = Batches::new(&data, &BatchOptions { memory, ..options(3, ALL) }).unwrap();
            assert_eq!(b.kept(), memory >= 2400);
            steps.iter().map(|&(e, s)| b.batch(e, s).unwrap()).collect::<Vec<_>>()
        })
    };
    let steps = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)];
    let all = of(1, 2400, &steps);
    assert_eq!(of(4, 2400, &steps), all);
    assert_eq!(of(2, 2399, &steps), all, "read anew each time");
    assert_eq!(of(1, 2400, &steps[4..]), all[4..]);
    assert_ne!(all[0].feed, of(1, 2400, &[(3, 0)])[0].feed);
    // The same sample is not the same image twice.
    let b = Batches::new(&data, &options(10, "crop=2")).unwrap();
    let seen = |epoch| {
        let batch = b.batch(epoch, 0).unwrap();
        let at = batch.samples.iter().position(|&i| i == 0).unwrap();
        floats(&batch)[at * 60..(at + 1) * 60].to_vec()
    };
    assert!((1..6).any(|epoch| seen(epoch) != seen(0)));
}

#[test]
fn batches_ahead_are_the_same_and_stop() {
    let dir = TempDir::new().unwrap();
    let b = Batches::new(&pictures(&dir, false), &options(3, ALL)).unwrap();
    let ahead: Vec<Batch> = b.ahead((4, 1)).take(4).map(Result::unwrap).collect();
    let wanted: Vec<Batch> = [(4, 1), (4, 2), (5, 0), (5, 1)].iter().map(|&(e, s)| b.batch(e, s).unwrap()).collect();
    assert_eq!(ahead, wanted);
    let started = b.ahead((0, 0));
    drop(started);
    assert_eq!(Arc::strong_count(&b.inner), 1, "the thread has ended");
    let mut beyond = b.ahead((0, 3));
    assert!(beyond.next().unwrap().unwrap_err().to_string().contains("no step 3"));
    assert!(beyond.next().is_none() && beyond.next().is_none());
}

#[test]
fn channels_last_is_channels_first_turned() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let [first, last] = [false, true].map(|l| {
        let b = Batches::new(&pictures(&dirs[usize::from(l)], l), &options(5, ALL)).unwrap();
        b.batch(2, 1).unwrap()
    });
    assert_eq!((&first.samples, &first.mix), (&last.samples, &last.mix));
    let (a, b) = (floats(&first), floats(&last));
    for (at, x) in a.iter().enumerate() {
        let (i, c, p) = (at / 60, at % 60 / 20, at % 20);
        assert_eq!(x.to_bits(), b[i * 60 + p * 3 + c].to_bits());
    }
}

#[test]
fn mixing_is_what_it_says() {
    let dir = TempDir::new().unwrap();
    let data = pictures(&dir, false);
    let plain = Batches::new(&data, &options(5, "none")).unwrap().batch(1, 0).unwrap();
    let mixed = Batches::new(&data, &options(5, "mixup=1")).unwrap().batch(1, 0).unwrap();
    let Mix { partner, share } = mixed.mix.clone().unwrap();
    assert_eq!(plain.samples, mixed.samples);
    assert!((0.0..=1.0).contains(&share) && partner.len() == 5 && partner != [0, 1, 2, 3, 4]);
    let x = floats(&plain);
    for (at, y) in floats(&mixed).iter().enumerate() {
        let other = x[partner[at / 60] * 60 + at % 60];
        assert_eq!(*y, share * x[at] + (1.0 - share) * other);
    }
}

#[test]
fn other_inputs_come_along_and_fixed_batches_hold() {
    let dir = TempDir::new().unwrap();
    let bytes: Vec<u8> = (0..14i64).flat_map(i64::to_le_bytes).collect();
    let scale = 2.5f32.to_le_bytes().to_vec();
    let path = store(&dir, &[("ids", Dtype::I64, &[7, 2], bytes), ("scale", Dtype::F32, &[], scale)]);
    let m = model(&[("ids", DataType::Int64, &[3, 2]), ("scale", DataType::Float, &[])]);
    for memory in [0, 1 << 20] {
        let b = Batches::new(&open(&path, &m, None), &BatchOptions { memory, ..options(64, "none") }).unwrap();
        assert_eq!((b.batch_size(), b.steps(), b.len(), b.kept()), (3, 2, 6, memory > 0));
        let batch = b.batch(0, 1).unwrap();
        let ids: Vec<i64> = batch.samples.iter().flat_map(|&i| [2 * i as i64, 2 * i as i64 + 1]).collect();
        assert_eq!(batch.feed[0].1, Array { dims: vec![3, 2], data: Data::I64(ids) });
        assert_eq!(batch.feed[1].1, Array { dims: vec![], data: Data::F32(vec![2.5]) });
    }
    let refused = |augment| Batches::new(&open(&path, &m, None), &options(3, augment)).unwrap_err().to_string();
    let why = refused("flip,mixup=0.2");
    assert!(why.contains("--augment flip is for images") && why.contains("\"ids\" INT64 [3, 2]"), "{why}");
    assert!(refused("mixup=0.2").contains("input \"ids\" holds integers (INT64)"), "{}", refused("mixup=0.2"));
}

#[test]
fn what_cannot_be_is_refused() {
    let dir = TempDir::new().unwrap();
    let data = pictures(&dir, false);
    let refused = |options| Batches::new(&data, &options).unwrap_err().to_string();
    let why = refused(options(11, "none"));
    assert!(why.contains("10 samples") && why.contains("a batch of 11; lower --batch"), "{why}");
    assert!(refused(options(0, "none")).contains("at least 1"));
    let why = refused(options(2, "crop=4"));
    assert!(why.contains("crop=4 has to be lower") && why.contains("4x5 for input \"x\""), "{why}");
    assert!(Batches::new(&data, &options(2, "crop=3")).is_ok());
}

#[test]
fn images_are_of_one_size() {
    let dir = TempDir::new().unwrap();
    for (i, side) in [8, 8, 8, 9].into_iter().enumerate() {
        image::RgbImage::from_pixel(side, side, image::Rgb([i as u8; 3]))
            .save(dir.path().join(format!("{i}.png")))
            .unwrap();
    }
    let m = model(&[("x", DataType::Float, &[OPEN, 3, OPEN, OPEN])]);
    let data = open(dir.path(), &m, None);
    for memory in [0, 1 << 20] {
        let b = Batches::new(&data, &BatchOptions { memory, ..options(1, "none") });
        let why = b.and_then(|b| (0..4).try_for_each(|s| b.batch(0, s).map(drop))).unwrap_err().to_string();
        assert!(why.contains("--resize and --crop"), "{why}");
    }
    // A file that goes away is an error of the batch that needs it.
    fs::remove_file(dir.path().join("3.png")).unwrap();
    let data = open(dir.path(), &m, None);
    let b = Batches::new(&data, &BatchOptions { memory: 0, ..options(1, "none") }).unwrap();
    fs::remove_file(dir.path().join("1.png")).unwrap();
    let failed = b.ahead((0, 0)).take(3).find_map(Result::err).unwrap().to_string();
    assert!(failed.contains("1.png"), "{failed}");
}

use super::*;

fn typed(data_type: DataType, dims: &[i64]) -> TensorProto {
    TensorProto { name: Some("t".into()), data_type: Some(data_type.into()), dims: dims.to_vec(), ..Default::default() }
}

fn message<T: std::fmt::Debug>(r: Result<T, OnnxError>) -> String {
    r.unwrap_err().to_string()
}

#[test]
fn typed_lists_of_every_type() {
    use DataType::*;
    let values = [0i64, 1, 2, 100];
    for kind in [Int8, Uint8, Int16, Uint16, Int32, Uint32, Int64, Uint64] {
        let mut t = typed(kind, &[2, 2]);
        match kind {
            Int64 => t.int64_data = values.to_vec(),
            Uint32 | Uint64 => t.uint64_data = values.iter().map(|&v| v as u64).collect(),
            _ => t.int32_data = values.iter().map(|&v| v as i32).collect(),
        }
        let raw = raw_le(&t).unwrap();
        assert_eq!(raw.len(), 4 * elem_size(kind.into()).unwrap());
        let r = TensorProto { raw_data: Some(raw), ..typed(kind, &[2, 2]) };
        for t in [&t, &r] {
            assert_eq!(to_i64(t).unwrap(), values, "{kind:?}");
            assert_eq!(to_f32(t).unwrap(), [0., 1., 2., 100.]);
            assert_eq!(to_f64(t).unwrap(), [0., 1., 2., 100.]);
        }
    }
    let t = TensorProto { int32_data: vec![0, 1], ..typed(Bool, &[2]) };
    assert_eq!(to_i64(&t).unwrap(), [0, 1]);
    let t = TensorProto { int32_data: vec![-128, -1], ..typed(Int8, &[2]) };
    assert_eq!(to_i64(&t).unwrap(), [-128, -1]);
    let t = TensorProto { int32_data: vec![0x3c00, 0xbc00], ..typed(Float16, &[2]) };
    assert_eq!(to_f32(&t).unwrap(), [1., -1.]);
    let t = TensorProto { int32_data: vec![0x3f80, 0xbf80 - 0x10000], ..typed(Bfloat16, &[2]) };
    assert_eq!(to_f64(&t).unwrap(), [1., -1.]);
    let t = TensorProto { float_data: vec![1.5, -2.], ..typed(Float, &[2]) };
    assert_eq!(to_f32(&t).unwrap(), [1.5, -2.]);
    assert_eq!(raw_le(&TensorProto { dims: vec![1], data_type: Some(Complex64.into()), ..t }).unwrap().len(), 8);
    let t = TensorProto { double_data: vec![1.5], ..typed(Double, &[]) };
    assert_eq!((to_f64(&t).unwrap(), to_f32(&t).unwrap()), (vec![1.5], vec![1.5]));
}

#[test]
fn float_round_trips() {
    let values = [0.0, -1.0, 0.5, 1024.0, -0.0, 6.103515625e-5];
    for kind in [DataType::Float, DataType::Double, DataType::Float16, DataType::Bfloat16] {
        let like = TensorProto { doc_string: Some("d".into()), ..typed(kind, &[]) };
        let t = from_f64_like(&like, &[3, 2], &values).unwrap();
        assert_eq!((t.name(), t.doc_string(), t.data_type()), ("t", "d", kind.into()));
        assert_eq!(to_f64(&t).unwrap(), values);
        assert_eq!(t.raw_data.as_ref().unwrap().len(), 6 * elem_size(kind.into()).unwrap());
    }
    // Ties go to even: 1 + 2^-11 lies between two halves.
    let t = from_f64_like(&typed(DataType::Float16, &[]), &[], &[1.0 + 2f64.powi(-11)]).unwrap();
    assert_eq!(to_f64(&t).unwrap(), [1.0]);
    assert!(message(from_f64_like(&t, &[2], &[1.0])).contains("1 values do not fill the shape [2]"));
    assert!(message(from_f64_like(&typed(DataType::Int8, &[]), &[], &[1.0])).contains("INT8"));
    assert_eq!(to_i64(&from_i64("i", &[2], &[i64::MIN, i64::MAX])).unwrap(), [i64::MIN, i64::MAX]);
    assert_eq!(to_f32(&from_f32("f", &[2], &[1., 2.])).unwrap(), [1., 2.]);
}

#[test]
fn raw_data_is_shared() {
    let t = from_f32("w", &[2], &[1., 2.]);
    assert_eq!(raw_le(&t).unwrap().as_ptr(), t.raw_data.as_ref().unwrap().as_ptr());
}

#[test]
fn contradictions_are_errors() {
    let t = from_f32("w", &[2], &[1., 2.]);
    let short = TensorProto { dims: vec![3], ..t.clone() };
    assert_eq!(message(raw_le(&short)), "tensor 'w': shape [3] of FLOAT takes 12 bytes, but the data has 8");
    assert!(message(dims(&TensorProto { dims: vec![2, -1], ..t.clone() })).contains("bad extent -1"));
    assert!(message(dims(&TensorProto { dims: vec![i64::MAX, 3], ..t.clone() })).contains("more elements"));
    assert!(message(raw_le(&TensorProto { dims: vec![i64::MAX], ..t.clone() })).contains("more bytes"));
    assert!(message(raw_le(&TensorProto { segment: Some(Default::default()), ..t.clone() })).contains("segments"));
    assert!(message(to_i64(&t)).contains("FLOAT"));
    assert!(message(raw_le(&typed(DataType::String, &[1]))).contains("STRING"));
    assert!(message(raw_le(&typed(DataType::Int4, &[1]))).contains("INT4"));
    assert!(message(raw_le(&TensorProto { data_type: Some(99), ..t.clone() })).contains("unknown type 99"));
    assert!(message(raw_le(&typed(DataType::Float, &[1]))).contains("takes 4 bytes, but the data has 0"));
    let big = TensorProto { int32_data: vec![256], ..typed(DataType::Uint8, &[1]) };
    assert!(message(raw_le(&big)).contains("256 is out of the range of UINT8"));
    let big = TensorProto { uint64_data: vec![u64::MAX], ..typed(DataType::Uint64, &[1]) };
    assert!(message(to_i64(&big)).contains("too large"));
    let unloaded = TensorProto { data_location: Some(1), ..typed(DataType::Float, &[1]) };
    assert!(message(raw_le(&unloaded)).contains("not been loaded"));
}

#[test]
fn empty_and_scalar() {
    let empty = from_f32("e", &[0, 5], &[]);
    assert_eq!((numel(&empty).unwrap(), to_f32(&empty).unwrap()), (0, vec![]));
    assert_eq!(numel(&typed(DataType::Float, &[i64::MAX, i64::MAX, 0])).unwrap(), 0);
    assert_eq!(numel(&from_f32("s", &[], &[1.])).unwrap(), 1);
    assert!(raw_le(&typed(DataType::Float, &[0])).unwrap().is_empty());
}

#[test]
fn finds_what_is_not_finite() {
    let mut values = vec![1.0f64; 5000];
    for kind in [DataType::Float, DataType::Double, DataType::Float16, DataType::Bfloat16] {
        let like = typed(kind, &[]);
        check_finite(&from_f64_like(&like, &[5000], &values).unwrap()).unwrap();
        for (at, bad, shown) in [(0, f64::NAN, "NaN"), (1023, f64::INFINITY, "inf"), (4999, f64::NEG_INFINITY, "-inf")]
        {
            values[at] = bad;
            let t = from_f64_like(&like, &[5000], &values).unwrap();
            values[at] = 1.0;
            assert_eq!(message(check_finite(&t)), format!("tensor 't': element {at} is {shown}, not a finite number"));
        }
    }
    check_finite(&from_i64("i", &[1], &[-1])).unwrap();
}

#[test]
fn floats_of_eight_bits_and_less() {
    let of = |kind: DataType, raw: &'static [u8]| {
        let t = TensorProto {
            dims: vec![raw.len() as i64],
            data_type: Some(kind.into()),
            raw_data: Some(raw.into()),
            ..Default::default()
        };
        to_f32(&t).unwrap()
    };
    // 1, -2, the largest, the smallest.
    assert_eq!(of(DataType::Float8e4m3fn, &[0x38, 0xc0, 0x7e, 0x01]), [1.0, -2.0, 448.0, 0.001953125]);
    assert_eq!(of(DataType::Float8e5m2, &[0x3c, 0xc0, 0x7b, 0x01]), [1.0, -2.0, 57344.0, 0.5f32.powi(16)]);
    assert_eq!(of(DataType::Float8e4m3fnuz, &[0x40, 0x7f]), [1.0, 240.0]);
    assert_eq!(of(DataType::Float8e5m2fnuz, &[0x40, 0x7f]), [1.0, 57344.0]);
}

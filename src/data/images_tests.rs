use super::*;
use image::{ImageFormat, Rgb};
use tempfile::TempDir;

fn spec(dims: &[usize]) -> InputSpec {
    let dims = dims.iter().map(|&d| (d > 0).then_some(d)).collect();
    InputSpec { name: "x".into(), dims, elem_type: 1 }
}

fn shape(dims: &[usize], resize: Option<&str>, crop: Option<&str>) -> Result<Shape, String> {
    let size = |s: Option<&str>| s.map(|s| s.parse().unwrap());
    let options = Preprocess { resize: size(resize), crop: size(crop), ..Default::default() };
    Shape::new(&spec(dims), Layout::of_input(&spec(dims).dims), &options)
}

/// Red grows to the right, green downwards.
fn gradient(w: u32, h: u32) -> RgbImage {
    RgbImage::from_fn(w, h, |x, y| Rgb([(x * 10) as u8, (y * 10) as u8, 7]))
}

fn touch(dir: &TempDir, names: &[&str]) {
    for name in names {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
}

fn names(folder: &Folder, dir: &TempDir) -> Vec<String> {
    folder.files.iter().map(|f| f.strip_prefix(dir.path()).unwrap().to_string_lossy().replace('\\', "/")).collect()
}

#[test]
fn flat_folders_and_class_folders_are_listed_in_order() {
    let dir = TempDir::new().unwrap();
    touch(&dir, &["b.PNG", "a.jpeg", "c.webp", "d.bmp", "notes.txt", ".hidden.png", "sub/e.png"]);
    let folder = Folder::open(dir.path(), None).unwrap();
    assert_eq!(names(&folder, &dir), ["a.jpeg", "b.PNG", "c.webp", "d.bmp"]);
    assert_eq!(folder.labels, None);
    assert!(folder.notes.iter().any(|n| n.contains("not images were left out: 1")), "{:?}", folder.notes);
    assert!(folder.notes.iter().any(|n| n.contains("the folders are left out")), "{:?}", folder.notes);

    let dir = TempDir::new().unwrap();
    touch(&dir, &["dog/2.jpg", "cat/1.jpg", "dog/1.jpg", "emu/none.txt", "fox/1.png"]);
    let folder = Folder::open(dir.path(), None).unwrap();
    assert_eq!(names(&folder, &dir), ["cat/1.jpg", "dog/1.jpg", "dog/2.jpg", "fox/1.png"]);
    assert_eq!(folder.labels, Some(vec![0, 1, 1, 3]));
    assert!(folder.notes.iter().any(|n| n.contains("class folder emu has no images")));
}

#[test]
fn folders_without_images_are_refused() {
    let dir = TempDir::new().unwrap();
    assert!(Folder::open(dir.path(), None).unwrap_err().to_string().contains("no images here"));
    touch(&dir, &["readme.txt", "sub/deep/1.jpg"]);
    assert!(Folder::open(dir.path(), None).unwrap_err().to_string().contains("no images here"));
}

#[test]
fn labels_come_from_a_table_or_from_names() {
    let dir = TempDir::new().unwrap();
    touch(&dir, &["0007_a.jpg", "12_b.jpg"]);
    let open = |from| Folder::open(dir.path(), from).map(|f| f.labels);
    assert_eq!(open(None).unwrap(), None);
    assert_eq!(open(Some(LabelsFrom::Name)).unwrap(), Some(vec![7, 12]));
    let csv = |text: &str| fs::write(dir.path().join("labels.csv"), text).unwrap();
    csv("file,label\n12_b.jpg,3\n\n\"0007_a.jpg\", -1\r\n");
    assert_eq!(open(None).unwrap(), Some(vec![-1, 3]));
    csv("0007_a.jpg,1\n./12_b.jpg,2");
    assert_eq!(open(None).unwrap(), Some(vec![1, 2]));
    let refused = |text: &str| {
        csv(text);
        open(None).unwrap_err().to_string()
    };
    assert!(refused("0007_a.jpg,cat\n").contains("line 1: the label \"cat\" of 0007_a.jpg is not an integer"));
    assert!(refused("file,label\n0007_a.jpg,1.5\n").contains("line 2"));
    assert!(refused("0007_a.jpg,1\n").contains("1 of 2 images have no label, the first is 12_b.jpg"));
    assert!(refused("0007_a.jpg,1\n12_b.jpg,1\nc.jpg,1\n").contains("line 3: there is no image c.jpg"));
    assert!(refused("0007_a.jpg,1\n12_b.jpg,1\n12_b.jpg,2\n").contains("two labels, 1 and 2"));
    assert!(refused("0007_a.jpg\n").contains("expected file,label"));
    touch(&dir, &["c.jpg"]);
    assert!(open(Some(LabelsFrom::Name)).unwrap_err().to_string().contains("c.jpg: its name has no class number"));
}

#[test]
fn sizes_follow_torchvision() {
    let steps = |s: &Shape, size| s.steps(size).unwrap();
    let usual = shape(&[0, 3, 224, 224], Some("256"), Some("224")).unwrap();
    // 500×333: the longer side is ⌊256 · 500 / 333⌋ = 384; (384 − 224) / 2 = 80.
    assert_eq!(steps(&usual, (500, 333)), ((384, 256), Some((80, 16, 224, 224))));
    assert_eq!(steps(&usual, (333, 500)), ((256, 384), Some((16, 80, 224, 224))));
    // Half pixels go to the even side: 57 / 2 = 28.5 → 28, 59 / 2 = 29.5 → 30.
    assert_eq!([57, 59, 1, 3].map(middle), [28, 30, 0, 2]);
    let direct = shape(&[1, 3, 48, 192], None, None).unwrap();
    assert_eq!(steps(&direct, (500, 333)), ((192, 48), None));
    let open = shape(&[0, 3, 0, 0], None, None).unwrap();
    assert_eq!(steps(&open, (500, 333)), ((500, 333), None));
    let last = shape(&[1, 128, 96, 3], None, None).unwrap();
    assert_eq!(steps(&last, (10, 10)), ((96, 128), None));
}

#[test]
fn the_preset_follows_the_size_of_the_model() {
    let of = |dims: &[usize], resize: Option<Size>| {
        let options = Preprocess { preset: Some(Preset::Imagenet), resize, ..Default::default() };
        let shape = Shape::new(&spec(dims), Layout::Nchw, &options).unwrap();
        (shape.resize, shape.crop)
    };
    assert_eq!(of(&[0, 3, 224, 224], None), (Some(Size::Side(256)), Some((224, 224))));
    assert_eq!(of(&[0, 3, 0, 0], None), (Some(Size::Side(256)), Some((224, 224))));
    // 299 · 256 / 224 = 341.7; 32 · 256 / 224 = 36.57
    assert_eq!(of(&[0, 3, 299, 299], None), (Some(Size::Side(342)), Some((299, 299))));
    assert_eq!(of(&[0, 3, 32, 32], None), (Some(Size::Side(37)), Some((32, 32))));
    assert_eq!(of(&[0, 3, 32, 32], Some(Size::Side(40))), (Some(Size::Side(40)), Some((32, 32))));
}

#[test]
fn sizes_that_cannot_fit_are_refused() {
    let no = |dims: &[usize], resize, crop| shape(dims, resize, crop).unwrap_err();
    let message = no(&[0, 3, 224, 224], None, Some("200"));
    assert!(message.contains("200x200") && message.contains("[?, 3, 224, 224]"), "{message}");
    assert!(no(&[0, 3, 224, 224], Some("224x200"), None).contains("224x200"));
    assert!(no(&[0, 3, 224], None, None).contains("images need 4 axes"));
    assert!(no(&[0, 12, 8, 8], None, None).contains("has 12 channels in layout NCHW"));
    let short = shape(&[0, 3, 224, 224], Some("256"), None).unwrap();
    assert!(short.steps((500, 333)).unwrap_err().contains("384x256 after resizing, but the model wants 224x224"));
    let crop = shape(&[0, 3, 0, 0], None, Some("100")).unwrap();
    assert!(crop.steps((120, 80)).unwrap_err().contains("smaller than the crop of 100x100"));
    assert!(
        shape(&[0, 3, 0, 0], Some("30000"), None).unwrap().steps((1000, 1)).unwrap_err().contains("resizing would")
    );
}

#[test]
fn lossless_files_come_back_as_they_were() {
    let dir = TempDir::new().unwrap();
    let open = shape(&[0, 3, 0, 0], None, None).unwrap();
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP] {
        // The content decides, not the name.
        let path = dir.path().join("image.jpg");
        gradient(5, 4).save_with_format(&path, format).unwrap();
        let pixels = open.read(&path).unwrap();
        assert_eq!((pixels.width, pixels.height, pixels.bytes), (5, 4, gradient(5, 4).into_raw()), "{format:?}");
    }
    let path = dir.path().join("image.jpg");
    RgbImage::from_pixel(16, 16, Rgb([200, 100, 50])).save(&path).unwrap();
    let pixels = open.read(&path).unwrap();
    assert!(
        pixels
            .bytes
            .chunks(3)
            .all(|p| p.iter().zip([200, 100, 50]).all(|(&a, b): (_, i32)| (i32::from(a) - b).abs() < 4))
    );
    let cut = shape(&[0, 3, 0, 0], None, Some("2x1")).unwrap();
    gradient(5, 4).save_with_format(&path, ImageFormat::Png).unwrap();
    // Columns 2 and 3 (spare 3, half 1.5 → 2), row 2 (spare 3).
    assert_eq!(cut.read(&path).unwrap().bytes, [20, 20, 7, 30, 20, 7]);
}

#[test]
fn brightness_has_the_weights_of_601() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.png");
    RgbImage::from_fn(4, 1, |x, _| [Rgb([255, 0, 0]), Rgb([0, 255, 0]), Rgb([0, 0, 255]), Rgb([9, 9, 9])][x as usize])
        .save(&path)
        .unwrap();
    let gray = shape(&[0, 1, 0, 0], None, None).unwrap();
    // Pillow's convert("L").
    assert_eq!(gray.read(&path).unwrap().bytes, [76, 150, 29, 9]);
    // Grey files have three equal channels for a colour model.
    GrayImage::from_raw(2, 1, vec![3, 200]).unwrap().save(&path).unwrap();
    assert_eq!(gray.read(&path).unwrap().bytes, [3, 200]);
    assert_eq!(shape(&[0, 3, 0, 0], None, None).unwrap().read(&path).unwrap().bytes, [3, 3, 3, 200, 200, 200]);
}

#[test]
fn halving_takes_more_than_the_nearest_pixels() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.png");
    // A checkerboard is even grey when it is made smaller with antialiasing.
    GrayImage::from_fn(16, 16, |x, y| image::Luma([if (x + y) % 2 == 0 { 255 } else { 0 }])).save(&path).unwrap();
    let small = shape(&[0, 1, 4, 4], None, None).unwrap().read(&path).unwrap();
    assert!(small.bytes.iter().all(|&b| (124..=131).contains(&b)), "{:?}", small.bytes);
}

#[test]
fn files_that_are_no_images_are_named() {
    let dir = TempDir::new().unwrap();
    touch(&dir, &["empty.png"]);
    fs::write(dir.path().join("text.jpg"), "not an image").unwrap();
    let open = shape(&[0, 3, 0, 0], None, None).unwrap();
    for name in ["empty.png", "text.jpg", "missing.png"] {
        let message = open.read(&dir.path().join(name)).err().unwrap().to_string();
        assert!(message.contains(name) && message.contains("cannot be read"), "{message}");
    }
}

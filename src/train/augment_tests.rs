use super::*;

/// Two channels of two rows and three columns.
const CHW: [f32; 12] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];
const STILL: Draw = Draw { flip: false, shift: (0, 0), brightness: 0.0, contrast: 0.0, saturation: 0.0 };

fn frame(channels: usize, last: bool) -> Frame {
    Frame { channels, height: 2, width: 3, last }
}

fn applied(draw: Draw, frame: Frame, image: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; image.len()];
    draw.apply(frame, image, &mut out);
    out
}

/// Channels last from channels first, and back.
fn turned(image: &[f32], channels: usize, to_last: bool) -> Vec<f32> {
    let (a, b) = (frame(channels, !to_last), frame(channels, to_last));
    let mut out = vec![0.0; image.len()];
    for p in 0..6 {
        for c in 0..channels {
            out[b.at(p, c)] = image[a.at(p, c)];
        }
    }
    out
}

#[test]
fn images_are_mirrored_and_shifted() {
    let first = |draw| applied(draw, frame(2, false), &CHW)[..6].to_vec();
    assert_eq!(applied(STILL, frame(2, false), &CHW), CHW);
    assert_eq!(first(Draw { flip: true, ..STILL }), [2.0, 1.0, 0.0, 5.0, 4.0, 3.0]);
    // What comes in from the right is the mirror image about the last column.
    assert_eq!(first(Draw { shift: (0, 1), ..STILL }), [1.0, 2.0, 1.0, 4.0, 5.0, 4.0]);
    assert_eq!(first(Draw { shift: (0, -2), ..STILL }), [2.0, 1.0, 0.0, 5.0, 4.0, 3.0]);
    assert_eq!(first(Draw { shift: (1, 0), ..STILL }), [3.0, 4.0, 5.0, 0.0, 1.0, 2.0]);
    assert_eq!(first(Draw { flip: true, shift: (0, 1), ..STILL }), [1.0, 0.0, 1.0, 4.0, 3.0, 4.0]);
    let second = applied(Draw { flip: true, ..STILL }, frame(2, false), &CHW);
    assert_eq!(second[6..], [12.0, 11.0, 10.0, 15.0, 14.0, 13.0]);
}

#[test]
fn both_layouts_give_the_same_image() {
    let image: Vec<f32> = (0..18).map(|i| ((i * 7) % 11) as f32 * 0.37 - 1.0).collect();
    for draw in [
        Draw { flip: true, shift: (-1, 2), ..STILL },
        Draw { shift: (1, -1), brightness: 0.13, contrast: -0.2, saturation: 0.3, ..STILL },
    ] {
        let first = applied(draw, frame(3, false), &image);
        let last = applied(draw, frame(3, true), &turned(&image, 3, true));
        assert_ne!(first, image);
        assert_eq!(turned(&last, 3, false), first, "to the bit");
    }
}

#[test]
fn colours_change_as_the_formula_says() {
    let mean = |v: &[f32]| v.iter().map(|&x| f64::from(x)).sum::<f64>() / v.len() as f64;
    let spread = |v: &[f32]| (v.iter().map(|&x| (f64::from(x) - mean(v)).powi(2)).sum::<f64>() / v.len() as f64).sqrt();
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-5, "{a} {b}");
    let image: Vec<f32> = (0..18).map(|i| ((i * 7) % 11) as f32 * 0.37 - 1.0).collect();
    let of = |draw| applied(draw, frame(3, false), &image);
    let brighter = of(Draw { brightness: 0.5, ..STILL });
    near(mean(&brighter), mean(&image) + 0.5 * spread(&image));
    near(spread(&brighter), spread(&image));
    let flatter = of(Draw { contrast: -0.5, ..STILL });
    near(mean(&flatter), mean(&image));
    near(spread(&flatter), 0.5 * spread(&image));
    // Without saturation, each pixel is grey.
    let grey = of(Draw { saturation: -1.0, ..STILL });
    near(mean(&grey), mean(&image));
    for p in 0..6 {
        near(f64::from(grey[p]), f64::from(grey[p + 6]));
        near(f64::from(grey[p]), f64::from((image[p] + image[p + 6] + image[p + 12]) / 3.0));
    }
    // Two channels are no colours.
    assert_eq!(applied(Draw { saturation: -1.0, ..STILL }, frame(2, false), &CHW), CHW);
}

#[test]
fn draws_keep_within_their_limits_and_options_do_not_disturb_each_other() {
    let all = Augment { flip: true, crop: 3, jitter: 0.25, mixup: 0.0 };
    let draws: Vec<Draw> = (0..2000).map(|i| Draw::new(&all, &mut Noise::new(1, &format!("{i}")))).collect();
    let flips = draws.iter().filter(|d| d.flip).count();
    assert!((900..1100).contains(&flips), "{flips}");
    for k in -3..=3isize {
        let n = draws.iter().filter(|d| d.shift.0 == k).count();
        assert!((220..350).contains(&n), "{k}: {n}");
    }
    assert!(draws.iter().all(|d| d.shift.1.abs() <= 3 && d.brightness.abs() <= 0.25 && d.contrast.abs() <= 0.25));
    let (least, most) = draws.iter().map(|d| d.saturation).fold((0.0f64, 0.0f64), |(a, b), x| (a.min(x), b.max(x)));
    assert!(least < -0.24 && most > 0.24);
    let flip = Augment { flip: true, ..Augment::default() };
    let alone: Vec<bool> = (0..2000).map(|i| Draw::new(&flip, &mut Noise::new(1, &format!("{i}"))).flip).collect();
    assert_eq!(alone, draws.iter().map(|d| d.flip).collect::<Vec<_>>());
}

#[test]
fn shares_are_beta_distributed() {
    for alpha in [0.2, 1.0, 4.0] {
        let mut noise = Noise::new(3, "beta");
        let draws: Vec<f64> = (0..20_000).map(|_| beta(alpha, &mut noise)).collect();
        assert!(draws.iter().all(|x| (0.0..=1.0).contains(x)));
        let mean = draws.iter().sum::<f64>() / 2e4;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 2e4;
        let wanted = 1.0 / (4.0 * (2.0 * alpha + 1.0));
        assert!((mean - 0.5).abs() < 0.01, "{alpha}: mean {mean}");
        assert!((variance / wanted - 1.0).abs() < 0.03, "{alpha}: variance {variance}, not {wanted}");
    }
    // Too small for the gamma draws themselves to be numbers.
    let mut noise = Noise::new(3, "tiny");
    assert!((0..200).map(|_| beta(1e-4, &mut noise)).all(|x| (0.0..=1.0).contains(&x)));
}

#[test]
fn samples_are_mixed_from_what_they_were() {
    let mut data = Data::F32(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    mix(&mut data, 2, &[1, 2, 0], 0.75);
    assert_eq!(data, Data::F32(vec![1.5, 2.5, 3.5, 4.5, 4.0, 5.0]));
    let mut data = Data::F16([1.0, 3.0].map(f16::from_f64).to_vec());
    mix(&mut data, 1, &[1, 0], 0.5);
    assert_eq!(data, Data::F16([2.0, 2.0].map(f16::from_f64).to_vec()));
}

#[test]
fn text_is_read_and_written() {
    let all = Augment { flip: true, crop: 4, jitter: 0.2, mixup: 0.3 };
    assert_eq!("flip,crop=4,jitter=0.2,mixup=0.3".parse(), Ok(all));
    assert_eq!("mixup=0.3, jitter=0.2, flip, crop=4".parse(), Ok(all));
    assert_eq!("none".parse(), Ok(Augment::default()));
    for augment in [all, Augment::default(), Augment { crop: 2, ..Augment::default() }] {
        assert_eq!(augment.to_string().parse(), Ok(augment));
    }
    for (text, word) in [
        ("", "flip, crop=PIXELS"),
        ("rotate", "\"rotate\" is not known"),
        ("flip,none", "none stands alone"),
        ("flip=1", "expected no value, not \"1\""),
        ("crop", "crop=4, not nothing"),
        ("crop=0", "above 0"),
        ("crop=-1", "above 0"),
        ("jitter=2", "at most 1"),
        ("jitter=NaN", "at most 1"),
        ("mixup=0", "above 0"),
        ("mixup=inf", "above 0"),
        ("flip,flip", "twice"),
    ] {
        let why = text.parse::<Augment>().unwrap_err();
        assert!(why.contains(word), "{text}: {why}");
    }
}

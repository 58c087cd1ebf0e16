use super::*;

#[test]
fn parts_follow_each_other_and_are_as_long() {
    for n in [0, 1, 7, 64, 1000] {
        for of in [1, 2, 3, 8, 64, 999] {
            let ranges: Vec<Range<usize>> = (1..=of).map(|i| Shard::new(i, of).unwrap().range(n)).collect();
            assert_eq!((ranges[0].start, ranges[of - 1].end), (0, n));
            assert!(ranges.windows(2).all(|w| w[0].end == w[1].start));
            let lengths = ranges.iter().map(ExactSizeIterator::len);
            assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1);
            let dealt = (1..=of).map(|i| (0..n).filter(|&k| Shard::new(i, of).unwrap().deals(k)).count());
            assert_eq!(dealt.sum::<usize>(), n);
        }
    }
    assert_eq!(Shard::new(MOST_PARTS, MOST_PARTS).unwrap().range(usize::MAX).end, usize::MAX);
}

#[test]
fn a_shard_is_written_as_it_is_read() {
    assert_eq!("2/8".parse::<Shard>().unwrap().to_string(), "2/8");
    assert_eq!(" 1 / 1 ".parse::<Shard>().unwrap(), Shard::WHOLE);
    for wrong in ["", "2", "0/3", "4/3", "1/0", "-1/3", "a/b", "1/2/3", "1/1000001"] {
        assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
    }
    assert!(serde_json::from_str::<Shard>("\"3/2\"").is_err());
}

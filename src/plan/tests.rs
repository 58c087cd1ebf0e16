//! Properties of [`decide`] on random models, and the cases that a user would try first.

use super::*;
use crate::channels::{Axis, AxisId, Channel, Cost, Group, MacTerm, ParamTerm, Tensor, TensorId, Unit};
use crate::graph::{NodeId, ValueId};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A model of blocks in a row. Each block concatenates groups; their weights read the whole previous block.
#[derive(Default)]
pub(super) struct Builder {
    pub(super) ch: Channels,
    previous: Vec<(usize, usize)>, // (group, channel) in concatenated order
}

impl Builder {
    pub(super) fn tensor(&mut self, key: &str, dims: &[usize], fold: usize, source: Option<u32>) -> TensorId {
        let id = TensorId(self.ch.tensors.len() as u32);
        let mut axes = vec![None; dims.len()];
        for (axis, &len) in dims.iter().enumerate().take(2) {
            let fold = if axis == 1 { fold } else { 1 };
            axes[axis] = Some(AxisId(self.ch.axes.len() as u32));
            self.ch.axes.push(Axis { tensor: id, axis, len: len * fold, fold });
        }
        let value = ValueId(id.0);
        let (key, dims) = (key.to_owned(), dims.to_vec());
        let source = source.map(ValueId);
        self.ch.tensors.push(Tensor { value, source, key, readers: vec![], dims, axes, elem_type: 1 });
        id
    }

    pub(super) fn axis(&self, tensor: TensorId, axis: usize) -> AxisId {
        self.ch.tensor(tensor).axes[axis].unwrap()
    }

    fn tie(&mut self, (group, channel): (usize, usize), axis: AxisId, index: usize) {
        let group = &mut self.ch.groups[group];
        group.channels[channel].members.push((axis, index as u32));
        group.channels[channel].members.sort_unstable();
        match group.axes.iter_mut().find(|(a, _)| *a == axis) {
            Some(known) => known.1 += u32::from(channel == 0),
            None => group.axes.push((axis, 1)),
        }
    }

    /// One group per size, all read by a grouped convolution of `cells` groups (1: none). `mult` indices per channel read.
    pub(super) fn block(&mut self, sizes: &[usize], cells: usize, mult: usize, depthwise: bool) {
        let mut block = Vec::new();
        let reads = if self.previous.is_empty() { 3 } else { self.previous.len() * mult };
        for &n in sizes {
            let g = self.ch.groups.len();
            let group = Group {
                name: format!("conv{g}"),
                layers: vec![],
                channels: vec![Channel { members: vec![] }; n],
                axes: vec![],
                sites: vec![],
                batch_norms: vec![],
            };
            self.ch.groups.push(group);
            let weight = self.tensor(&format!("w{g}"), &[n, reads, 3, 3], 1, Some(g as u32));
            let bias = self.tensor(&format!("b{g}"), &[n], 1, Some(1000 + g as u32));
            let out = self.tensor(&format!("y{g}"), &[n], 1, None);
            let (rows, columns) = (self.axis(weight, 0), self.axis(weight, 1));
            let mut vectors = vec![rows, self.axis(bias, 0), self.axis(out, 0)];
            if depthwise {
                let dw = self.tensor(&format!("d{g}"), &[n, 1, 3, 3], n, Some(2000 + g as u32));
                vectors.extend([self.axis(dw, 0), self.axis(dw, 1)]);
                self.ch
                    .params
                    .push(ParamTerm { tensor: dw, cost: Cost { constant: 9.0, axes: vec![self.axis(dw, 0)] } });
            }
            for (c, &axis) in (0..n).flat_map(|c| vectors.iter().map(move |a| (c, a))) {
                self.tie((g, c), axis, c);
            }
            for (i, from) in self.previous.clone().into_iter().enumerate() {
                (0..mult).for_each(|j| self.tie(from, columns, i * mult + j));
            }
            let cost = |constant, axes: &[AxisId]| Cost { constant, axes: axes.to_vec() };
            self.ch.macs.push(MacTerm { node: NodeId(g as u32), cost: cost(9.0 * 64.0, &[rows, columns]) });
            self.ch.params.push(ParamTerm { tensor: weight, cost: cost(9.0, &[rows, columns]) });
            self.ch.params.push(ParamTerm { tensor: bias, cost: cost(1.0, &[vectors[1]]) });
            block.extend((0..n).map(|c| (g, c)));
        }
        if cells > 1 {
            let per = block.len() / cells;
            let t = self.ch.tensors.len();
            let weight = self.tensor(&format!("g{t}"), &[cells * 2, per, 3, 3], cells, Some(5000 + t as u32));
            let (rows, columns) = (self.axis(weight, 0), self.axis(weight, 1));
            (0..block.len()).for_each(|i| self.tie(block[i], columns, i));
            let cost = Cost { constant: 9.0 * 64.0 / cells as f64, axes: vec![rows, columns] };
            self.ch.macs.push(MacTerm { node: NodeId(900 + t as u32), cost: cost.clone() });
            self.ch.params.push(ParamTerm { tensor: weight, cost });
            self.ch.units.push(Unit { cells: block.chunks(per).map(<[_]>::to_vec).collect() });
        } else {
            let first = self.ch.groups.len() - sizes.len();
            let unit = |g: usize| Unit { cells: vec![block.iter().copied().filter(|m| m.0 == g).collect()] };
            self.ch.units.extend((first..first + sizes.len()).map(unit));
        }
        self.previous = block;
    }
}

fn chain(sizes: &[usize]) -> Channels {
    let mut b = Builder::default();
    sizes.iter().for_each(|&n| b.block(&[n], 1, 1, false));
    b.block(&[1], 1, 1, false);
    b.ch
}

pub(super) fn random(rng: &mut ChaCha8Rng) -> (Channels, Vec<Vec<f64>>) {
    let mut b = Builder::default();
    for _ in 0..rng.random_range(1..9) {
        let n = *[1, 2, 3, 8, 12, 15, 16, 24, 32, 48, 64, 80, 128].choose(rng).unwrap();
        let depthwise = rng.random_bool(0.3);
        match rng.random_range(0..5) {
            0 => b.block(&[n * 4], 4, 1, false),
            1 => b.block(&[n, n], 2, 1, depthwise),        // coupled groups
            2 => b.block(&[n * 2, n], 3, 2, false),        // cells of one group and of two
            3 => b.block(&[n + 2, n, n + 1], 3, 1, false), // cells that mix groups
            _ => b.block(&[n], 1, 1 + n % 2, depthwise),
        }
    }
    let coarse = rng.random_bool(0.2); // many ties
    let score = |rng: &mut ChaCha8Rng| if coarse { f64::from(rng.random_range(0..4)) } else { rng.random::<f64>() };
    let scores = b.ch.groups.iter().map(|g| g.channels.iter().map(|_| score(rng)).collect()).collect();
    (b.ch, scores)
}

fn counts(d: &Decision) -> Vec<usize> {
    d.removed.iter().map(Vec::len).collect()
}

fn random_limits(rng: &mut ChaCha8Rng, ch: &Channels) -> Limits {
    let ids: Vec<usize> = (0..ch.groups.len()).collect();
    let pick = |rng: &mut ChaCha8Rng, p| if rng.random_bool(p) { ids.choose(rng).copied() } else { None };
    let exclude: Vec<usize> = pick(rng, 0.3).into_iter().collect();
    let fixed = pick(rng, 0.3).filter(|g| !exclude.contains(g));
    Limits {
        scope: if rng.random_bool(0.5) { Scope::Global } else { Scope::Local },
        min_channels: *[0, 1, 1, 4, 16].choose(rng).unwrap(),
        max_layer_ratio: *[0.9, 0.9, 0.5, 1.0].choose(rng).unwrap(),
        round_to: *[RoundTo::default(), RoundTo::Multiple(1), RoundTo::Multiple(8), RoundTo::Multiple(5)]
            .choose(rng)
            .unwrap(),
        layer_ratio: fixed.map(|g| (g, rng.random::<f64>())).into_iter().collect(),
        exclude,
        whole: Vec::new(),
    }
}

fn check_limits(ch: &Channels, scores: &Scores, limits: &Limits, d: &Decision) {
    for (g, group) in ch.groups.iter().enumerate() {
        let (n, gone) = (group.channels.len(), d.removed[g].len());
        assert!(gone == 0 || n - gone >= limits.min_channels.max(1));
        assert!(gone as f64 <= limits.max_layer_ratio * n as f64 + 1e-6);
        assert!(!limits.exclude.contains(&g) || gone == 0);
        assert!(d.removed[g].is_sorted() && !d.reasons[g].is_empty() && !d.reasons[g].contains("any unit"));
    }
    for unit in &ch.units {
        let gone = |c: &[(usize, usize)]| c.iter().filter(|m| d.removed[m.0].contains(&m.1)).count();
        let k = gone(&unit.cells[0]);
        for cell in &unit.cells {
            assert_eq!(gone(cell), k);
            let mut order = cell.clone();
            order.sort_by(|a, b| scores[a.0][a.1].total_cmp(&scores[b.0][b.1]).then(a.cmp(b)));
            assert!(order[..k].iter().all(|m| d.removed[m.0].contains(&m.1)), "a prefix of the ranking goes");
        }
        if let [cell] = unit.cells.as_slice() {
            let kept = cell.len() - k;
            assert!(k == 0 || kept.is_multiple_of(limits.round_to.multiple(cell.len())), "{kept} of {}", cell.len());
        }
    }
    for (i, gone) in removed_indices(ch, &d.removed).iter().enumerate() {
        assert_eq!(kept_len(ch, AxisId(i as u32), &counts(d)), ch.axes[i].len - gone.len());
    }
}

/// The least distance of any allowed combination from the budget, by trying all (when there are few).
fn exhaustive(ch: &Channels, scores: &Scores, budget: &Budget, limits: &Limits) -> Option<f64> {
    let units = units::build(ch, scores, limits).unwrap();
    let choices = |u: &units::UnitPlan| u.fixed.map_or(0..u.levels.len(), |f| f..f + 1);
    let combinations = units.iter().try_fold(1usize, |n, u| n.checked_mul(choices(u).len()))?;
    if combinations > 4000 {
        return None;
    }
    let (mut at, mut least) = (units.iter().map(|u| choices(u).start).collect::<Vec<_>>(), f64::INFINITY);
    loop {
        let mut gone = vec![0; ch.groups.len()];
        for (u, &l) in units.iter().zip(&at) {
            u.shares.iter().for_each(|s| gone[s.group] += s.taken[u.levels[l]] as usize);
        }
        let total: usize = ch.groups.iter().map(|g| g.channels.len()).sum();
        least = least.min(match *budget {
            Budget::Ratio(r) => (gone.iter().sum::<usize>() as f64 / total as f64 - r).abs(),
            Budget::TargetMacs(s) => (macs(ch, &gone) / macs(ch, &[]) - s).abs(),
            Budget::TargetParams(s) => (params(ch, &gone) / params(ch, &[]) - s).abs(),
            Budget::Threshold(_) | Budget::TargetLatency(_) => 0.0,
        });
        let Some(u) = (0..units.len()).find(|&u| at[u] + 1 < choices(&units[u]).end) else { return Some(least) };
        at[u] += 1;
        (0..u).for_each(|v| at[v] = choices(&units[v]).start);
    }
}

/// A threshold removes what lies below it, up to the floors, rounded to the nearest count that the limits allow.
fn check_nearest(ch: &Channels, scores: &Scores, limits: &Limits, threshold: f64, d: &Decision) {
    for unit in ch.units.iter().filter(|u| u.cells.len() == 1) {
        let g = unit.cells[0][0].0;
        let (n, multiple) = (scores[g].len(), limits.round_to.multiple(scores[g].len()));
        if limits.exclude.contains(&g) || limits.layer_ratio.iter().any(|l| l.0 == g) {
            continue;
        }
        let allowed = |&k: &usize| n - k >= limits.min_channels.max(1) && k as f64 <= limits.max_layer_ratio * n as f64;
        let most = (0..n).filter(allowed).max().unwrap_or(0);
        let wanted = scores[g].iter().filter(|&&s| s <= threshold).count().min(most);
        let rounded = (0..=most).filter(|&k| k == 0 || (n - k).is_multiple_of(multiple));
        assert_eq!(d.removed[g].len(), rounded.min_by_key(|k| (k.abs_diff(wanted), *k)).unwrap());
    }
}

#[test]
fn random_models() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let (mut judged, mut missed) = (0, 0);
    for round in 0..600 {
        let (ch, scores) = random(&mut rng);
        let limits = random_limits(&mut rng, &ch);
        let x: f64 = rng.random_range(0.02..0.98);
        let budget = match round % 4 {
            0 => Budget::Ratio(x),
            1 => Budget::Threshold(x),
            2 => Budget::TargetMacs(x),
            _ => Budget::TargetParams(x),
        };
        let d = decide(&ch, &scores, &budget, None, &limits).unwrap();
        check_limits(&ch, &scores, &limits, &d);
        let again = decide(&ch, &scores, &budget, None, &limits).unwrap();
        assert_eq!((&d.removed, &d.reasons), (&again.removed, &again.reasons));
        assert_eq!(d.reached.macs_after, macs(&ch, &counts(&d)));
        if round % 4 == 1 {
            check_nearest(&ch, &scores, &limits, x, &d);
        }
        if round % 4 == 1 || (round % 4 == 0 && limits.scope == Scope::Local) {
            continue;
        }
        let off = (d.reached.value - x).abs();
        assert!(off <= budget::TOLERANCE + 1e-12 || d.reached.missed.is_some(), "{budget} {off}");
        if let Some(least) = exhaustive(&ch, &scores, &budget, &limits) {
            judged += 1;
            let needless = off > budget::TOLERANCE && least <= budget::TOLERANCE;
            missed += usize::from(needless);
        }
    }
    assert!(judged > 60, "{judged}");
    assert!(missed <= judged / 100, "{missed} of {judged} reachable targets missed");
}

#[test]
fn nothing_asked_nothing_removed() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..50 {
        let (ch, scores) = random(&mut rng);
        for budget in [Budget::Ratio(0.0), Budget::TargetMacs(1.0), Budget::TargetParams(1.0), Budget::Threshold(-1.0)]
        {
            let d = decide(&ch, &scores, &budget, None, &Limits::default()).unwrap();
            assert_eq!(d.reached.channels_removed, 0);
        }
    }
}

#[test]
fn global_takes_the_lowest_and_local_the_same_share() {
    let ch = chain(&[10, 10]);
    let scores = vec![(0..10).map(f64::from).collect(), (0..10).map(|i| f64::from(i) + 6.5).collect(), vec![9e9]];
    let d = decide(&ch, &scores, &Budget::Ratio(8.0 / 21.0), None, &Limits::default()).unwrap();
    assert_eq!(d.removed, [(0..7).collect(), vec![0], vec![]]);
    let local = Limits { scope: Scope::Local, ..Limits::default() };
    let d = decide(&ch, &scores, &Budget::Ratio(0.4), None, &local).unwrap();
    assert_eq!(counts(&d), [4, 4, 0]);
    let d = decide(&ch, &scores, &Budget::Threshold(2.0), None, &local).unwrap();
    assert_eq!(d.removed[0], [0, 1, 2]);
    assert_eq!((counts(&d), d.reached.value), (vec![3, 0, 0], 2.0));
}

/// Layers whose times are their multiply-accumulates.
fn times_like_macs(ch: &Channels) -> Times {
    let layer = |m: &MacTerm| {
        let lens: Vec<Vec<usize>> = m.cost.axes.iter().map(|a| (0..=ch.axes[a.0 as usize].len).collect()).collect();
        let mut ms = vec![m.cost.constant];
        for axis in &lens {
            ms = ms.iter().flat_map(|t| axis.iter().map(move |&n| t * n as f64)).collect();
        }
        LayerTime { axes: m.cost.axes.clone(), lens, ms }
    };
    Times { layers: ch.macs.iter().map(layer).collect(), rest_ms: 0.0 }
}

#[test]
fn latency_is_spent_as_macs_are_where_it_is_the_same() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut moved = 0;
    for _ in 0..40 {
        let (ch, scores) = random(&mut rng);
        let limits = random_limits(&mut rng, &ch);
        let x: f64 = rng.random_range(0.2..0.9);
        let mut times = times_like_macs(&ch);
        let by_macs = decide(&ch, &scores, &Budget::TargetMacs(x), None, &limits).unwrap();
        let by_time = decide(&ch, &scores, &Budget::TargetLatency(x), Some(&times), &limits).unwrap();
        assert_eq!(by_time.removed, by_macs.removed);
        assert!((by_time.reached.value - by_macs.reached.value).abs() < 1e-9);
        // A part that never shrinks leaves less to be had.
        times.rest_ms = by_macs.reached.macs_before;
        let slow = decide(&ch, &scores, &Budget::TargetLatency(x), Some(&times), &limits).unwrap();
        assert!(slow.reached.value >= 0.5);
        assert!(slow.reached.missed.is_some() || slow.reached.value < x + 0.03);
        moved += usize::from(slow.removed != by_time.removed);
    }
    assert!(moved > 20, "{moved}");
}

#[test]
fn times_that_do_not_fit_are_refused() {
    let ch = chain(&[8, 8]);
    let scores: Vec<Vec<f64>> = ch.groups.iter().map(|g| vec![1.0; g.channels.len()]).collect();
    let refused = |times: Option<&Times>| {
        let d = decide(&ch, &scores, &Budget::TargetLatency(0.5), times, &Limits::default());
        matches!(d, Err(Error::Internal(_)))
    };
    assert!(refused(None));
    let mut times = times_like_macs(&ch);
    assert!(!refused(Some(&times)));
    times.layers[0].ms.pop();
    assert!(refused(Some(&times)));
    assert!(refused(Some(&Times { layers: vec![], rest_ms: f64::NAN })));
}

#[test]
fn a_wide_model_is_fast() {
    let sizes = vec![2048; 300];
    let mut ch = Channels::default();
    for (g, &n) in sizes.iter().enumerate() {
        let tensor = TensorId(g as u32);
        ch.axes.push(Axis { tensor, axis: 0, len: n, fold: 1 });
        let axes = vec![(AxisId(g as u32), 1)];
        let channels = vec![Channel { members: vec![] }; n];
        let name = String::new();
        ch.groups.push(Group { name, layers: vec![], channels, axes, sites: vec![], batch_norms: vec![] });
        ch.units.push(Unit { cells: vec![(0..n).map(|c| (g, c)).collect()] });
        let axes = (g.saturating_sub(1)..=g).map(|a| AxisId(a as u32)).collect();
        ch.macs.push(MacTerm { node: NodeId(0), cost: Cost { constant: 1.0, axes } });
    }
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let scores: Vec<Vec<f64>> = sizes.iter().map(|&n| (0..n).map(|_| rng.random()).collect()).collect();
    for scope in [Scope::Global, Scope::Local] {
        for budget in [Budget::TargetMacs(0.5), Budget::Ratio(0.3)] {
            let start = std::time::Instant::now();
            let d = decide(&ch, &scores, &budget, None, &Limits { scope, ..Limits::default() }).unwrap();
            let time = start.elapsed();
            eprintln!("{scope:?} {budget}: {time:?}");
            assert!(cfg!(debug_assertions) || time.as_millis() < 500, "{time:?}"); // 20 ms on an idle machine
            assert!(d.reached.missed.is_none());
        }
    }
}

#[test]
fn fixed_and_excluded_groups_stand_aside() {
    let ch = chain(&[64, 64, 64]);
    let scores: Vec<Vec<f64>> = ch.groups.iter().map(|g| (0..g.channels.len()).map(|c| c as f64).collect()).collect();
    let limits = Limits { exclude: vec![0], layer_ratio: vec![(1, 0.55)], ..Limits::default() };
    let d = decide(&ch, &scores, &Budget::Threshold(19.0), None, &limits).unwrap();
    assert_eq!(counts(&d), [0, 32, 16, 0]); // 35.2 → 32; 20 is midway between 16 and 24, the tie keeps more
}

#[test]
fn what_cannot_be_reached_is_said() {
    let ch = chain(&[64, 64]);
    let scores = vec![vec![1.0; 64], vec![1.0; 64], vec![1.0]];
    let missed = |budget, limits: Limits| {
        decide(&ch, &scores, &budget, None, &limits).unwrap().reached.missed.unwrap_or_default()
    };
    let half = || Limits { max_layer_ratio: 0.5, ..Limits::default() };
    assert_eq!(missed(Budget::TargetMacs(0.4), Limits::default()), "");
    let text = missed(Budget::TargetMacs(0.01), half());
    assert!(
        text.starts_with("target-macs 0.01: the nearest reachable is 0.2") && text.contains("max-layer-ratio 0.5"),
        "{text}"
    );
    let text = missed(Budget::TargetParams(0.9), Limits { round_to: RoundTo::Multiple(32), ..half() });
    assert!(text.contains("round-to 32"), "{text}");
    let free = || Limits { max_layer_ratio: 1.0, round_to: RoundTo::Multiple(1), ..Limits::default() };
    assert_eq!(missed(Budget::TargetMacs(0.001), free()), "");
    let mut pinned = ch.clone();
    pinned.macs.push(MacTerm { node: NodeId(99), cost: Cost { constant: macs(&ch, &[]), axes: vec![] } });
    let text = decide(&pinned, &scores, &Budget::TargetMacs(0.3), None, &free()).unwrap().reached.missed.unwrap();
    assert!(text.contains("what is pinned: one channel left in every group would give 0.5"), "{text}");
    let text = missed(Budget::TargetMacs(0.9), Limits { layer_ratio: vec![(0, 0.9)], ..Limits::default() });
    assert!(text.contains("ratio of their own, which already remove more"), "{text}");
    let text = missed(Budget::Ratio(0.8), Limits { exclude: vec![1], ..Limits::default() });
    assert!(text.contains("1 group excluded"), "{text}");
    let empty = decide(&Channels::default(), &[], &Budget::Ratio(0.5), None, &Limits::default()).unwrap();
    assert!(empty.removed.is_empty() && empty.reached.missed.unwrap().contains("nothing is prunable"));
}

#[test]
fn nonsense_is_refused() {
    let ch = chain(&[8]);
    let scores = vec![vec![1.0; 8], vec![1.0]];
    let refused = |scores: &Scores, budget, limits: &Limits| match decide(&ch, scores, &budget, None, limits) {
        Err(Error::Usage(text)) => text,
        other => panic!("{other:?}"),
    };
    let usual = Limits::default();
    for ratio in [1.0, -0.1, f64::NAN] {
        assert!(refused(&scores, Budget::Ratio(ratio), &usual).contains("below 1"));
    }
    for share in [0.0, 1.5, f64::NAN] {
        assert!(refused(&scores, Budget::TargetMacs(share), &usual).contains("MACs"));
        assert!(refused(&scores, Budget::TargetParams(share), &usual).contains("parameters"));
    }
    refused(&scores, Budget::Threshold(f64::NAN), &usual);
    refused(&scores, Budget::Ratio(0.1), &Limits { max_layer_ratio: 1.1, ..Limits::default() });
    refused(&scores, Budget::Ratio(0.1), &Limits { layer_ratio: vec![(0, 2.0)], ..Limits::default() });
    refused(
        &scores,
        Budget::Ratio(0.1),
        &Limits { exclude: vec![0], layer_ratio: vec![(0, 0.2)], ..Limits::default() },
    );
    assert!(refused(&[vec![f64::NAN; 8], vec![1.0]], Budget::Ratio(0.1), &usual).contains("conv0"));
    assert!(matches!(decide(&ch, &[], &Budget::Ratio(0.1), None, &usual), Err(Error::Internal(_))));
}

#[test]
fn instances_of_one_constant_count_once_while_whole() {
    let mut ch = chain(&[4, 4]);
    for t in &mut ch.tensors {
        if t.key.starts_with('b') && t.key != "b2" {
            t.source = Some(ValueId(7));
        }
    }
    let single = chain(&[4, 4]);
    let difference = |gone: &[usize]| params(&single, gone) - params(&ch, gone);
    assert_eq!([difference(&[]), difference(&[1, 0]), difference(&[1, 2])], [4.0, 0.0, 0.0]);
}

//! Which results are worth a look: those that no other beats in every respect.

use super::collect::Record;
use std::collections::BTreeMap;

/// Of points that are better the smaller both values are, those that no other point dominates: at least as good in both, and
/// better in one. Equal points stay together. Points that are not finite never count.
pub fn front(points: &[(f64, f64)]) -> Vec<bool> {
    let finite = |p: &(f64, f64)| p.0.is_finite() && p.1.is_finite();
    let beats = |q: &(f64, f64), p: &(f64, f64)| finite(q) && q.0 <= p.0 && q.1 <= p.1 && q != p;
    points.iter().map(|p| finite(p) && !points.iter().any(|q| beats(q, p))).collect()
}

/// Marks the rows that are on the front of their model: by drop and multiply-accumulates, and by drop and time.
pub fn mark(rows: &mut [Record]) {
    let mut models: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, row) in rows.iter().enumerate() {
        models.entry(row.model.clone()).or_default().push(i);
    }
    let cost: [fn(&Record) -> Option<f64>; 2] = [|r| r.macs_after.map(|m| m as f64), |r| r.time_ratio];
    for members in models.values() {
        for (which, cost) in cost.iter().enumerate() {
            let point = |&i: &usize| {
                let row = rows.get(i)?;
                Some((row.drop_points?, cost(row)?))
            };
            let points: Vec<(f64, f64)> = members.iter().map(|i| point(i).unwrap_or((f64::NAN, f64::NAN))).collect();
            for (&i, best) in members.iter().zip(front(&points)) {
                if let Some(row) = rows.get_mut(i) {
                    *if which == 0 { &mut row.best_by_macs } else { &mut row.best_by_time } = best;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nothing_beats() {
        let points =
            [(1.0, 5.0), (2.0, 4.0), (2.0, 5.0), (3.0, 1.0), (3.0, 1.0), (f64::NAN, 0.0), (0.5, f64::INFINITY)];
        assert_eq!(front(&points), [true, true, false, true, true, false, false]);
        assert!(front(&[]).is_empty());
    }

    #[test]
    fn models_have_fronts_of_their_own() {
        let row = |model: &str, drop, macs| Record {
            model: model.into(),
            drop_points: drop,
            macs_after: Some(macs),
            ..Record::default()
        };
        let mut rows = [row("a", Some(1.0), 5), row("b", Some(2.0), 9), row("a", Some(2.0), 5), row("a", None, 1)];
        mark(&mut rows);
        assert_eq!(rows.each_ref().map(|r| r.best_by_macs), [true, true, false, false]);
        assert!(rows.iter().all(|r| !r.best_by_time));
    }
}

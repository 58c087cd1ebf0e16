use onnx_prune::{prune::*, plan::Budget, recover::Recover};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let model = onnx_prune::onnx::load(a[1].as_ref()).unwrap();
    let v: f64 = a[2].parse().unwrap();
    let mut o = Options { budget: if a[3] == "macs" { Budget::TargetMacs(v) } else { Budget::Ratio(v) }, ..Default::default() };
    o.recover = if a[4] == "none" { Recover::None } else { Recover::Bias };
    if a.len() > 6 { o.criterion = Some(a[6].parse().unwrap()); }
    if a.len() > 7 { o.steps = a[7].parse().unwrap(); }
    o.hash = std::env::var("NOHASH").is_err();
    o.verify = std::env::var("NOVERIFY").is_err();
    match prune(&model, &o, &|_| ()) {
        Ok(p) => {
            let r = &p.report;
            if std::env::var("V").is_ok() {
                for g in &r.groups { println!("{} {:?} {}->{} {} [{}]", g.id, g.layers.len(), g.channels_before, g.channels_after, g.reason, g.criterion); }
                for q in &r.pins { println!("PIN {} {} ax{} {}/{} by {} ({}) {}", q.layer, q.tensor, q.axis, q.pinned, q.len, q.node, q.op, q.reason); }
            }
            println!("{} groups {} macs {}->{} ({:.3}) params {}->{} ratio {:.3} missed {:?} verify {:?} {} recover {:?} t {:?}", a[1], r.groups.len(), r.original.macs, r.pruned.macs, r.pruned.macs as f64/r.original.macs as f64, r.original.params, r.pruned.params, r.ratio_reached, r.missed, r.verify.max_rel_diff, r.verify.note, r.recover, r.timings_ms);
            onnx_prune::onnx::save(p.model.as_ref().unwrap(), format!("{}.onnx", a[5]).as_ref(), &Default::default()).unwrap();
            onnx_prune::plan::save(format!("{}.json", a[5]).as_ref() as &std::path::Path, &p.plan).unwrap();
        }
        Err(e) => { println!("{} ERROR {e}", a[1]); std::process::exit(1) }
    }
}

use super::*;
use crate::runtime::{Array, Data};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Mutex;

/// Time that only passes when a fake model runs, or is looked at.
#[derive(Clone, Default)]
struct Hand(Arc<Mutex<f64>>);

impl Clock for Hand {
    fn seconds(&mut self) -> f64 {
        *self.0.lock().unwrap()
    }
}

/// What ran: the model's letter and the first value of its input.
type Log = Arc<Mutex<Vec<(char, i64)>>>;

struct Fake {
    letter: char,
    seconds: f64,
    time: Hand,
    log: Log,
}

impl Session for Fake {
    fn run(&mut self, inputs: &[(String, Array)]) -> Result<Vec<(String, Array)>> {
        let Data::I64(values) = &inputs[0].1.data else { panic!() };
        self.log.lock().unwrap().push((self.letter, values[0]));
        *self.time.0.lock().unwrap() += self.seconds;
        if self.seconds > 99.0 {
            return Err(Error::Runtime { runtime: "fake", message: "too slow".into() });
        }
        Ok(Vec::new())
    }
}

fn feeds(n: i64) -> Vec<Feed> {
    (0..n).map(|i| vec![("x".to_owned(), Array { dims: vec![1], data: Data::I64(vec![i]) })]).collect()
}

type Named = (String, Box<dyn Session>);

fn fakes(seconds: &[f64]) -> (Vec<Named>, Hand, Log) {
    let (time, log) = (Hand::default(), Log::default());
    let fake = |(letter, &seconds): (char, &f64)| {
        let session = Fake { letter, seconds, time: time.clone(), log: log.clone() };
        (format!("{letter}.onnx"), Box::new(session) as Box<dyn Session>)
    };
    (('a'..).zip(seconds).map(fake).collect(), time, log)
}

#[test]
fn models_take_turns_on_the_same_inputs() {
    let (mut sessions, mut time, log) = fakes(&[0.5, 0.25]);
    let effort = Effort { warmup_s: 0.0, runs: Some(3), min_time_s: 9.0 };
    let rounds = measure(&mut sessions, &feeds(2), &effort, &mut time).unwrap();
    let order: Vec<(char, i64)> = log.lock().unwrap().clone();
    let warm = [('a', 0), ('b', 0), ('a', 1), ('b', 1)];
    let counted = [('a', 0), ('b', 0), ('a', 1), ('b', 1), ('a', 0), ('b', 0)];
    assert_eq!(order, [warm.as_slice(), counted.as_slice()].concat());
    assert_eq!(rounds.ms, [vec![500.0; 3], vec![250.0; 3]]);
    assert_eq!((rounds.warmup_rounds, rounds.warmup_s), (WARMUP_ROUNDS, 1.5));
    assert_eq!(rounds.first_ms, [500.0, 250.0]);
}

#[test]
fn time_decides_where_runs_are_not_given() {
    let runs = |seconds: &[f64], warmup_s, min_time_s| {
        let (mut sessions, mut time, _) = fakes(seconds);
        let effort = Effort { warmup_s, runs: None, min_time_s };
        let rounds = measure(&mut sessions, &feeds(1), &effort, &mut time).unwrap();
        (rounds.warmup_rounds, rounds.ms[0].len())
    };
    // Four seconds for two models, 0.5 s a round.
    assert_eq!(runs(&[0.375, 0.125], 1.0, 8.0), (4, 32));
    assert_eq!(runs(&[30.0], 0.5, 1.0), (WARMUP_ROUNDS, MIN_RUNS));
}

#[test]
fn errors_name_the_model_and_nothing_to_feed_is_one() {
    let (mut sessions, mut time, _) = fakes(&[0.5, 100.0]);
    let effort = Effort { warmup_s: 0.0, runs: Some(1), min_time_s: 0.0 };
    let error = measure(&mut sessions, &feeds(1), &effort, &mut time).unwrap_err().to_string();
    assert!(error.contains("b.onnx: too slow"), "{error}");
    assert!(measure(&mut sessions, &[], &effort, &mut time).is_err());
}

#[test]
fn verdicts_need_the_interval_and_more_than_a_reload_makes() {
    let times = |level: f64| (0..60).map(|i| level * (1.0 + 0.001 * (i % 7) as f64)).collect::<Vec<_>>();
    let verdict = |level: f64| Comparison::of(&times(level), &times(1.0), 0).unwrap().verdict;
    assert_eq!(verdict(0.9), Verdict::Faster);
    assert_eq!(verdict(1.1), Verdict::Slower);
    assert_eq!(verdict(1.01), Verdict::NoDifference);
    assert_eq!(verdict(0.99), Verdict::NoDifference);
    let wild: Vec<f64> = (0..60).map(|i| if (i / 10) % 2 == 0 { 0.5 } else { 1.4 }).collect();
    assert_eq!(Comparison::of(&wild, &times(1.0), 0).unwrap().verdict, Verdict::NoDifference);
}

/// Loads every model as a fake whose time is the model's number of bytes in seconds.
struct FakeRuntime(Hand, Log);

impl Runtime for FakeRuntime {
    fn name(&self) -> &'static str {
        "fake"
    }
    fn version(&self) -> String {
        "1".to_owned()
    }
    fn load(&self, model: &Model) -> Result<Box<dyn Session>> {
        let seconds = model.bytes_on_disk as f64;
        *self.0.0.lock().unwrap() += 2.0;
        Ok(Box::new(Fake { letter: 'x', seconds, time: self.0.clone(), log: self.1.clone() }))
    }
}

#[test]
fn rows_come_by_threads_batch_and_model() {
    let model = |name: &str, bytes| {
        let mut model = Model::from_proto(Default::default(), name);
        model.bytes_on_disk = bytes;
        model
    };
    let models = [model("a.onnx", 4), model("b.onnx", 1)];
    let mut time = Hand::default();
    let asked = Rc::new(RefCell::new(Vec::new()));
    let steps = Cell::new(0);
    let runtime_time = time.clone();
    let options = BenchOptions {
        bind: false,
        runtime: &|threads| {
            asked.borrow_mut().push(threads);
            Ok(Arc::new(FakeRuntime(runtime_time.clone(), Log::default())))
        },
        threads: vec![1, 2],
        batches: vec![1, 8],
        feeds: &|_| Ok(feeds(1)),
        effort: Effort { warmup_s: 0.0, runs: Some(5), min_time_s: 0.0 },
        seed: 0,
        profile: false,
        memory: &|model, batch, threads| Some((model * 100 + batch * 10 + threads) as u64),
        progress: &|_| steps.set(steps.get() + 1),
    };
    let report = bench(&models, &options, &mut time).unwrap();
    let key = |r: &BenchRow| (r.threads, r.batch, r.model);
    let keys: Vec<_> = report.rows.iter().map(key).collect();
    assert_eq!(keys, [(1, 1, 0), (1, 1, 1), (1, 8, 0), (1, 8, 1), (2, 1, 0), (2, 1, 1), (2, 8, 0), (2, 8, 1)]);
    assert_eq!(*asked.borrow(), [1, 2]);
    assert!(steps.get() > 0);
    let last = &report.rows[7];
    assert_eq!((last.median_ms, last.load_ms, last.samples_per_s, last.runs), (1000.0, 2000.0, 8.0, 5));
    assert_eq!(last.memory_bytes, Some(182));
    let c = last.comparison.unwrap();
    assert_eq!((c.ratio, c.low, c.high, c.verdict), (0.25, 0.25, 0.25, Verdict::Faster));
    assert_eq!(report.rows[6].comparison, None);
    let profile = BenchOptions { profile: true, ..options };
    assert!(bench(&models, &profile, &mut time).unwrap_err().to_string().contains("--runtime ort"));
}

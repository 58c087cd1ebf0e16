//! A spinner with the name of the current stage, on a terminal only; and how a training run goes on.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use onnx_prune::train::history::Epoch;
use onnx_prune::train::run::Event;
use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// The spinner; silent where nobody watches.
pub struct Progress {
    bar: ProgressBar,
    /// Not even lines.
    quiet: bool,
    /// The first step of this process: when, and which.
    first: Cell<Option<(Instant, u64)>>,
}

impl Progress {
    /// On stderr, when that is a terminal, `quiet` is not asked for, and no log is written there.
    pub fn new(quiet: bool) -> Self {
        let first = Cell::new(None);
        if quiet || !std::io::stderr().is_terminal() || super::log::is_on() {
            return Self { bar: ProgressBar::hidden(), quiet, first };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{elapsed}]") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar, quiet, first }
    }

    /// The next stage begins.
    pub fn stage(&self, name: &str) {
        self.bar.set_message(name.to_owned());
    }

    /// Step by step on a terminal, and a line for each epoch.
    pub fn training(&self, event: &Event, epochs: usize) {
        match event {
            Event::Stage(name) => self.stage(name),
            Event::Step(step, all, loss) => {
                let (began, from) = self.first.get().unwrap_or((Instant::now(), *step));
                self.first.set(Some((began, from)));
                let done = step - from;
                let left = if done > 0 {
                    let each = began.elapsed().as_secs_f64() / done as f64;
                    format!(", {} left", time(each * (all - step) as f64))
                } else {
                    String::new()
                };
                self.bar.set_message(format!("step {step} of {all}, loss {loss:.4}{left}"));
            }
            Event::Epoch(result) if !self.quiet => {
                let line = line(result, epochs);
                if self.bar.is_hidden() { eprintln!("{line}") } else { self.bar.println(line) }
            }
            Event::Epoch(_) => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `75 s` is `1 min 15 s`.
pub fn time(seconds: f64) -> String {
    let s = seconds.round() as u64;
    if s < 60 { format!("{s} s") } else { format!("{} min {:02} s", s / 60, s % 60) }
}

fn line(r: &Epoch, epochs: usize) -> String {
    let mut text = format!("epoch {} of {epochs}: loss {:.4}", r.epoch, r.loss);
    if let Some(held) = &r.held {
        text += &format!(", held back {:.4}", held.loss);
        if let (Some(score), Some(name)) = (held.metric, &held.metric_name) {
            text += &format!(", {name} {score:.4}");
        }
    }
    if let Some(s) = &r.sparsity {
        text += &format!(", {:.0} % of channels removable", 100.0 * s.removable_share);
    }
    format!("{text}, {:.1} s, {} left", r.seconds, time(r.seconds * (epochs - r.epoch) as f64))
}

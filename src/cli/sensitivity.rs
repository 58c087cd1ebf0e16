//! `onnx-prune sensitivity MODEL`.

use super::data::DataArgs;
use super::output::{self, Staged};
use super::parse;
use super::progress::Progress;
use super::prune::{in_file, load};
use super::quality::MetricArgs;
use super::runtime::RuntimeArgs;
use super::{Common, colour};
use anyhow::Context;
use clap::{Args, ValueEnum, ValueHint};
use onnx_prune::error::Error;
use onnx_prune::evaluate::sensitivity::{GroupCurve, Removal, Request, SHARES, SensitivityReport, sensitivity};
use onnx_prune::plan::RoundTo;
use onnx_prune::prune::Options;
use onnx_prune::report::{json, sensitivity_plot, sensitivity_text, terminal};
use onnx_prune::score::CriterionSpec;
use regex::Regex;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table
    Table,
    /// JSON with every detail
    Json,
    /// One line a point
    Csv,
}

/// Shows which channel groups matter.
#[derive(Debug, Args)]
pub struct SensitivityArgs {
    /// The ONNX model
    #[arg(value_name = "MODEL", value_hint = ValueHint::FilePath)]
    model: PathBuf,
    /// Shares of a group's channels to remove, between 0 and 1
    #[arg(long, value_name = "S,...", value_delimiter = ',', default_values_t = SHARES, help_heading = "Removal")]
    shares: Vec<f64>,
    /// Which channels go, and whether the layers that read them are adjusted
    #[arg(long, value_enum, value_name = "HOW", default_value_t, help_heading = "Removal")]
    removal: Removal,
    #[arg(long, value_name = "SPEC", help = "How --removal plain ranks channels, as in l2 or bn-scale=0.7,l1=0.3",
          long_help = parse::criteria_help(), help_heading = "Removal")]
    criterion: Option<CriterionSpec>,
    /// Leave groups with a matching node or tensor name out (repeatable)
    #[arg(long, value_name = "REGEX", value_parser = parse::regex, help_heading = "Removal")]
    exclude: Vec<Regex>,
    /// Measure only groups with a matching node or tensor name (repeatable)
    #[arg(long, value_name = "REGEX", value_parser = parse::regex, help_heading = "Removal")]
    only: Vec<Regex>,
    /// Seed of everything that is drawn
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Removal")]
    seed: u64,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "table", help_heading = "Output")]
    format: Format,
    /// Write the result as JSON, or as CSV where the name ends in .csv
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output")]
    report: Option<PathBuf>,
    /// Draw the curves (SVG)
    #[arg(long, value_name = "FILE.svg", value_hint = ValueHint::FilePath, help_heading = "Output")]
    plot: Option<PathBuf>,
    /// Note every finished group in FILE, and go on from what an interrupted run noted there
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output")]
    resume: Option<PathBuf>,
    #[command(flatten)]
    metric: MetricArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    runtime: RuntimeArgs,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
pub fn run(args: &SensitivityArgs) -> anyhow::Result<()> {
    args.common.start()?;
    let progress = Progress::new(args.common.quiet);
    progress.stage("load");
    let model = load(&args.model)?;
    let files = [("the report", &args.report), ("the plot", &args.plot)];
    let written: Vec<(&str, &Path)> = files.iter().filter_map(|(what, p)| Some((*what, p.as_deref()?))).collect();
    let mut read: Vec<(&str, &Path)> = vec![("the input", &args.model)];
    read.extend(args.resume.iter().map(|p| ("the notes of the run", p.as_path())));
    output::check_distinct(&written, &read)?;
    written.iter().try_for_each(|(_, p)| output::probe(p))?;
    progress.stage("data");
    let means = args.metric.open(true, &args.data, &args.runtime, None, &model, args.seed)?;
    let Some(calibration) = means.calibration else {
        return Err(Error::Usage("sensitivity needs --data: samples to run the model on".into()).into());
    };
    let options = Options {
        criterion: args.criterion.clone(),
        exclude: args.exclude.clone(),
        only: args.only.clone(),
        seed: args.seed,
        calibration: Some(calibration.clone()),
        // What a share of the channels costs, not what a plan would make of it.
        round_to: RoundTo::Multiple(1),
        ..Options::default()
    };
    let mut shares = args.shares.clone();
    shares.sort_by(f64::total_cmp);
    shares.dedup();
    let request = Request {
        options: &options,
        calibration: &calibration,
        quality: means.quality.as_ref(),
        shares: &shares,
        removal: args.removal,
    };
    let open = |path: &PathBuf| Notes::open(path, &key(args, &model.sha256(), &request));
    let mut notes = args.resume.as_ref().map(open).transpose()?;
    let done = notes.as_mut().map(|n| std::mem::take(&mut n.done)).unwrap_or_default();
    let mut note = |curve: &GroupCurve| match &mut notes {
        Some(notes) => notes.add(curve),
        None => Ok(()),
    };
    let report =
        sensitivity(&model, &request, &done, &mut note, &|s| progress.stage(s)).map_err(|e| in_file(e, &args.model))?;
    progress.stage("write");
    let mut staged = Vec::new();
    if let Some(path) = &args.report {
        let csv = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv"));
        staged.push(Staged::new(path, if csv { sensitivity_text::csv(&report) } else { json::to_string(&report)? })?);
    }
    if let Some(path) = &args.plot {
        staged.push(Staged::new(path, sensitivity_plot::svg(&report)?)?);
    }
    staged.into_iter().try_for_each(Staged::publish)?;
    drop(progress);
    if !args.common.quiet {
        super::print(&text(&report, args.format)?)?;
    }
    Ok(())
}

fn text(report: &SensitivityReport, format: Format) -> anyhow::Result<String> {
    Ok(match format {
        Format::Table => colour::table(&sensitivity_text::table(report, terminal::width())),
        Format::Json => json::to_string(report)?,
        Format::Csv => sensitivity_text::csv(report),
    })
}

/// Two runs with the same key give the same curves.
fn key(args: &SensitivityArgs, sha: &str, r: &Request) -> String {
    let criterion = args.criterion.as_ref().map(ToString::to_string);
    let lists = [&args.exclude, &args.only].map(|l| l.iter().map(Regex::as_str).collect::<Vec<_>>());
    // The metric's flags say where the other samples come from.
    let measured = (&args.metric, r.quality.map(|q| (q.name(), q.samples(), q.original())));
    format!(
        "{} {sha} {:?} {:?} {} {criterion:?} {lists:?} {} {} {measured:?}",
        env!("CARGO_PKG_VERSION"),
        r.removal,
        r.shares,
        args.seed,
        r.calibration.digest(),
        r.calibration.runtime.name(),
    )
}

/// Finished groups, a line of JSON each, after a line that says what they belong to.
struct Notes {
    path: PathBuf,
    file: fs::File,
    done: Vec<GroupCurve>,
}

impl Notes {
    fn open(path: &Path, key: &str) -> anyhow::Result<Notes> {
        let place = || path.display().to_string();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(e).with_context(place),
        };
        let mut lines = text.split_inclusive('\n');
        let mut done = Vec::new();
        let head = format!("{}\n", serde_json::to_string(key)?);
        let mut whole = 0;
        match lines.next() {
            // A run that was interrupted before it could say what it is has nothing to lose.
            None => {}
            Some(first) if first == head => {
                whole = head.len();
                // The last line may have been cut off.
                for line in lines {
                    let Ok(curve) = serde_json::from_str::<GroupCurve>(line) else { break };
                    if !line.ends_with('\n') {
                        break;
                    }
                    whole += line.len();
                    done.push(curve);
                }
            }
            Some(_) => {
                let why = "it does not hold the notes of a run with this model, data and flags; delete it, or name another file";
                return Err(Error::Usage(format!("{}: {why}", place())).into());
            }
        }
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).with_context(place)?;
        file.set_len(whole as u64).with_context(place)?;
        if whole == 0 {
            file.write_all(head.as_bytes()).with_context(place)?;
        }
        Ok(Notes { path: path.to_owned(), file, done })
    }

    fn add(&mut self, curve: &GroupCurve) -> Result<(), Error> {
        let trouble = |e: String| Error::Usage(format!("{}: cannot note a finished group: {e}", self.path.display()));
        let line = serde_json::to_string(curve).map_err(|e| trouble(e.to_string()))?;
        writeln!(self.file, "{line}").and_then(|()| self.file.flush()).map_err(|e| trouble(e.to_string()))
    }
}

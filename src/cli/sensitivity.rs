//! `onnx-prune sensitivity MODEL`.

use super::data::DataArgs;
use super::output::{self, Staged};
use super::parse;
use super::progress::Progress;
use super::prune::{in_file, load};
use super::quality::MetricArgs;
use super::runtime::RuntimeArgs;
use super::shard::{AS_JSON, ShardArgs};
use super::{Common, colour};
use anyhow::Context;
use clap::{Args, ValueEnum, ValueHint};
use onnx_prune::error::Error;
use onnx_prune::evaluate::quality::Quality;
use onnx_prune::evaluate::sensitivity::{GroupCurve, Removal, Request, SHARES, SensitivityReport, measure};
use onnx_prune::evaluate::shard::{Part, Shard};
use onnx_prune::plan::RoundTo;
use onnx_prune::prune::Options;
use onnx_prune::report::{json, sensitivity_plot, sensitivity_text, terminal};
use onnx_prune::score::CriterionSpec;
use regex::Regex;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
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
    shard: ShardArgs,
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
    args.check_part()?;
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
    let asked = asked(args, &request);
    let open = |path: &PathBuf| Notes::open(path, &key(&model.sha256(), &asked));
    let mut notes = args.resume.as_ref().map(open).transpose()?;
    let done = notes.as_mut().map(|n| std::mem::take(&mut n.done)).unwrap_or_default();
    let mut note = |curve: &GroupCurve| match &mut notes {
        Some(notes) => notes.add(curve),
        None => Ok(()),
    };
    let shard = args.shard.shard.unwrap_or(Shard::WHOLE);
    let part = measure(&model, &request, shard, &done, &mut note, &|s| progress.stage(s));
    let part = part.map_err(|e| in_file(e, &args.model))?;
    progress.stage("write");
    if args.shard.shard.is_some() {
        let (n, all) = part.curves();
        let part = Part::sensitivity(shard, &model, asked, part);
        let text = part.to_json()?;
        args.report.iter().try_for_each(|path| Staged::new(path, text.clone())?.publish())?;
        drop(progress);
        if !args.common.quiet {
            let said = format!("Part {shard}: {n} of {all} curves\n");
            super::print(if args.format == Format::Json { &text } else { &said })?;
        }
        return Ok(());
    }
    let report = part.finish()?;
    write(&report, args.report.iter(), args.plot.as_deref())?;
    drop(progress);
    if !args.common.quiet {
        super::print(&text(&report, args.format)?)?;
    }
    Ok(())
}

impl SensitivityArgs {
    /// A part comes out as JSON or not at all.
    fn check_part(&self) -> anyhow::Result<()> {
        let Some(shard) = self.shard.shard else { return Ok(()) };
        let json = |p: &PathBuf| !is_csv(p);
        let some = self.report.is_some() || self.format == Format::Json;
        if !some || !self.report.iter().all(json) || self.format == Format::Csv || self.plot.is_some() {
            return Err(Error::Usage(format!("--shard {shard}: {AS_JSON}, and the plot")).into());
        }
        Ok(())
    }
}

fn is_csv(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv"))
}

/// Writes the report to files, as CSV where their names say so, and the plot.
pub fn write<'a>(
    report: &SensitivityReport,
    files: impl Iterator<Item = &'a PathBuf>,
    plot: Option<&Path>,
) -> anyhow::Result<()> {
    let mut staged = Vec::new();
    for path in files {
        staged.push(Staged::new(path, text(report, if is_csv(path) { Format::Csv } else { Format::Json })?)?);
    }
    if let Some(path) = plot {
        staged.push(Staged::new(path, sensitivity_plot::svg(report)?)?);
    }
    staged.into_iter().try_for_each(Staged::publish)
}

/// The report as it is printed.
pub fn text(report: &SensitivityReport, format: Format) -> anyhow::Result<String> {
    Ok(match format {
        Format::Table => colour::table(&sensitivity_text::table(report, terminal::width())),
        Format::Json => json::to_string(report)?,
        Format::Csv => sensitivity_text::csv(report),
    })
}

/// Everything that decides what the curves are, beside the model.
fn asked(args: &SensitivityArgs, r: &Request) -> BTreeMap<String, String> {
    let criterion = args.criterion.as_ref().map_or_else(|| "none".into(), ToString::to_string);
    let list = |l: &[Regex]| format!("{:?}", l.iter().map(Regex::as_str).collect::<Vec<_>>());
    let measured = r.quality.map(|q| (q.name(), q.samples(), q.original()));
    let data = match r.quality {
        Some(Quality::Data(on)) => on.data().digest(),
        _ => "none".into(),
    };
    BTreeMap::from([
        ("--removal".into(), format!("{:?}", r.removal)),
        ("--shares".into(), format!("{:?}", r.shares)),
        ("--criterion".into(), criterion),
        ("--exclude".into(), list(&args.exclude)),
        ("--only".into(), list(&args.only)),
        ("--seed".into(), args.seed.to_string()),
        ("data that calibrates".into(), r.calibration.digest()),
        ("data that measures".into(), data),
        ("runtime".into(), format!("{} {}", r.calibration.runtime.name(), r.calibration.runtime.version())),
        // The metric's flags say where the other samples come from.
        ("flags of the metric".into(), format!("{:?}", args.metric)),
        ("the original's figure".into(), format!("{measured:?}")),
    ])
}

/// Two runs with the same key give the same curves.
fn key(sha: &str, asked: &BTreeMap<String, String>) -> String {
    format!("{} {sha} {asked:?}", env!("CARGO_PKG_VERSION"))
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

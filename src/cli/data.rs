//! `onnx-prune data MODEL`, and the flags about data that other commands take.

use super::parse;
use super::progress::Progress;
use super::prune::{in_file, load};
use super::{Common, colour};
use clap::{Args, ValueEnum, ValueHint};
use onnx_prune::data::summary::summarise;
use onnx_prune::data::{ChannelOrder, DataOptions, Dataset, LabelsFrom, Layout, Preset, Size, config};
use onnx_prune::error::Error;
use onnx_prune::report::{data_terminal, json, terminal};
use std::path::{Path, PathBuf};

/// Data to run the model on. Everything may also be in `onnx-prune.toml` beside the model.
#[derive(Clone, Debug, Args)]
pub struct DataArgs {
    /// Samples for the model: a .npz, .npy or .safetensors file with an array for each input, a folder of images (flat, or
    /// one folder a class), or ONNX test data (test_data_set_*/input_0.pb)
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath, help_heading = "Data")]
    data: Option<PathBuf>,
    /// Use no data, whatever onnx-prune.toml says
    #[arg(long, conflicts_with = "data", help_heading = "Data")]
    no_data: bool,
    /// Use N samples, drawn with --seed [default: all]
    #[arg(long, value_name = "N", help_heading = "Data")]
    samples: Option<usize>,
    /// Samples in a batch; bench takes several, as in 1,8,32 [default: what the model fixes, or 32; for bench 1, for training 64
    /// wherever the model computes the same with it]
    #[arg(long, value_name = "N", value_delimiter = ',', help_heading = "Data")]
    batch: Vec<usize>,
    /// The model input that images or a single array go to, if there are several
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    input: Option<String>,
    /// Take the labels of images from the number in front of each file name
    #[arg(long, value_enum, value_name = "WHERE", help_heading = "Data")]
    labels_from: Option<LabelsFrom>,
    /// A preset for the options that follow, each of which overrides it (and it overrides those in onnx-prune.toml)
    #[arg(long, value_enum, value_name = "PRESET", help_heading = "Data")]
    preprocess: Option<Preset>,
    /// Subtracted after scaling, one value or one a channel: values become (x * scale - mean) / std
    #[arg(long, value_name = "A[,B,C]", value_parser = numbers, allow_hyphen_values = true, help_heading = "Data")]
    mean: Option<Numbers>,
    /// Divides what is left, one value or one a channel
    #[arg(long, value_name = "A[,B,C]", value_parser = numbers, allow_hyphen_values = true, help_heading = "Data")]
    std: Option<Numbers>,
    /// Factor for the values [default: 1/255 for images and uint8 arrays, 1 for others]
    #[arg(long, value_name = "F", allow_hyphen_values = true, help_heading = "Data")]
    scale: Option<f64>,
    /// Where the model wants the channels [default: from its input's shape]
    #[arg(long, value_enum, help_heading = "Data")]
    layout: Option<Layout>,
    /// Resize images: the shorter side to S, or to exactly WxH [default: the model's size]
    #[arg(long, value_name = "S|WxH", help_heading = "Data")]
    resize: Option<Size>,
    /// Cut the centre out of resized images: SxS, or WxH
    #[arg(long, value_name = "S|WxH", help_heading = "Data")]
    crop: Option<Size>,
    /// The order of colours that the model wants [default: rgb]
    #[arg(long, value_enum, value_name = "ORDER", help_heading = "Data")]
    channel_order: Option<ChannelOrder>,
}

/// A list that is one value to clap.
#[derive(Clone, Debug)]
struct Numbers(Vec<f64>);

fn numbers(text: &str) -> Result<Numbers, String> {
    let number =
        |t: &str| t.trim().parse::<f64>().map_err(|_| format!("{t:?} is not a number; expected 0.5 or 0.5,0.4,0.3"));
    text.split(',').map(number).collect::<Result<_, _>>().map(Numbers)
}

impl DataArgs {
    /// The batches that are given.
    pub fn batches(&self) -> &[usize] {
        &self.batch
    }

    /// The same without a batch.
    pub fn without_batch(&self) -> Self {
        Self { batch: Vec::new(), ..self.clone() }
    }

    /// Where the data is and how it is used: the flags over `onnx-prune.toml` beside the model. `None` without data.
    pub fn resolve(&self, model: &Path, seed: u64) -> anyhow::Result<Option<(PathBuf, DataOptions)>> {
        let table = config::beside(model)?.unwrap_or_default().data;
        if self.no_data {
            return Ok(None);
        }
        let Some(path) = self.data.clone().or(table.path.clone()) else {
            return match self.first_flag() {
                Some(flag) => {
                    Err(Error::Usage(format!("--{flag} says how to use data, but there is none: {NO_DATA}")).into())
                }
                None => Ok(None),
            };
        };
        let mut options = DataOptions { seed, ..table.options() };
        if let Some(preset) = self.preprocess {
            // A preset that is asked for now is not to be undone by a file.
            let kept = (options.preprocess.layout, options.preprocess.channel_order);
            options.preprocess = Default::default();
            options.preprocess.preset = Some(preset);
            (options.preprocess.layout, options.preprocess.channel_order) = kept;
        }
        options.samples = self.samples.or(options.samples);
        options.batch = match self.batch.as_slice() {
            [] => options.batch,
            [one] => Some(*one),
            _ => return Err(Error::Usage("--batch: expected one number; only bench takes several".into()).into()),
        };
        options.input = self.input.clone().or(options.input);
        options.labels_from = self.labels_from.or(options.labels_from);
        let p = &mut options.preprocess;
        let list = |flag: &Option<Numbers>, other: Option<Vec<f64>>| flag.as_ref().map(|n| n.0.clone()).or(other);
        p.mean = list(&self.mean, p.mean.take());
        p.std = list(&self.std, p.std.take());
        p.scale = self.scale.or(p.scale);
        p.layout = self.layout.or(p.layout);
        p.resize = self.resize.or(p.resize);
        p.crop = self.crop.or(p.crop);
        p.channel_order = self.channel_order.or(p.channel_order);
        Ok(Some((path, options)))
    }

    /// A flag that needs data.
    fn first_flag(&self) -> Option<&'static str> {
        let given = [
            ("samples", self.samples.is_some()),
            ("batch", !self.batch.is_empty()),
            ("input", self.input.is_some()),
            ("labels-from", self.labels_from.is_some()),
            ("preprocess", self.preprocess.is_some()),
            ("mean", self.mean.is_some()),
            ("std", self.std.is_some()),
            ("scale", self.scale.is_some()),
            ("layout", self.layout.is_some()),
            ("resize", self.resize.is_some()),
            ("crop", self.crop.is_some()),
            ("channel-order", self.channel_order.is_some()),
        ];
        given.into_iter().find_map(|(name, given)| given.then_some(name))
    }
}

/// What is missing, and where it may stand.
pub const NO_DATA: &str =
    "name it with --data PATH, or with path in the table [data] of onnx-prune.toml beside the model";

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table
    Table,
    /// JSON with every detail
    Json,
}

/// Shows data as the model would get it.
#[derive(Debug, Args)]
pub struct DataCommand {
    /// The ONNX model
    #[arg(value_name = "MODEL", value_hint = ValueHint::FilePath)]
    model: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// Seed of the draw of --samples
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Take the figures from the first N samples
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = parse::at_least_one)]
    first: usize,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
pub fn run(args: &DataCommand) -> anyhow::Result<()> {
    args.common.start()?;
    let progress = Progress::new(args.common.quiet);
    progress.stage("load");
    let model = load(&args.model)?;
    let Some((path, options)) = args.data.resolve(&args.model, args.seed)? else {
        return Err(Error::Usage(format!("no data: {NO_DATA}")).into());
    };
    progress.stage("data");
    let data = Dataset::open(&path, &model, &options).map_err(|e| in_file(e, &path))?;
    let summary = summarise(&data, &model, args.first).map_err(|e| in_file(e, &path))?;
    drop(progress);
    let text = match args.format {
        Format::Table => colour::table(&data_terminal::data(&summary, terminal::width())),
        Format::Json => json::to_string(&summary)?,
    };
    if !args.common.quiet {
        super::print(&text)?;
    }
    Ok(())
}

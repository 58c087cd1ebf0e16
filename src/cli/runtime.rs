//! What runs models.

use clap::{Args, ValueEnum, ValueHint};
use onnx_prune::runtime::RuntimeChoice;
use std::path::PathBuf;

/// The runtimes by their names on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// ONNX Runtime where its library is found, else tract
    #[default]
    Auto,
    /// The embedded runtime
    Tract,
    /// ONNX Runtime
    Ort,
}

impl From<Choice> for RuntimeChoice {
    fn from(choice: Choice) -> Self {
        match choice {
            Choice::Auto => Self::Auto,
            Choice::Tract => Self::Tract,
            Choice::Ort => Self::Ort,
        }
    }
}

/// What a command that runs models takes.
#[derive(Debug, Args)]
pub struct RuntimeArgs {
    /// What runs models
    #[arg(long, value_enum, value_name = "NAME", default_value_t, help_heading = "Runtime")]
    pub runtime: Choice,
    /// ONNX Runtime's library, or the folder that it is in [default: the first that is found, see `onnx-prune runtimes`]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath, help_heading = "Runtime")]
    pub ort_lib: Option<PathBuf>,
}

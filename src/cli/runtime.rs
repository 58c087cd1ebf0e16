//! What runs models.

use clap::{Args, ValueEnum, ValueHint};
use onnx_prune::runtime::{DEVICES, Device, RuntimeChoice, RuntimeOptions};
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

/// What a command that runs whole models takes as well.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    #[arg(long, value_name = "DEVICE", default_value_t, help = device_help(), help_heading = "Runtime")]
    pub device: Device,
    /// Let the processor do what the device cannot, all of it if need be [default: a device that does nothing is an error]
    #[arg(long, help_heading = "Runtime")]
    pub allow_fallback: bool,
}

fn device_help() -> String {
    format!("What ONNX Runtime measures on, accuracy and times; calibration stays on the processor: {DEVICES}")
}

impl RuntimeArgs {
    /// One thread a session, on that device.
    pub fn on(&self, device: &DeviceArgs) -> RuntimeOptions {
        RuntimeOptions {
            choice: self.runtime.into(),
            ort_lib: self.ort_lib.clone(),
            device: device.device.clone(),
            allow_fallback: device.allow_fallback,
            ..RuntimeOptions::default()
        }
    }
}

//! What a model runs on: the processor, or one of ONNX Runtime's execution providers.

use crate::plan::Hardware;
use schemars::JsonSchema;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA card by its number.
    Cuda(u16),
    /// TensorRT on an NVIDIA card by its number; what it cannot take runs on CUDA.
    TensorRt(u16),
    /// OpenVINO; the device as OpenVINO calls it (`CPU`, `GPU`, `NPU`, `AUTO`), or its default.
    OpenVino(Option<String>),
    /// Apple's Core ML.
    CoreMl,
    /// DirectML on a Windows graphics card by its number.
    DirectMl(u16),
}

/// The words of all devices.
pub const DEVICES: &str = "cpu, cuda[:N], tensorrt[:N], openvino[:CPU|GPU|NPU|AUTO], coreml, directml[:N]";

impl Device {
    /// One of each kind.
    pub fn all() -> [Self; 6] {
        [Self::Cpu, Self::Cuda(0), Self::TensorRt(0), Self::OpenVino(None), Self::CoreMl, Self::DirectMl(0)]
    }

    /// Without a number.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda(_) => "cuda",
            Self::TensorRt(_) => "tensorrt",
            Self::OpenVino(_) => "openvino",
            Self::CoreMl => "coreml",
            Self::DirectMl(_) => "directml",
        }
    }

    /// What channel counts should suit.
    pub fn hardware(&self) -> Hardware {
        match self {
            Self::Cpu | Self::CoreMl | Self::OpenVino(_) => Hardware::Cpu,
            Self::Cuda(_) | Self::TensorRt(_) | Self::DirectMl(_) => Hardware::Gpu,
        }
    }

    /// ONNX Runtime's name for what serves the device.
    pub fn provider(&self) -> &'static str {
        match self {
            Self::Cpu => "CPUExecutionProvider",
            Self::Cuda(_) => "CUDAExecutionProvider",
            Self::TensorRt(_) => "TensorrtExecutionProvider",
            Self::OpenVino(_) => "OpenVINOExecutionProvider",
            Self::CoreMl => "CoreMLExecutionProvider",
            Self::DirectMl(_) => "DmlExecutionProvider",
        }
    }

    /// Whether inputs have to be copied to it: it has memory of its own, which ONNX Runtime can be asked for.
    pub fn has_memory(&self) -> bool {
        matches!(self, Self::Cuda(_) | Self::TensorRt(_))
    }

    /// How to get a library that has the provider.
    pub fn install(&self) -> &'static str {
        match self {
            Self::Cpu => "pip install onnxruntime",
            Self::Cuda(_) => "pip install onnxruntime-gpu[cuda,cudnn]",
            Self::TensorRt(_) => "pip install onnxruntime-gpu[cuda,cudnn] tensorrt",
            Self::OpenVino(_) => "pip install onnxruntime-openvino",
            Self::CoreMl => "pip install onnxruntime (on macOS)",
            Self::DirectMl(_) => "pip install onnxruntime-directml (on Windows)",
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Self::Cuda(n) | Self::TensorRt(n) | Self::DirectMl(n) if *n > 0 => write!(f, ":{n}"),
            Self::OpenVino(Some(device)) => write!(f, ":{device}"),
            _ => Ok(()),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        let number = || match rest {
            None => Ok(0),
            Some(n) => n.parse().map_err(|_| format!("{n:?} is no device number; expected {kind}:0, {kind}:1, …")),
        };
        let device = match kind {
            "cpu" => Self::Cpu,
            "cuda" => Self::Cuda(number()?),
            "tensorrt" => Self::TensorRt(number()?),
            "coreml" => Self::CoreMl,
            "directml" => Self::DirectMl(number()?),
            "openvino" => match rest {
                None => Self::OpenVino(None),
                // Such as GPU.1, AUTO:GPU,CPU, HETERO:GPU,CPU.
                Some(d) if !d.is_empty() && d.chars().all(|c| c.is_ascii_alphanumeric() || ".:,_".contains(c)) => {
                    Self::OpenVino(Some(d.to_ascii_uppercase()))
                }
                Some(d) => return Err(format!("{d:?} is no device of OpenVINO; expected CPU, GPU, NPU or AUTO")),
            },
            _ => return Err(format!("expected one of {DEVICES}")),
        };
        match (&device, rest) {
            (Self::Cpu | Self::CoreMl, Some(_)) => Err(format!("{kind} takes no device number")),
            _ => Ok(device),
        }
    }
}

/// Whether a library can serve a device.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ProviderInfo {
    /// What `--device` calls it.
    pub device: &'static str,
    /// ONNX Runtime's name for it.
    pub provider: &'static str,
    /// Whether the library was built with it. Whether it finds its driver shows only when a model is loaded.
    pub available: bool,
    /// How to get a library that has it; absent where this one does.
    pub install: Option<&'static str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_survive_as_words() {
        for text in ["cpu", "cuda", "cuda:1", "tensorrt:2", "openvino", "openvino:GPU.1", "coreml", "directml"] {
            assert_eq!(text.parse::<Device>().unwrap().to_string(), text);
        }
        assert_eq!("cuda:0".parse(), Ok(Device::Cuda(0)));
        assert_eq!("openvino:npu".parse(), Ok(Device::OpenVino(Some("NPU".into()))));
    }

    #[test]
    fn other_words_are_errors() {
        for text in ["", "gpu", "CPU", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "openvino:", "openvino:a b", "coreml:1"] {
            assert!(text.parse::<Device>().is_err(), "{text}");
        }
    }
}

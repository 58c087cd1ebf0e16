//! SWEEP.toml.

use crate::error::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The whole file. Paths in it are relative to its folder.
///
/// ```
/// let spec = onnx_prune::sweep::Spec::parse(r#"
///     [[model]]
///     path = "resnet.onnx"
///     data = "calibration.npz"
///     [grid]
///     target-macs = [0.7, 0.5]
///     criterion = ["l1", "output-error"]
/// "#).unwrap();
/// assert_eq!(spec.grid.budgets().unwrap().len(), 2);
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Spec {
    /// The models.
    pub model: Vec<ModelEntry>,
    /// What is combined.
    pub grid: Grid,
    /// Flags of the decision: `steps = 3` is `--steps 3`.
    #[serde(default)]
    pub plan: Flags,
    /// Flags of the cut and the repair.
    #[serde(default)]
    pub prune: Flags,
    /// Flags of the training after the cut, for rows with epochs.
    #[serde(default)]
    pub train: Flags,
    /// How results are measured.
    #[serde(default)]
    pub measure: Measure,
}

/// A model and its data.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ModelEntry {
    /// The ONNX file.
    pub path: PathBuf,
    /// Its name in the table; without one that of the file.
    pub name: Option<String>,
    /// Data for criteria, repair and training.
    pub data: Option<PathBuf>,
    /// Data for the measurement; without it, `data`.
    pub test: Option<PathBuf>,
    /// Flags about data, for every command that reads any: `mean = [0.485, 0.456, 0.406]`.
    #[serde(default)]
    pub prepare: Flags,
}

/// Every combination of these is a row.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Grid {
    /// Budgets `--ratio`.
    #[serde(default)]
    pub ratio: Vec<f64>,
    /// Budgets `--threshold`.
    #[serde(default)]
    pub threshold: Vec<f64>,
    /// Budgets `--target-macs`.
    #[serde(default)]
    pub target_macs: Vec<f64>,
    /// Budgets `--target-params`.
    #[serde(default)]
    pub target_params: Vec<f64>,
    /// Criteria; without any the tool's own choice. `"default"` is that choice.
    #[serde(default)]
    pub criterion: Vec<String>,
    /// Repairs; without any the tool's own choice. `"default"` is that choice.
    #[serde(default)]
    pub recover: Vec<String>,
    /// Epochs of training after the cut with the original as the teacher; 0 is none.
    #[serde(default)]
    pub epochs: Vec<u64>,
    /// Seeds; without any 0.
    #[serde(default)]
    pub seed: Vec<u64>,
}

/// How results are measured.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Measure {
    /// Flags of `diff`.
    #[serde(default)]
    pub diff: Flags,
    /// Whether times are measured; `true`, or flags of `bench`.
    #[serde(default)]
    pub bench: Bench,
    /// Measure in parts of so many samples, which may then run side by side.
    pub shard_samples: Option<usize>,
}

/// `bench = true`, or a table of flags.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Bench {
    /// Whether.
    Whether(bool),
    /// With these flags.
    With(Flags),
}

impl Default for Bench {
    fn default() -> Self {
        Bench::Whether(false)
    }
}

impl Bench {
    /// The flags, where times are measured.
    pub fn flags(&self) -> Option<Flags> {
        match self {
            Bench::Whether(false) => None,
            Bench::Whether(true) => Some(Flags::default()),
            Bench::With(flags) => Some(flags.clone()),
        }
    }
}

/// Flags by name, without the dashes: `true` for a flag that takes no value, a list for one that is given several times (or,
/// of numbers, that takes a list with commas).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Flags(pub BTreeMap<String, toml::Value>);

impl Flags {
    /// Name and value, in order of names; `None` for a flag without a value.
    ///
    /// # Errors
    /// The name of a flag whose value cannot be given on a command line.
    pub fn given(&self) -> Result<Vec<(String, Option<String>)>, String> {
        let mut all = Vec::new();
        for (name, value) in &self.0 {
            match value {
                toml::Value::Boolean(false) => {}
                toml::Value::Boolean(true) => all.push((name.clone(), None)),
                toml::Value::Array(values) => {
                    let texts: Vec<String> = values.iter().map(|v| scalar(v).ok_or(name)).collect::<Result<_, _>>()?;
                    let numbers = values.iter().all(|v| v.is_float() || v.is_integer());
                    match numbers {
                        true => all.push((name.clone(), Some(texts.join(",")))),
                        false => all.extend(texts.into_iter().map(|t| (name.clone(), Some(t)))),
                    }
                }
                other => all.push((name.clone(), Some(scalar(other).ok_or(name)?))),
            }
        }
        Ok(all)
    }
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(n) => Some(n.to_string()),
        toml::Value::Float(x) => Some(x.to_string()),
        _ => None,
    }
}

impl Grid {
    /// Name and value of every budget.
    ///
    /// # Errors
    /// When there is none.
    pub fn budgets(&self) -> Result<Vec<(&'static str, f64)>> {
        let lists = [
            ("ratio", &self.ratio),
            ("threshold", &self.threshold),
            ("target-macs", &self.target_macs),
            ("target-params", &self.target_params),
        ];
        let all: Vec<_> = lists.iter().flat_map(|(name, list)| list.iter().map(|&x| (*name, x))).collect();
        if all.is_empty() {
            return Err(Error::Usage(
                "[grid] has no budget: expected at least one of the lists ratio, threshold, target-macs and target-params, \
                 as in target-macs = [0.7, 0.5]"
                    .into(),
            ));
        }
        Ok(all)
    }
}

impl Spec {
    /// Reads the text of a SWEEP.toml.
    ///
    /// # Errors
    /// What is wrong and where, in several lines.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())
    }

    /// Reads the file, paths resolved against its folder.
    ///
    /// # Errors
    /// When it cannot be read, or says what does not make sense.
    pub fn load(path: &Path) -> Result<Self> {
        let bad = |message: String| Error::Data { path: path.to_owned(), message };
        let text = std::fs::read_to_string(path).map_err(|e| bad(format!("cannot read: {e}")))?;
        let mut spec = Self::parse(&text).map_err(bad)?;
        let dir = path.parent().unwrap_or(Path::new(""));
        for model in &mut spec.model {
            model.path = dir.join(&model.path);
            for data in [&mut model.data, &mut model.test].into_iter().flatten() {
                *data = dir.join(&data);
            }
        }
        spec.check().map_err(|e| bad(e.to_string()))?;
        Ok(spec)
    }

    fn check(&self) -> Result<()> {
        if self.model.is_empty() {
            return Err(Error::Usage("there is no [[model]]".into()));
        }
        let mut names = std::collections::BTreeSet::new();
        for model in &self.model {
            if !names.insert(model.name()) {
                return Err(Error::Usage(format!(
                    "two models are called {:?}; give each [[model]] a name of its own",
                    model.name()
                )));
            }
        }
        if self.measure.shard_samples == Some(0) {
            return Err(Error::Usage("[measure] shard-samples is 0; expected at least 1".into()));
        }
        self.grid.budgets().map(drop)
    }
}

impl ModelEntry {
    /// What it is called.
    pub fn name(&self) -> String {
        let of_file = || self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.name.clone().unwrap_or_else(of_file)
    }

    /// What is measured on.
    pub fn tested_on(&self) -> Option<&Path> {
        self.test.as_deref().or(self.data.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_arguments() {
        let flags: Flags = toml::from_str(
            "steps = 3\nfold-weights = true\nqk-dims = false\nexclude = ['^a', 'b']\nmean = [0.5, 0.25]\nstd = 0.5",
        )
        .unwrap();
        let text: Vec<String> = (flags.given().unwrap().into_iter())
            .map(|(name, value)| value.map_or(name.clone(), |v| format!("{name} {v}")))
            .collect();
        assert_eq!(text, ["exclude ^a", "exclude b", "fold-weights", "mean 0.5,0.25", "std 0.5", "steps 3"]);
        let odd: Flags = toml::from_str("a = { b = 1 }").unwrap();
        assert_eq!(odd.given().unwrap_err(), "a");
    }

    #[test]
    fn mistakes_are_named() {
        let said = |text: &str| {
            let spec = Spec::parse(text);
            spec.map_or_else(|e| e, |s| s.check().unwrap_err().to_string())
        };
        assert!(said("model = []\n[grid]\nratio = [0.4]").contains("no [[model]]"));
        assert!(said("[[model]]\npath = 'a.onnx'\n[grid]").contains("no budget"));
        assert!(said("[[model]]\npath = 'a.onnx'\n[grid]\nratios = [0.4]").contains("ratios"));
        let twice = "[[model]]\npath = 'a.onnx'\n[[model]]\npath = 'b/a.onnx'\n[grid]\nratio = [0.4]";
        assert!(said(twice).contains("two models are called \"a\""));
    }
}

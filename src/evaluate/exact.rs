//! Numbers of `f64` in JSON that come back with every bit that matters, for use as `#[serde(with = "…")]`.
//!
//! A finite number is its shortest decimal form, which reads back as the same number, −0 included. JSON has no others, so that they
//! are the words `NaN`, `-NaN` (the sign decides where a number that is none is sorted), `Infinity` and `-Infinity`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The words.
const WORDS: [(&str, f64); 4] =
    [("NaN", f64::NAN), ("-NaN", -f64::NAN), ("Infinity", f64::INFINITY), ("-Infinity", f64::NEG_INFINITY)];

/// One number.
#[derive(Clone, Copy, Debug)]
pub struct Exact(pub f64);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Number(f64),
    Word(String),
}

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let x = self.0;
        if x.is_finite() {
            return s.serialize_f64(x);
        }
        let same = |w: f64| w == x || (w.is_nan() && x.is_nan() && w.is_sign_negative() == x.is_sign_negative());
        s.serialize_str(WORDS.iter().find(|(_, w)| same(*w)).map_or("NaN", |w| w.0))
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Exact, D::Error> {
        match Form::deserialize(d)? {
            Form::Number(x) => Ok(Exact(x)),
            Form::Word(word) => {
                let known = WORDS.iter().find(|(w, _)| *w == word);
                let wrong = || serde::de::Error::custom(format!("expected a number, NaN or Infinity, found {word:?}"));
                known.map(|(_, x)| Exact(*x)).ok_or_else(wrong)
            }
        }
    }
}

impl schemars::JsonSchema for Exact {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Exact".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A number, or the word for one that is not finite",
            "anyOf": [{ "type": ["number"] }, { "enum": WORDS.map(|w| w.0) }]
        })
    }
}

/// One number.
pub mod one {
    use super::{Deserialize, Deserializer, Exact, Serialize, Serializer};

    /// Writes it.
    ///
    /// # Errors
    /// As the format.
    pub fn serialize<S: Serializer>(x: &f64, s: S) -> Result<S::Ok, S::Error> {
        Exact(*x).serialize(s)
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it is no number and none of the words.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        Exact::deserialize(d).map(|x| x.0)
    }
}

/// A number that may be missing.
pub mod maybe {
    use super::{Deserialize, Deserializer, Exact, Serialize, Serializer};

    /// Writes it.
    ///
    /// # Errors
    /// As the format.
    pub fn serialize<S: Serializer>(x: &Option<f64>, s: S) -> Result<S::Ok, S::Error> {
        x.map(Exact).serialize(s)
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it is neither missing nor a number nor one of the words.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
        Ok(Option::<Exact>::deserialize(d)?.map(|x| x.0))
    }
}

/// A list.
pub mod list {
    use super::{Deserialize, Deserializer, Exact, Serializer};

    /// Writes it.
    ///
    /// # Errors
    /// As the format.
    pub fn serialize<S: Serializer>(all: &[f64], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(all.iter().map(|&x| Exact(x)))
    }

    /// Reads it.
    ///
    /// # Errors
    /// When an element is no number and none of the words.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f64>, D::Error> {
        Ok(Vec::<Exact>::deserialize(d)?.into_iter().map(|x| x.0).collect())
    }
}

/// A list of rows of `N` numbers.
pub mod rows {
    use super::{Deserialize, Deserializer, Exact, Serializer};

    /// Writes it.
    ///
    /// # Errors
    /// As the format.
    pub fn serialize<S: Serializer, const N: usize>(all: &[[f64; N]], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(all.iter().map(|row| row.iter().map(|&x| Exact(x)).collect::<Vec<_>>()))
    }

    /// Reads it.
    ///
    /// # Errors
    /// When a row has another length, or holds what is no number and none of the words.
    pub fn deserialize<'de, D: Deserializer<'de>, const N: usize>(d: D) -> Result<Vec<[f64; N]>, D::Error> {
        let row = |row: Vec<Exact>| {
            let found = row.len();
            let numbers = row.into_iter().map(|x| x.0).collect::<Vec<_>>();
            numbers.try_into().map_err(|_| serde::de::Error::invalid_length(found, &"a row of another length"))
        };
        Vec::<Vec<Exact>>::deserialize(d)?.into_iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Held {
        #[serde(with = "list")]
        all: Vec<f64>,
        #[serde(with = "rows")]
        rows: Vec<[f64; 2]>,
    }

    #[test]
    fn every_bit_comes_back() {
        let all =
            vec![0.1, -0.0, 1.0 / 3.0, f64::MIN_POSITIVE / 8.0, 5e-324, f64::MAX, f64::NAN, -f64::NAN, f64::INFINITY];
        let held = Held { rows: all.iter().map(|&x| [x, -x]).collect(), all };
        let text = serde_json::to_string(&held).unwrap();
        assert!(text.contains("\"-NaN\"") && !text.contains("null"), "{text}");
        let back: Held = serde_json::from_str(&text).unwrap();
        let bits = |v: &[f64]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&back.all), bits(&held.all));
        assert_eq!(bits(back.rows.as_flattened()), bits(held.rows.as_flattened()));
        assert!(serde_json::from_str::<Held>(r#"{"all":["nine"],"rows":[]}"#).is_err());
        assert!(serde_json::from_str::<Held>(r#"{"all":[],"rows":[[1.0]]}"#).is_err());
        assert!(serde_json::from_str::<Held>(r#"{"all":[null],"rows":[]}"#).is_err());
    }
}

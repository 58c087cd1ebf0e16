//! Criteria from what channels carry on calibration data, where layers read them.

use super::{Aggregate, Criterion, Normalize, ScoreContext};
use crate::calibrate::activations::Seen;
use crate::channels::Group;
use crate::error::{Error, Result};

/// One figure of a channel's values over all samples and positions, at every layer that reads it, put together by
/// [`Aggregate`]. Each layer's figures are first divided by their mean over the group.
///
/// Groups that no layer with a weight of its own reads have none.
pub struct Activation {
    name: &'static str,
    about: &'static str,
    figure: fn(&Seen) -> f64,
}

/// `|E[x]|`
pub static MEAN: Activation = Activation {
    name: "act-mean",
    about: "magnitude of the channel's mean value on --data",
    figure: |s| s.mean().abs(),
};
/// `√E[x²]`
pub static RMS: Activation =
    Activation { name: "act-rms", about: "root mean square of the channel's values on --data", figure: Seen::rms };
/// `Var x`
pub static VARIANCE: Activation =
    Activation { name: "act-variance", about: "variance of the channel's values on --data", figure: Seen::variance };
/// `1 − APoZ`
pub static APOZ: Activation = Activation {
    name: "apoz",
    about: "share of the channel's values on --data that are not zero (one minus the average percentage of zeros)",
    figure: |s| 1.0 - s.apoz(),
};

impl Criterion for Activation {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn score(&self, cx: &ScoreContext<'_>, group: &Group, aggregate: Aggregate) -> Result<Option<Vec<f64>>> {
        let Some(seen) = cx.activations else { return Err(no_data(self.name)) };
        let mut sites = Vec::new();
        for &(axis, _) in &group.axes {
            let values: Option<Vec<f64>> =
                group.channels.iter().map(|c| seen.on(axis, c).map(|s| (self.figure)(&s))).collect();
            let Some(mut values) = values else { continue };
            Normalize::Mean.apply(&mut values);
            sites.push(values);
        }
        Ok(aggregate.combine(&sites))
    }

    fn needs_batch_norm(&self) -> bool {
        false
    }

    fn needs_data(&self) -> bool {
        true
    }
}

fn no_data(name: &str) -> Error {
    Error::Usage(format!("criterion {name} needs --data: samples to run the model on"))
}

/// A way to decide that spends the budget over whole error curves, not channel by channel.
pub struct Curve {
    name: &'static str,
    about: &'static str,
}

/// Curves of [`survey`](crate::calibrate::survey::survey).
pub static OBS: Curve = Curve {
    name: "obs",
    about: "error curves of optimal brain surgeon on --data, weighed by measured effects on the outputs (the default with data)",
};
/// Without the weights.
pub static OBS_LOCAL: Curve = Curve {
    name: "obs-local",
    about: "the same curves as they are: shares of the variance of the next layers' outputs",
};
/// Measured effects alone.
pub static SENSITIVITY: Curve = Curve {
    name: "sensitivity",
    about: "measured change of the outputs on --data when a group loses its least important channels, nothing repaired",
};

impl Criterion for Curve {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn score(&self, cx: &ScoreContext<'_>, _: &Group, _: Aggregate) -> Result<Option<Vec<f64>>> {
        if cx.activations.is_none() {
            return Err(no_data(self.name));
        }
        Err(Error::Usage(format!(
            "criterion {} spends the budget over error curves; it takes a share as budget (not --threshold) and goes with no \
             other criterion",
            self.name
        )))
    }

    fn needs_batch_norm(&self) -> bool {
        false
    }

    fn needs_data(&self) -> bool {
        true
    }
}

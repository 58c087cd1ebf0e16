//! `-v`: what is done, on the standard error.

use onnx_prune::error::Error;
use std::io;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Says more or less than `-v`: `debug`, or `onnx_prune::verify=trace,ort=info`.
pub const VARIABLE: &str = "ONNX_PRUNE_LOG";

/// Lines from now on: none, or `-v` files, stages with their times, and choices; `-vv` details as well; the variable
/// overrides both.
pub fn start(verbose: u8) -> anyhow::Result<()> {
    let level = match verbose {
        0 => LevelFilter::OFF,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let said = std::env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty());
    let targets = match &said {
        Some(text) => text.parse::<Targets>().map_err(|e| {
            Error::Usage(format!(
                "{VARIABLE}={text:?} cannot be read: {e}; expected a level (error, warn, info, debug, trace) or a list such as \
                 onnx_prune=debug,ort=info"
            ))
        })?,
        None => Targets::new().with_target("onnx_prune", level),
    };
    if said.is_none() && level == LevelFilter::OFF {
        return Ok(());
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(false)
        // Seconds since the beginning: how long things take is of interest, not when they were.
        .with_timer(tracing_subscriber::fmt::time::uptime())
        .with_span_events(FmtSpan::CLOSE);
    tracing_subscriber::registry().with(lines).with(targets).try_init()?;
    Ok(())
}

/// Whether lines are written, which a moving line would disturb.
pub fn is_on() -> bool {
    LevelFilter::current() != LevelFilter::OFF
}

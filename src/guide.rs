//! The guide: the pages of `docs/`, as they are on GitHub.
//!
//! 1. [`start`]: from nothing to a gated pruned model in five minutes
//! 2. [`decides`]: channels, groups, joins and pins, and how the budget is spent
//! 3. [`budgets`]: budgets and criteria, with measured figures
//! 4. [`calibration`]: data, preprocessing, how many samples, repair
//! 5. [`training`]: after the cut, and before it
//! 6. [`report`]: reading what comes out, and the files
//! 7. [`ci`]: limits, baselines, exit codes; GitHub, GitLab, a plain shell
//! 8. [`gpu`]: runtimes and devices
//! 9. [`sweep`]: many runs, on one machine or a cluster
//! 10. [`python`]: the Python module
//! 11. [`rules`]: operators and criteria of your own
//! 12. [`limits`]: what is exact, what is refused, what is stable
//! 13. [`comparison`]: other tools
//!
//! Only documentation is here: no build but that of the documentation has this module.

// On GitHub `[start]` is `start.md`, as the last lines of each page say. The first definition of a name counts, so that rustdoc
// takes these.
macro_rules! links {
    () => {
        concat!(
            "[start]: crate::guide::start\n",
            "[decides]: crate::guide::decides\n",
            "[budgets]: crate::guide::budgets\n",
            "[calibration]: crate::guide::calibration\n",
            "[training]: crate::guide::training\n",
            "[report]: crate::guide::report\n",
            "[ci]: crate::guide::ci\n",
            "[gpu]: crate::guide::gpu\n",
            "[sweep]: crate::guide::sweep\n",
            "[python]: crate::guide::python\n",
            "[rules]: crate::guide::rules\n",
            "[limits]: crate::guide::limits\n",
            "[comparison]: crate::guide::comparison\n",
            "[schemas]: https://github.com/onnx-prune/onnx-prune/tree/main/schemas\n",
            "[extend]: https://github.com/onnx-prune/onnx-prune/blob/main/examples/extend.rs\n",
            "[peers]: https://github.com/onnx-prune/onnx-prune/blob/main/tests/peers/compare.py\n",
            "[gitlab]: https://github.com/onnx-prune/onnx-prune/blob/main/ci/gitlab.yml\n",
            "[atoms]: ",
            include_str!("../docs/atoms.svg.uri"),
            "\n\n",
        )
    };
}

macro_rules! pages {
    ($($name:ident $file:literal)*) => {$(
        #[doc = links!()]
        // `sh exit=1` is for .ci/check_docs.py, which knows what may stand there.
        #[allow(rustdoc::invalid_codeblock_attributes)]
        #[doc = include_str!(concat!("../docs/", $file))]
        pub mod $name {}
    )*};
}

pages! {
    start "start.md"
    decides "how-it-decides.md"
    budgets "budgets.md"
    calibration "calibration.md"
    training "training.md"
    report "report.md"
    ci "ci.md"
    gpu "gpu.md"
    sweep "sweep.md"
    python "python.md"
    rules "rules.md"
    limits "limits.md"
    comparison "comparison.md"
}

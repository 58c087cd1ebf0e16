//! The examples at the end of `--help`. A test reads each line with the parser.

/// Of the program.
pub const MAIN: &str = "\
Examples:
  onnx-prune model.onnx --ratio 0.4                        remove 40 % of the prunable channels
  onnx-prune model.onnx --target-macs 0.5 -o half.onnx     keep half of the multiply-accumulates
  onnx-prune model.onnx --ratio 0.3 --exclude '^head' --layer-ratio 'layer4=0.6'
  onnx-prune model.onnx --ratio 0.4 --save-plan plan.json --dry-run
  onnx-prune model.onnx --plan plan.json                   apply a stored decision
  onnx-prune model.onnx --target-macs 0.5 --data photos/ --preprocess imagenet    decide and repair from unlabelled images
  onnx-prune inspect model.onnx model.pruned.onnx          compare two models
  onnx-prune inspect model.onnx --why /layer1/conv1/Conv   what ties a layer's channels, and what pins them
  onnx-prune inspect --summary models/                     can pruning help these models, and does it hold?
  onnx-prune data model.onnx --data photos/ --preprocess imagenet   what the model would get to see
  onnx-prune model.onnx --max-drop 1 --data val/           the smallest model that loses at most one point
  onnx-prune model.onnx --ratio 0.4 --data val/ --max-drop 1 --min-speedup 1.2 --report junit.xml   not written unless both hold
  onnx-prune model.onnx --target-latency 0.5               half of the time that it takes on this machine
  onnx-prune model.onnx --ratio 0.4 --data val/ --max-drop 1 --min-speedup 1.2 --report out.html   written only if it holds
  onnx-prune train half.onnx --teacher model.onnx --data photos/ --epochs 20   get accuracy back, no labels needed
  onnx-prune sensitivity model.onnx --data val/ --plot curves.svg   which layers can lose channels
  onnx-prune diff model.onnx half.onnx --data photos/      what pruning cost, and whether it is noise
  onnx-prune bench model.onnx model.pruned.onnx            how much faster is it here?
  onnx-prune check model.onnx half.onnx --data val/ --max-drop 1 --min-speedup 1.2 --report junit.xml
  onnx-prune calibrate model.onnx --data val/ --report stats.json    statistics for --criterion act-rms --statistics stats.json
  onnx-prune diff model.onnx half.onnx --data photos/ --shard 2/8 --report 2.json    one part of eight
  onnx-prune merge 1.json 2.json                           the parts of a measurement, as if it had been one
  onnx-prune sweep sweep.toml                              models × budgets × criteria × repairs × seeds, and what is best
  onnx-prune runtimes                                      what can run models here
  onnx-prune completions bash                              a script for the shell

Exit codes: 0 done, 1 a check or gate failed, 2 bad input or usage.
A model that is named like a command is given as ./inspect.";

/// Of `inspect`.
pub const INSPECT: &str = "\
Examples:
  onnx-prune inspect model.onnx                            operators, sizes, groups, and what is held back
  onnx-prune inspect model.onnx model.pruned.onnx          two models side by side
  onnx-prune inspect model.onnx --why /layer1/conv1/Conv   what ties a layer's channels, and what pins them
  onnx-prune inspect --summary models/ --target-macs 0.5   can pruning help these models, and does it hold?
  onnx-prune inspect model.onnx --format json";

/// Of `data`.
pub const DATA: &str = "\
Examples:
  onnx-prune data model.onnx --data photos/ --preprocess imagenet
  onnx-prune data model.onnx --data val.npz --mean .485,.456,.406 --std .229,.224,.225
  onnx-prune data model.onnx --data photos/ --samples 64 --format json";

/// Of `sensitivity`.
pub const SENSITIVITY: &str = "\
Examples:
  onnx-prune sensitivity model.onnx --data val/                      which layers can lose channels
  onnx-prune sensitivity model.onnx --data val/ --plot curves.svg    the same as curves
  onnx-prune sensitivity model.onnx --data val/ --report curves.json";

/// Of `diff`.
pub const DIFF: &str = "\
Examples:
  onnx-prune diff model.onnx half.onnx --data photos/      what pruning cost, and whether it is noise
  onnx-prune diff model.onnx half.onnx --data val/ --max-drop 1 --report diff.html
  onnx-prune diff model.onnx half.onnx --data val/ --metric top5 --layer-samples 0 --json";

/// Of `check`.
pub const CHECK: &str = "\
Examples:
  onnx-prune check model.onnx half.onnx --max-macs 0.55    by size alone, no data needed
  onnx-prune check model.onnx half.onnx --data val/ --max-drop 1 --min-speedup 1.2 --report junit.xml
  onnx-prune check model.onnx half.onnx --data val/ --min-agreement 0.98 --report verdict.md

At least one limit is given. Exit code 1 when one is broken. With GITHUB_STEP_SUMMARY set, the Markdown report is added there.";

/// Of `train`.
pub const TRAIN: &str = "\
Examples:
  onnx-prune train half.onnx --teacher model.onnx --data photos/ --epochs 20   get accuracy back, no labels needed
  onnx-prune train half.onnx --teacher model.onnx --data photos/ --match Add_output_0 --loss kl=1,cosine=100 --lr 0.02
  onnx-prune train model.onnx --data train.npz --epochs 10 -o tuned.onnx       with the labels of the data
  onnx-prune train model.onnx --data train.npz --epochs 5 --sparsity group-lasso=0.001 -o sparse.onnx";

/// Of `bench`.
pub const BENCH: &str = "\
Examples:
  onnx-prune bench model.onnx model.pruned.onnx            how much faster is it here?
  onnx-prune bench model.onnx --batch 1,8,32 --threads 1,4
  onnx-prune bench model.onnx half.onnx --min-speedup 1.3 --report bench.json

Exit code 1 when a model misses --max-ratio or --min-speedup.";

/// Of `calibrate`.
pub const CALIBRATE: &str = "\
Examples:
  onnx-prune calibrate model.onnx --data val/ --report stats.json
  onnx-prune calibrate model.onnx --data val/ --shard 1/8 --report 1.json    one part of eight, for merge

Then: onnx-prune model.onnx --ratio 0.4 --criterion act-rms --statistics stats.json, which needs no data any more. Only the criteria act-mean, act-rms, act-variance and apoz work from such statistics. What needs more than one pass over the samples
takes --data where it runs: the criteria obs, obs-local and sensitivity, whose curves are weighed by probes of the network, and
--recover reconstruct and recalibrate, where each layer's statistics depend on the repair of those before it.";

/// Of `merge`.
pub const MERGE: &str = "\
Examples:
  onnx-prune merge 1.json 2.json --report whole.html       what diff wrote with --shard 1/2 and, elsewhere, --shard 2/2
  onnx-prune merge 1.json 2.json --json

The result is that of one run over everything, to the last bit, whatever the order of the parts. Exit code 1 when a limit is broken
that the parts were made with; 2 when parts are missing, given twice or do not belong together.";

/// Of `sweep`.
pub const SWEEP: &str = "\
Examples:
  onnx-prune sweep sweep.toml                              every combination, on all cores; run it again to go on
  onnx-prune sweep sweep.toml --dry-run                    what there is to do
  onnx-prune sweep sweep.toml --engine ray --address ray-head:6379 --num-gpus 1
  onnx-prune sweep sweep.toml --engine slurm --workers 16 --sbatch=--partition=long --submit
  onnx-prune sweep sweep.toml --engine k8s --image onnx-prune:0.1.0 --claim work --mount /mnt/sweeps

  [[model]]                        # sweep.toml
  path = \"model.onnx\"
  data = \"val.npz\"
  [grid]
  target-macs = [0.7, 0.5]
  criterion = [\"default\", \"l1\"]
  recover = [\"bias\", \"reconstruct\"]";

/// Of `runtimes`.
pub const RUNTIMES: &str = "\
Examples:
  onnx-prune runtimes                                      what can run models here
  onnx-prune runtimes --runtime ort --device cuda          exit code 2 unless it can be used
  onnx-prune runtimes --ort-lib /opt/onnxruntime/lib

Exit code 2 when the runtime or device that is asked for cannot be used.";

/// Of `completions`.
pub const COMPLETIONS: &str = "\
Examples:
  onnx-prune completions bash         to ~/.local/share/bash-completion/completions/onnx-prune
  onnx-prune completions zsh          to a folder of $fpath, as _onnx-prune
  onnx-prune completions fish         to ~/.config/fish/completions/onnx-prune.fish
  onnx-prune completions powershell   to the end of $PROFILE
  onnx-prune completions elvish       to ~/.config/elvish/rc.elv";

/// Of `man`.
pub const MAN: &str = "\
Examples:
  onnx-prune man                      the main page
  onnx-prune man man1/                a page for each command, for man -M or a package";

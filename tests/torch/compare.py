"""Compares gradients that `examples/gradient.rs` wrote with those of PyTorch's autograd.

    python3 -m venv /tmp/torchenv
    /tmp/torchenv/bin/pip install torch --index-url https://download.pytorch.org/whl/cpu
    /tmp/torchenv/bin/pip install onnx onnxruntime numpy
    cargo run --release --example gradient -- MODEL OUT.onnx --batch 4 --batch-norms frozen
    /tmp/torchenv/bin/python tests/torch/compare.py MODEL OUT.onnx --batch-norms frozen

For random inputs and random factors r, the gradient of the sum of r · y over all outputs y, with respect to every parameter:
PyTorch computes it in float64 with an interpreter of its own, OUT.onnx in float32 with ONNX Runtime. The difference at each
parameter is taken relative to its largest gradient; more than 0.001 fails.

Rounding alone can exceed that: an element that float32 sees on the other side of a kink (of a ReLU, a clip, a maximum) has
another gradient. A wrong rule is wrong for all inputs, a kink is met by chance; so several inputs are drawn and each
parameter's smallest difference counts (inputs of their own, with --inputs, for models that say nothing about noise). And a
parameter whose gradient PyTorch itself in float32 does not know better (a bias before a normalisation by the batch, untrained
networks with few samples) may be off by three times what that is off by.
"""

import argparse
import sys

import numpy as np
import onnx
import onnxruntime
import torch
from interpreter import Interpreter
from onnx import numpy_helper

SEED, GRADIENT = "train/seed/", "train/gradient/"
LIMIT = 1e-3
# More than this is nothing but rounding.
ROUNDING = 0.1
# Times the error of PyTorch's own float32.
NO_WORSE = 3.0


class Draw:
    """The differences for one set of inputs."""

    def __init__(self):
        self.offs, self.single, self.shapes = {}, {}, {}
        self.forward = 0.0


def autograd(model, batch_norms, feed, wanted, dtype):
    """Outputs, and gradients by name."""
    interpreter = Interpreter(model, batch_norms, dtype)
    values, factors = {}, {}
    for name, v in feed.items():
        v = torch.from_numpy(v).to(dtype)
        if name.startswith(SEED):
            factors[name.removeprefix(SEED)] = v
        else:
            values[name] = v.requires_grad_(True)
    outputs = interpreter.run(values)
    sum((outputs[name] * r).sum() for name, r in factors.items()).backward()
    return {n: y.detach().double().numpy() for n, y in outputs.items()}, {n: values[n].grad.double().numpy() for n in wanted}


def draw(model, session, batch_norms, seed, given):
    """One comparison."""
    rng = np.random.default_rng(seed)
    stored = {t.name: t for t in model.graph.initializer}
    stored |= {n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"}
    feed = {}
    for i in session.get_inputs():
        known = stored.get(i.name)
        if known:
            feed[i.name] = numpy_helper.to_array(known).copy()
        else:
            feed[i.name] = given.get(i.name, rng.standard_normal(i.shape)).astype(np.float32)
    names = [o.name for o in session.get_outputs()]
    wanted = [n.removeprefix(GRADIENT) for n in names if n.startswith(GRADIENT)]
    found = dict(zip(names, session.run(None, feed)))
    outputs, truth = autograd(model, batch_norms, feed, wanted, torch.float64)
    _, single = autograd(model, batch_norms, feed, wanted, torch.float32)
    d = Draw()
    d.forward = max(np.abs(found[n] - y).max() / max(np.abs(y).max(), 1e-12) for n, y in outputs.items())
    for name in wanted:
        size = max(float(np.abs(truth[name]).max()), 1e-30)
        off = float(np.abs(found[GRADIENT + name] - truth[name]).max()) / size
        d.offs[name] = off if np.isfinite(off) else np.inf
        d.single[name] = float(np.abs(single[name] - truth[name]).max()) / size
        d.shapes[name] = list(truth[name].shape)
    return d


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("gradient")
    p.add_argument("--batch-norms", choices=["frozen", "batch"], default="batch")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--inputs", help="a file of numpy.savez with inputs by name, in place of random ones")
    p.add_argument("--draws", type=int, default=3)
    p.add_argument("--show", type=int, default=3, help="parameters with the largest differences to show")
    args = p.parse_args()

    model = onnx.load(args.model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(args.gradient, options, providers=["CPUExecutionProvider"])
    given = dict(np.load(args.inputs)) if args.inputs else {}
    draws = [draw(model, session, args.batch_norms, args.seed + i, given) for i in range(args.draws)]
    names = list(draws[0].offs)
    single = {n: max(d.single[n] for d in draws) for n in names}
    rows = [(min(d.offs[n] for d in draws), n, draws[0].shapes[n]) for n in names]
    failed = [r for r in rows if not r[0] <= max(LIMIT, NO_WORSE * single[r[1]])]
    rows = sorted((r for r in rows if single[r[1]] < ROUNDING), reverse=True)
    every = max(max(d.offs[n] for d in draws) for _, n, _ in rows)
    print(
        f"{args.model}, batch norms {args.batch_norms}: {len(names)} tensors, {len(names) - len(rows)} of them nothing but "
        f"rounding; largest relative difference of the others {rows[0][0]:.1e}, median {rows[len(rows) // 2][0]:.1e}; in the worst "
        f"of {args.draws} draws {every:.1e}, that of PyTorch's float32 {max(single[n] for _, n, _ in rows):.1e}; outputs "
        f"{max(d.forward for d in draws):.1e}"
    )
    for off, name, shape in rows[: args.show]:
        print(f"    {off:.1e} {name} {shape}")
    for off, name, shape in failed:
        print(f"{name} {shape}: off by {off:.1e}, PyTorch's float32 by {single[name]:.1e}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

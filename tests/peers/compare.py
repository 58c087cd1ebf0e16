#!/usr/bin/env python3
"""The fixtures pruned by this program and by two other tools: top-1 at about the same share of the multiply-accumulates.

    python3 -m venv ENV
    ENV/bin/pip install torch torch-pruning onnxsim onnx onnxruntime onnxscript numpy
    ENV/bin/python tests/peers/compare.py target/release/onnx-prune [--macs 0.7]

All start from the same trained weights: the PyTorch networks of fixtures/make.py get those of the .bn files. All may look at
the same first 200 images without labels, nothing is trained, and all are judged on the other 300. A cell is top-1 at the share
of the multiply-accumulates that was reached; "failed" is an error of the tool, or a file that ONNX Runtime refuses.

* Torch-Pruning: MagnitudePruner with GroupMagnitudeImportance (L2), the last layer ignored, the smallest ratio on a grid of
  1/200 that reaches the share, by layer or globally; then (in columns "+ BN") the statistics of batch normalization from the images.
* onnxsim: apply_structured_pruning (L2) and apply_structured_wanda_pruning (with the images), on the .folded files, the
  smallest sparsity on a grid of 1/40 that reaches the share, or the share that came closest; sparsities that fail are left out.
* onnx-prune: the default without data, and with --data (on tract or ONNX Runtime, as it finds).
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import onnxsim
import torch
import torch_pruning as tp
from onnx import numpy_helper

FIXTURES = Path(__file__).parents[2] / "fixtures"
SEEN = 200  # images that tools may look at


def of(path):
    spec = importlib.util.spec_from_file_location("make", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = of(FIXTURES / "make.py")


def trained(name):
    """The PyTorch network with the weights of its .bn file."""
    model = make.NETWORKS[name]()
    graph = onnx.load(FIXTURES / f"{name}.bn.onnx").graph
    stored = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    # The exporter stores equal tensors once.
    same = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Identity"}
    state = model.state_dict()
    for key in state:
        if not key.endswith("num_batches_tracked"):
            found = key
            while found in same:
                found = same[found]
            state[key] = torch.from_numpy(stored[found].copy()).reshape(state[key].shape)
    model.load_state_dict(state)
    return model.eval()


def pruned_by_torch(name, x, share, everywhere):
    """The network with the smallest ratio that reaches the share, and what it reached."""
    base, _ = tp.utils.count_ops_and_params(trained(name), x[:1])
    for step in range(1, 160):
        model = trained(name)
        pruner = tp.pruner.MagnitudePruner(
            model,
            x[:1],
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=everywhere,
            pruning_ratio=step / 200,
            ignored_layers=[m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 10],
        )
        pruner.step()
        macs, _ = tp.utils.count_ops_and_params(model, x[:1])
        if macs <= share * base:
            return model, macs / base
    raise RuntimeError("the share is not reached")


def reestimated(model, x):
    """Statistics of batch normalization anew, all images with the same weight."""
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.reset_running_stats()
            m.momentum = None
    model.train()
    with torch.no_grad():
        for batch in x.split(50):
            model(batch)
    return model.eval()


def top1(logits, labels):
    return 100 * float((np.asarray(logits).argmax(1) == labels).mean())


def run(model, x):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    model = model if isinstance(model, (str, bytes)) else model.SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def macs_of(tool, path):
    shown = subprocess.run([tool, "inspect", "--format", "json", path], check=True, capture_output=True, text=True)
    return json.loads(shown.stdout)["models"][0]["macs"]


def pruned_by_onnxsim(tool, name, x, share, folder, prune):
    path = str(FIXTURES / f"{name}.folded.onnx")
    base, out, best, failed = macs_of(tool, path), str(folder / "sim.onnx"), None, None
    for step in range(1, 37):
        try:
            model = prune(onnx.load(path), step / 40)
            onnx.save(model, out)
            run(out, x[:1])  # a file that cannot be run counts as failed
        except Exception as error:
            failed = error
            continue
        reached = macs_of(tool, out) / base
        if best is None or reached < best[1]:
            best = (model, reached)
        if reached <= share:
            break
    if best is None:
        raise failed
    return best


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("tool")
    p.add_argument("--macs", type=float, default=0.7)
    p.add_argument("--only", default="", help="only columns whose name contains this")
    p.add_argument("names", nargs="*")
    a = p.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with np.load(FIXTURES / "fashion_test.npz") as stored:
        images, labels = stored["input"], stored["labels"]
    x = make.normalise(images)
    seen, rest, labels = torch.from_numpy(x[:SEEN]), x[SEEN:], labels[SEEN:]

    def by_torch(name, everywhere, bn):
        model, reached = pruned_by_torch(name, seen, a.macs, everywhere)
        if bn:
            model = reestimated(model, seen)
        with torch.no_grad():
            return top1(model(torch.from_numpy(rest)), labels), reached

    def by_onnxsim(name, wanda):
        feeds = [{"input": x[i : i + 50]} for i in range(0, SEEN, 50)]

        def prune(model, sparsity):
            if wanda:
                return onnxsim.apply_structured_wanda_pruning(model, calibration_data=feeds, sparsity=sparsity)
            return onnxsim.apply_structured_pruning(model, sparsity)

        model, reached = pruned_by_onnxsim(a.tool, name, x, a.macs, folder, prune)
        return top1(run(model, rest), labels), reached

    def by_us(name, style, *flags):
        model, out = str(FIXTURES / f"{name}.{style}.onnx"), str(folder / "ours.onnx")
        subprocess.run([a.tool, "-q", model, "--target-macs", str(a.macs), "-o", out, *flags], check=True, capture_output=True)
        return top1(run(out, rest), labels), macs_of(a.tool, out) / macs_of(a.tool, model)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        data = folder / "seen.npz"
        np.savez(data, input=images[:SEEN])
        used = ["--data", str(data), "--samples", str(SEEN), "--mean", str(make.MEAN), "--std", str(make.STD)]
        columns = {
            "original": lambda n: (top1(run(str(FIXTURES / f"{n}.bn.onnx"), rest), labels), 1.0),
            "Torch-Pruning, by layer": lambda n: by_torch(n, False, False),
            "+ BN": lambda n: by_torch(n, False, True),
            "global": lambda n: by_torch(n, True, False),
            "global + BN": lambda n: by_torch(n, True, True),
            "onnxsim": lambda n: by_onnxsim(n, False),
            "onnxsim, Wanda": lambda n: by_onnxsim(n, True),
            "onnx-prune, no data": lambda n: by_us(n, "bn"),
            "no data, folded": lambda n: by_us(n, "folded"),
            "with data": lambda n: by_us(n, "bn", *used),
            "with data, folded": lambda n: by_us(n, "folded", *used),
        }
        columns = {name: measure for name, measure in columns.items() if a.only in name}
        print("| network | " + " | ".join(columns) + " |")
        print("|---" * (len(columns) + 1) + "|", flush=True)
        for name in a.names or make.NETWORKS:
            cells = []
            for column, measure in columns.items():
                try:
                    score, reached = measure(name)
                    cells.append(f"{score:.1f}" if column == "original" else f"{score:.1f} ({reached:.2f})")
                except Exception as error:  # whatever a tool raises is a result
                    print(f"{name}, {column}: {type(error).__name__}: {error}"[:300], file=sys.stderr)
                    cells.append("failed")
            print(f"| `{name}` | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

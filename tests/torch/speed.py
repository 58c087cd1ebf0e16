"""Seconds of a training step, the tool beside PyTorch, turn by turn, and the memory of both.

    python3 tests/torch/speed.py MODEL --batch 64 [--device cuda] [--tool target/release/onnx-prune]

needs the virtual environment of `compare.py`. Both train the same network on the same random samples with cross-entropy and
SGD with momentum, in float32, batch normalisations on the statistics of the batch. PyTorch runs the nodes with `interpreter.py`.
A round is one process of each; of its steps the median counts (of the tool: of its epochs), and of the rounds the median and
the extremes are shown.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx


def shape_of(value, batch):
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
    return [batch] + dims[1:]


def torch_round(args):
    import torch
    from interpreter import Interpreter

    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    model = onnx.load(args.model)
    net = Interpreter(model, "batch", torch.float32)
    weights = {}
    for name, v in net.constants.items():
        v = v.to(device)
        net.constants[name] = v
        if v.is_floating_point() and v.ndim > 0 and v.numel() > 1:
            weights[name] = v.requires_grad_(True)
    statistics_of = {i for n in model.graph.node if n.op_type == "BatchNormalization" for i in n.input[3:]}
    weights = {n: w for n, w in weights.items() if n not in statistics_of}
    data = np.load(args.data)
    x = torch.from_numpy(data["input"][: args.batch]).to(device)
    y = torch.from_numpy(data["labels"][: args.batch]).to(device)
    (name,) = [i.name for i in model.graph.input if i.name not in net.constants]
    optimizer = torch.optim.SGD(list(weights.values()), 1e-4, momentum=0.9)
    times = []
    for _ in range(args.steps + 3):
        began = time.perf_counter()
        optimizer.zero_grad()
        z = next(iter(net.run({**weights, name: x}).values()))
        torch.nn.functional.cross_entropy(z, y).backward()
        optimizer.step()
        if args.device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    memory = torch.cuda.max_memory_allocated() if args.device != "cpu" else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"step": statistics.median(times[3:]), "memory": memory}))


def tool_round(args, folder):
    device = [] if args.device == "cpu" else ["--device", "cuda:0"]
    command = [args.tool, "train", args.model, "--data", args.data, "--scale", "1", "--epochs", "4", "--warmup", "0", "--lr", "1e-4"]
    command += ["--batch", str(args.batch), "--hold-back", "0", "--loss", "ce", "--runtime", "ort", "--threads", str(args.threads)]
    command += ["--json", "-o", os.path.join(folder, "out.onnx"), *device]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    text = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    if status != 0:
        sys.exit(f"failed: {' '.join(command)}")
    epochs = json.loads(text)["epochs"]
    # The first one also loads and warms up.
    return {"step": statistics.median(e["seconds"] for e in epochs[1:]) / args.steps, "memory": 1024 * used.ru_maxrss}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model")
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--steps", type=int, default=10, help="steps that are measured in a round")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--device", default="cpu")
    p.add_argument("--tool", default="target/release/onnx-prune")
    p.add_argument("--data", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.data:
        return torch_round(args)
    model = onnx.load(args.model)
    stored = {t.name for t in model.graph.initializer}
    (given,) = [i for i in model.graph.input if i.name not in stored]
    classes = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    rng = np.random.default_rng(0)
    n = args.batch * args.steps
    rows = {"tool": [], "torch": []}
    with tempfile.TemporaryDirectory() as folder:
        args.data = os.path.join(folder, "data.npz")
        x = rng.standard_normal(shape_of(given, n), dtype=np.float32)
        np.savez(args.data, input=x, labels=rng.integers(0, classes, n))
        for _ in range(args.rounds):
            rows["tool"].append(tool_round(args, folder))
            command = [sys.executable, __file__, args.model, "--data", args.data, "--batch", str(args.batch)]
            command += ["--steps", str(args.steps), "--threads", str(args.threads), "--device", args.device]
            rows["torch"].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    ratio = [a["step"] / b["step"] for a, b in zip(rows["tool"], rows["torch"])]
    for name, of in rows.items():
        steps = sorted(1e3 * r["step"] for r in of)
        memory = max(r["memory"] for r in of) / 1e6
        print(f"{name}: {statistics.median(steps):.1f} ms a step ({steps[0]:.1f} to {steps[-1]:.1f}), {memory:.0f} MB")
    print(f"ratio: {statistics.median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())

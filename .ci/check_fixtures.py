#!/usr/bin/env python3
"""Does PRUNED compute what ORIGINAL computes with the removed channels silenced? Shares no code with the tool.

    pip install onnx onnxruntime numpy
    check_fixtures.py ORIGINAL.onnx PRUNED.onnx PLAN.json [--batch 3] [--tol 2e-4]

PLAN.json holds "tensors": {"<initializer or Constant output>": {"<axis>": [removed indices]}}, numbered as in ORIGINAL;
a tensor whose readers are cut differently appears once a reader, as "<name>@<node name>" or under the Identity output it
is read through. On axis 1 of a grouped Conv the indices may be a list per group. "Silenced" means zero in the weights
that contract over the channel (a Conv's input channels, a Gemm's or MatMul's inner axis), wherever it came from.
"""
import argparse, json, sys
import numpy as np, onnx, onnxruntime as ort
from onnx import numpy_helper


def fail(message): sys.exit(f"FAIL {message}")


def contracted_axis(node, slot, rank):
    """The axis of input `slot` that the node sums over, or None."""
    transposed = {a.name for a in node.attribute if a.name.startswith("trans") and a.i}
    return {("Conv", 1): 1, ("ConvTranspose", 1): 0, ("LSTM", 1): 2, ("GRU", 1): 2, ("RNN", 1): 2,
            ("Gemm", 0): 0 if "transA" in transposed else 1, ("Gemm", 1): 1 if "transB" in transposed else 0,
            ("MatMul", 0): rank - 1, ("MatMul", 1): max(rank - 2, 0)}.get((node.op_type, slot))


def silence(weight, axis, removed):
    """A copy of `weight` with zeros at `removed` of `axis`; a list of lists gives each group of axis 0 its own."""
    weight = weight.copy()
    if not removed or not isinstance(removed[0], list): removed = [removed]
    for part, indices in zip(np.split(weight, len(removed)), removed):  # the parts are views
        if indices and not 0 <= min(indices) <= max(indices) < part.shape[axis]:
            raise IndexError(f"{max(indices)} of {part.shape[axis]}")
        np.moveaxis(part, axis, 0)[indices] = 0
    return weight


def silenced(model, tensors):
    """ORIGINAL with a zeroed copy of each weight that a cut channel enters, and how many there are."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    values = {n.output[0]: a.t for n in twin.graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"}
    values |= {t.name: t for t in twin.graph.initializer}
    identity = {n.output[0]: n.input[0] for n in twin.graph.node if n.op_type == "Identity"}
    known = values.keys() | identity.keys()
    for key in tensors:
        if key not in known and not any(key.startswith(f"{name}@") for name in known):
            fail(f"the plan names {key}, which is no tensor of the original")
    copies = []
    for index, node in enumerate(twin.graph.node):
        for slot, used in enumerate(node.input):
            names = [used]  # the tensor as it is read here, then what the Identities before it read
            while names[-1] in identity: names.append(identity[names[-1]])
            cut = next((tensors[k] for name in names for k in (f"{name}@{node.name}", name) if k in tensors), None)
            if cut is None or names[-1] not in values: continue
            weight = numpy_helper.to_array(values[names[-1]])
            axis = contracted_axis(node, slot, weight.ndim)
            if axis is None or str(axis) not in cut: continue
            try: weight = silence(weight, axis, cut[str(axis)])
            except (IndexError, ValueError) as error: fail(f"the plan does not fit {names[-1]}, axis {axis}: {error}")
            copies.append(numpy_helper.from_array(weight, f"silenced.{index}.{slot}"))
            node.input[slot] = copies[-1].name
    twin.graph.initializer.extend(copies)
    return twin, len(copies)


def session(model, optimise):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimise: options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def interface(path):
    """Names, element types and shapes of the graph's inputs and outputs, as they are declared."""
    graph = onnx.load(path, load_external_data=False).graph
    weights = {t.name for t in graph.initializer}
    return [(v.name, v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
            for v in (*graph.input, *graph.output) if v.name not in weights]


def random_feed(sess, batch, rng):
    feed = {}
    for v in sess.get_inputs():
        shape = [d if isinstance(d, int) else batch if axis == 0 else 32 for axis, d in enumerate(v.shape)]
        feed[v.name] = rng.standard_normal(shape, np.float32) if v.type == "tensor(float)" else rng.integers(0, 2, shape)
    return feed


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("original", "pruned", "plan"): p.add_argument(name)
    p.add_argument("--batch", type=int, default=3)
    p.add_argument("--tol", type=float, default=2e-4, help="largest difference, relative to max(1, max|output|)")
    a = p.parse_args()
    try:
        onnx.checker.check_model(a.pruned, full_check=True)
        pruned = session(a.pruned, True)
    except Exception as error:
        fail(f"{a.pruned} is not a model that runs: {error}")
    before, after = interface(a.original), interface(a.pruned)
    if before != after: fail(f"the interface changed from {before} to {after}")
    with open(a.plan) as f:
        twin, count = silenced(onnx.load(a.original), json.load(f)["tensors"])
    if not count: fail("the plan cuts the input of no layer")
    twin = session(twin.SerializeToString(), False)
    feed, worst = random_feed(twin, a.batch, np.random.default_rng(0)), 0.0
    for v, got, want in zip(twin.get_outputs(), pruned.run(None, feed), twin.run(None, feed)):
        if got.shape != want.shape: fail(f"{v.name} has shape {got.shape}, in the original {want.shape}")
        if not np.isfinite(want).all(): fail(f"{v.name} of the original is not finite on random input")
        off = float(np.abs(got.astype(np.float64) - want).max() / max(1.0, float(np.abs(want).max())))
        if not off <= a.tol:
            fail(f"{v.name} is off by {off:.2e} (at most {a.tol:.0e}) from the original with {count} weights silenced")
        worst = max(worst, off)
    print(f"OK {a.pruned}: off by {worst:.1e}, {count} weights silenced")


if __name__ == "__main__":
    main()

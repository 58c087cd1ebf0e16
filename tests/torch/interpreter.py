"""Runs the nodes of an ONNX model with PyTorch, so that autograd can differentiate them.

Written from the format's specification, without the tool; what a node asks for beyond what is here is an error.
"""

import math

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper

TYPES = {
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.BOOL: torch.bool,
}


class Interpreter:
    """A model in `dtype`, whatever the file says of its numbers. Batch normalisations take their statistics from the batch,
    or are `frozen`."""

    def __init__(self, model, batch_norms, dtype=torch.float64):
        self.dtype = dtype
        self.graph = model.graph
        self.opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        self.batch_norms = batch_norms
        self.constants = {t.name: self.tensor(t) for t in model.graph.initializer}
        for n in model.graph.node:
            if n.op_type == "Constant":
                self.constants[n.output[0]] = self.constant(n)

    def tensor(self, proto):
        a = torch.from_numpy(np.array(numpy_helper.to_array(proto)))
        return a.to(self.dtype) if a.is_floating_point() else a

    def constant(self, n):
        a = {x.name: helper.get_attribute_value(x) for x in n.attribute}
        if "value" in a:
            return self.tensor(a["value"])
        v = next(iter(a.values()))
        t = torch.tensor(v)
        return t.to(self.dtype) if t.is_floating_point() else t

    def run(self, given):
        """Every output by name. `given`: the inputs, and what takes the place of constants."""
        values = {**self.constants, **given}
        for n in self.graph.node:
            if n.op_type == "Constant":
                continue
            op = getattr(self, n.op_type, None)
            if op is None:
                raise NotImplementedError(f"{n.op_type} node {n.name!r}")
            a = {x.name: helper.get_attribute_value(x) for x in n.attribute}
            a = {k: v.decode() if isinstance(v, bytes) else v for k, v in a.items()}
            more = {"n_out": len(n.output)} if n.op_type == "Split" else {}
            y = op(a, *[values[i] if i else None for i in n.input], **more)
            for name, v in zip(n.output, y if isinstance(y, (tuple, list)) else [y]):
                values[name] = v
        return {o.name: values[o.name] for o in self.graph.output}

    # Layers.

    @staticmethod
    def window(a, x, kernel):
        """Strides, dilations and pads, `auto_pad` resolved."""
        n = len(kernel)
        s, d = a.get("strides", [1] * n), a.get("dilations", [1] * n)
        auto = a.get("auto_pad", "NOTSET")
        if auto in ("NOTSET", "VALID"):
            p = a.get("pads", [0] * 2 * n) if auto == "NOTSET" else [0] * 2 * n
            return s, d, [(p[i], p[n + i]) for i in range(n)]
        pads = []
        for i in range(n):
            size = x.shape[i + 2]
            total = max((math.ceil(size / s[i]) - 1) * s[i] + (kernel[i] - 1) * d[i] + 1 - size, 0)
            small = total // 2
            pads.append((small, total - small) if auto == "SAME_UPPER" else (total - small, small))
        return s, d, pads

    @staticmethod
    def padded(x, pads, value=0.0):
        return F.pad(x, [v for p in reversed(pads) for v in p], value=value)

    def Conv(self, a, x, w, b=None):
        s, d, pads = self.window(a, x, list(w.shape[2:]))
        conv = [None, F.conv1d, F.conv2d, F.conv3d][w.ndim - 2]
        return conv(self.padded(x, pads), w, b, stride=s, dilation=d, groups=a.get("group", 1))

    def ConvTranspose(self, a, x, w, b=None):
        assert "auto_pad" not in a and "output_shape" not in a
        s, d, pads = self.window(a, x, list(w.shape[2:]))
        y = F.conv_transpose2d(x, w, b, s, 0, a.get("output_padding", 0), a.get("group", 1), d)
        return y[:, :, pads[0][0] : y.shape[2] - pads[0][1], pads[1][0] : y.shape[3] - pads[1][1]]

    def Gemm(self, a, x, w, c=None):
        x = x.T if a.get("transA", 0) else x
        w = w.T if a.get("transB", 0) else w
        y = a.get("alpha", 1.0) * (x @ w)
        return y if c is None else y + a.get("beta", 1.0) * c

    def MatMul(self, a, x, y):
        return x @ y

    def BatchNormalization(self, a, x, g, b, mean, var):
        own = bool(a.get("training_mode", 0)) or self.batch_norms == "batch"
        return F.batch_norm(x, mean.detach().clone(), var.detach().clone(), g, b, own, 0.1, a.get("epsilon", 1e-5))

    def LayerNormalization(self, a, x, g, b=None):
        axis = a.get("axis", -1) % x.ndim
        return F.layer_norm(x, x.shape[axis:], g, b, a.get("epsilon", 1e-5))

    def InstanceNormalization(self, a, x, g, b):
        return F.instance_norm(x, None, None, g, b, True, 0.1, a.get("epsilon", 1e-5))

    # Pooling.

    def reach(self, a, x):
        k = a["kernel_shape"]
        s, d, pads = self.window(a, x, k)
        more = []
        for i, (b, e) in enumerate(pads):
            size, extent = x.shape[i + 2], (k[i] - 1) * d[i] + 1
            span = size + b + e - extent
            n = (math.ceil(span / s[i]) if a.get("ceil_mode", 0) else span // s[i]) + 1
            if a.get("ceil_mode", 0) and (n - 1) * s[i] >= size + b:
                n -= 1
            more.append((b, max((n - 1) * s[i] + extent - size - b, 0)))
        return k, s, d, pads, more

    def MaxPool(self, a, x):
        k, s, d, _, pads = self.reach(a, x)
        pool = [None, F.max_pool1d, F.max_pool2d, F.max_pool3d][len(k)]
        return pool(self.padded(x, pads, -math.inf), k, s, dilation=d)

    def AveragePool(self, a, x):
        k, s, d, given, pads = self.reach(a, x)
        assert all(v == 1 for v in d) and len(k) == 2
        one = torch.ones_like(x[:1, :1])
        if a.get("count_include_pad", 0):
            one = self.padded(one, given, 1.0)
            pads_one = [(0, p[1] - g[1]) for p, g in zip(pads, given)]
        else:
            pads_one = pads
        return F.avg_pool2d(self.padded(x, pads), k, s) / F.avg_pool2d(self.padded(one, pads_one), k, s)

    def GlobalAveragePool(self, a, x):
        return x.mean(dim=list(range(2, x.ndim)), keepdim=True)

    def GlobalMaxPool(self, a, x):
        return F.adaptive_max_pool2d(x, 1)

    # Functions of one tensor.

    def Relu(self, a, x):
        return F.relu(x)

    def LeakyRelu(self, a, x):
        return F.leaky_relu(x, a.get("alpha", 0.01))

    def PRelu(self, a, x, slope):
        return torch.where(x > 0, x, x * slope)

    def Sigmoid(self, a, x):
        return torch.sigmoid(x)

    def HardSigmoid(self, a, x):
        return F.hardtanh(a.get("alpha", 0.2) * x + a.get("beta", 0.5), 0.0, 1.0)

    def HardSwish(self, a, x):
        return x * F.hardtanh(x / 6 + 0.5, 0.0, 1.0)

    def Gelu(self, a, x):
        return F.gelu(x, approximate=a.get("approximate", "none"))

    def Tanh(self, a, x):
        return torch.tanh(x)

    def Erf(self, a, x):
        return torch.erf(x)

    def Exp(self, a, x):
        return torch.exp(x)

    def Sqrt(self, a, x):
        return torch.sqrt(x)

    def Neg(self, a, x):
        return -x

    def Sin(self, a, x):
        return torch.sin(x)

    def Cos(self, a, x):
        return torch.cos(x)

    def Ceil(self, a, x):
        return torch.ceil(x)

    def Softmax(self, a, x):
        if self.opset < 13:
            axis = a.get("axis", 1) % x.ndim
            return torch.softmax(x.flatten(axis), -1).reshape(x.shape)
        return torch.softmax(x, a.get("axis", -1))

    def Clip(self, a, x, low=None, high=None):
        low, high = a.get("min", low), a.get("max", high)
        bound = lambda v, none: none if v is None else float(v)
        return F.hardtanh(x, bound(low, -math.inf), bound(high, math.inf))

    def Identity(self, a, x):
        return x

    def Dropout(self, a, x, *_):
        return x

    def Cast(self, a, x):
        return x.to(TYPES.get(a["to"], self.dtype))

    # Arithmetic.

    def Add(self, a, x, y):
        return x + y

    def Sub(self, a, x, y):
        return x - y

    def Mul(self, a, x, y):
        return x * y

    def Div(self, a, x, y):
        return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")

    def Mod(self, a, x, y):
        return torch.remainder(x, y)

    def Pow(self, a, x, y):
        return x**y

    def Equal(self, a, x, y):
        return x == y

    def Where(self, a, on, x, y):
        return torch.where(on, x, y)

    def axes(self, a, x, given):
        axes = a.get("axes") if given is None else given.tolist()
        return axes if axes else list(range(x.ndim))

    def ReduceMean(self, a, x, axes=None):
        return x.mean(self.axes(a, x, axes), keepdim=bool(a.get("keepdims", 1)))

    def ReduceSum(self, a, x, axes=None):
        return x.sum(self.axes(a, x, axes), keepdim=bool(a.get("keepdims", 1)))

    def ReduceL2(self, a, x, axes=None):
        return torch.linalg.vector_norm(x, 2, self.axes(a, x, axes), bool(a.get("keepdims", 1)))

    def ReduceMax(self, a, x, axes=None):
        return torch.amax(x, self.axes(a, x, axes), bool(a.get("keepdims", 1)))

    def CumSum(self, a, x, axis):
        assert not a.get("reverse", 0) and not a.get("exclusive", 0)
        return torch.cumsum(x, int(axis))

    # Shapes.

    def Shape(self, a, x):
        return torch.tensor(list(x.shape)[a.get("start", 0) : a.get("end", None)], dtype=torch.int64)

    def ConstantOfShape(self, a, shape):
        v = self.tensor(a["value"]) if "value" in a else torch.zeros(1, dtype=self.dtype)
        return torch.full(shape.tolist(), v.item(), dtype=v.dtype)

    def Range(self, a, start, stop, step):
        return torch.arange(start.item(), stop.item(), step.item(), dtype=start.dtype)

    def Reshape(self, a, x, shape):
        sizes = shape.tolist()
        if not a.get("allowzero", 0):
            sizes = [x.shape[i] if v == 0 else v for i, v in enumerate(sizes)]
        return x.reshape(sizes)

    def Flatten(self, a, x):
        axis = a.get("axis", 1)
        axis = axis + x.ndim if axis < 0 else axis
        return x.reshape(math.prod(x.shape[:axis]), -1)

    def Squeeze(self, a, x, axes=None):
        axes = a.get("axes") if axes is None else axes.tolist()
        return x.squeeze() if axes is None else x.squeeze(tuple(axes))

    def Unsqueeze(self, a, x, axes=None):
        axes = a["axes"] if axes is None else axes.reshape(-1).tolist()
        rank = x.ndim + len(axes)
        for v in sorted(v % rank for v in axes):
            x = x.unsqueeze(v)
        return x

    def Transpose(self, a, x):
        return x.permute(a.get("perm", list(reversed(range(x.ndim)))))

    def Expand(self, a, x, shape):
        return x.expand(torch.broadcast_shapes(x.shape, tuple(shape.tolist())))

    def Tile(self, a, x, times):
        return x.repeat(times.tolist())

    def Concat(self, a, *xs):
        return torch.cat(xs, a["axis"])

    def Split(self, a, x, sizes=None, n_out=1):
        axis = a.get("axis", 0)
        sizes = a.get("split") if sizes is None else sizes.tolist()
        if sizes is None:
            chunk = math.ceil(x.shape[axis] / n_out)
            sizes = [min(chunk, x.shape[axis] - i * chunk) for i in range(n_out)]
        return torch.split(x, sizes, axis)

    def Slice(self, a, x, starts=None, ends=None, axes=None, steps=None):
        read = lambda name, v, none: (a.get(name, none) if v is None else v.tolist())
        starts, ends = read("starts", starts, None), read("ends", ends, None)
        axes = read("axes", axes, list(range(len(starts))))
        steps = read("steps", steps, [1] * len(starts))
        for axis, i, j, k in zip(axes, starts, ends, steps):
            places = range(x.shape[axis])[slice(i, None if k < 0 and j < -x.shape[axis] else j, k)]
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))
        return x

    def Gather(self, a, x, ids):
        axis = a.get("axis", 0) % x.ndim
        flat = ids.reshape(-1) % x.shape[axis]
        return x.index_select(axis, flat).reshape(x.shape[:axis] + ids.shape + x.shape[axis + 1 :])

    def GatherND(self, a, x, ids):
        assert a.get("batch_dims", 0) == 0
        return x[tuple(ids.unbind(-1))]

    def Pad(self, a, x, pads=None, value=None, axes=None):
        pads = a["pads"] if pads is None else pads.tolist()
        n = len(pads) // 2
        full = [(0, 0)] * x.ndim
        for i, axis in enumerate(range(x.ndim) if axes is None else axes.tolist()):
            full[axis] = (pads[i], pads[n + i])
        flat = [v for p in reversed(full) for v in p]
        mode = a.get("mode", "constant")
        if mode == "constant":
            return F.pad(x, flat, value=float(a.get("value", 0.0) if value is None else value))
        while flat and flat[-2:] == [0, 0]:
            flat = flat[:-2]
        return F.pad(x, flat, mode={"reflect": "reflect", "edge": "replicate"}[mode])

    def Resize(self, a, x, roi=None, scales=None, sizes=None):
        if sizes is None or sizes.numel() == 0:
            sizes = [math.floor(d * s) for d, s in zip(x.shape, scales.tolist())]
        else:
            sizes = sizes.tolist()
        mode, place = a.get("mode", "nearest"), a.get("coordinate_transformation_mode", "half_pixel")
        if mode == "nearest":
            whole = all(s % d == 0 for s, d in zip(sizes, x.shape))
            assert whole or (place, a.get("nearest_mode")) == ("asymmetric", "floor")
            return F.interpolate(x, sizes[2:], mode="nearest")
        assert mode == "linear" and place in ("half_pixel", "pytorch_half_pixel", "align_corners")
        return F.interpolate(x, sizes[2:], mode="bilinear", align_corners=place == "align_corners")

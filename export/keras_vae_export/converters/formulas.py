"""Operators that tf2onnx 1.17 lacks or gets wrong, as ONNX formulas of accurate parts.

A formula takes a `_Builder` and the names of the operator's inputs, and returns the name of its output; None if it does
not know the case, and the operator is then refused by name. Each is compared with float64 in
tests/export/test_converters.py.
"""

import numpy as np
import tensorflow as tf
import tf2onnx
from onnx import TensorProto


def _log1p(g, x):
    """log(u) x / (u - 1) with u = 1 + x, which is Kahan's formula; x where u rounds to 1."""
    u = g("Add", x, 1.0)
    exact = g("Or", g("Equal", u, 1.0), g("IsInf", u))
    return g("Where", exact, x, g("Mul", g("Log", u), g("Div", x, g("Sub", u, 1.0))))


def _erfinv(g, x):
    """Two polynomials in w = -log(1 - x**2), of Giles, Approximating the erfinv function, 2012, table 5."""
    w = g("Neg", g("Log", g("Mul", g("Sub", 1.0, x), g("Add", 1.0, x))))
    central = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087)
    central += (-0.00125372503, -0.00417768164, 0.246640727, 1.50140941)
    tail = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773)
    tail += (-0.0076224613, 0.00943887047, 1.00167406, 2.83297682)
    values = []
    for coefficients, v in ((central, g("Sub", w, 2.5)), (tail, g("Sub", g("Sqrt", w), 3.0))):
        value = g("Mul", v, coefficients[0])
        for coefficient in coefficients[1:-1]:
            value = g("Mul", v, g("Add", value, coefficient))
        values.append(g("Mul", x, g("Add", value, coefficients[-1])))
    inner = g("Where", g("Less", w, 5.0), *values)
    return g("Where", g("Equal", g("Abs", x), 1.0), g("Mul", x, np.float32(np.inf)), inner)


def _floor_div(g, x, y):
    """ONNX's quotient of integers is cut towards 0, so the rest, which has the sign of y, is taken off before."""
    return g("Floor", g("Div", x, y)) if g.is_float() else g("Div", g("Sub", x, g("Mod", x, y)), y)


def _floor_mod(g, x, y):
    """What is left, with the sign of y; fmod is exact, x - floor(x / y) y is not."""
    if not g.is_float():
        return g("Mod", x, y)
    rest = g("Mod", x, y, fmod=1)
    other_sign = g("Less", g("Mul", g("Sign", rest), g("Sign", y)), 0.0)
    return g("Where", other_sign, g("Add", rest, y), rest)


def _sign_bit(g, x):
    """The bits of a float, for one who looks at the sign alone, as Keras's `argmax` and `signbit` do."""
    sign, zero = np.int32(np.iinfo("int32").min), np.float32(0.0)
    for node in g.consumers():
        if node.type != "BitwiseAnd" or sign not in [g.value(name) for name in node.input]:
            return None
    negative = g("Or", g("Less", x, zero), g("Less", g("Reciprocal", x), zero))  # 1 / -0 is minus infinity
    return g("Where", negative, sign, np.int32(0))


def _searched(right):
    """The number of sorted edges, on the last axis, below each value, or at or below it; NaN is below none."""

    def formula(g, edges, x):
        edges, x = g("Unsqueeze", edges, np.array([-2])), g("Unsqueeze", x, np.array([-1]))
        below = g("Not", g("Less", x, edges)) if right else g("Less", edges, x)
        return g("ReduceSum", g("Cast", below, to=g.dtype), np.array([-1]), keepdims=0)

    return formula


def _bucketize(g, x):
    return _searched(right=True)(
        g, np.array([g.attribute("boundaries")], "float32"), g("Cast", x, to=TensorProto.FLOAT)
    )


def _cumprod(g, x, axis):
    """The product over the axis of [x where it is among the first, 1 elsewhere]."""
    shape, axis = g.shape(x), g.value(axis)
    if shape is None or axis is None or shape[axis] < 0:
        return None
    axis, size = int(axis) % len(shape), shape[axis]
    chosen = np.tri(size, k=-1 if g.attribute("exclusive") else 0, dtype=bool)
    chosen = chosen.T if g.attribute("reverse") else chosen
    chosen = chosen.reshape(size, size, *[1] * (len(shape) - axis - 1))
    factors = g("Where", chosen, g("Unsqueeze", x, np.array([axis])), 1.0)
    return g("ReduceProd", factors, np.array([axis + 1]), keepdims=0)


def _update_slice(g, x, update, starts):
    """Joins the update with what stays before and after it, from the last axis to the first."""
    whole, part, starts = g.shape(x), g.shape(update), g.value(starts)
    axes = [axis for axis, size in enumerate(part) if size != whole[axis]]
    if starts is None or any(min(whole[axis], part[axis]) < 0 for axis in axes):
        return None
    if any(size < 0 and start for size, start in zip(whole, starts, strict=True)):
        return None
    starts = np.clip(starts, 0, np.subtract(whole, part))
    result = update
    for axis in reversed(axes):
        around = x
        for outer in axes[: axes.index(axis)]:
            around = g.cut(around, outer, starts[outer], starts[outer] + part[outer])
        before = g.cut(around, axis, 0, starts[axis])
        after = g.cut(around, axis, starts[axis] + part[axis], whole[axis])
        result = g("Concat", before, result, after, axis=axis)
    return result


def _resample(g, images, size, scale=None, *translation):
    """Multiplies rows and columns by a matrix, which TensorFlow's own operator makes of the unit vectors."""
    shape, others = g.shape(images), [g.value(name) for name in (size, scale, *translation) if name]
    if shape is None or min(shape[1:]) < 0:
        return None
    if scale is not None and others[1] is None and g.ctx.get_node_by_output(scale).type in ("RealDiv", "Div"):
        others[1] = (others[0] / shape[1:3]).astype("float32")  # `tf.image.resize` divides by the sizes of a tensor
    if any(value is None for value in others):
        return None
    operator = getattr(tf.raw_ops, g.node.type)
    options = {name: g.attribute(name) for name in ("kernel_type", "antialias", "align_corners", "half_pixel_centers")}
    options = {name: bool(value) if value in (0, 1) else value for name, value in options.items() if value is not None}
    height, width, channels = shape[1:]
    images = g("Cast", images, to=TensorProto.FLOAT)
    for axis, rows in enumerate(((-1, height, width * channels), (-1, width, channels))):
        units = np.eye(shape[axis + 1], dtype="float32")[None, :, None, :]  # as the channels of one column
        values = (np.array([value[axis], 1 - i // 2], value.dtype) for i, value in enumerate(others))
        named = dict(zip(("images", "size", "scale", "translation"), (units, *values), strict=False))
        with tf.compat.v1.Session(graph=tf.Graph()) as session, session.graph.as_default():
            matrix = session.run(operator(**named, **options))[0, :, 0]
        images = g("MatMul", matrix, g("Reshape", images, np.array(rows)))
    return g("Reshape", images, np.array([-1, *others[0], channels]))


# Fourier transforms are products with matrices. A complex tensor holds its real parts and, after them on the last axis,
# its imaginary parts: only between operators that know it.
def _waves(sign, rows, columns, size):
    return np.exp(sign * 2j * np.pi * (np.outer(np.arange(rows), np.arange(columns)) % size) / size)


def _real_form(matrix):
    return np.block([[matrix.real, matrix.imag], [-matrix.imag, matrix.real]]).astype("float32")


def _fft(sign, axes):
    def formula(g, x):
        shape = g.shape(x)
        if shape is None or min(shape[-axes:]) < 0:
            return None
        size = shape[-1] // 2
        result = g("MatMul", x, _real_form(_waves(sign, size, size, size) / (size if sign > 0 else 1)))
        if axes == 1:
            return result
        left = (_waves(sign, shape[-2], shape[-2], shape[-2]) / (shape[-2] if sign > 0 else 1)).astype("complex64")
        turned = g("MatMul", result, _real_form(1j * np.eye(size)))
        return g("Add", g("MatMul", left.real, result), g("MatMul", left.imag, turned))

    return formula


def _rfft(g, x, length):
    shape, length = g.shape(x), g.value(length)
    if shape is None or shape[-1] < 0 or length is None:
        return None
    waves = _waves(-1, shape[-1], length[0] // 2 + 1, length[0])
    waves[length[0] :] = 0.0
    return g("MatMul", x, np.hstack([waves.real, waves.imag]).astype("float32"))


def _irfft(g, x, length):
    shape, length = g.shape(x), g.value(length)
    if shape is None or shape[-1] < 0 or length is None:
        return None
    frequency = np.arange(shape[-1] // 2)[:, None]
    # Each stands for two, but for 0 and the highest of an even length; those beyond it are left out.
    weight = np.where((frequency == 0) | (2 * frequency == length), 1.0, 2.0) * (2 * frequency <= length)
    waves = weight * _waves(1, len(frequency), length[0], length[0]) / length
    return g("MatMul", x, np.vstack([waves.real, -waves.imag]).astype("float32"))


def _half(which):
    def formula(g, x):
        shape = g.shape(x)
        if shape is None or shape[-1] < 0:
            return None
        size = shape[-1] // 2
        return g.cut(x, -1, which * size, (which + 1) * size)

    return formula


# expm1(x) = tanh(x/2) (e**x + 1) keeps the digits that e**x - 1 loses near 0, where the KL of a collapsed unit lives.
# Its own where(c, a, b) is c * a + (1 - c) * b, which is NaN if the other branch is infinite or NaN.
FORMULAS = {
    "Erfc": lambda g, x: g("Sub", 1.0, g("Erf", x)),
    "Erfinv": _erfinv,
    "Expm1": lambda g, x: g("Mul", g("Tanh", g("Mul", x, 0.5)), g("Add", g("Exp", x), 1.0)),
    "Log1p": _log1p,
    "SelectV2": lambda g, condition, x, y: g("Where", condition, x, y),
    "Xlogy": lambda g, x, y: g("Where", g("Equal", x, 0.0), 0.0, g("Mul", x, g("Log", y))),
    "Xlog1py": lambda g, x, y: g("Where", g("Equal", x, 0.0), 0.0, g("Mul", x, _log1p(g, y))),
    "Xdivy": lambda g, x, y: g("Where", g("Equal", x, 0.0), 0.0, g("Div", x, y)),
    "FloorDiv": _floor_div,
    "FloorMod": _floor_mod,
    "Bitcast": _sign_bit,
    "Cumprod": _cumprod,
    "Bucketize": _bucketize,
    "LowerBound": _searched(right=False),
    "UpperBound": _searched(right=True),
    "XlaDynamicUpdateSlice": _update_slice,
    "ScaleAndTranslate": _resample,
    "ResizeArea": _resample,
    "ResizeBicubic": _resample,
    "Complex": lambda g, real, imaginary: g("Concat", real, imaginary, axis=-1),
    "Real": _half(0),
    "Imag": _half(1),
    "FFT": _fft(-1, 1),
    "IFFT": _fft(1, 1),
    "FFT2D": _fft(-1, 2),
    "IFFT2D": _fft(1, 2),
    "RFFT": _rfft,
    "IRFFT": _irfft,
}


_COMPLEX = {"Real", "Imag", "FFT", "IFFT", "FFT2D", "IFFT2D", "IRFFT"}
"""The formulas that take a complex tensor."""


class _Builder:
    """Adds nodes to a tf2onnx graph in the place of `node`: `g("Add", x, 1.0)` takes names and numbers, gives a name.

    Numbers have the type of the node's output, arrays their own.
    """

    def __init__(self, ctx, node):
        self.ctx, self.node = ctx, node
        self.dtype = ctx.get_dtype(node.output[0]) or TensorProto.FLOAT

    def __call__(self, op_type, *inputs, **attributes):
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        return self.ctx.make_node(op_type, names, attr=attributes).output[0]

    def cut(self, x, axis, start, stop):
        return self("Slice", x, np.array([start]), np.array([stop]), np.array([axis]))

    def is_float(self):
        return self.dtype in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)

    def shape(self, name):
        """The sizes of a tensor, -1 where free; None if even their number is not known."""
        return self.ctx.get_shape(name)

    def value(self, name):
        """The value of a constant as an array; None if the tensor is none."""
        node = self.ctx.get_node_by_output(name)
        return np.array(node.get_tensor_value(as_list=False)) if node is not None and node.is_const() else None

    def attribute(self, name):
        return self.node.get_attr_value(name)

    def consumers(self):
        return self.ctx.find_output_consumers(self.node.output[0])

    def _constant(self, value):
        if not isinstance(value, np.ndarray | np.generic):
            value = np.array(value, tf2onnx.utils.map_onnx_to_numpy_type(self.dtype))
        return self.ctx.make_const(tf2onnx.utils.make_name("const"), np.asarray(value)).output[0]


def _handle(ctx, node, name, args):
    output, dtype, shape = node.output[0], ctx.get_dtype(node.output[0]), ctx.get_shape(node.output[0])
    g = _Builder(ctx, node)
    signature = {"shapes": [shape], "dtypes": [dtype]}
    if dtype == TensorProto.COMPLEX64:
        if not {consumer.type for consumer in g.consumers()} <= _COMPLEX:
            return
        signature = {}  # of twice the size and real: found by inference
    result = FORMULAS[node.type](g, *node.input)
    if result is None:
        return
    ctx.remove_node(node.name)
    ctx.make_node("Identity", [result], name=name, outputs=[output], **signature)


HANDLERS = {name: (_handle, []) for name in FORMULAS}
"""The formulas, as `tf2onnx.convert` takes them."""

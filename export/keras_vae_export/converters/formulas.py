"""Operators that tf2onnx 1.17 lacks or gets wrong, as ONNX formulas of accurate parts.

Each is compared with float64 in tests/export/test_converters.py.
"""

import numpy as np
import tf2onnx
from onnx import TensorProto

# expm1(x) = tanh(x/2) (e**x + 1) keeps the digits that e**x - 1 loses near 0, where the KL of a collapsed unit lives.
# Its own where(c, a, b) is c * a + (1 - c) * b, which is NaN if the other branch is infinite or NaN.
# log1p(x) = x log(u) / (u - 1) with u = 1 + x is Kahan's formula; it is x where u rounds to 1.
FORMULAS = {
    "Erfc": lambda g, x: g("Sub", 1.0, g("Erf", x)),
    "Expm1": lambda g, x: g("Mul", g("Tanh", g("Mul", x, 0.5)), g("Add", g("Exp", x), 1.0)),
    "Log1p": lambda g, x: g.log1p(x),
    "SelectV2": lambda g, condition, x, y: g("Where", condition, x, y),
    "Xlogy": lambda g, x, y: g("Where", g("Equal", x, 0.0), 0.0, g("Mul", x, g("Log", y))),
    "Xlog1py": lambda g, x, y: g("Where", g("Equal", x, 0.0), 0.0, g("Mul", x, g.log1p(y))),
    "Xdivy": lambda g, x, y: g("Where", g("Equal", x, 0.0), 0.0, g("Div", x, y)),
}


class _Builder:
    """Adds nodes to a tf2onnx graph: `g("Add", x, 1.0)` takes tensor names and numbers, and gives a name."""

    def __init__(self, ctx, dtype):
        self.ctx, self.dtype = ctx, dtype

    def __call__(self, op_type, *inputs, **attributes):
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        return self.ctx.make_node(op_type, names, attr=attributes).output[0]

    def log1p(self, x):
        u = self("Add", x, 1.0)
        ratio = self("Div", self("Mul", x, self("Log", u)), self("Sub", u, 1.0))
        exact = self("Or", self("Equal", u, 1.0), self("IsInf", u))
        return self("Where", exact, x, ratio)

    def _constant(self, value):
        dtype = tf2onnx.utils.map_onnx_to_numpy_type(self.dtype)
        return self.ctx.make_const(tf2onnx.utils.make_name("const"), np.array(value, dtype)).output[0]


def _handle(ctx, node, name, args):
    output, dtype, shape = node.output[0], ctx.get_dtype(node.output[0]), ctx.get_shape(node.output[0])
    formula = FORMULAS[node.type]
    ctx.remove_node(node.name)
    result = formula(_Builder(ctx, dtype or TensorProto.FLOAT), *node.input)
    ctx.make_node("Identity", [result], name=name, outputs=[output], shapes=[shape], dtypes=[dtype])


HANDLERS = {name: (_handle, []) for name in FORMULAS}
"""The formulas, as `tf2onnx.convert` takes them."""

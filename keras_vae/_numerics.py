"""Numbers that stay in float32 while training goes on, and weights beside what they weigh."""

from typing import Any

import numpy as np
from keras import ops

_FLOAT32_MAX = float(np.finfo("float32").max)


def straight_through_clip(value: Any, low: float = -_FLOAT32_MAX, high: float = _FLOAT32_MAX) -> Any:
    """`value` in [low, high], with the gradient of `value` everywhere: a clip's gradient of 0 would strand it outside.

    value - stop_gradient(value) is exactly 0, so inside the range nothing changes; the first clip is for the infinity
    that an overflow in half precision leaves, whose difference would be NaN.
    """
    value = ops.clip(value, -_FLOAT32_MAX, _FLOAT32_MAX)
    return ops.stop_gradient(ops.clip(value, low, high)) + (value - ops.stop_gradient(value))


def beside(weights: Any, values: Any) -> Any:
    """Weights with as many axes as an array whose first axes are theirs."""
    return ops.reshape(weights, (*ops.shape(weights), *[1] * (len(values.shape) - len(weights.shape))))

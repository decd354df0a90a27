"""Numbers that stay in float32 while training goes on."""

import numpy as np
from keras import ops

_FLOAT32_MAX = float(np.finfo("float32").max)


def bounded(value, low=-_FLOAT32_MAX, high=_FLOAT32_MAX):
    """`value` in [low, high], while its gradient passes: what wandered out is drawn back, where a clip would strand it.

    value - stop_gradient(value) is exactly 0, so inside the range nothing changes; the first clip is for the infinity
    that an overflow in half precision leaves, whose difference would be NaN.
    """
    value = ops.clip(value, -_FLOAT32_MAX, _FLOAT32_MAX)
    return ops.stop_gradient(ops.clip(value, low, high)) + (value - ops.stop_gradient(value))

"""Schedules for the weight beta of the KL term, as pure functions of the number of training steps taken.

Pure, because a schedule that lives in a callback is frozen at its first value by jit, and is lost when training
resumes. The step is a weight of the model: it is traced, saved and restored like any other.
"""

import keras
from keras import ops

from keras_vae import _checks
from keras_vae._config import Configured


class Schedule(Configured):
    """beta(step). Subclasses are compared with `Constant` to know whether there is anything to log."""

    def __call__(self, step):
        """The value at a step.

        Args:
            step: Training batches seen so far, a scalar tensor or a number.

        Returns:
            A float32 scalar.
        """
        raise NotImplementedError

    def get_config(self):
        return dict(vars(self))


@keras.saving.register_keras_serializable(package="keras_vae")
class Constant(Schedule):
    """The same value at every step; what a plain number becomes."""

    def __init__(self, value=1.0):
        self.value = _checks.non_negative("value", value)

    def __call__(self, step):
        return ops.convert_to_tensor(self.value, dtype="float32")


@keras.saving.register_keras_serializable(package="keras_vae")
class Linear(Schedule):
    """Warm-up: from `start` to `end` in `steps` training batches, then constant.

    Reference: Bowman et al. 2016, arXiv:1511.06349, section 3.1; Sonderby et al. 2016, arXiv:1602.02282.
    """

    def __init__(self, steps, start=0.0, end=1.0):
        self.steps = _checks.whole_number("steps, in training batches,", steps)
        self.start = _checks.non_negative("start", start)
        self.end = _checks.non_negative("end", end)

    def __call__(self, step):
        fraction = ops.minimum(ops.cast(step, "float32") / self.steps, 1.0)
        return self.start + (self.end - self.start) * fraction


@keras.saving.register_keras_serializable(package="keras_vae")
class Cyclical(Schedule):
    """Repeated warm-up: in each cycle a linear ramp from `start` to `end`, then `end` for the rest of the cycle.

    Args:
        period: Training batches in a cycle.
        ramp: The fraction of the cycle that the ramp takes.
        cycles: After this many cycles beta stays at `end`; None for ever.
        start, end: Values at the ends of the ramp.

    Reference: Fu et al. 2019, arXiv:1903.10145, equation 6 (four cycles, ramp 0.5).
    """

    def __init__(self, period, ramp=0.5, cycles=None, start=0.0, end=1.0):
        self.period = _checks.whole_number("period", period)
        if not 0.0 < ramp <= 1.0:
            raise ValueError(f"ramp is a fraction of the cycle and must be in (0, 1]; got {ramp!r}.")
        self.ramp = float(ramp)
        self.cycles = None if cycles is None else _checks.whole_number("cycles", cycles)
        self.start = _checks.non_negative("start", start)
        self.end = _checks.non_negative("end", end)

    def __call__(self, step):
        step = ops.cast(step, "int32")
        # The remainder is taken in integers: exact however long the run.
        position = ops.cast(ops.mod(step, self.period), "float32") / (self.ramp * self.period)
        value = self.start + (self.end - self.start) * ops.minimum(position, 1.0)
        if self.cycles is None:
            return value
        return ops.where(step < self.cycles * self.period, value, self.end)


def get(beta) -> Schedule:
    """A schedule from a number, a schedule's config, or itself."""
    if isinstance(beta, Schedule):
        return beta
    if isinstance(beta, dict):
        return keras.saving.deserialize_keras_object(beta)
    return Constant(beta)

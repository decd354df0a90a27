"""Schedules for the weight beta of the KL term, as pure functions of the number of training steps taken.

Pure, because a schedule that lives in a callback is frozen at its first value by jit, and is lost when training
resumes. The step is a weight of the model: it is traced, saved and restored like any other. So is a variable that a
schedule holds, because a schedule is a Keras layer.
"""

from typing import Any

import keras
from keras import ops

from keras_vae import validation
from keras_vae._config import Configured
from keras_vae._typing import Layer


class Schedule(Configured, Layer):
    """A value that depends on the training step. A subclass defines `__call__`, and `get_config` if need be."""

    def __init__(self):
        super().__init__(dtype="float32")
        self.built = True

    def __call__(self, step: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The value at a step.

        Args:
            step: Number of training batches seen so far, a scalar tensor or a number.

        Returns:
            A float32 scalar.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no __call__(self, step) that returns its value.")


@keras.saving.register_keras_serializable(package="keras_vae")
class Constant(Schedule):
    """The same value at every step; what a plain number becomes."""

    def __init__(self, value: float = 1.0):
        super().__init__()
        self.value = validation.non_negative("value", value)

    def __call__(self, step: Any) -> Any:
        return ops.convert_to_tensor(self.value, dtype="float32")

    def get_config(self) -> dict[str, Any]:
        return {"value": self.value}


@keras.saving.register_keras_serializable(package="keras_vae")
class Linear(Schedule):
    """Warm-up: from `start` to `end` in `steps` training batches, then constant.

    Reference: Bowman et al. 2016, arXiv:1511.06349, section 3.1; Sonderby et al. 2016, arXiv:1602.02282.
    """

    def __init__(self, steps: int, start: float = 0.0, end: float = 1.0):
        super().__init__()
        self.steps = validation.whole_number("steps, in training batches,", steps)
        self.start = validation.non_negative("start", start)
        self.end = validation.non_negative("end", end)

    def __call__(self, step: Any) -> Any:
        fraction = ops.minimum(ops.cast(step, "float32") / self.steps, 1.0)
        return self.start + (self.end - self.start) * fraction

    def get_config(self) -> dict[str, Any]:
        return {"steps": self.steps, "start": self.start, "end": self.end}


@keras.saving.register_keras_serializable(package="keras_vae")
class Cyclical(Schedule):
    """Repeated warm-up: in each cycle a linear ramp from `start` to `end`, then `end` for the rest of the cycle.

    Args:
        period: Number of training batches in a cycle.
        ramp: Fraction of the cycle that the ramp takes.
        cycles: Number of cycles, after which the value stays at `end`; None: no end.
        start, end: Values at the ends of the ramp.

    Reference: Fu et al. 2019, arXiv:1903.10145, equation 6 (four cycles, ramp 0.5).
    """

    def __init__(self, period: int, ramp: float = 0.5, cycles: int | None = None, start: float = 0.0, end: float = 1.0):
        super().__init__()
        self.period = validation.whole_number("period", period)
        if not 0.0 < ramp <= 1.0:
            raise ValueError(f"ramp is a fraction of the cycle and must be in (0, 1]; got {ramp!r}.")
        self.ramp = float(ramp)
        self.cycles = None if cycles is None else validation.whole_number("cycles", cycles)
        self.start = validation.non_negative("start", start)
        self.end = validation.non_negative("end", end)

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "int32")
        # The remainder is taken in integers: exact however long the run.
        position = ops.cast(ops.mod(step, self.period), "float32") / (self.ramp * self.period)
        value = self.start + (self.end - self.start) * ops.minimum(position, 1.0)
        if self.cycles is None:
            return value
        return ops.where(step < self.cycles * self.period, value, self.end)

    def get_config(self) -> dict[str, Any]:
        names = ("period", "ramp", "cycles", "start", "end")
        return {name: getattr(self, name) for name in names}


def get(beta: Any) -> Schedule:
    """A schedule from a number, a schedule's config, or itself."""
    if isinstance(beta, Schedule):
        return beta
    if isinstance(beta, dict):
        return keras.saving.deserialize_keras_object(beta)
    return Constant(beta)


def varies(schedule: Any) -> bool:
    """Whether the value may change from step to step, and so is worth logging."""
    return isinstance(schedule, Schedule) and not isinstance(schedule, Constant)

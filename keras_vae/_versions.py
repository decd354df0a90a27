"""One rule for what is compiled: a compiled function is used only while what it read from Python is unchanged.

A function is traced once and run many times, and Python attributes (a layer's `rate`, `trainable`, the constants of a
`Normalization` layer, the likelihood) are read while it is traced. So the attributes of the model, of its layers and of
its optimizer have a version. Whoever holds a compiled function holds the version that it was made for, and makes it
again when the version has moved on. Values of variables are no part of this: every compiled function reads them anew.

A snapshot compares by identity, which costs 0.3 ms at each step of a model of ten layers; it sees into public lists and
dicts, but not into other objects that a layer holds: assign a new one instead of changing it.
"""

import operator
from typing import Any

# What Keras itself sets while it runs, and what no computation depends on.
_NOT_READ = frozenset(
    (
        "_called",
        "_compile_config",
        "_eval_epoch_iterator",
        "_initial_epoch",
        "_jax_state",
        "_jax_state_synced",
        "_losses",
        "history",
        "predict_function",
        "stop_evaluating",
        "stop_predicting",
        "stop_training",
        "test_function",
        "train_function",
        "training",  # of torch modules: Keras passes `training` as an argument
    )
)
_SCALARS = (bool, int, float, str, bytes, type(None), frozenset)


class Version:
    """Counts the changes of a model that a compiled function would not see. Not a Keras object: it is not tracked."""

    def __init__(self, model: Any):
        self._model = model
        self._seen: list | None = None
        self.number = 0
        self.checked = 0  # the version for which the model has checked that its parts fit together
        self.traces = 0  # Python runs of what is compiled
        self.owners: dict = {}  # on JAX, the variables whose values Keras holds

    def current(self) -> int:
        """The version of the model as it is now."""
        now = _snapshot(self._model)
        if self._seen is None or not _same(self._seen, now):
            self._seen = now
            self.number += 1
        return self.number

    def accept(self) -> None:
        """Counts what has changed since `current` as no change: tracing and building leave marks on layers."""
        self._seen = _snapshot(self._model)

    def counted(self, function: Any) -> Any:
        """`function`, with its Python runs counted in `traces`."""

        def run(*arguments):
            self.traces += 1
            return function(*arguments)

        return run


def _snapshot(model):
    optimizer = getattr(model, "optimizer", None)
    objects = [
        model,
        *model._flatten_layers(include_self=False),
        optimizer,
        getattr(optimizer, "inner_optimizer", None),
    ]
    values = []
    for part in objects:
        values.append(part)
        for name, value in getattr(part, "__dict__", {}).items():
            if name in _NOT_READ:
                continue
            values.append(value)
            if name == "_trainable_variables":
                values.extend(variable.trainable for variable in value)
            elif isinstance(value, dict) and not name.startswith("_"):
                values.extend(value)
                values.extend(value.values())
            elif isinstance(value, list) and not name.startswith("_"):
                values.extend(value)
    return values


def _same(before, after):
    if len(before) != len(after):
        return False
    return all(map(operator.is_, before, after)) or all(map(_equal, before, after))


def _equal(one, other):
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    return _same(one, other) if isinstance(one, tuple) else isinstance(one, _SCALARS) and one == other

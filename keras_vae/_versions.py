"""One rule for what is compiled: a compiled function is used only while what it read from Python is unchanged.

A function is traced once and run many times, and Python attributes (a layer's `rate`, `trainable`, the constants of a
`Normalization` layer, the likelihood) are read while it is traced. So the attributes of the model, of its layers and of
its optimizer have a version. Whoever holds a compiled function holds the version that it was made for, and makes it
again when the version has moved on. Values of variables are no part of this: every compiled function reads them anew.

A snapshot compares by identity, which costs 0.1 ms at each step of a model of ten layers; it sees into public lists and
dicts, but not into other objects that a layer holds: assign a new one instead of changing it.
"""

import functools
import operator
from collections.abc import Collection
from itertools import chain, compress
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
        self._seen: _Snapshot | None = None
        self.number = 0
        self.checked = 0  # the version for which the model has checked that its parts fit together
        self.traces = 0  # Python runs of what is compiled
        self.owners: dict = {}  # on JAX, the variables whose values Keras holds

    def current(self) -> int:
        """The version of the model as it is now."""
        if self._seen is None or not self._seen.is_current():
            now = _Snapshot(self._model)
            if self._seen is None or not self._seen.is_same_as(now):
                self.number += 1
            self._seen = now
        return self.number

    def accept(self) -> None:
        """Counts what has changed since `current` as no change: tracing and building leave marks on layers."""
        self._seen = _Snapshot(self._model)

    def counted(self, function: Any) -> Any:
        """`function`, with its Python runs counted in `traces`."""

        @functools.wraps(function)  # TensorFlow counts tracings, before it warns of them, by what is wrapped
        def run(*arguments):
            self.traces += 1
            return function(*arguments)

        return run


class _Snapshot:
    """The attributes of a model, of its layers and of its optimizer: their values, and where they are read again."""

    def __init__(self, model):
        self._dicts: list[dict] = []
        self._views: list[Collection] = []
        self._counted: list[bool] = []  # for each item of the views in turn
        self._variables: list = []
        self._forms: list = []  # of public containers: the keys of a dict, the length of a list
        optimizer = getattr(model, "optimizer", None)
        for part in (
            model,
            *model._flatten_layers(include_self=False),
            optimizer,
            getattr(optimizer, "inner_optimizer", None),
        ):
            self._watch_part(part)
        self._names = self._names_now()
        self._sizes = self._sizes_now()
        self.values = list(self._values_now())

    def is_same_as(self, other: "_Snapshot") -> bool:
        """Whether each attribute that counts is the same object or an equal value, in containers of equal form."""
        return self._forms == other._forms and _same(self.values, other.values)

    def is_current(self) -> bool:
        """Whether each attribute is still the same object."""
        return (
            self._sizes == self._sizes_now()
            and self._names == self._names_now()
            and all(map(operator.is_, self.values, self._values_now()))
        )

    def _watch_part(self, part):
        attributes = getattr(part, "__dict__", {})
        self._watch_dict(attributes, [name not in _NOT_READ for name in attributes])
        self._watch(getattr(part, "_layers", ()))
        variables = attributes.get("_trainable_variables", ())
        self._watch(variables)
        self._variables.extend(variables)
        for name, value in attributes.items():
            if name.startswith("_") or name in _NOT_READ:
                continue
            if isinstance(value, dict):
                self._watch_dict(value)
                self._forms.append(list(value))
            elif isinstance(value, list):
                self._watch(value)
                self._forms.append(len(value))

    def _watch_dict(self, items, counted=None):
        self._dicts.append(items)
        self._watch(items.values(), counted)

    def _watch(self, view, counted=None):
        self._views.append(view)
        self._counted.extend([True] * len(view) if counted is None else counted)

    def _names_now(self):
        return list(map(list, self._dicts))

    def _sizes_now(self):
        return list(map(len, self._views))

    def _values_now(self):
        trainable = map(operator.attrgetter("trainable"), self._variables)
        return chain(compress(chain.from_iterable(self._views), self._counted), trainable)


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

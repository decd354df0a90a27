"""A table whose groups of columns each have a likelihood of their own."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vae import validation
from keras_vae.likelihoods.base import Likelihood
from keras_vae.likelihoods.registry import get


@keras.saving.register_keras_serializable(package="keras_vae")
class Mixed(Likelihood):
    """p(x|z) = the product over groups of columns, which are independent given z.

    The groups lie side by side on the last axis of the data, in the order given; the decoder's output has, side by
    side in the same order, what each needs.

    Args:
        groups: Pairs of a likelihood, or its name, and its number of columns. A category of K values is a group of K
            one-hot columns.

    Example:

    >>> Mixed([("gaussian", 3), (Categorical(), 4), ("poisson", 2)])  # a table of nine columns

    Reference: Nazabal et al. 2020, Handling incomplete heterogeneous data using VAEs, arXiv:1807.03653.
    """

    def __init__(self, groups: Sequence[tuple[str | Likelihood, int]]) -> None:
        super().__init__()
        pairs = isinstance(groups, list | tuple) and all(isinstance(g, list | tuple) and len(g) == 2 for g in groups)
        if not groups or not pairs:
            raise ValueError(
                'Mixed needs pairs of a likelihood and its number of columns, such as [("gaussian", 3), ("poisson", '
                f"2)]; got {groups!r}."
            )
        self.parts: list[Likelihood] = [get(likelihood) for likelihood, _ in groups]
        counts = [validation.whole_number("the number of columns", count) for _, count in groups]
        self.columns: tuple[int, ...] = tuple(counts)
        self._shapes: tuple[tuple[int, ...], ...] = tuple((count,) for count in counts)  # of each part of one example
        for part, count in zip(self.parts, self.columns, strict=True):
            part.bind(count, is_table=True)
        self.is_discrete = all(part.is_discrete for part in self.parts)
        self.has_stddev = all(part.has_stddev for part in self.parts)
        low, high = self.ranges(sum(self.columns))
        low, high = float(low.min()), float(high.max())
        self.data_range = None if low == -math.inf and high == math.inf else (low, high)

    def parameter_channels(self, channels: int) -> int:
        self._check_columns(channels)
        return sum(self._parameter_counts())

    def data_channels(self, parameter_channels: int) -> int:
        return sum(self.columns)

    def log_prob_per_dimension(self, x: Any, parameters: Any) -> Any:
        return self.fitted_log_prob_per_dimension(x, parameters, None)

    def update(self, x: Any, parameters: Any, observed: Any = None, weight: Any = None) -> Any:
        """A tuple of what each part returns."""
        x, parameters = ops.convert_to_tensor(x), ops.convert_to_tensor(parameters)
        seen = [None] * len(self.parts) if observed is None else self._of_data(observed)
        pieces = zip(self.parts, self._of_data(x), self._of_parameters(parameters), seen, strict=True)
        return tuple(part.update(a, b, observed=c, weight=weight) for part, a, b, c in pieces)

    def fitted_log_prob_per_dimension(self, x: Any, parameters: Any, fitted: Any) -> Any:
        fitted = [None] * len(self.parts) if fitted is None else fitted
        pieces = zip(self.parts, self._of_data(x), self._of_parameters(parameters), fitted, strict=True)
        terms = [part.fitted_log_prob_per_dimension(a, b, c) for part, a, b, c in pieces]
        return self._together(terms)

    def for_encoder(self, x: Any) -> Any:
        ends = np.cumsum(self.columns)[:-1].tolist()
        pieces = ops.split(x, ends, axis=-1) if ends else [x]  # into one piece PyTorch splits nothing
        seen = [part.for_encoder(piece) for part, piece in zip(self.parts, pieces, strict=True)]
        if all(each is piece for each, piece in zip(seen, pieces, strict=True)):
            return x
        return ops.concatenate([_flat(each, piece) for each, piece in zip(seen, pieces, strict=True)], axis=-1)

    def fill_missing(self, x: Any) -> Any:
        if all(type(part).fill_missing is Likelihood.fill_missing for part in self.parts):
            return super().fill_missing(x)
        pieces = zip(self.parts, self._of_data(x), strict=True)
        return self._together([part.fill_missing(piece) for part, piece in pieces])

    def mean(self, parameters: Any) -> Any:
        return self._joined("mean", parameters)

    def mixture_mean(self, parameters: Any, weights: Any) -> Any:
        pieces = zip(self.parts, self._of_parameters(parameters), strict=True)
        return self._together([part.mixture_mean(piece, weights) for part, piece in pieces])

    def stddev(self, parameters: Any) -> Any:
        return self._joined("stddev", parameters)

    def sample(self, parameters: Any, seed: int | np.random.Generator | None = None) -> np.ndarray:
        rng = np.random.default_rng(seed)
        pieces = zip(self.parts, self._of_parameters(validation.to_numpy(parameters)), strict=True)
        return self._together([part.sample(piece, rng) for part, piece in pieces])

    def _drawn_as(self):
        """Group by group; None where a part of several axes is drawn along the last of them."""
        groups = []
        for part, shape, count in zip(self.parts, self._shapes, self.columns, strict=True):
            spec = part.drawn_as()
            along_last = spec is not None and (
                spec["name"] in ("mixed", "multinomial", "standardized") or spec.get("num_classes", 0) is None
            )
            if spec is None or (along_last and len(shape) > 1):
                return None
            groups.append([spec, count])
        return {"name": "mixed", "groups": groups}

    def draw_parameters(self, parameters: Any) -> Any:
        """Those of the groups, side by side; of a part of several axes block after block."""
        flat, shapes = [], zip(self.parts, self._of_parameters(parameters), self._shapes, self.columns, strict=True)
        for part, piece, shape, count in shapes:
            found, axes = part.draw_parameters(piece), len(part.parameter_shape(shape))
            if axes > len(shape):  # codes, whose probabilities have an axis of their own
                flat.append(_shaped(found, (part.parameter_channels(count),), axes))
            else:
                blocks = ops.split(found, found.shape[-1] // shape[-1], axis=-1)
                flat += [_shaped(block, (count,), axes) for block in blocks]
        return ops.concatenate(flat, axis=-1)

    def parameters_at_mean(self, mean: np.ndarray) -> np.ndarray:
        pieces = zip(self.parts, self._of_data(np.asarray(mean)), self._shapes, strict=True)
        found = [(part.parameters_at_mean(piece), len(part.parameter_shape(shape))) for part, piece, shape in pieces]
        return np.concatenate([_shaped(each, (-1,), axes) for each, axes in found], axis=-1)

    def ranges(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        self._check_columns(channels)
        ends = [(part.ranges(shape[-1]), shape) for part, shape in zip(self.parts, self._shapes, strict=True)]
        low, high = zip(*([np.broadcast_to(end, shape).ravel() for end in pair] for pair, shape in ends), strict=True)
        return np.concatenate(low), np.concatenate(high)

    def validate(self, x: np.ndarray, name: str = "x", missing: bool = False) -> None:
        self._check_columns(x.shape[-1])
        for part, piece, start in zip(self.parts, self._of_data(x), self._starts(), strict=True):
            end = start + piece.shape[-1] - 1
            columns = f"column {start}" if start == end else f"columns {start} to {end}"
            part.validate(piece, f"{columns} of {name}", missing)

    def validate_activation(self, activation: str | None) -> None:
        for part in self.parts:
            part.validate_activation(activation)

    def caveat(self, x: np.ndarray) -> str | None:
        found = [part.caveat(piece) for part, piece in zip(self.parts, self._of_data(x), strict=True)]
        return next((words for words in found if words), None)

    def advice(self, x: np.ndarray, name: str = "x") -> str | None:
        groups = zip(self.parts, self._of_data(x), self._starts(), self.columns, strict=True)
        found = (part.advice(piece, f"{name}[..., {start}:{start + count}]") for part, piece, start, count in groups)
        return next((words for words in found if words), None)

    def get_config(self) -> dict[str, Any]:
        serialized = [keras.saving.serialize_keras_object(part) for part in self.parts]
        return {"groups": [list(group) for group in zip(serialized, self.columns, strict=True)]}

    def __repr__(self) -> str:
        return f"Mixed({list(zip(self.parts, self.columns, strict=True))!r})"

    def _check_columns(self, channels):
        if channels != sum(self.columns):
            raise ValueError(
                f"Mixed has {sum(self.columns)} columns ({' + '.join(str(count) for count in self.columns)}), but the "
                f"last axis of the data has {channels}."
            )

    def _starts(self):
        return [sum(self.columns[:i]) for i in range(len(self.columns))]

    def _parameter_shapes(self) -> list[Any]:
        return [tuple(part.parameter_shape(shape)) for part, shape in zip(self.parts, self._shapes, strict=True)]

    def _parameter_counts(self):
        return [math.prod(shape) for shape in self._parameter_shapes()]

    def _of_data(self, x) -> list[Any]:
        return [_shaped(piece, shape) for piece, shape in zip(_cut(x, self.columns), self._shapes, strict=True)]

    def _of_parameters(self, parameters) -> list[Any]:
        pieces = zip(_cut(parameters, self._parameter_counts()), self._parameter_shapes(), strict=True)
        return [_shaped(piece, shape) for piece, shape in pieces]

    def _joined(self, what, parameters):
        pieces = zip(self.parts, self._of_parameters(parameters), strict=True)
        return self._together([getattr(part, what)(piece) for part, piece in pieces])

    def _together(self, pieces):
        """The inverse of `_of_data`."""
        parts = zip(pieces, self.columns, self._shapes, strict=True)
        flat = [_shaped(piece, (count,), len(shape)) for piece, count, shape in parts]
        return np.concatenate(flat, axis=-1) if isinstance(flat[0], np.ndarray) else ops.concatenate(flat, axis=-1)


def _cut(array, counts):
    """Pieces of these lengths along the last axis."""
    ends = np.cumsum(counts)
    return [array[..., end - count : end] for count, end in zip(counts, ends, strict=True)]


def _shaped(array, shape, axes=1):
    """An array or tensor whose last axes, one or as many as are said, have become others."""
    if len(shape) == axes == 1:
        return array
    reshape = np.reshape if isinstance(array, np.ndarray) else ops.reshape
    return reshape(array, (*ops.shape(array)[:-axes], *shape))


def _flat(array, like):
    """A part's axes as one, the last, beside those of `like`."""
    extra = array.shape[len(like.shape) - 1 :]
    return array if len(extra) == 1 else ops.reshape(array, (-1, *like.shape[1:-1], math.prod(extra)))

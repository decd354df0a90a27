"""Decoders that follow the steps before: p(x|z) = prod_t p(x_t | x_1, ..., x_(t-1), z).

The decoder has an input "previous", shaped like x: at step t it holds x_(t-1), and at the first step, which follows
nothing, what stands for a missing value. In training all steps are decoded at once from the data (teacher forcing),
and the bound is one of log p(x) as ever. Without data, x is made step by step. The steps are the first axis of an
example: a word of a text, the values of a series at one time, the rows of an image.

A sequence that is shorter than the others ends in NaN, and what does not exist is summed out.

Reference: Bowman et al. 2016, Generating Sentences from a Continuous Space, arXiv:1511.06349.
"""

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vae import validation
from keras_vae._network_inputs import embedded_inputs, takes_previous


class Autoregressive:
    """Mixed into `VAE`, which has the decoder and the likelihood."""

    @property
    def is_autoregressive(self) -> bool:
        """Whether the decoder follows the steps before: whether it has an input "previous" beside z."""
        return not self.likelihood.part_names and takes_previous(self.decoder)

    def _previous(self, x):
        """The input "previous" for data: x one step later, and before it nothing; None if the decoder takes none."""
        if not self.is_autoregressive:
            return None
        if x is None:
            raise ValueError(
                'This decoder has an input "previous", the steps before each step: pass decoder_parameters(z, x=x). '
                "decode() and sample() make them step by step."
            )
        x = ops.cast(x, "float32")
        nothing = ops.full_like(x[:, :1], float("nan"))
        return self.likelihood.fill_missing(ops.concatenate([nothing, x[:, :-1]], axis=1))

    def _without_holes(self, parameters, x):
        """Parameters, and NaN for an example that lacks a step before later ones, of which the bound would be none.

        `fit` checks its first batch only; a network may turn a NaN among its inputs into a number.
        """
        x, inner = ops.cast(x, "float32"), tuple(range(2, len(x.shape)))
        there = ops.cast(ops.logical_not(ops.isnan(x)), "float32")
        later = ops.flip(ops.cumsum(ops.flip(ops.max(there, axis=inner, keepdims=True), 1), axis=1), 1) - there
        is_hole = ops.any(ops.logical_and(ops.isnan(x), later > 0.5), axis=tuple(range(1, len(x.shape))))
        is_hole = ops.reshape(is_hole, (-1, *[1] * (len(parameters.shape) - 1)))
        return ops.where(is_hole, ops.full_like(parameters, float("nan")), parameters)

    def _step_by_step(
        self, z: np.ndarray, *condition: np.ndarray, value: Callable[[Any], Any], batch_size: int, x: Any = None
    ) -> np.ndarray:
        """Data `(n, steps, ...)` for z, each step from those before it.

        Args:
            z: `(n, *latent_shape)`.
            *condition: `(n, ...)`, if there is one.
            value: What a step is, of the parameters of p(x_t|...), `(n, 1, ...)`: their mean, or a draw.
            batch_size: Number of examples that are decoded at a time.
            x: `(n, steps, ...)` data whose NaN are to be filled in; None: all are.
        """
        x = np.full((len(z), *self.data_shape), np.nan, "float32") if x is None else x.astype("float32")
        for step in range(self.data_shape[0]):
            missing = np.isnan(x[:, step])
            if missing.any():
                at = np.full(len(z), step, "int32")
                parameters = self._batched(self._parameters_at, z, x, at, *condition, batch_size=batch_size)
                x[:, step] = np.where(missing, validation.to_numpy(value(parameters))[:, 0], x[:, step])
        return x

    def _parameters_at(self, z, x, step, condition=None):
        """The parameters of p(x_t|...) at one step of each example: `(n, 1, ...)`."""
        parameters = self.decoder_parameters(z, condition=condition, x=x)
        return ops.take_along_axis(parameters, ops.reshape(step, (-1, *[1] * (len(parameters.shape) - 1))), axis=1)

    def _validate(self, x: np.ndarray, name: str = "x") -> None:
        """Raises a ValueError if data are none of the likelihood's, or lack steps that later ones follow."""
        self.likelihood.validate(x, name, missing=self.allow_missing)
        if not (self.allow_missing and self.is_autoregressive):
            return
        missing: Any = np.isnan(x).reshape(*x.shape[:2], -1)
        exists = ~missing.all(axis=2)
        goes_on = np.cumsum(exists[:, ::-1], axis=1)[:, ::-1] > exists  # whether a later step exists
        holes = missing.any(axis=2) & goes_on
        if holes.any():
            example, step = validation.first_index(holes)
            raise ValueError(
                f"{name} lacks values at step {step} of example {example} of the batch, and has later ones: the steps "
                "after a hole cannot be decoded from it, and only the end of a sequence may be missing. Fill such "
                'holes in, or use a decoder without the input "previous".'
            )

    def _check_causal(self) -> None:
        """Raises a ValueError if the decoder's parameters depend on steps that they are to predict.

        With weights at random beside those that it has, which may be zeros for now, and with values of several sizes.
        """
        steps = self.data_shape[0] if self.is_autoregressive else 1
        if steps == 1:
            return
        rng = np.random.default_rng(0)
        later = np.unique(np.linspace(1, steps - 1, 8).astype(int))  # what is changed, in a copy for each
        sizes = (1.0,) if self.likelihood.is_discrete else (1.0, 1e4)
        for is_random, size in itertools.product((False, True, True), sizes):
            x, other = (size * _example_of(self.likelihood, self.data_shape, rng) for _ in range(2))
            copies = np.repeat(x, len(later) + 1, axis=0)
            copies[np.arange(len(later)) + 1, later - 1] = other[0, later - 1]
            found = self._tried(copies, rng, is_random)
            atol = 1e-5 * np.nan_to_num(np.abs(found), posinf=0.0).max()
            for row, step in enumerate(later, 1):
                if not np.allclose(found[row, :step], found[0, :step], rtol=1e-4, atol=atol, equal_nan=True):
                    raise ValueError(_LOOKS_AHEAD.format(step=step, before=step - 1))

    def _tried(self, x, rng, is_random):
        """The decoder's parameters for one z and several x, of its own weights or of weights at random."""
        z = np.repeat(rng.normal(size=(1, *self.latent_shape)), len(x), axis=0)
        condition = None if self.condition_shape is None else np.zeros((len(x), *self.condition_shape), "float32")
        weights = [(w, _random(rng, w)) for w in self.decoder.trainable_variables] if is_random else []
        z, x = (ops.convert_to_tensor(array, "float32") for array in (z, x))
        with keras.StatelessScope(state_mapping=weights):
            return validation.to_numpy(self.decoder_parameters(z, condition=condition, x=x))


_LOOKS_AHEAD = (
    "The decoder's parameters before step {step} change with previous[:, {step}], which holds x at step {before}: the "
    "decoder reads what it is to predict, and its loss is no bound of log p(x). Use layers that look back only: an "
    "LSTM or GRU in one direction, Conv1D(padding='causal'), MultiHeadAttention with use_causal_mask=True."
)


def _random(rng, variable):
    return ops.convert_to_tensor(rng.normal(0.0, 0.3, tuple(variable.shape)).astype("float32"), variable.dtype)


def _example_of(likelihood, data_shape, rng):
    """One example that the data might have."""
    shape = validation.parameter_shape(data_shape, likelihood)
    try:
        return np.asarray(likelihood.sample(rng.normal(size=(1, *shape)).astype("float32"), rng), "float32")
    except NotImplementedError:  # of a likelihood of one's own
        return rng.normal(size=(1, *data_shape)).astype("float32")


def check_steps(decoder: Any, data_shape: tuple[Any, ...], likelihood: Any) -> None:
    """Raises a ValueError if data have no steps that an input "previous" could follow."""
    if likelihood.part_names or not takes_previous(decoder):
        return
    parameters = validation.parameter_shape(data_shape, likelihood)
    if not data_shape or None in data_shape or len(parameters) < 2 or parameters[0] != data_shape[0]:
        raise ValueError(
            'A decoder with an input "previous" needs data (steps, ...) of known sizes, the steps before the axis of '
            f"channels; one example has shape {data_shape}. Add the axis with x[..., None], and pad shorter sequences "
            "with NaN, keras_vae.sequences.pad(x), in a model with allow_missing=True."
        )
    (declared,) = (tuple(tensor.shape[1:]) for tensor in decoder.inputs if tensor.name == "previous")
    if not validation.shape_matches(data_shape, declared):
        raise ValueError(f'The decoder\'s input "previous" has shape {declared}, and one example has {data_shape}.')
    known = embedded_inputs(decoder).get("previous")
    if known is not None and likelihood.is_discrete:
        raise ValueError(
            'The first of "previous" is -1, no code, and the decoder embeds it as it comes: embed previous + 1, with '
            f"one code more, Embedding({known + 1}, ...)(previous + 1)."
        )

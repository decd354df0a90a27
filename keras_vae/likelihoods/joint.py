"""Several named tensors, such as an image and its label, each with a likelihood of its own."""

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vae.likelihoods.base import Likelihood
from keras_vae.likelihoods.mixed import Mixed, _cut, _shaped
from keras_vae.likelihoods.registry import get


@keras.saving.register_keras_serializable(package="keras_vae")
class Joint(Mixed):
    """p(x|z) = the product over named parts of the data, which are independent given z.

    Data are dicts with these names, and with those of tensors that are given and not modelled. The decoder returns a
    dict with the parameters of each part. A part of which all is missing says nothing of z and costs nothing.

    A model reckons with the parts as one vector, in the order of the names here; whatever it returns has names again.

    Args:
        parts: A likelihood, or its name, of each part by its name.

    Example:

    >>> VAE(encoder, decoder, likelihood={"image": "bernoulli", "label": Categorical(10)})  # a dict is a Joint

    Reference: Wu & Goodman 2018, Multimodal Generative Models for Scalable Weakly-Supervised Learning,
    arXiv:1802.05335, equation 3.
    """

    def __init__(self, parts: Mapping[str, str | Likelihood | dict[str, Any]]) -> None:
        Likelihood.__init__(self)
        if not isinstance(parts, Mapping) or not parts or not all(isinstance(name, str) and name for name in parts):
            raise ValueError(
                'Joint needs a likelihood by the name of each part, such as {"image": "bernoulli", "label": '
                f"Categorical(10)}}; got {parts!r}."
            )
        reserved = {"z", "noise", "epsilon", "codes"} & set(parts)
        if reserved:
            raise ValueError(f"A part of the data is called {min(reserved)!r}, as latents or noise are: rename it.")
        self.names: tuple[str, ...] = tuple(parts)
        self.parts: list[Likelihood] = [get(part) for part in parts.values()]
        if any(isinstance(part, Joint) for part in self.parts):
            raise ValueError("A part of a Joint is a Joint: name all parts in one.")
        self.columns: tuple[int, ...] = ()  # numbers of elements, once their shapes are known
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.is_discrete = all(part.is_discrete for part in self.parts)
        self.has_stddev = all(part.has_stddev for part in self.parts)

    @property
    def part_names(self) -> tuple[str, ...]:
        return self.names

    def bind_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Tells the parts the shapes of one example, by name."""
        self.shapes = {name: tuple(shapes[name]) or (1,) for name in self.names}  # a number is a vector of one
        for part, shape in zip(self.parts, self.shapes.values(), strict=True):
            part.bind(shape[-1])
        self.columns = tuple(math.prod(shape) for shape in self.shapes.values())
        ranges = [part.data_range or (-math.inf, math.inf) for part in self.parts]
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        self.data_range = None if low == -math.inf and high == math.inf else (low, high)

    def bind(self, channels: int | None, is_table: bool = False) -> None: ...

    def parameter_shapes(self) -> dict[str, tuple[Any, ...]]:
        """Shape of the parameters of each part for one example, by name."""
        shapes = zip(self.shapes.items(), self.parts, strict=True)
        return {name: tuple(part.parameter_shape(shape)) for (name, shape), part in shapes}

    def _drawn_as(self):
        """As a `Mixed` of the parts as vectors; None where one of several axes is drawn along the last of them."""
        groups = []
        for part, shape, count in zip(self.parts, self.shapes.values(), self.columns, strict=True):
            spec = part.drawn_as()
            along_last = spec is not None and (
                spec["name"] in ("mixed", "multinomial", "standardized") or spec.get("num_classes", 0) is None
            )
            if spec is None or (along_last and len(shape) > 1):
                return None
            groups.append([spec, count])
        return {"name": "mixed", "groups": groups}

    def draw_parameters(self, parameters: Any) -> Any:
        flat = []
        for part, piece, shape in zip(self.parts, self._of_parameters(parameters), self.shapes.values(), strict=True):
            found, axes = part.draw_parameters(piece), len(part.parameter_shape(shape))
            blocks = [found] if axes > len(shape) else ops.split(found, found.shape[-1] // shape[-1], axis=-1)
            flat += [_shaped(block, (-1,), axes) for block in blocks]
        return ops.concatenate(flat, axis=-1)

    def parameters_at_mean(self, mean: np.ndarray) -> np.ndarray:
        pieces = zip(self.parts, self._of_data(np.asarray(mean)), strict=True)
        return np.concatenate([part.parameters_at_mean(piece).ravel() for part, piece in pieces])

    def for_encoder(self, x: Any) -> Any:
        """Of all parts, as one vector; an encoder has each part by its name."""
        pieces = zip(self.parts, self._of_data(x), strict=True)
        return ops.concatenate([ops.reshape(part.for_encoder(p), (ops.shape(x)[0], -1)) for part, p in pieces], -1)

    def of_parts(self, terms: Any) -> dict[str, Any]:
        """The sums over the dimensions of each part, by name, of what is shaped like the data as one vector."""
        pieces = zip(self.names, np.cumsum(self.columns), self.columns, strict=True)
        return {name: ops.sum(terms[..., end - count : end], axis=-1) for name, end, count in pieces}

    def ranges(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        found = []
        for part, shape in zip(self.parts, self.shapes.values(), strict=True):
            ends = part.ranges(shape[-1])
            found.append([np.broadcast_to(end, shape).ravel() for end in ends])
        low, high = zip(*found, strict=True)
        return np.concatenate(low), np.concatenate(high)

    def validate(self, x: np.ndarray, name: str = "x", missing: bool = False) -> None:
        for own, part, piece in zip(self.names, self.parts, self._of_data(x), strict=True):
            part.validate(piece, own, missing)

    def advice(self, x: np.ndarray, name: str = "x") -> str | None:
        pieces = zip(self.parts, self._of_data(x), self.names, strict=True)
        return next((words for part, piece, own in pieces if (words := part.advice(piece, own))), None)

    def get_config(self) -> dict[str, Any]:
        parts = zip(self.names, self.parts, strict=True)
        return {"parts": {name: keras.saving.serialize_keras_object(part) for name, part in parts}}

    def __repr__(self) -> str:
        return f"Joint({dict(zip(self.names, self.parts, strict=True))!r})"

    def _parameter_counts(self):
        return [math.prod(shape) for shape in self.parameter_shapes().values()]

    def _check_columns(self, channels): ...

    def _of_data(self, x):
        pieces = zip(_cut(x, self.columns), self.shapes.values(), strict=True)
        return [_shaped(piece, shape) for piece, shape in pieces]

    def _of_parameters(self, parameters):
        pieces = zip(_cut(parameters, self._parameter_counts()), self.parameter_shapes().values(), strict=True)
        return [_shaped(piece, shape) for piece, shape in pieces]

    def _together(self, pieces):
        """Pieces, each with the axes of its part behind others, as vectors side by side."""
        shapes = zip(pieces, self.shapes.values(), strict=True)
        return super()._together([_shaped(piece, (-1,), len(shape)) for piece, shape in shapes])

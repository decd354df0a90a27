"""Several named tensors, such as an image and its label, each with a likelihood of its own."""

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vae.likelihoods.base import Likelihood
from keras_vae.likelihoods.mixed import Mixed, _cut
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
        self._shapes = ()
        self.is_discrete = all(part.is_discrete for part in self.parts)
        self.has_stddev = all(part.has_stddev for part in self.parts)

    @property
    def part_names(self) -> tuple[str, ...]:
        return self.names

    def bind_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Tells the parts the shapes of one example, by name."""
        self._shapes = tuple(tuple(shapes[name]) or (1,) for name in self.names)  # a number is a vector of one
        for part, shape in zip(self.parts, self._shapes, strict=True):
            part.bind(shape[-1])
        self.columns = tuple(math.prod(shape) for shape in self._shapes)
        ranges = [part.data_range or (-math.inf, math.inf) for part in self.parts]
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        self.data_range = None if low == -math.inf and high == math.inf else (low, high)

    def parameter_shapes(self) -> dict[str, tuple[Any, ...]]:
        """Shape of the parameters of each part for one example, by name."""
        return dict(zip(self.names, self._parameter_shapes(), strict=True))

    def for_encoder(self, x: Any) -> Any:
        """Of all parts, as one vector; an encoder has each part by its name."""
        pieces = zip(self.parts, self._of_data(x), strict=True)
        return ops.concatenate([ops.reshape(part.for_encoder(p), (ops.shape(x)[0], -1)) for part, p in pieces], -1)

    def of_parts(self, terms: Any) -> dict[str, Any]:
        """The sums over the dimensions of each part, by name, of what is shaped like the data as one vector."""
        pieces = zip(self.names, _cut(terms, self.columns), strict=True)
        return {name: ops.sum(piece, axis=-1) for name, piece in pieces}

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

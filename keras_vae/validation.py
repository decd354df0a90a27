"""Networks against each other and against the likelihood, and arguments, in words.

A mistake must be a sentence before the first number, not a meaningless loss: structure is checked when the model is
built, values of arguments where they are given.
"""

import math
import types
import warnings
from numbers import Integral, Real
from typing import Any

import keras
import numpy as np

# Layers that move values without changing them: the activation that matters is the one before.
_SHAPE_LAYERS = (
    keras.layers.Reshape,
    keras.layers.Flatten,
    keras.layers.Permute,
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.Cropping3D,
    keras.layers.Dropout,
    keras.layers.Identity,
)


def check_latents(decoder: Any, latent_shape: tuple[Any, ...]) -> None:
    """Shape of z, as the encoder gives it, against the input that a decoder declares."""
    inputs = getattr(decoder, "inputs", None) or ()
    beside = ("condition", "previous") if len(inputs) > 1 else ("condition",)
    declared = [tuple(tensor.shape[1:]) for tensor in inputs if tensor.name not in beside]
    if len(declared) != 1 or shape_matches(latent_shape, declared[0]):
        return
    advice = "end the encoder and begin the decoder with one shape"
    if len(latent_shape) > 1 and len(declared[0]) == 1:
        advice = "put a Flatten or a pooling layer before the encoder's heads, or give the decoder z of this shape"
    raise ValueError(
        f"The encoder gives z of shape {('batch', *latent_shape)}, and the decoder takes z of shape "
        f"{('batch', *declared[0])}: {advice}."
    )


def check_decoder(parameters: Any, data_shape: tuple[Any, ...], likelihood: Any) -> None:
    """Shape of the decoder's output against the data and the likelihood."""
    if isinstance(parameters, list | tuple | dict):
        raise ValueError(
            f"The decoder must return one tensor, the parameters of p(x|z); it returned {len(parameters)}."
        )
    expected = parameter_shape(data_shape, likelihood)
    got = tuple(parameters.shape[1:])
    matches = len(got) == len(expected) and all(g in (e, None) or e is None for g, e in zip(got, expected, strict=True))
    if not matches:
        raise ValueError(
            f"The decoder returns shape {('batch', *got)}, but {likelihood!r} over data of shape "
            f"{('batch', *data_shape)} needs {('batch', *expected)}. " + _shape_fix(got, expected)
        )


def parameter_shape(data_shape: Any, likelihood: Any) -> tuple[Any, ...]:
    """The decoder's output shape without the batch, for data of this shape."""
    return tuple(likelihood.parameter_shape(tuple(data_shape)))


def _order(got, expected):
    """The axes of `got`, counted from 1, in the order of another shape of the same sizes."""
    order = []
    for size in expected:
        order.append(next(axis for axis, have in enumerate(got, 1) if have == size and axis not in order))
    return tuple(order)


def _shape_fix(got, expected):
    if None not in got and None not in expected and sorted(got) == sorted(expected):
        return f"Its axes stand in another order: end the decoder with keras.layers.Permute({_order(got, expected)})."
    if None not in got and None not in expected and np.prod(got) == np.prod(expected):
        return f"The sizes agree: end the decoder with keras.layers.Reshape({expected})."
    if len(got) == len(expected) and got[:-1] == expected[:-1]:
        return (
            f"Give the decoder's last layer {expected[-1]} units or filters; keras_vae.networks.mlp and conv do so "
            "when they are passed the same likelihood=."
        )
    return "Change the decoder, or build a pair that fits with keras_vae.networks.mlp or keras_vae.networks.conv."


def check_last_activation(decoder: Any, likelihood: Any) -> None:
    """The decoder's last activation against the likelihood: a refusal where the graph is known, else a warning."""
    try:
        likelihood.validate_activation(last_activation(decoder))
    except ValueError as error:
        if _graph(decoder) is not None or not isinstance(decoder, keras.Model):
            raise
        # The order of a subclassed model's layers is the order of its attributes, which need not be that of `call`.
        warnings.warn(f"If {decoder.layers[-1].name} is the decoder's last layer: {error}", stacklevel=3)


def last_activation(network: Any) -> str | None:
    """The name of the activation that a network ends in, as far as its structure tells; None if it does not."""
    operations = _graph(network)
    if operations is None:
        operations = network.layers if isinstance(network, keras.Model) else [network]
    for operation in reversed(operations):
        if isinstance(operation, _SHAPE_LAYERS):
            continue
        if isinstance(operation, keras.Model) and operation is not network:
            return last_activation(operation)
        activation = getattr(operation, "activation", None)
        if activation is not None:
            return getattr(activation, "__name__", None)
        # `keras.ops.sigmoid(...)` inside a Functional model is an operation called Sigmoid; a ReLU layer is a relu.
        return {"Sigmoid": "sigmoid", "ReLU": "relu"}.get(type(operation).__name__)
    return None


def _graph(network):
    """The operations of a Sequential or Functional network, in order; None if only its code knows them."""
    return network.layers if isinstance(network, keras.Sequential) else getattr(network, "operations", None)


def check_compute_loss(kind: type[keras.Model]) -> None:
    """Raises a TypeError if a subclass of `VAE` has a `compute_loss`, as a Keras model may: a VAE would not call it."""
    is_ours = kind.train_step.__module__.startswith("keras_vae.")
    if is_ours and kind.compute_loss is not keras.Model.compute_loss:
        raise TypeError(
            f"{kind.__name__} defines compute_loss, which a VAE does not call: its objective gives the loss. Write a "
            "keras_vae.objectives.Objective, which sees x, z and the decoder's parameters, or override step_loss."
        )


_OURS = {"super", "train_step"}  # names by which a train_step calls ours


def _names(code):
    """The names in a function, and in those inside it."""
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def check_train_step(kind: type[keras.Model]) -> None:
    """Warns of a subclass of `VAE` with a `train_step` that leaves ours out, as those of Keras's examples do."""
    code = getattr(kind.train_step, "__code__", None)
    if code is not None and not kind.train_step.__module__.startswith("keras_vae.") and not _names(code) & _OURS:
        warnings.warn(
            f"{kind.__name__} has a train_step of its own and calls no super().train_step: what it trains is not the "
            "bound of this model. A VAE needs none; a loss of your own is a keras_vae.objectives.Objective.",
            stacklevel=3,
        )


def check_posterior(kind: type[Any], base: type[Any], is_normal: bool) -> None:
    """Raises a TypeError if a subclass changes `posterior` of a family that is no normal: `encode` would not see it."""
    if not is_normal and kind.posterior is not base.posterior:
        raise TypeError(
            f"{kind.__name__} defines posterior(), which is for a DiagonalNormal: for another q(z|x) write a "
            "keras_vae.posteriors.Posterior, which makes it of the encoder's outputs."
        )


def check_data(x: Any, data_shape: Any, name: str = "x") -> None:
    """A NumPy array or tensor against the shape that the model was built for."""
    got = tuple(x.shape[1:])
    if shape_matches(got, data_shape):
        return
    if tuple(x.shape) == tuple(data_shape):
        fix = f"it looks like one example: add the batch axis with {name}[None]"
    elif (*got, 1) == tuple(data_shape):
        fix = f"add the channel axis with {name}[..., None]"
    elif None not in (*got, *data_shape) and sorted(got) == sorted(data_shape):
        order = (0, *_order(got, data_shape))
        fix = f"its axes stand in another order, and should be moved: np.transpose({name}, {order})"
    elif None not in (*got, *data_shape) and np.prod(got) == np.prod(data_shape):
        fix = f"reshape it with {name}.reshape({(-1, *data_shape)})"
    elif name == "y":
        fix = (
            "y is the target to reconstruct, such as the clean image of a noisy x; labels have no place here, "
            "so pass x alone: dataset.map(lambda x, y: x), or a collate_fn of the DataLoader that gives batches of x. "
            'A conditional model takes them as {"x": x, "condition": y}'
        )
    else:
        fix = "the model was built for other data"
    raise ValueError(
        f"{name} has shape {tuple(x.shape)}, but the model reconstructs data of shape {('batch', *data_shape)}: {fix}."
    )


def check_sizes(reconstructed: Any, data_shape: Any) -> None:
    """Raises a ValueError if the decoder gives data of another size than it was given, where both are known.

    A model with free sizes learns of them batch by batch, and what differs might broadcast.
    """
    pairs = zip(reconstructed, data_shape, strict=True)
    if any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs):
        raise ValueError(
            f"The decoder gives data of shape {tuple(reconstructed)} where x has {tuple(data_shape)}: strided "
            "convolutions give back sizes that are multiples of their strides. Pad or crop the data to such."
        )


def first_index(mask: Any) -> tuple[int, ...]:
    """The first index at which a NumPy mask is True, as a tuple of ints to show and to index with."""
    return tuple(int(i) for i in np.argwhere(mask)[0])


def shape_matches(shape: Any, expected: Any) -> bool:
    """Whether a shape is the expected one, in which None is any size."""
    return len(shape) == len(expected) and all(e in (got, None) for got, e in zip(shape, expected, strict=True))


def fixed_shape(part: Any, latent_shape: Any) -> Any:
    """The shape of z, for a posterior or a prior that counts its elements.

    Raises:
        ValueError: If a size is free.
    """
    if None in latent_shape:
        raise ValueError(
            f"{part!r} needs z of one shape, and a size in {latent_shape} is free: give the networks' inputs their "
            'sizes, or choose what has no need of it, the posterior "normal" or FSQ and the prior N(0, I).'
        )
    return latent_shape


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int of at least `least`; NumPy's integers too, but no bool."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}; got {value!r}.")
    return int(value)


def non_negative(name: str, value: Any) -> float:
    """`value` as a float of at least 0; no bool, nothing infinite."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 <= float(value) < math.inf:
        raise ValueError(f"{name} must be a finite number, zero or more; got {value!r}.")
    return float(value)


def is_array(value: Any) -> bool:
    """Whether a value can be looked at on the host; what tf.distribute hands to its replicas cannot."""
    return isinstance(value, np.ndarray) or keras.ops.is_tensor(value) or hasattr(value, "__array__")


def to_numpy(value: Any) -> np.ndarray:
    """A NumPy array from an array, a tensor of any backend's, or a list."""
    return value if isinstance(value, np.ndarray) else np.asarray(keras.ops.convert_to_numpy(value))

"""Encoder and decoder pairs that fit together, for any shape of data.

They are plain functional Keras models: print them, change them, or copy them as a pattern. The encoder returns what the
posterior is made of by name, `{"z_mean": ..., "z_log_var": ...}` for the usual one; the decoder returns the parameters
of the likelihood, unbounded, in exactly the shape of the data.
"""

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from keras_vae import likelihoods, posteriors, validation
from keras_vae._config import require_method


def mlp(
    data_shape: int | Sequence[int] | Mapping[str, Any],
    latent_dim: int | Sequence[int],
    hidden: Sequence[int] = (500,),
    activation: Any = "relu",
    likelihood: str | likelihoods.Likelihood | Mapping[str, Any] = "bce",
    data_mean: Any = None,
    condition: int | Sequence[int] | Mapping[str, Any] | None = None,
    posterior: str | posteriors.Posterior = "normal",
    show_missing: bool = False,
) -> tuple[keras.Model, keras.Model]:
    """Fully connected encoder and decoder.

    Args:
        data_shape: Shape of one example, such as `(784,)`, `(28, 28)` or `(28, 28, 1)`. Of named parts a dict of their
            shapes, such as `{"image": (28, 28, 1), "label": ()}`.
        latent_dim: Number of latent dimensions, or the shape of z, such as `(8, 4)`.
        hidden: Numbers of units of the encoder's hidden layers; the decoder has them in reverse.
        activation: Activation of the hidden layers, as `keras.layers.Dense` takes it.
        likelihood: Likelihood whose parameters the decoder returns: a name or a `Likelihood`, the same as given to
            `VAE`; of named parts a dict. For counts the encoder receives log(1 + x), centred at the data mean if it is
            given.
        data_mean: Mean of the training data, a number or an array of `data_shape`, or None; of named parts a dict. If
            given, the decoder's output bias starts where it reconstructs that mean, which saves the first epochs.
        condition: Number of classes of a label, which is then embedded, or the shape of a tensor, such as `(10,)` for
            one-hot labels. Both networks of a conditional model concatenate it with their input, and have an input
            named "condition". With named parts a dict of them, whose names the inputs have.
        posterior: Posterior whose parameters the encoder returns: a name or a `Posterior`, the same as given to `VAE`.
        show_missing: Whether the encoder has another input, "observed" (of named parts "image_observed" and so on),
            by which the model shows it which values are missing. Without it they look like the value in their place.

    Returns:
        The pair `(encoder, decoder)` of `keras.Model`s.

    Reference: Kingma & Welling 2014, arXiv:1312.6114, appendix C (one hidden layer of 500 units for MNIST); Burda et
    al. 2016, arXiv:1509.00519 (the start at the data mean).
    """
    likelihood, latent_shape = likelihoods.get(likelihood), _latent_shape(latent_dim)
    parts = _parts(data_shape, likelihood, data_mean)
    hidden, given = _positive_integers("hidden", hidden), _named_conditions(condition)

    features = []
    inputs = {name: keras.Input(part.shape, name=name) for name, part in parts.items()}
    for name, part in parts.items():
        features.append(layers.Flatten()(_encoder_features(inputs[name], part.likelihood, part.mean)))
        if show_missing:
            name = f"{name}_observed" if likelihood.part_names else "observed"
            inputs[name] = keras.Input(part.shape, name=name)
            features.append(layers.Flatten()(inputs[name]))
    h = _dense(_with_conditions(_together(features), inputs, given), hidden, activation)
    encoder = _encoder(inputs, h, posterior, latent_shape)

    inputs, h = _of_latents(latent_shape, given, hidden, activation)
    parameters = {}
    for name, part in parts.items():
        shape = validation.parameter_shape(part.shape or (1,), part.likelihood)
        bias = _output_bias(part.mean, part.shape, part.likelihood)
        parameters[name] = layers.Dense(math.prod(shape), bias_initializer=bias, name=f"{name}_parameters")(h)
        parameters[name] = layers.Reshape(shape)(parameters[name])
    return encoder, _decoder(inputs, parameters if likelihood.part_names else parameters["x"])


def conv(
    data_shape: Sequence[int],
    latent_dim: int | Sequence[int],
    filters: Sequence[int] = (32, 64),
    hidden: Sequence[int] = (128,),
    kernel_size: int | tuple[int, ...] = 3,
    activation: Any = "relu",
    likelihood: str | likelihoods.Likelihood = "bce",
    data_mean: Any = None,
    condition: int | Sequence[int] | Mapping[str, Any] | None = None,
    posterior: str | posteriors.Posterior = "normal",
    show_missing: bool = False,
) -> tuple[keras.Model, keras.Model]:
    """Convolutional encoder that halves each axis but the channels at each of `filters`, and its mirror, transposed.

    Any sizes are fine: where halving rounds up, the decoder crops the extra row or column.

    Args:
        data_shape: `(steps, channels)` of a series, `(height, width, channels)` of an image, or `(depth, height, width,
            channels)` of a volume: channels last, whatever `keras.config.image_data_format()` says.
        latent_dim: Number of latent dimensions, or the shape of z; between convolutions and z are dense layers.
        filters: Numbers of filters of the encoder's strided convolutions; the decoder has them in reverse.
        hidden: Numbers of units of the dense layers between the convolutions and the latents.
        kernel_size: Kernel size of all convolutions.
        activation: Activation of the hidden layers, as `keras.layers.Dense` takes it.
        likelihood: Likelihood whose parameters the decoder returns: a name or a `Likelihood`, the same as given to
            `VAE`.
        data_mean: As in `mlp`; a convolution's bias is shared by all pixels, so the start is the mean per channel.
        condition: As in `mlp`; the encoder receives it after its convolutions.
        posterior: As in `mlp`.
        show_missing: As in `mlp`; what is observed is more channels of the encoder.

    Returns:
        The pair `(encoder, decoder)` of `keras.Model`s.
    """
    data_shape, latent_shape = _checked_shape(data_shape), _latent_shape(latent_dim)
    likelihood, axes = likelihoods.get(likelihood), _checked_axes("conv", data_shape)
    convolution, transposed = _convolution(axes), _convolution(axes, "Transpose")
    cropping = functools.partial(getattr(layers, f"Cropping{axes}D"), **(_LAST if axes > 1 else {}))
    filters, hidden = _positive_integers("filters", filters), _positive_integers("hidden", hidden)

    x = keras.Input(data_shape, name="x")
    h = _encoder_features(x, likelihood, data_mean)
    if len(h.shape) > len(data_shape) + 1:  # codes as one-hot vectors
        h = layers.Reshape((*data_shape[:-1], math.prod(h.shape[axes + 1 :])))(h)
    inputs, given = {"x": x}, _named_conditions(condition)
    if show_missing:
        inputs["observed"] = keras.Input(data_shape, name="observed")
        h = layers.Concatenate()([h, inputs["observed"]])
    sizes = []  # before each halving
    for count in filters:
        sizes.append(h.shape[1:-1])
        h = convolution(count, kernel_size, strides=2, padding="same", activation=activation)(h)
    smallest = h.shape[1:]
    h = _dense(_with_conditions(layers.Flatten()(h), inputs, given), hidden, activation)
    encoder = _encoder(inputs, h, posterior, latent_shape)

    inputs, h = _of_latents(latent_shape, given, hidden, activation)
    h = layers.Dense(math.prod(smallest), activation=activation)(h)
    h = layers.Reshape(smallest)(h)
    for count, size in zip(reversed(filters), reversed(sizes), strict=True):
        h = transposed(count, kernel_size, strides=2, padding="same", activation=activation)(h)
        extra = [(0, now - wanted) for now, wanted in zip(h.shape[1:-1], size, strict=True)]
        if any(after for _, after in extra):
            h = cropping(extra[0] if axes == 1 else extra)(h)
    parameters = _parameters(h, axes, kernel_size, data_shape, data_mean, likelihood)
    output_shape = validation.parameter_shape(data_shape, likelihood)
    if parameters.shape[1:] != output_shape:
        parameters = layers.Reshape(output_shape)(parameters)
    return encoder, _decoder(inputs, parameters)


def conv_spatial(
    data_shape: Sequence[int | None],
    channels: int,
    filters: Sequence[int] = (32, 64),
    kernel_size: int | tuple[int, ...] = 3,
    activation: Any = "relu",
    likelihood: str | likelihoods.Likelihood = "bce",
    data_mean: Any = None,
    posterior: str | posteriors.Posterior = "normal",
) -> tuple[keras.Model, keras.Model]:
    """Encoder and decoder of convolutions alone, whose z is a map: `(height / 2**n, width / 2**n, channels)`.

    n is the number of `filters`, each of which halves the axes; the decoder is the mirror, transposed. Sizes may be
    None: one model then takes data of any sizes that are multiples of 2**n.

    Args:
        data_shape: `(steps, channels)` of a series, `(height, width, channels)` of an image, or `(depth, height, width,
            channels)` of a volume, channels last; a size that is None is free.
        channels: Number of channels of z.
        filters: Numbers of filters of the encoder's strided convolutions; the decoder has them in reverse.
        kernel_size: Kernel size of all convolutions but those that give the encoder's outputs, which have 1.
        activation: Activation of the hidden layers, as `keras.layers.Conv2D` takes it.
        likelihood: As in `conv`.
        data_mean: Mean of the training data, a number or an array `(channels,)` or `data_shape`, or None; as in `conv`.
        posterior: As in `mlp`; one whose outputs are maps of the sizes of z, "normal" or `FSQ`.

    Returns:
        The pair `(encoder, decoder)` of `keras.Model`s.

    Raises:
        ValueError: If a size that is known is no multiple of 2**n, or the posterior's outputs are no such maps.

    Example:

    >>> encoder, decoder = keras_vae.networks.conv_spatial((None, None, 3), channels=4)
    >>> vae = keras_vae.VAE(encoder, decoder)  # of 64x64 and of 96x128
    """
    data_shape, likelihood = _checked_shape(data_shape, free=True), likelihoods.get(likelihood)
    (channels,), filters = _positive_integers("channels", (channels,)), _positive_integers("filters", filters)
    axes, step = _checked_axes("conv_spatial", data_shape), 2 ** len(filters)
    if any(size is not None and size % step for size in data_shape[:-1]):
        raise ValueError(
            f"conv_spatial halves each axis {len(filters)} times, once for each of filters, so that sizes must be "
            f"multiples of {step}; got {data_shape}. Pad or crop the data, or use conv, which takes any sizes."
        )
    output_shape = validation.parameter_shape(data_shape, likelihood)
    convolution, transposed = _convolution(axes), _convolution(axes, "Transpose")

    x = keras.Input(data_shape, name="x")
    h = _encoder_features(x, likelihood, None if None in data_shape else data_mean)
    if len(h.shape) != len(data_shape) + 1 or len(output_shape) != len(data_shape):
        raise ValueError(f"conv_spatial has no place for the axis of classes that {likelihood!r} adds: use conv.")
    for count in filters:
        h = convolution(count, kernel_size, strides=2, padding="same", activation=activation)(h)
    latent_shape = (*(size and size // step for size in data_shape[:-1]), channels)
    encoder = _encoder({"x": x}, h, posterior, latent_shape)

    z = h = keras.Input(latent_shape, name="z")
    for count in reversed(filters):
        h = transposed(count, kernel_size, strides=2, padding="same", activation=activation)(h)
    parameters = _parameters(h, axes, kernel_size, data_shape, data_mean, likelihood)
    return encoder, _decoder({"z": z}, parameters)


def recurrent(
    data_shape: Sequence[int],
    latent_dim: int | Sequence[int],
    hidden: Sequence[int] = (128,),
    *,
    likelihood: str | likelihoods.Likelihood = "bce",
    data_mean: Any = None,
    condition: int | Sequence[int] | Mapping[str, Any] | None = None,
    posterior: str | posteriors.Posterior = "normal",
    show_missing: bool = False,
    autoregressive: bool = False,
) -> tuple[keras.Model, keras.Model]:
    """GRUs for sequences: an encoder that reads from the end to the start, and a decoder that goes from start to end.

    Shorter sequences end in NaN (`keras_vae.sequences.pad`), in a model with `allow_missing=True`; the encoder reads
    the padding first, and forgets it.

    Args:
        data_shape: `(steps, channels)`, or `(steps,)` for codes, with `Categorical(num_classes=...)`.
        latent_dim: Number of latent dimensions, or the shape of z.
        hidden: Numbers of units of the encoder's GRUs, one upon the other; the decoder has them in reverse.
        likelihood: As in `mlp`.
        data_mean: As in `mlp`; the start is the mean of each channel.
        condition: As in `mlp`; the encoder receives it after its GRUs.
        posterior: As in `mlp`.
        show_missing: As in `mlp`; what is observed is more channels of the encoder.
        autoregressive: Whether the decoder is told the step before each step, its input "previous": p(x_t|z) is then
            p(x_t | x_1, ..., x_(t-1), z), and `sample` goes step by step. Such a decoder may need z so little that the
            posterior collapses: `ELBO(free_bits=...)`.

    Returns:
        The pair `(encoder, decoder)` of `keras.Model`s.

    Example:

    >>> words = Categorical(num_classes=1000)
    >>> encoder, decoder = networks.recurrent((20,), 16, likelihood=words, autoregressive=True)
    >>> vae = VAE(encoder, decoder, words, allow_missing=True)  # of texts of up to 20 words

    Reference: Bowman et al. 2016, Generating Sentences from a Continuous Space, arXiv:1511.06349, section 2.
    """
    data_shape, latent_shape = _checked_shape(data_shape), _latent_shape(latent_dim)
    likelihood = likelihoods.get(likelihood)
    hidden, given = _positive_integers("hidden", hidden), _named_conditions(condition)
    output_shape = validation.parameter_shape(data_shape, likelihood)
    if len(output_shape) < 2 or output_shape[0] != data_shape[0]:
        raise ValueError(
            f"recurrent needs data of shape (steps, channels), or (steps,) of codes; got {data_shape} for "
            f"{likelihood!r}. Add the axis of channels with x[..., None]."
        )
    if data_mean is not None:
        data_mean = np.mean(np.broadcast_to(data_mean, data_shape), axis=0)

    def features(x):
        return _steps(_encoder_features(x, likelihood, data_mean))

    x = keras.Input(data_shape, name="x")
    inputs, h = {"x": x}, features(x)
    if show_missing:
        inputs["observed"] = keras.Input(data_shape, name="observed")
        h = layers.Concatenate()([h, _steps(inputs["observed"])])
    for i, units in enumerate(hidden):
        h = layers.GRU(units, go_backwards=i == 0, return_sequences=i < len(hidden) - 1)(h)
    encoder = _encoder(inputs, _with_conditions(h, inputs, given), posterior, latent_shape)

    inputs, h = _of_latents(latent_shape, given, (), None)
    h = layers.RepeatVector(data_shape[0])(h)
    if autoregressive:
        inputs["previous"] = keras.Input(data_shape, name="previous")
        h = layers.Concatenate()([h, features(inputs["previous"])])
    for units in reversed(hidden):
        h = layers.GRU(units, return_sequences=True)(h)
    bias = "zeros" if len(data_shape) == 1 else _output_bias(data_mean, data_shape[1:], likelihood)
    parameters = layers.Dense(math.prod(output_shape[1:]), bias_initializer=bias, name="x_parameters")(h)
    if parameters.shape[1:] != output_shape:
        parameters = layers.Reshape(output_shape)(parameters)
    return encoder, _decoder(inputs, parameters)


def _steps(h):
    """Features of each step as one axis."""
    return h if len(h.shape) == 3 else layers.Reshape((h.shape[1], math.prod(h.shape[2:])))(h)


_LAST = {"data_format": "channels_last"}


def _convolution(axes, kind=""):
    return functools.partial(getattr(layers, f"Conv{axes}D{kind}"), **_LAST)


def _checked_axes(name, data_shape):
    """Number of axes that a convolution moves along."""
    axes = len(data_shape) - 1
    if axes not in (1, 2, 3):
        raise ValueError(
            f"{name} needs data of shape (steps, channels), (height, width, channels) or (depth, height, width, "
            f"channels); got {data_shape}. For other data use mlp."
        )
    if axes == 1 and data_shape[0] == data_shape[1]:
        warnings.warn(
            f"{name} reads {data_shape} as {data_shape[0]} steps of {data_shape[1]} channels. If these are grey "
            "images, give them a channel axis: x[..., None].",
            stacklevel=3,
        )
    if keras.config.image_data_format() == "channels_first" and data_shape[0] in (1, 3, 4) and data_shape[-1] > 4:
        raise ValueError(
            f"{name} needs channels last, and {data_shape} has them first: move the axis with np.moveaxis(x, 1, -1)."
        )
    if axes == 2 and data_shape[0] in (1, 3) and data_shape[1] == data_shape[2] >= 8:
        warnings.warn(
            f"{name} reads {data_shape} as {data_shape[0]} rows of {data_shape[1]} pixels with {data_shape[2]} "
            "channels. If the channels stand first, as in PyTorch, move them: np.moveaxis(x, 1, -1).",
            stacklevel=3,
        )
    return axes


def _parameters(h, axes, kernel_size, data_shape, data_mean, likelihood):
    """The last convolution of a decoder; its bias is shared by all places, and starts at the mean of each channel."""
    if data_mean is not None:
        shape = np.broadcast_shapes(np.shape(data_mean), tuple(size or 1 for size in data_shape))
        data_mean = np.mean(np.broadcast_to(data_mean, shape), axis=tuple(range(axes)))
    return _convolution(axes)(
        likelihood.parameter_channels(data_shape[-1]),
        kernel_size,
        padding="same",
        bias_initializer=_output_bias(data_mean, data_shape[-1:], likelihood),
        name="x_parameters",
    )(h)


def normal_mlp(
    condition: int | Sequence[int], latent_dim: int, hidden: Sequence[int] = (), activation: Any = "relu"
) -> keras.Model:
    """Fully connected network to the mean and the log variance of a normal distribution.

    It makes p(z|c) of a label or a tensor, for `priors.Conditional`, and a layer of latents of another, for
    `priors.Hierarchical` and `posteriors.Hierarchical`.

    Args:
        condition: Number of classes of a label, which is embedded, or the shape of a tensor, such as `(50,)`.
        latent_dim: Number of latent dimensions of the normal.
        hidden: Numbers of units of the hidden layers.
        activation: Activation of the hidden layers, as `keras.layers.Dense` takes it.

    Returns:
        A `keras.Model` with one input and the outputs `{"z_mean": ..., "z_log_var": ...}`.
    """
    (latent_dim,) = _positive_integers("latent_dim", (latent_dim,))
    x, h = _features(condition)
    h = _dense(h, _positive_integers("hidden", hidden), activation)
    # The variance starts at 1: of inputs that are themselves latents, exp of a random network would be anything.
    log_var = layers.Dense(latent_dim, name="z_log_var", kernel_initializer="zeros")
    outputs = {"z_mean": layers.Dense(latent_dim, name="z_mean")(h), "z_log_var": log_var(h)}
    return keras.Model(x, outputs, name="normal")


def of_first_latents(decoder: keras.Model, latent_dim: int) -> keras.Model:
    """A decoder of the first of several layers of latents, z1 of z = (z1, z2, ...), as one of all of z.

    Args:
        decoder: Functional `keras.Model` from z1, `(batch, latents)`, and the condition if it takes one.
        latent_dim: Number of latents of all layers.

    Returns:
        A `keras.Model` from z, `(batch, latent_dim)`, and the condition.
    """
    inputs = {t.name: keras.Input(t.shape[1:], name=t.name, dtype=t.dtype) for t in decoder.inputs}
    (name,) = set(inputs) - {"condition"}
    z = keras.Input((latent_dim,), name="z")
    given = {**inputs, name: z[:, : inputs[name].shape[1]]}
    outputs = decoder(keras.tree.pack_sequence_as(decoder.input, [given[t.name] for t in decoder.inputs]))
    taken = {"z": z} | {"condition": inputs["condition"]} if "condition" in inputs else z
    return keras.Model(taken, outputs, name="decoder")


def _encoder_features(x, likelihood, data_mean):
    """The input of the encoder's layers: x, or what the likelihood makes of it, centred if the data mean is known."""
    h = likelihood.for_encoder(x)
    if h is x or data_mean is None:
        return h
    mean = np.broadcast_to(data_mean, x.shape[1:]).astype("float32")
    center = keras.ops.convert_to_numpy(likelihood.for_encoder(mean))
    return layers.Rescaling(1.0, offset=-center)(h)


class _Part(NamedTuple):
    """A named part of the data; "x" of data that are one tensor."""

    shape: Any
    likelihood: Any
    mean: Any


def _parts(data_shape, likelihood, data_mean):
    names = likelihood.part_names
    if not names and not isinstance(data_shape, Mapping):
        return {"x": _Part(_checked_shape(data_shape), likelihood, data_mean)}
    for what, value in (("data_shape", data_shape), ("data_mean", data_mean)):
        if value is not None and (not isinstance(value, Mapping) or set(value) != set(names)):
            raise ValueError(f"{what} must be a dict of the parts that the likelihood names, {names}; got {value!r}.")
    means = data_mean or dict.fromkeys(names)
    parts = zip(names, likelihood.parts, strict=True)
    # A shape may be (), that of a number or a label.
    return {n: _Part(data_shape[n] and _checked_shape(data_shape[n]), part, means[n]) for n, part in parts}


def _named_conditions(condition):
    """Conditions by the name of their input."""
    if condition is None or isinstance(condition, Mapping):
        return dict(condition or {})
    return {"condition": condition}


def _of_latents(latent_shape, given, hidden, activation):
    """The inputs of a decoder, z and the conditions, and the features of its dense layers."""
    inputs = {"z": keras.Input(latent_shape, name="z")}
    return inputs, _dense(_with_conditions(_flat(inputs["z"]), inputs, given), reversed(hidden), activation)


def _dense(h, hidden, activation):
    for units in hidden:
        h = layers.Dense(units, activation=activation)(h)
    return h


def _with_conditions(h, inputs, given):
    """Features and those of the conditions, whose inputs are added."""
    features = [h]
    for name, condition in given.items():
        inputs[name], of_condition = _features(condition, name)
        features.append(of_condition)
    return _together(features)


def _together(features):
    return features[0] if len(features) == 1 else layers.Concatenate()(features)


def _features(condition, name="condition"):
    if isinstance(condition, int | np.integer) and not isinstance(condition, bool):
        if condition < 2:
            raise ValueError(f"{name} must be a number of classes, two or more, or a shape; got {condition}.")
        label = keras.Input((), name=name, dtype="int32")
        return label, layers.Embedding(int(condition), min(int(condition), 64))(label)
    tensor = keras.Input(_positive_integers(name, condition), name=name)
    return tensor, layers.Flatten()(tensor)


def _decoder(inputs, parameters):
    return keras.Model(_structure(inputs), parameters, name="decoder")


def _structure(inputs):
    """Inputs by name, or the one that there is."""
    return inputs if len(inputs) > 1 else next(iter(inputs.values()))


def _flat(h):
    return h if len(h.shape) == 2 else layers.Flatten()(h)


def _encoder(inputs, h, posterior, latent_shape):
    """The encoder with a dense layer of h, or a convolution where h is a map, for each output of the posterior."""
    posterior, outputs, axes = posteriors.get(posterior), {}, len(h.shape) - 2
    for name, shape in posterior.output_shapes(latent_shape).items():
        options = {"name": name, "kernel_initializer": "zeros" if name in posterior.zero_at_start else "glorot_uniform"}
        if axes:
            if shape[:-1] != latent_shape[:-1]:
                raise ValueError(
                    f"conv_spatial gives outputs of the sizes of z, {latent_shape[:-1]}, and {name} of {posterior!r} "
                    f"has shape {shape}: use conv(..., latent_dim={latent_shape}), which has dense layers."
                )
            outputs[name] = _convolution(axes)(shape[-1], 1, **options)(h)
        else:
            head = layers.Dense(math.prod(shape), **options)(h)
            outputs[name] = head if len(shape) == 1 else layers.Reshape(shape)(head)
    return keras.Model(_structure(inputs), outputs, name="encoder")


def _output_bias(data_mean, shape, likelihood):
    """An initializer for the bias of the layer whose units are the likelihood's parameters for data of `shape`."""
    if data_mean is None:
        return "zeros"
    mean = np.asarray(data_mean, "float64")
    shape = tuple(shape) or (1,)
    if mean.shape not in ((), shape):
        raise ValueError(f"data_mean must be a number or have shape {tuple(shape)}; got shape {mean.shape}.")
    base = likelihoods.Likelihood
    require_method(
        type(likelihood), base, ("parameters_at_mean",), "(mean), with which data_mean sets the first output"
    )
    values = likelihood.parameters_at_mean(np.broadcast_to(mean, shape))
    return _FromArray(np.ravel(values).tolist())


@keras.saving.register_keras_serializable(package="keras_vae", name="StartAt")  # its name in files of older versions
class _FromArray(keras.initializers.Initializer):
    """An initializer that returns given numbers.

    Args:
        values: List of the numbers, in the order of the weight's elements.
    """

    def __init__(self, values: list[float]) -> None:
        self.values: list[float] = values

    def __call__(self, shape: Any, dtype: Any = None, **kwargs: Any) -> Any:
        return keras.ops.reshape(keras.ops.convert_to_tensor(self.values, dtype=dtype), shape)

    def get_config(self) -> dict[str, Any]:
        return {"values": self.values}


def _latent_shape(latent_dim):
    return _positive_integers("latent_dim", latent_dim if isinstance(latent_dim, Sequence) else (latent_dim,))


def _checked_shape(data_shape, free=False) -> Any:
    """A shape of data; `free` lets sizes be None, but not the last, the channels."""
    shape = (data_shape,) if isinstance(data_shape, int) else tuple(data_shape)
    sizes = [1 if free and size is None else size for size in shape[:-1]]
    known = _positive_integers("data_shape", [*sizes, *shape[-1:]])
    return tuple(None if size is None else now for size, now in zip(shape, known, strict=True))


def _positive_integers(name, values):
    values = tuple(values)
    if not all(isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 1 for value in values):
        raise ValueError(f"{name} must be whole numbers of at least 1; got {values}.")
    if name == "data_shape" and not values:
        raise ValueError("data_shape must have at least one axis, such as (784,) or (28, 28, 1).")
    return tuple(int(value) for value in values)

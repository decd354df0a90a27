"""Encoder and decoder pairs that fit together, for any shape of data.

They are plain functional Keras models: print them, change them, or take them as a pattern. The encoder returns
`{"z_mean": ..., "z_log_var": ...}`; the decoder returns the parameters of the likelihood, unbounded, in exactly the
shape of the data.
"""

import math

import keras
import numpy as np
from keras import layers

from keras_vae import _checks, likelihoods


def mlp(
    data_shape,
    latent_dim,
    hidden=(500,),
    activation="relu",
    likelihood: str | likelihoods.Likelihood = "bce",
    data_mean=None,
    condition=None,
):
    """Fully connected encoder and decoder.

    Args:
        data_shape: Shape of one example, such as `(784,)`, `(28, 28)` or `(28, 28, 1)`.
        latent_dim: Number of latent dimensions.
        hidden: Units of the encoder's hidden layers; the decoder has them in reverse.
        activation: Of the hidden layers.
        likelihood: What the decoder shall parametrise: a name or a `Likelihood`, the same as given to `VAE`. Of counts
            the encoder sees log(1 + x), less what that is of `data_mean`, which counts of thousands need.
        data_mean: If given, the mean of the training data, a number or an array of `data_shape`: the decoder's
            output bias then starts where it reconstructs that mean, which saves the first epochs.
        condition: For a conditional model: the number of classes, if it is a label, which is then embedded; or the
            shape of the tensor that it is, such as `(10,)` for one-hot labels. Both networks see it beside what they
            take, and have an input of the name "condition".

    Returns:
        The pair `(encoder, decoder)` of `keras.Model`s.

    Reference: Kingma & Welling 2014, arXiv:1312.6114, appendix C (one hidden layer of 500 units for MNIST); Burda et
    al. 2016, arXiv:1509.00519 (the start at the data mean).
    """
    data_shape, likelihood = _checked_shape(data_shape, latent_dim), likelihoods.get(likelihood)
    hidden = _positive_integers("hidden", hidden)

    x = keras.Input(data_shape, name="x")
    given = _condition(condition)
    h = _beside(layers.Flatten()(_shown(x, likelihood, data_mean)), given)
    for units in hidden:
        h = layers.Dense(units, activation=activation)(h)
    encoder = _encoder(x, h, latent_dim, given)

    z, given = keras.Input((latent_dim,), name="z"), _condition(condition)
    h = _beside(z, given)
    for units in reversed(hidden):
        h = layers.Dense(units, activation=activation)(h)
    output_shape = _checks.parameter_shape(data_shape, likelihood)
    parameters = layers.Dense(
        math.prod(output_shape),
        bias_initializer=_output_bias(data_mean, data_shape, likelihood),
        name="x_parameters",
    )(h)
    return encoder, _decoder(z, layers.Reshape(output_shape)(parameters), given)


def conv(
    data_shape,
    latent_dim,
    filters=(32, 64),
    hidden=(128,),
    kernel_size=3,
    activation="relu",
    likelihood: str | likelihoods.Likelihood = "bce",
    data_mean=None,
    condition=None,
):
    """Convolutional encoder that halves height and width at each of `filters`, and its mirror, transposed.

    Odd and non-square images are fine: where halving rounded up, the decoder crops the row or column that doubling
    brought too many.

    Args:
        data_shape: `(height, width, channels)`.
        latent_dim: Number of latent dimensions.
        filters: Filters of the encoder's strided convolutions; the decoder has them in reverse.
        hidden: Units of the dense layers between the convolutions and the latents.
        kernel_size: Of all convolutions.
        activation: Of the hidden layers.
        likelihood: What the decoder shall parametrise: a name or a `Likelihood`, the same as given to `VAE`.
        data_mean: As in `mlp`; a convolution's bias is shared by all pixels, so the start is the mean per channel.
        condition: As in `mlp`; the encoder sees it after its convolutions.

    Returns:
        The pair `(encoder, decoder)` of `keras.Model`s.
    """
    data_shape, likelihood = _checked_shape(data_shape, latent_dim), likelihoods.get(likelihood)
    if len(data_shape) != 3:
        raise ValueError(
            f"conv needs data of shape (height, width, channels); got {data_shape}. "
            "Grey images need a channel axis, x[..., None]; for other data use mlp."
        )
    filters, hidden = _positive_integers("filters", filters), _positive_integers("hidden", hidden)

    x = keras.Input(data_shape, name="x")
    h = _shown(x, likelihood, data_mean)
    sizes = []  # height and width before each halving
    for count in filters:
        sizes.append(h.shape[1:3])
        h = layers.Conv2D(count, kernel_size, strides=2, padding="same", activation=activation)(h)
    smallest = h.shape[1:]
    given = _condition(condition)
    h = _beside(layers.Flatten()(h), given)
    for units in hidden:
        h = layers.Dense(units, activation=activation)(h)
    encoder = _encoder(x, h, latent_dim, given)

    z, given = keras.Input((latent_dim,), name="z"), _condition(condition)
    h = _beside(z, given)
    for units in reversed(hidden):
        h = layers.Dense(units, activation=activation)(h)
    h = layers.Dense(math.prod(smallest), activation=activation)(h)
    h = layers.Reshape(smallest)(h)
    for count, (height, width) in zip(reversed(filters), reversed(sizes), strict=True):
        h = layers.Conv2DTranspose(count, kernel_size, strides=2, padding="same", activation=activation)(h)
        if h.shape[1:3] != (height, width):
            h = layers.Cropping2D(((0, h.shape[1] - height), (0, h.shape[2] - width)))(h)
    if data_mean is not None:
        data_mean = np.mean(np.broadcast_to(data_mean, data_shape), axis=(0, 1))
    parameters = layers.Conv2D(
        likelihood.parameter_channels(data_shape[-1]),
        kernel_size,
        padding="same",
        bias_initializer=_output_bias(data_mean, data_shape[-1:], likelihood),
        name="x_parameters",
    )(h)
    return encoder, _decoder(z, parameters, given)


def _shown(x, likelihood, data_mean):
    """What the encoder sees of x; where that is not x itself, about 0 where the data mean is known."""
    h = likelihood.for_encoder(x)
    if h is x or data_mean is None:
        return h
    mean = np.broadcast_to(data_mean, x.shape[1:]).astype("float32")
    center = keras.ops.convert_to_numpy(likelihood.for_encoder(mean))
    return layers.Rescaling(1.0, offset=-center)(h)


def _condition(condition):
    """The input for a condition and what the network is shown of it; None if there is none."""
    if condition is None:
        return None
    if isinstance(condition, int | np.integer) and not isinstance(condition, bool):
        if condition < 2:
            raise ValueError(f"condition must be a number of classes, two or more, or a shape; got {condition}.")
        label = keras.Input((), name="condition", dtype="int32")
        return label, layers.Embedding(int(condition), min(int(condition), 64))(label)
    tensor = keras.Input(_positive_integers("condition", condition), name="condition")
    return tensor, layers.Flatten()(tensor)


def _beside(h, given):
    return h if given is None else layers.Concatenate()([h, given[1]])


def _decoder(z, parameters, given):
    inputs = z if given is None else {"z": z, "condition": given[0]}
    return keras.Model(inputs, parameters, name="decoder")


def _encoder(x, h, latent_dim, given=None):
    outputs = {
        "z_mean": layers.Dense(latent_dim, name="z_mean")(h),
        "z_log_var": layers.Dense(latent_dim, name="z_log_var")(h),
    }
    return keras.Model(x if given is None else {"x": x, "condition": given[0]}, outputs, name="encoder")


def _output_bias(data_mean, shape, likelihood):
    """An initializer for the bias of the layer whose units are the likelihood's parameters for data of `shape`."""
    if data_mean is None:
        return "zeros"
    mean = np.asarray(data_mean, "float64")
    if mean.shape not in ((), tuple(shape)):
        raise ValueError(f"data_mean must be a number or have shape {tuple(shape)}; got shape {mean.shape}.")
    values = likelihood.parameters_at_mean(np.broadcast_to(mean, shape))
    return StartAt(np.ravel(values).tolist())


@keras.saving.register_keras_serializable(package="keras_vae")
class StartAt(keras.initializers.Initializer):
    """An initializer that is a given list of numbers."""

    def __init__(self, values):
        self.values = values

    def __call__(self, shape, dtype=None):
        return keras.ops.reshape(keras.ops.convert_to_tensor(self.values, dtype=dtype), shape)

    def get_config(self):
        return {"values": self.values}


def _checked_shape(data_shape, latent_dim):
    _positive_integers("latent_dim", (latent_dim,))
    return _positive_integers("data_shape", (data_shape,) if isinstance(data_shape, int) else data_shape)


def _positive_integers(name, values):
    values = tuple(values)
    if not all(isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 1 for value in values):
        raise ValueError(f"{name} must be whole numbers of at least 1; got {values}.")
    if name == "data_shape" and not values:
        raise ValueError("data_shape must have at least one axis, such as (784,) or (28, 28, 1).")
    return tuple(int(value) for value in values)

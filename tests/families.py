"""Encoder and decoder pairs of every kind that people build, small, with random weights.

`FAMILIES` maps a name to a function that returns what `keras_vae_export.export` takes: a built `VAE`, or a pair of
Keras models. The tests export each on every backend; `benchmarks/export_families.py` tabulates them.
"""

import keras
import numpy as np
from keras import layers, ops

import keras_vae

FAMILIES = {}

# All that Keras knows by name, but for `linear`, for `threshold`, which takes arguments, and for `glu`, which halves.
ACTIVATIONS = (
    *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh"),
    *("leaky_relu", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink"),
    *("softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "squareplus", "tanh", "tanh_shrink"),
)


def family(build):
    FAMILIES[build.__name__] = build
    return build


def make(name):
    """The model of a family, its weights drawn from a fixed seed."""
    model = FAMILIES[name]()
    rng = np.random.default_rng(len(name))
    for network in [model] if isinstance(model, keras_vae.VAE) else model:
        for variable in network.weights:
            if "seed_generator" in variable.path or variable.name in ("training_step", "error", "batches"):
                continue
            if "variance" in variable.path:
                variable.assign(rng.uniform(0.5, 2.0, variable.shape))
            else:
                fan_in = max(1, int(np.prod(variable.shape[:-1])))
                variable.assign(rng.normal(scale=min(0.5, fan_in**-0.5), size=variable.shape))
    return model


def heads(h, latent_dim=3):
    return {
        "z_mean": layers.Dense(latent_dim, name="z_mean")(h),
        "z_log_var": layers.Dense(latent_dim, name="z_log_var")(h),
    }


def vae(x, h, z, parameters, **kwargs):
    if len(h.shape) > 2:
        h = layers.Flatten()(h)
    return keras_vae.VAE(keras.Model(x, heads(h, z.shape[-1])), keras.Model(z, parameters), seed=0, **kwargs)


@family
def dense():
    return keras_vae.VAE(*keras_vae.networks.mlp((5, 4), 3, hidden=(16, 8)), seed=0)


@family
def gaussian():
    network = keras_vae.networks.mlp((6,), 2, hidden=(8,), activation="tanh", likelihood="mse")
    return keras_vae.VAE(*network, likelihood=keras_vae.Gaussian(0.3), seed=0)


@family
def gaussian_learned():
    network = keras_vae.networks.mlp((6,), 2, hidden=(8,), likelihood="mse")
    return keras_vae.VAE(*network, likelihood=keras_vae.Gaussian("learned"), seed=0)


@family
def gaussian_predicted():
    """Mean and log-variance from the decoder, for images of two channels."""
    likelihood = keras_vae.Gaussian("predicted")
    return keras_vae.VAE(*keras_vae.networks.mlp((3, 3, 2), 3, (8,), likelihood=likelihood), likelihood, seed=0)


@family
def continuous_bernoulli():
    return keras_vae.VAE(*keras_vae.networks.mlp((4, 4), 2, (8,)), keras_vae.ContinuousBernoulli(), seed=0)


@family
def discretized_logistic():
    likelihood = keras_vae.DiscretizedLogistic(levels=16)
    return keras_vae.VAE(*keras_vae.networks.mlp((4, 4, 1), 2, (8,), likelihood=likelihood), likelihood, seed=0)


@family
def table_with_missing_values():
    """All kinds of columns side by side, and NaN where a value is missing."""
    groups = [
        (keras_vae.Standardized(keras_vae.Laplace("optimal"), [5000.0, -0.01], [1000.0, 0.002]), 2),
        (keras_vae.Categorical(), 3),
        (keras_vae.Poisson(), 1),
        (keras_vae.NegativeBinomial(), 2),
        (keras_vae.Bernoulli(), 1),
        (keras_vae.Categorical(num_classes=3), 1),
        (keras_vae.Multinomial(total=5), 2),
    ]
    likelihood = keras_vae.Mixed(groups)
    network = keras_vae.networks.mlp((12,), 3, (8,), likelihood=likelihood)
    return keras_vae.VAE(*network, likelihood=likelihood, objective="iwae", seed=0, allow_missing=True)


@family
def mixture_prior():
    """A prior that learns, to which the KL is an average over samples."""
    prior = keras_vae.priors.GaussianMixture(5, seed=0)
    return keras_vae.VAE(*keras_vae.networks.mlp((4, 4), 3, (8,)), prior=prior, seed=0)


@family
def vamp_prior():
    prior = keras_vae.priors.VampPrior(6, seed=0)
    return keras_vae.VAE(*keras_vae.networks.mlp((6,), 2, (8,), likelihood="mse"), "mse", prior=prior, seed=0)


@family
def conditional_vae():
    """The condition is a label, which both networks embed."""
    return keras_vae.VAE(*keras_vae.networks.mlp((4, 4, 1), 3, (8,), condition=5), objective="iwae", seed=0)


@family
def conv_same():
    """Strided convolutions of an odd, non-square image, their transposes, and the crop that makes sizes meet."""
    return keras_vae.VAE(*keras_vae.networks.conv((9, 7, 2), 3, filters=(4, 5), hidden=(8,)), seed=0)


@family
def conv_valid():
    x, z = keras.Input((9, 9, 1)), keras.Input((3,))
    h = layers.Conv2D(4, 3, strides=2, padding="valid", activation="relu")(x)
    g = layers.Reshape((3, 3, 4))(layers.Dense(36, activation="relu")(z))
    g = layers.Conv2DTranspose(3, 3, strides=2, padding="valid", activation="relu")(g)
    return vae(x, h, z, layers.Conv2DTranspose(1, 3, padding="valid")(g))


@family
def conv_output_padding():
    x, z = keras.Input((10, 10, 1)), keras.Input((3,))
    h = layers.Conv2D(3, 5, strides=3, padding="same", activation="relu")(x)
    g = layers.Reshape((4, 4, 2))(layers.Dense(32)(z))
    g = layers.Conv2DTranspose(3, 3, strides=2, padding="valid", output_padding=1, activation="relu")(g)
    return vae(x, h, z, layers.Conv2D(1, 1)(g))


@family
def conv_dilation():
    x, z = keras.Input((8, 8, 1)), keras.Input((3,))
    h = layers.Conv2D(3, 3, dilation_rate=2, padding="same", activation="relu")(x)
    g = layers.Reshape((4, 4, 2))(layers.Dense(32)(z))
    return vae(x, h, z, layers.Conv2DTranspose(1, 3, dilation_rate=2, padding="valid")(g))


@family
def batch_norm():
    x, z = keras.Input((8, 8, 1)), keras.Input((3,))
    h = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, strides=2, use_bias=False)(x)))
    g = layers.Reshape((4, 4, 2))(layers.BatchNormalization()(layers.Dense(32)(z)))
    return vae(x, h, z, layers.Conv2DTranspose(1, 3, strides=2, padding="same")(layers.BatchNormalization()(g)))


@family
def other_norms():
    x, z = keras.Input((6, 6, 2)), keras.Input((3,))
    h = layers.GroupNormalization(2)(layers.Conv2D(4, 3, padding="same")(x))
    h = layers.LayerNormalization()(layers.Dense(8)(layers.Flatten()(h)))
    g = layers.RMSNormalization()(layers.Dense(16)(z))
    g = layers.UnitNormalization()(layers.Dense(16)(g))
    return vae(x, h, z, layers.Reshape((6, 6, 2))(layers.Dense(72)(layers.LayerNormalization()(g))))


@family
def upsampling():
    x, z = keras.Input((8, 8, 1)), keras.Input((3,))
    h = layers.AveragePooling2D(2)(layers.Conv2D(3, 3, padding="same", activation="relu")(x))
    g = layers.Reshape((2, 2, 3))(layers.Dense(12)(z))
    g = layers.Conv2D(3, 3, padding="same")(layers.UpSampling2D(interpolation="nearest")(g))
    return vae(x, h, z, layers.Conv2D(1, 3, padding="same")(layers.UpSampling2D(interpolation="bilinear")(g)))


@family
def activations():
    x, z = keras.Input((6,)), keras.Input((3,))
    h = layers.Concatenate()([layers.Activation(name)(layers.Dense(4)(x)) for name in ACTIVATIONS])
    g = layers.Concatenate()([layers.Dense(4, activation="gelu")(z), layers.PReLU()(layers.Dense(4)(z))])
    return vae(x, h, z, layers.Dense(6)(g))


@family
def residual():
    def block(h):
        g = layers.Conv2D(3, 3, padding="same", activation="silu")(h)
        return layers.Add()([h, layers.Conv2D(3, 3, padding="same")(g)])

    x, z = keras.Input((6, 6, 1)), keras.Input((3,))
    h = block(block(layers.Conv2D(3, 3, padding="same")(x)))
    g = block(layers.Reshape((6, 6, 3))(layers.Dense(108)(z)))
    return vae(x, layers.GlobalAveragePooling2D()(h), z, layers.Conv2D(1, 1)(g))


@family
def lstm():
    x, z = keras.Input((5, 2)), keras.Input((3,))
    h = layers.Bidirectional(layers.LSTM(4))(x)
    g = layers.LSTM(4, return_sequences=True)(layers.RepeatVector(5)(z))
    return vae(x, h, z, layers.TimeDistributed(layers.Dense(2))(g), likelihood="mse")


@family
def gru():
    x, z = keras.Input((5, 2)), keras.Input((3,))
    h = layers.Bidirectional(layers.GRU(3, return_sequences=True))(x)
    g = layers.GRU(4, return_sequences=True, go_backwards=True)(layers.RepeatVector(5)(z))
    return vae(x, h, z, layers.Dense(2)(g), likelihood="mse")


@family
def attention():
    x, z = keras.Input((4, 6)), keras.Input((3,))
    h = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(2, 3)(x, x)]))
    g = layers.Reshape((4, 6))(layers.Dense(24)(z))
    return vae(x, h, z, layers.Dense(6)(layers.MultiHeadAttention(2, 3)(g, g)), likelihood="mse")


@family
def conv_1d():
    x, z = keras.Input((12, 2)), keras.Input((3,))
    h = layers.Conv1D(4, 3, strides=2, padding="causal", activation="relu")(x)
    g = layers.Reshape((6, 3))(layers.Dense(18)(z))
    return vae(x, h, z, layers.Conv1DTranspose(2, 3, strides=2, padding="same")(g), likelihood="mse")


@family
def conv_3d():
    x, z = keras.Input((4, 4, 4, 1)), keras.Input((3,))
    h = layers.MaxPooling3D(2)(layers.Conv3D(3, 3, padding="same", activation="relu")(x))
    g = layers.Reshape((2, 2, 2, 2))(layers.Dense(16)(z))
    return vae(x, h, z, layers.Conv3DTranspose(1, 3, strides=2, padding="same")(g))


@family
def separable():
    x, z = keras.Input((8, 8, 2)), keras.Input((3,))
    h = layers.MaxPooling2D(2)(layers.SeparableConv2D(4, 3, padding="same", activation="relu")(x))
    h = layers.GlobalMaxPooling2D()(layers.DepthwiseConv2D(3, depth_multiplier=2)(h))
    g = layers.UpSampling2D(4)(layers.Reshape((2, 2, 3))(layers.Dense(12)(z)))
    return vae(x, h, z, layers.SeparableConv2D(2, 3, padding="same")(g))


@family
def channels_first():
    order = {"data_format": "channels_first"}
    x, z = keras.Input((2, 6, 6)), keras.Input((3,))
    h = layers.Conv2D(3, 3, strides=2, padding="same", activation="relu", **order)(x)
    g = layers.Reshape((3, 3, 3))(layers.Dense(27)(z))
    return vae(x, h, z, layers.Conv2DTranspose(2, 3, strides=2, padding="same", **order)(g))


@family
def fully_convolutional():
    """Height and width are free, and the latents are an image: a pair, as a `VAE` has vectors of latents."""
    x, z = keras.Input((None, None, 1), name="image"), keras.Input((None, None, 2), name="latents")
    h = layers.Conv2D(3, 3, strides=2, padding="same", activation="relu")(x)
    encoder = keras.Model(x, [layers.Conv2D(2, 1)(h), layers.Conv2D(2, 1)(h)])
    return encoder, keras.Model(z, layers.Conv2DTranspose(1, 3, strides=2, padding="same", activation="sigmoid")(z))


def _mixed(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return keras_vae.VAE(*keras_vae.networks.conv((6, 6, 1), 3, filters=(3,), hidden=(8,)), seed=0)
    finally:
        keras.config.set_dtype_policy(before)


@family
def mixed_float16():
    return _mixed("mixed_float16")


@family
def mixed_bfloat16():
    return _mixed("mixed_bfloat16")


class Encoder(keras.Model):
    """Not registered and not functional, as in many a script."""

    def __init__(self, units=8, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden, self.mean, self.log_var = layers.Dense(units, "relu"), layers.Dense(3), layers.Dense(3)

    def call(self, x):
        h = self.hidden(x)
        return self.mean(h), self.log_var(h)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@family
def subclassed():
    z = keras.Input((3,))
    model = keras_vae.VAE(Encoder(), keras.Model(z, layers.Dense(6)(z)), seed=0)
    model.build((None, 6))
    return model


@keras.saving.register_keras_serializable(package="families")
class Wave(keras.layers.Layer):
    """A custom layer in `keras.ops`, with operators that tf2onnx lacks."""

    def __init__(self, frequency=2.0, **kwargs):
        super().__init__(**kwargs)
        self.frequency = frequency

    def call(self, x):
        return ops.sin(self.frequency * x) + ops.log1p(ops.square(x)) + ops.expm1(-ops.abs(x)) + ops.erf(x)

    def get_config(self):
        return {**super().get_config(), "frequency": self.frequency}


@family
def custom_layer():
    x, z = keras.Input((6,)), keras.Input((3,))
    return vae(x, Wave(3.0)(layers.Dense(8)(x)), z, layers.Dense(6)(Wave()(layers.Dense(8)(z))))


@family
def integer_inputs():
    x, z = keras.Input((5,), dtype="int32"), keras.Input((3,))
    return vae(x, layers.Embedding(7, 4)(x), z, layers.Dense(5)(z), likelihood="mse")


@family
def conditional():
    """Two inputs on each side, by name: the condition is a label, embedded."""
    image, label = keras.Input((6,), name="image"), keras.Input((1,), dtype="int32", name="label")
    h = layers.Concatenate()([image, layers.Flatten()(layers.Embedding(4, 2)(label))])
    encoder = keras.Model({"label": label, "image": image}, heads(layers.Dense(8, activation="relu")(h)))
    z, label = keras.Input((3,), name="z"), keras.Input((1,), dtype="int32", name="label")
    g = layers.Concatenate()([z, layers.Flatten()(layers.Embedding(4, 2)(label))])
    return encoder, keras.Model([z, label], layers.Dense(6)(g))

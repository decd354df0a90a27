"""Whole models of every kind that people build, small, with random weights; single layers are in `zoo.py`.

`FAMILIES` maps a name to a function that returns what `keras_vae_export.export` takes: a built `VAE`, or a pair of
Keras models. The tests export them; `benchmarks/export_zoo.py` tabulates them.
"""

import math

import keras
import numpy as np
from keras import layers, ops

import guide_parts
import keras_vae

FAMILIES = {}


def family(build):
    FAMILIES[build.__name__] = build
    return build


def make(name):
    """The model of a family, its weights drawn from a fixed seed."""
    model = FAMILIES[name]()
    randomize([model] if isinstance(model, keras_vae.VAE) else model, len(name))
    return model


# Counters, and what `Normalization` has seen.
NO_WEIGHTS = ("training_step", "error", "batches", "count", "mean", "variance")


def randomize(networks, seed=0):
    """Draws the weights of networks: as large as trained ones, and none of them 0 or 1."""
    rng = np.random.default_rng(seed)
    for variable in (variable for network in networks for variable in network.weights):
        if "seed_generator" in variable.path or variable.name in NO_WEIGHTS:
            continue
        if "variance" in variable.path:
            variable.assign(rng.uniform(0.5, 2.0, variable.shape))
        else:
            fan_in = max(1, int(np.prod(variable.shape[:-1])))
            variable.assign(rng.normal(scale=min(0.5, fan_in**-0.5), size=variable.shape))


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
def flow_prior():
    prior = keras_vae.priors.RealNVP(2, (4,), seed=0)
    return keras_vae.VAE(*keras_vae.networks.mlp((4, 4), 3, (8,)), prior=prior, seed=0)


@keras.saving.register_keras_serializable(package="families")
class Tempered(keras_vae.VAE):
    """q(z|x) has half the variance that the encoder says."""

    def posterior(self, x, training=False):
        said = super().posterior(x, training)
        return keras_vae.DiagonalNormal(said.mean, said.log_var - math.log(2.0))


@keras.saving.register_keras_serializable(package="families")
class Critic(keras_vae.objectives.Objective):
    """The ELBO, less what a network makes of z, whose weights are made when it is first called."""

    log_names = ("critic",)

    def __init__(self):
        super().__init__()
        self.network = keras.Sequential([layers.Dense(4, activation="tanh"), layers.Dense(1, activation="tanh")])

    def __call__(self, batch):
        value = self.network(batch.z[0], training=batch.training)[:, 0]
        terms = keras_vae.ELBO()(batch)
        return terms._replace(loss=terms.loss - value, logs={"critic": value})


@family
def own_parts():
    """A posterior, a prior and an objective of the user's own, the last two with networks."""
    networks = keras_vae.networks.mlp((4, 4), 3, (8,))
    return Tempered(*networks, prior=guide_parts.RealNVP(2, 4), objective=Critic(), seed=0)


@family
def conditional_vae():
    """The condition is a label, which both networks embed."""
    return keras_vae.VAE(*keras_vae.networks.mlp((4, 4, 1), 3, (8,), condition=5), objective="iwae", seed=0)


@family
def conv_same():
    """Strided convolutions of an odd, non-square image, their transposes, and the crop that makes sizes meet."""
    return keras_vae.VAE(*keras_vae.networks.conv((9, 7, 2), 3, filters=(4, 5), hidden=(8,)), seed=0)


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


CHANNELS = 2  # of the z of `at_places`


def at_places(places, posterior="normal", **options):
    """A model whose z has these places, each of two channels; x has twice as many of two, or six columns."""
    family = keras_vae.posteriors.get(posterior)
    x = keras.Input((*(size and 2 * size for size in places), 2) if places else (6,))
    z = keras.Input((*places, CHANNELS))
    if places:
        of_rank = {1: (layers.Conv1D, layers.Conv1DTranspose), 2: (layers.Conv2D, layers.Conv2DTranspose)}
        down, up = of_rank[len(places)]
        h = down(3, 3, strides=2, padding="same", activation="relu")(x)
        g = up(2, 3, strides=2, padding="same")(z)
    else:
        h, g = layers.Dense(4, "tanh")(x), layers.Dense(6)(z)
    # A dense layer over the channels of each place, which takes any size.
    letters, outputs = "uvw"[: len(places)], {}
    for name, shape in family.output_shapes((*places, CHANNELS)).items():
        last = "kl"[: len(shape) - len(places)]
        head = layers.EinsumDense(f"b{letters}c,c{last}->b{letters}{last}", shape, name=name)
        outputs[name] = head(h)
    vae = keras_vae.VAE(keras.Model(x, outputs), keras.Model(z, g), "mse", posterior=family, seed=0, **options)
    randomize([vae], 1 + len(places))
    return vae


# Autoencoders as people write them


def stack(h, *blocks):
    for block in blocks:
        h = block(h)
    return h


@family
def keras_io():
    """The example of keras.io."""
    x, z = keras.Input((28, 28, 1)), keras.Input((2,))
    same = {"activation": "relu", "strides": 2, "padding": "same"}
    h = stack(x, layers.Conv2D(4, 3, **same), layers.Conv2D(8, 3, **same), layers.Flatten(), layers.Dense(8, "relu"))
    g = stack(z, layers.Dense(7 * 7 * 8, "relu"), layers.Reshape((7, 7, 8)), layers.Conv2DTranspose(8, 3, **same))
    g = stack(g, layers.Conv2DTranspose(4, 3, **same), layers.Conv2DTranspose(1, 3, padding="same"))
    return vae(x, h, z, g)


@family
def dcgan():
    """64x64 in colour, with strided convolutions, batch normalisation and leaky activations."""
    x, z = keras.Input((64, 64, 3)), keras.Input((3,))
    options = {"kernel_size": 4, "strides": 2, "padding": "same", "use_bias": False}
    h, g = x, layers.Reshape((4, 4, 6))(layers.Dense(4 * 4 * 6)(z))
    for filters in (2, 4, 6, 6):
        h = stack(h, layers.Conv2D(filters, **options), layers.BatchNormalization(), layers.LeakyReLU(0.2))
    for filters in (6, 4, 2):
        g = stack(g, layers.Conv2DTranspose(filters, **options), layers.BatchNormalization(), layers.ReLU())
    return vae(x, h, z, layers.Conv2DTranspose(3, 4, strides=2, padding="same", activation="tanh")(g), likelihood="mse")


@family
def resnet():
    """Residual blocks with batch normalisation and swish, pooling down and upsampling."""

    def block(h):
        g = stack(h, layers.BatchNormalization(), layers.Activation("swish"), layers.Conv2D(4, 3, padding="same"))
        return layers.Add()([h, layers.Conv2D(4, 3, padding="same", activation="swish")(g)])

    x, z = keras.Input((16, 16, 1)), keras.Input((3,))
    h = stack(x, layers.Conv2D(4, 1), block, layers.AveragePooling2D(2), block, layers.GlobalAveragePooling2D())
    g = stack(z, layers.Dense(4 * 4 * 4), layers.Reshape((4, 4, 4)), block, layers.UpSampling2D(), block)
    return vae(x, h, z, layers.Conv2D(1, 3, padding="same")(layers.UpSampling2D(interpolation="bilinear")(g)))


@family
def lstm():
    x, z = keras.Input((6, 2)), keras.Input((3,))
    h = layers.LSTM(4)(layers.Bidirectional(layers.LSTM(4, return_sequences=True))(x))
    g = layers.LSTM(4, return_sequences=True)(layers.RepeatVector(6)(z))
    return vae(x, h, z, layers.TimeDistributed(layers.Dense(2))(g), likelihood="mse")


@family
def gru_text():
    """Words as codes, of which 0 is none."""
    x, z = keras.Input((6,), dtype="int32"), keras.Input((3,))
    h = layers.Bidirectional(layers.GRU(4))(layers.Embedding(9, 4, mask_zero=True)(x))
    g = layers.GRU(6, return_sequences=True, recurrent_dropout=0.1)(layers.RepeatVector(6)(z))
    return vae(x, h, z, layers.Dense(9)(g), likelihood=keras_vae.Categorical(num_classes=9))


def positions(h):
    """Adds an embedding of the positions, which a functional model holds as a constant, not as a layer."""
    initializer = keras.initializers.RandomUniform(seed=0)
    return h + layers.Embedding(h.shape[1], h.shape[2], initializer)(ops.arange(h.shape[1]))


def transformer_block(h, **options):
    h = h + layers.MultiHeadAttention(2, 4, dropout=0.1)(*[layers.LayerNormalization()(h)] * 2, **options)
    return h + stack(h, layers.LayerNormalization(), layers.Dense(12, "gelu"), layers.Dropout(0.1), layers.Dense(8))


@family
def transformer():
    x, z = keras.Input((6, 3)), keras.Input((3,))
    h = stack(x, layers.Dense(8), positions, transformer_block, transformer_block, layers.GlobalAveragePooling1D())
    g = positions(layers.Reshape((6, 8))(layers.Dense(48)(z)))
    g = transformer_block(transformer_block(g, use_causal_mask=True))
    return vae(x, h, z, layers.Dense(6)(g), likelihood=keras_vae.Gaussian("predicted"))


@family
def conditional_images():
    """The label is embedded as a map of its own in the encoder, and one-hot in the decoder."""
    x, z = keras.Input((8, 8, 1), name="x"), keras.Input((3,), name="z")
    label = keras.Input((), dtype="int32", name="condition")
    h = layers.Concatenate()([x, layers.Reshape((8, 8, 1))(layers.Embedding(4, 64)(label))])
    h = stack(h, layers.Conv2D(4, 3, strides=2, activation="relu"), layers.Flatten(), layers.Dense(8, "relu"))
    encoder = keras.Model({"x": x, "condition": label}, heads(h))
    code = keras.Input((), dtype="int32", name="condition")
    g = layers.Concatenate()([z, ops.one_hot(code, 4)])
    g = stack(g, layers.Dense(32, "relu"), layers.Reshape((4, 4, 2)), layers.Conv2DTranspose(1, 4, 2, padding="same"))
    return keras_vae.VAE(encoder, keras.Model({"z": z, "condition": code}, g), seed=0)


@family
def tabular():
    """Raw columns, normalised inside the encoder, with batch normalisation and dropout."""
    x, z = keras.Input((5,)), keras.Input((3,))
    groups = [(keras_vae.Standardized("mse", [50.0, 3.0], [9.0, 2.0]), 2), ("bce", 1), (keras_vae.Categorical(), 2)]
    normalised = layers.Normalization(mean=[50.0, 3.0, 0.5, 0.5, 0.5], variance=[81.0, 4.0, 0.2, 0.2, 0.2])(x)
    dense = [layers.Dense(8, use_bias=False), layers.BatchNormalization(), layers.ReLU(), layers.Dropout(0.2)]
    g = stack(z, layers.Dense(8, "selu"), layers.AlphaDropout(0.1), layers.Dense(5))
    return vae(x, stack(normalised, *dense), z, g, likelihood=keras_vae.Mixed(groups))


@family
def beta_probabilities():
    """A beta-VAE whose decoder ends in a sigmoid."""
    x, z = keras.Input((8, 8)), keras.Input((3,))
    g = layers.Reshape((8, 8))(layers.Dense(64, "sigmoid")(layers.Dense(8, "relu")(z)))
    likelihood = keras_vae.Bernoulli(from_logits=False)
    return vae(x, layers.Dense(4, "relu")(x), z, g, likelihood=likelihood, objective=keras_vae.ELBO(beta=4.0))


@family
def codebook():
    """Convolutions that normalise over channels, as in vector quantisation, with soft codes of the latents."""
    x, z = keras.Input((8, 8, 3)), keras.Input((4,))
    h = stack(x, layers.Conv2D(4, 4, 2, padding="same"), layers.LayerNormalization(), layers.Activation("gelu"))
    h = stack(h, layers.Conv2D(4, 3, padding="same"), layers.GroupNormalization(2), layers.Conv2D(2, 1))
    codes = layers.EinsumDense("bk,kd->bd", 16)(layers.Softmax()(z))
    g = stack(layers.Reshape((4, 4, 1))(codes), layers.Conv2D(4, 3, padding="same"), layers.LayerNormalization())
    return vae(x, h, z, layers.Conv2DTranspose(3, 4, 2, padding="same")(layers.ReLU()(g)), likelihood="laplace")


@family
def mixer():
    """Patches, mixed over places and over channels."""

    def block(h):
        g = layers.Permute((2, 1))(layers.LayerNormalization()(h))
        h = h + layers.Permute((2, 1))(layers.Dense(4)(layers.Dense(6, "gelu")(g)))
        return h + stack(h, layers.LayerNormalization(), layers.Dense(12, "gelu"), layers.Dense(6))

    x, z = keras.Input((8, 8, 1)), keras.Input((3,))
    h = stack(x, layers.Conv2D(6, 4, strides=4), layers.Reshape((4, 6)), block, block, layers.GlobalAveragePooling1D())
    g = stack(z, layers.Dense(24), layers.Reshape((4, 6)), block, layers.Dense(16), layers.Reshape((2, 2, 4, 4)))
    return vae(x, h, z, layers.Reshape((8, 8, 1))(layers.Permute((1, 3, 2, 4))(g)))


@family
def audio():
    x, z = keras.Input((128, 1)), keras.Input((3,))
    strided = {"strides": 4, "padding": "same", "activation": "elu"}
    h = stack(x, layers.Conv1D(3, 9, **strided), layers.Conv1D(4, 9, **strided))
    h = layers.GlobalMaxPooling1D()(layers.Conv1D(4, 3, padding="causal", dilation_rate=2)(h))
    g = stack(z, layers.Dense(32), layers.Reshape((8, 4)), layers.Conv1DTranspose(3, 9, **strided))
    g = layers.Conv1D(1, 3, padding="same", activation="tanh")(layers.Conv1DTranspose(2, 9, **strided)(g))
    return vae(x, h, z, g, likelihood=keras_vae.Gaussian("learned"))

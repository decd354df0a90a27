"""Layers, operations and backbones of Keras in the smallest networks, as people write them: no good one may be refused.

`LAYERS` states each as an expression of a tensor `x`, by the kind of its input. `make` puts it into an encoder. Whole
models are in `families.py`.
"""

import keras
import numpy as np
from keras import layers, ops

import families

INPUTS = {
    "vector": ((6,), "float32"),
    "sequence": ((6, 4), "float32"),
    "signal": ((6, 4), "float32"),
    "image": ((8, 8, 4), "float32"),
    "volume": ((4, 4, 4, 2), "float32"),
    "frames": ((3, 4, 4, 2), "float32"),
    "tokens": ((6,), "int32"),
    "picture": ((32, 32, 3), "float32"),
}

LAYERS = {
    "vector": """
        Dense(4, 'relu')(x)
        EinsumDense('ab,bc->ac', 5, bias_axes='c')(x)
        Dense(4, kernel_constraint='unit_norm', kernel_regularizer='l2')(x)
        Dense(4, lora_rank=2)(x)
        BatchNormalization(center=False, renorm=False)(Dense(4, use_bias=False)(x))
        LayerNormalization()(Dense(8)(x))
        RMSNormalization()(Dense(8)(x))
        UnitNormalization()(Dense(8)(x))
        SpectralNormalization(Dense(4))(x)
        adapted(Normalization())(x)
        Rescaling(1 / 255, offset=-0.5)(x)
        adapted(Discretization(num_bins=4))(x)
        Discretization(bin_boundaries=[-1.0, 0.0, 1.0], output_mode='one_hot')(x)
        ReLU(max_value=2.0, negative_slope=0.1, threshold=0.2)(x)
        LeakyReLU(0.1)(x)
        PReLU()(x)
        ELU()(x)
        Softmax()(x)
        every_activation(x)
        Activation(ops.sparsemax)(x)
        lambdas(x)
        Dropout(0.5)(x)
        AlphaDropout(0.5)(x)
        GaussianNoise(0.5)(x)
        ActivityRegularization(0.1)(x)
        Add()([Dense(4)(x), Dense(4)(x)])
        Average()([Dense(4)(x), Dense(4)(x)])
        Maximum()([Dense(4)(x), Dense(4)(x)])
        Dot(1, normalize=True)([Dense(4)(x), Dense(4)(x)])
        RepeatVector(3)(x)
        Reshape((2, -1))(x)
        Wave(3.0)(x)
        keras.Sequential([Dense(4, 'tanh'), Dense(4)])(x)
        0.5 * x[:, ::2] ** 2 - x[:, 1::2] / 3
    """,
    "sequence": """
        Conv1D(4, 3, padding='causal', dilation_rate=2)(x)
        Conv1DTranspose(3, 3, strides=2, padding='same')(x)
        Conv1DTranspose(3, 4, strides=3, padding='valid', output_padding=1)(x)
        DepthwiseConv1D(3, depth_multiplier=2)(x)
        SeparableConv1D(3, 3, padding='same')(x)
        MaxPooling1D(2, padding='same')(x)
        AveragePooling1D(4, strides=1, padding='same')(x)
        GlobalAveragePooling1D()(Masking()(x))
        GlobalMaxPooling1D(keepdims=True)(x)
        AdaptiveAveragePooling1D(4)(x)
        AdaptiveMaxPooling1D(4)(x)
        UpSampling1D(2)(x)
        Cropping1D((1, 2))(x)
        Permute((2, 1))(x)
        Softmax(axis=1)(x)
        PReLU(shared_axes=[1])(x)
        GroupNormalization(2)(x)
        SimpleRNN(3)(x)
        LSTM(3, dropout=0.2, recurrent_dropout=0.2)(x)
        LSTM(3, return_sequences=True, go_backwards=True)(x)
        LSTM(3, unroll=True)(x)
        Concatenate()(LSTM(3, return_state=True)(x))
        LSTM(3)(Masking()(x))
        GRU(3, dropout=0.2, return_sequences=True)(x)
        GRU(3, reset_after=False)(x)
        GRU(3)(x, initial_state=Dense(3)(x[:, 0]))
        Bidirectional(LSTM(3, return_sequences=True))(x)
        Bidirectional(GRU(3), merge_mode='sum')(Masking()(x))
        RNN([LSTMCell(3), GRUCell(2)])(x)
        RNN(SimpleRNNCell(3), return_sequences=True)(x)
        TimeDistributed(Dense(3, 'tanh'))(x)
        MultiHeadAttention(2, 3)(x, x)
        MultiHeadAttention(2, 3, dropout=0.1, flash_attention=False)(x, x, use_causal_mask=True)
        MultiHeadAttention(2, 3, value_dim=2, output_shape=5)(x, Dense(4)(x[:, :3]))
        MultiHeadAttention(2, 3)(Masking()(x), Masking()(x))
        MultiHeadAttention(2, 3, attention_axes=1)(x, x)
        GroupQueryAttention(3, 4, 2)(x, x, use_causal_mask=True)
        Attention(use_scale=True, score_mode='concat')([x, Dense(4)(x)])
        Attention()([x, x], use_causal_mask=True)
        Attention()([Masking()(x), Masking()(x)])
        AdditiveAttention()([x, Dense(4)(x)])
        EinsumDense('abc,cd->abd', (6, 3), bias_axes='d')(x)
        sinusoids(x)
        x + Embedding(6, 4)(ops.arange(6))
        Dot(axes=2)([x, Dense(4)(x)])
        STFTSpectrogram(frame_length=3, frame_step=1, fft_length=4)(x)
    """,
    "signal": """
        ops.argmax(x, -1)
        ops.argmin(x, 1)
        ops.top_k(x, 2)[0]
        ops.sort(x, 1)
        ops.take_along_axis(x, ops.argsort(x, 1), 1)
        ops.cumsum(x, 1)
        ops.cumprod(x, -1)
        ops.roll(x, 2, 1)
        ops.flip(x, 1)
        ops.diff(x, axis=1)
        ops.slice_update(x, (0, 1, 1), x[:, :2, :2])
        ops.scatter_update(x, ops.array([[0, 1]]), ops.ones((1, 4)))
        ops.transpose(ops.segment_sum(ops.transpose(x, (1, 2, 0)), ops.array([0, 0, 1, 1, 1, 2]), num_segments=3))
        ops.einsum('btc,bsc->bts', x, x)
        ops.tensordot(x, ops.ones((4, 3)), 1)
        ops.tril(x) + ops.triu(x, 1)
        ops.where(x > 0, ops.log(x), 0.0)
        ops.logaddexp(x, ops.logsumexp(x, -1, keepdims=True))
        ops.var(x, 1) + ops.median(x, 1) + ops.quantile(x, 0.3, axis=1)
        ops.norm(x, axis=-1)
        ops.erfinv(0.9 * ops.tanh(x))
        ops.sinh(x / 9) + ops.arcsinh(x) + ops.arctanh(0.9 * ops.tanh(x)) + ops.arctan2(x, 1 - x)
        ops.hypot(x, 1 + x) + ops.cbrt(x) + ops.exp2(x / 9) + ops.log1p(ops.abs(x))
        ops.floor_divide(x, 0.7) + ops.mod(x, 0.7) + ops.sign(x) + ops.signbit(x) + ops.round(x)
        ops.nan_to_num(ops.sqrt(x)) + ops.nansum(ops.sqrt(x), 1, keepdims=True)
        ops.where(ops.logical_xor(x > 1, x < 0), x, 0.0)
        ops.fft((x, x))[0] + ops.fft2((x, 2 * x))[1]
        ops.rfft(x)[0]
        ops.irfft((x, x))
        ops.stft(x[:, :, 0], 4, 2, 4)[0]
        ops.cond(ops.sum(x) > 1e9, lambda: x, lambda: -x)
        Loops()(x)
    """,
    "image": """
        Conv2D(3, 3, strides=2, padding='same', activation='relu')(x)
        Conv2D(4, 3, groups=2)(x)
        ops.add(Conv2D(2, 3)(x), ops.array([1.0, 2.0]))
        Conv2D(3, (3, 2), dilation_rate=2, padding='same')(x)
        Conv2DTranspose(3, 3, strides=2, padding='same')(x)
        Conv2DTranspose(3, 3, strides=2, padding='valid', output_padding=1)(x)
        Conv2DTranspose(3, 3, dilation_rate=2)(x)
        Conv2DTranspose(3, 4, strides=(2, 3), padding='same', use_bias=False)(x)
        DepthwiseConv2D(3, depth_multiplier=2, padding='same')(x)
        DepthwiseConv2D(3, dilation_rate=2)(x)
        DepthwiseConv2D(3, strides=2, padding='same')(x)
        SeparableConv2D(3, 3, padding='same')(x)
        SpectralNormalization(Conv2D(3, 3))(x)
        MaxPooling2D(3, strides=2, padding='same')(x)
        MaxPooling2D(3, 2)(ZeroPadding2D(1)(x - 3.0))
        AveragePooling2D(3, strides=1, padding='same')(x)
        AdaptiveAveragePooling2D(3)(x)
        AdaptiveMaxPooling2D((2, 3))(x)
        UpSampling2D((2, 3), interpolation='bilinear')(x)
        UpSampling2D(2, interpolation='bicubic')(x)
        UpSampling2D(2, interpolation='lanczos3')(x)
        Resizing(5, 6, interpolation='nearest')(x)
        Resizing(12, 5, interpolation='bilinear')(x)
        Resizing(4, 4, interpolation='area')(x)
        Resizing(4, 4, interpolation='bilinear', antialias=True)(x)
        Resizing(6, 4, crop_to_aspect_ratio=True)(x)
        CenterCrop(5, 6)(x)
        ZeroPadding2D(((1, 2), (0, 1)))(x)
        BatchNormalization(axis=1)(x)
        GroupNormalization(2)(x)
        LayerNormalization()(Conv2D(4, 3)(x))
        LayerNormalization(axis=(1, 2, 3))(x)
        UnitNormalization(axis=(1, 2, 3))(x)
        Normalization(mean=[1.0] * 4, variance=[2.0] * 4)(x)
        PReLU(shared_axes=[1, 2])(x)
        RandomFlip()(RandomRotation(0.1)(RandomZoom(0.1)(RandomTranslation(0.1, 0.1)(x))))
        RandomContrast(0.2)(x)
        TimeDistributed(Conv1D(3, 3))(x)
        MultiHeadAttention(2, 3, attention_axes=(1, 2))(x, x)
        squeeze_and_excite(x)
        ops.depth_to_space(x, 2)
        ops.space_to_depth(x, 2)
        ops.pad(x, [[0, 0], [1, 1], [2, 2], [0, 0]], 'reflect')
        ops.pad(x, [[0, 0], [1, 1], [2, 2], [0, 0]], 'symmetric')
        ops.image.extract_patches(x, 3, strides=2, padding='same')
        ops.image.pad_images(x, 1, 1, target_height=10, target_width=10)
        ops.image.gaussian_blur(x)
        ops.rot90(x, axes=(1, 2))
    """,
    "volume": """
        Conv3D(3, 3, strides=2, padding='same')(x)
        Conv3D(4, 2, groups=2)(x)
        Conv3DTranspose(2, 3, strides=2, padding='same')(x)
        MaxPooling3D(2)(x)
        AveragePooling3D(2, padding='same')(x)
        AdaptiveAveragePooling3D(3)(x)
        AdaptiveMaxPooling3D(2)(x)
        UpSampling3D(2)(x)
        Cropping3D(1)(x)
    """,
    "frames": """
        ConvLSTM1D(2, 2, return_sequences=True)(Reshape((3, 4, 8))(x))
        ConvLSTM2D(2, 2, padding='same')(x)
        ConvLSTM2D(2, 2, dropout=0.2, return_sequences=True, go_backwards=True)(x)
        Bidirectional(ConvLSTM2D(2, 2))(x)
        TimeDistributed(Conv2D(2, 2, activation='relu'))(x)
    """,
    "tokens": """
        Embedding(7, 4)(x)
        Flatten()(Embedding(7, 4, embeddings_constraint='non_neg')(x))
        LSTM(3)(Embedding(7, 4, mask_zero=True)(x))
        Bidirectional(LSTM(3))(Embedding(7, 4, mask_zero=True)(x))
        GlobalAveragePooling1D()(Embedding(7, 4, mask_zero=True)(x))
        attend(Embedding(7, 4, mask_zero=True)(x))
        tied(x)
        CategoryEncoding(7, 'multi_hot')(x)
        CategoryEncoding(7, 'count')(x)
        ops.cast(x, 'float32') / 7.0
        ops.take(ops.reshape(ops.arange(14.0), (7, 2)), x, axis=0)
        ops.floor_divide(x, 2) + ops.mod(x, 3)
    """,
    "picture": """
        EfficientNetB0(weights=None, include_top=False, input_shape=(32, 32, 3))(x)
        EfficientNetV2B0(weights=None, include_top=False, input_shape=(32, 32, 3))(x)
        MobileNet(weights=None, include_top=False, input_shape=(32, 32, 3))(x)
        MobileNetV2(weights=None, include_top=False, input_shape=(32, 32, 3))(x)
        MobileNetV3Small(weights=None, include_top=False, input_shape=(32, 32, 3))(x)
        ResNet50(weights=None, include_top=False, input_shape=(32, 32, 3))(x)
        ResNet50V2(weights=None, include_top=False, input_shape=(32, 32, 3))(x)
        DenseNet121(weights=None, include_top=False, input_shape=(32, 32, 3))(x)
        VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))(x)
        ConvNeXtTiny(weights=None, include_top=False, input_shape=(32, 32, 3))(x)
    """,
}

LAYERS = {name: [line.strip() for line in text.strip().splitlines()] for name, text in LAYERS.items()}


# What Keras 3.15 itself cannot compute on a backend.
NOT_ON = {
    "torch": ("lanczos3", "area"),
    "jax": ("area", "value_dim=2", "ops.quantile", "ops.norm", "ops.cond"),
    "tensorflow": (),
}

# All that Keras knows by name, but for `linear`, for `threshold`, which takes arguments, and for `glu`, which halves.
ACTIVATIONS = (
    *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh"),
    *("leaky_relu", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink"),
    *("softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid", "squareplus", "tanh", "tanh_shrink"),
)


def every_activation(x):
    return layers.Concatenate()([layers.Activation(name)(layers.Dense(4)(x)) for name in ACTIVATIONS])


def adapted(layer):
    """A layer of preprocessing that has seen data."""
    layer.adapt(np.random.default_rng(0).normal(1.0, 2.0, (50, 6)).astype("float32"))
    return layer


def lambdas(x):
    return layers.Activation(lambda x: 2.0 * x)(layers.Lambda(lambda x: ops.square(x), output_shape=(6,))(x))


def sinusoids(x):
    """The usual encoding of positions: a constant."""
    angles = np.arange(6)[:, None] / 10.0 ** np.arange(2)
    return x + ops.convert_to_tensor(np.concatenate([np.sin(angles), np.cos(angles)], 1).astype("float32"))


class Loops(layers.Layer):
    """Control flow, which Keras saves inside a layer only."""

    def call(self, x):
        x = ops.fori_loop(0, 3, lambda _, y: 0.5 * y + 1.0, x)
        return x + ops.vectorized_map(lambda a: ops.sum(a * a), x)[:, None, None]


def attend(x):
    return layers.MultiHeadAttention(2, 3)(x, x)


def tied(x):
    """Logits by the transposed embedding."""
    embedding = layers.ReversibleEmbedding(7, 4)
    return embedding(layers.Dense(4, "tanh")(embedding(x)), reverse=True)


def squeeze_and_excite(x):
    h = layers.Dense(2, "relu")(layers.GlobalAveragePooling2D()(x))
    return x * layers.Reshape((1, 1, 4))(layers.Dense(4, "sigmoid")(h))


OWN = (families.Wave, Loops, every_activation, adapted, lambdas, sinusoids, attend, tied, squeeze_and_excite)
NAMES = {**vars(keras.applications), **vars(layers), "keras": keras, "ops": ops, **{own.__name__: own for own in OWN}}


def entries(backend):
    """The kind of input and the expression of each network that Keras has on a backend."""
    return [(k, e) for k, lines in LAYERS.items() for e in lines if not any(part in e for part in NOT_ON[backend])]


def make(kind, expression):
    """An encoder that applies an expression, its weights drawn from a fixed seed, and a decoder."""
    (shape, dtype), z = INPUTS[kind], keras.Input((3,))
    x = keras.Input(shape, dtype=dtype)
    h = ops.cast(eval(expression, {**NAMES, "x": x}), "float32")
    pair = keras.Model(x, families.heads(layers.Flatten()(h))), keras.Model(z, layers.Dense(6)(z))
    families.randomize(pair)
    return pair


def data(kind, rows=70):
    """Examples; every second sequence ends with two zeros, which a mask may leave out."""
    shape, dtype = INPUTS[kind]
    rng = np.random.default_rng(2)
    x = rng.integers(0, 7, (rows, *shape)) if dtype == "int32" else rng.normal(size=(rows, *shape))
    if kind in ("sequence", "tokens"):
        x[::2, -2:] = 0
    return x.astype(dtype)

"""Decoders that follow the steps before, against processes whose density is known: AR(1), and a Markov chain."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_vae import VAE, Bernoulli, Categorical, Gaussian, evaluation, networks, sequences

STEPS, SLOPE, SIGMA = 6, 0.8, 0.5


def constant_encoder(shape, latents=1):
    """q(z|x) = N(0, I), whatever x is: the KL is 0, and the bound is log p(x) itself."""
    x = keras.Input(shape, name="x")
    dense = {name: layers.Dense(latents, kernel_initializer="zeros", name=name) for name in ("z_mean", "z_log_var")}
    flat = layers.Flatten()(x)
    return keras.Model(x, {name: layer(flat) for name, layer in dense.items()})


def decoder_of(shape, parameters_of, latents=1):
    """A decoder of the step before alone."""
    z, previous = keras.Input((latents,), name="z"), keras.Input(shape, name="previous")
    return keras.Model({"z": z, "previous": previous}, parameters_of(previous))


@pytest.fixture(scope="module")
def ar1():
    """x_t = 0.8 x_(t-1) + 0.5 e_t, from x_0 = 0."""
    slope = layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(SLOPE))
    decoder = decoder_of((STEPS, 1), slope)
    return VAE(constant_encoder((STEPS, 1)), decoder, Gaussian(SIGMA), allow_missing=True, seed=0)


def test_the_bound_is_the_density_of_the_process(ar1):
    x = np.random.default_rng(0).normal(size=(5, STEPS, 1)).astype("float32")
    before = np.concatenate([np.zeros((5, 1, 1)), x[:, :-1]], axis=1)
    log_prob = -0.5 * ((x - SLOPE * before) / SIGMA) ** 2 - np.log(SIGMA * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(ar1.elbo(x, num_samples=3), log_prob.sum((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(ar1.elbo(x, per_dimension=True), log_prob, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ar1.predict(x, verbose=0), SLOPE * before, rtol=1e-5)
    ended = x.copy()
    ended[0, 4:], ended[1, 1:] = np.nan, np.nan
    expected = [log_prob[0, :4].sum(), log_prob[1, :1].sum(), *log_prob[2:].sum((1, 2))]
    np.testing.assert_allclose(ar1.elbo(ended), expected, rtol=1e-5)
    ar1.compile(metrics=["mse"])
    logs = ar1.evaluate(ended, verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["negative_elbo"], -np.mean(expected), rtol=1e-5)
    assert np.isfinite(logs["mse"])


def test_samples_are_of_the_process(ar1):
    x = ar1.sample(4000, draw=True, seed=0)
    assert x.shape == (4000, STEPS, 1)
    np.testing.assert_array_equal(x[:7], ar1.sample(4000, draw=True, seed=0, batch_size=512)[:7])
    at = np.arange(STEPS)
    variance = SIGMA**2 * (1 - SLOPE ** (2 * at + 2)) / (1 - SLOPE**2)
    covariance = SLOPE ** np.abs(at[:, None] - at) * np.minimum(variance[:, None], variance)
    np.testing.assert_allclose(np.cov(x[..., 0].T), covariance, atol=0.06)  # 5 standard errors
    assert (ar1.sample(2, seed=0) == 0.0).all()  # the means of the steps


@pytest.mark.once
def test_reconstructions_are_as_spread_as_they_say(ar1):
    """x says nothing of z, so that what is drawn again is of the process, as x is."""
    x = ar1.sample(400, draw=True, seed=1)
    found = evaluation.coverage(ar1, x, draws=50)
    assert found.overall(0.9) == pytest.approx(0.9, abs=0.04)


def test_a_forecast_goes_on_from_what_is_observed(ar1):
    x = np.full((2, STEPS, 1), np.nan, "float32")
    x[:, :3, 0] = [[1.0, -1.0, 2.0], [0.0, 3.0, -3.0]]
    forecasts = ar1.impute(x, draws=4000, num_samples=2, seed=0)
    np.testing.assert_array_equal(forecasts[:, :, :3], np.broadcast_to(x[:, :3], (4000, 2, 3, 1)))
    after = np.arange(1, 4)
    np.testing.assert_allclose(forecasts[:, :, 3:, 0].mean(0), x[:, 2] * SLOPE**after, atol=5 * 0.8 / np.sqrt(4000))
    deviation = SIGMA * np.sqrt((1 - SLOPE ** (2 * after)) / (1 - SLOPE**2))
    np.testing.assert_allclose(forecasts[:, :, 3:, 0].std(0), [deviation, deviation], rtol=0.06)
    longer = x[:2].copy()
    longer[1, 3:5, 0] = [4.0, 5.0]  # where the other ends, this goes on as it is
    forecasts = ar1.impute(longer, draws=4000, num_samples=2, seed=0)
    np.testing.assert_allclose(forecasts[:, 1, 5].mean(), SLOPE * 5.0, atol=5 * SIGMA / np.sqrt(4000))


def test_a_markov_chain_of_codes():
    """Codes arrive as they are, and -1 at the first step, which follows nothing."""
    first, transition = np.array([0.5, 0.3, 0.2]), np.array([[0.1, 0.6, 0.3], [0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
    logits = layers.Embedding(4, 3, embeddings_initializer=keras.initializers.Zeros())
    decoder = decoder_of((5,), lambda previous: logits(previous + 1))
    logits.set_weights([np.log(np.stack([first, *transition]))])
    chain = VAE(constant_encoder((5,)), decoder, Categorical(num_classes=3), allow_missing=True, seed=0)
    x = np.array([[0, 1, 1, 2, 0], [2, 2, np.nan, np.nan, np.nan]], "float32")
    expected = np.log([0.5 * 0.6 * 0.2 * 0.1 * 0.25, 0.2 * 0.5])
    np.testing.assert_allclose(chain.elbo(x), expected, rtol=1e-5)
    drawn = chain.sample(6000, draw=True, seed=0).astype(int)
    np.testing.assert_allclose(np.bincount(drawn[:, 0]) / 6000, first, atol=0.03)
    counts = np.zeros((3, 3))
    np.add.at(counts, (drawn[:, :-1].ravel(), drawn[:, 1:].ravel()), 1)
    np.testing.assert_allclose(counts / counts.sum(1, keepdims=True), transition, atol=0.03)
    np.testing.assert_array_equal(chain.sample(1)[0], [0, 1, 0, 1, 0])  # the likeliest step after each


@pytest.mark.once
def test_recurrent_networks_learn_to_copy():
    """Every second code is the one before it: log 4 nats for each pair is all there is to pay."""
    codes = np.random.default_rng(0).integers(0, 4, (512, 3))
    x = sequences.pad([row[: 4 + 2 * (i % 2)] for i, row in enumerate(np.repeat(codes, 2, axis=1))])
    likelihood = Categorical(num_classes=4)
    pair = networks.recurrent((6,), 2, (32,), likelihood=likelihood, show_missing=True, autoregressive=True)
    vae = VAE(*pair, likelihood, allow_missing=True, seed=0)
    vae.compile(keras.optimizers.Adam(0.01))
    vae.fit(x, batch_size=64, epochs=12, verbose=0)
    cost = -vae.elbo(x, seed=0)
    assert cost.mean() < 1.15 * 2.5 * np.log(4)
    drawn = vae.sample(200, draw=True, seed=0)
    assert np.mean(drawn[:, ::2] == drawn[:, 1::2]) > 0.95


@pytest.mark.once
@pytest.mark.parametrize("autoregressive", [False, True])
def test_recurrent_networks_of_series(autoregressive, tmp_path):
    x = np.random.default_rng(0).random((9, 5, 2)).astype("float32")
    pair = networks.recurrent((5, 2), 3, (8, 4), data_mean=x.mean((0, 1)), condition=2, autoregressive=autoregressive)
    vae = VAE(*pair, Bernoulli(), seed=0)
    data = {"x": np.round(x), "condition": np.arange(9) % 2}
    vae.compile()
    vae.fit(data, epochs=1, verbose=0)
    assert vae.is_autoregressive is autoregressive
    vae.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    np.testing.assert_array_equal(loaded.elbo(data, seed=0), vae.elbo(data, seed=0))
    assert vae.sample(3, condition=1, draw=True).shape == vae.reconstruct(data)[:3].shape == (3, 5, 2)


def less_mean(previous):
    return previous - ops.mean(previous, axis=1, keepdims=True)


def small(previous):
    """Features that a change of 1 hardly moves, looked at from both sides."""
    return layers.Conv1D(1, 3, padding="same")(layers.Rescaling(1e-4)(previous))


def dead(previous):
    """Nothing depends on anything yet: the last weights are zeros."""
    return layers.Dense(1, kernel_initializer="zeros")(layers.Conv1D(4, 3, padding="same", activation="relu")(previous))


@pytest.mark.once
@pytest.mark.parametrize("ahead", [layers.Conv1D(1, 3, padding="same"), less_mean, small, dead])
def test_a_decoder_that_looks_ahead_is_refused(ahead):
    vae = VAE(constant_encoder((STEPS, 1)), decoder_of((STEPS, 1), ahead), Gaussian(), seed=0)
    weights = vae.decoder.get_weights()
    for use in (lambda: vae.elbo(np.zeros((4, STEPS, 1), "float32")), lambda: vae.sample(2), vae.compile):
        with pytest.raises(ValueError, match="reads what it is to predict"):
            use()
    for before, after in zip(weights, vae.decoder.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.once
def test_attention_that_looks_back_is_not():
    def attention(previous):
        h = layers.Dense(4)(previous)
        return layers.Dense(1)(layers.MultiHeadAttention(2, 2)(h, h, use_causal_mask=True))

    vae = VAE(constant_encoder((STEPS, 1)), decoder_of((STEPS, 1), attention), Gaussian(), seed=0)
    assert vae.sample(2, draw=True).shape == (2, STEPS, 1)


@pytest.mark.once
def test_mistakes_are_sentences(ar1):
    x = np.zeros((2, STEPS, 1), "float32")
    x[1, 2] = np.nan
    with pytest.raises(ValueError, match="lacks values at step 2 of example 1"):
        ar1.elbo(x)
    assert np.isnan(ops.convert_to_numpy(ar1.terms(x, np.zeros((1, 2, 1), "float32")).loss)).tolist() == [False, True]
    with pytest.raises(ValueError, match="by draws only"):
        ar1.impute(x)
    with pytest.raises(ValueError, match="pass decoder_parameters"):
        ar1.decoder_parameters(np.zeros((1, 1), "float32"))
    codes = decoder_of((STEPS,), layers.Embedding(3, 3))
    with pytest.raises(ValueError, match=r"Embedding\(4, ...\)\(previous \+ 1\)"):
        VAE(constant_encoder((STEPS,)), codes, Categorical(num_classes=3))
    with pytest.raises(ValueError, match="of known sizes"):
        VAE(constant_encoder((STEPS,)), decoder_of((STEPS,), layers.Dense(STEPS)), Gaussian())
    with pytest.raises(ValueError, match=r"has shape \(5, 1\), and one example has \(6, 1\)"):
        VAE(constant_encoder((STEPS, 1)), decoder_of((STEPS - 1, 1), layers.ZeroPadding1D((0, 1))), Gaussian())
    with pytest.raises(ValueError, match="the decoder takes z of shape"):
        VAE(constant_encoder((STEPS, 1), 2), decoder_of((STEPS, 1), layers.Dense(1)), Gaussian())
    with pytest.raises(ValueError, match=r"x\[..., None\]"):
        networks.recurrent((6,), 2, likelihood="mse")


@pytest.mark.once
def test_sequences_of_different_lengths():
    padded = sequences.pad([[1, 2, 3], [4]], steps=4)
    np.testing.assert_array_equal(padded, [[1, 2, 3, np.nan], [4, np.nan, np.nan, np.nan]])
    assert [row.tolist() for row in sequences.unpad(padded)] == [[1, 2, 3], [4]]
    assert [row.tolist() for row in sequences.unpad(padded, end=3)] == [[1, 2], [4]]
    gap = sequences.pad([[1, np.nan, 2], [4]])
    np.testing.assert_array_equal(gap, [[1, np.nan, 2], [4, np.nan, np.nan]])
    np.testing.assert_array_equal(sequences.unpad(gap)[0], [1, np.nan, 2])
    assert [len(row) for row in sequences.unpad(np.full((2, 3), np.nan))] == [0, 0]
    pairs = sequences.unpad(sequences.pad([np.ones((2, 2)), np.ones((3, 2))]))
    assert [pair.shape for pair in pairs] == [(2, 2), (3, 2)]
    for wrong, words in (
        ([], "no sequences"),
        ([[1, 2, 3]], "must have from 1 to 2"),
        ([[1], []], "Sequence 1 has 0 steps"),
        ([[1, np.nan]], r"Sequence 0 ends in NaN, .* leave that step out, x\[:length\]. A gap inside may stay NaN"),
        ([[1], [[1]]], "only the lengths"),
        ([1], "only the lengths"),
        (["abc"], "Sequences are arrays of numbers"),
    ):
        with pytest.raises(ValueError, match=words):
            sequences.pad(wrong, steps=2)
    with pytest.raises(ValueError, match="several sequences"):
        sequences.unpad([1.0, 2.0])

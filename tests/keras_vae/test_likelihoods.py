"""Log-probabilities against float64, gradients against finite differences, and the words of every refusal."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops
from scipy import special, stats

import keras_vae
import oracles
from keras_vae import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    Mixed,
    Multinomial,
    NegativeBinomial,
    Poisson,
    Standardized,
    likelihoods,
)
from keras_vae.likelihoods import discrete

pytestmark = pytest.mark.once


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def tensor(array):
    return ops.convert_to_tensor(np.asarray(array, "float32"))


def test_bernoulli_is_minus_bce_summed_over_dimensions():
    rng = np.random.default_rng(0)
    x, logits = rng.random((6, 5, 3)).astype("float32"), 3.0 * rng.normal(size=(6, 5, 3)).astype("float32")
    log_prob = numpy(Bernoulli().log_prob(tensor(x), tensor(logits)))
    assert log_prob.shape == (6,)
    np.testing.assert_allclose(log_prob, oracles.bernoulli_log_prob(x, logits).sum(axis=(1, 2)), rtol=1e-6)
    bce = numpy(ops.binary_crossentropy(tensor(x), tensor(logits), from_logits=True)).sum(axis=(1, 2))
    np.testing.assert_allclose(log_prob, -bce, rtol=1e-5)


@pytest.mark.parametrize("logit", [-50.0, -17.0, 0.0, 17.0, 50.0])
@pytest.mark.parametrize("x", [0.0, 1.0])
def test_bernoulli_is_exact_at_extremes(x, logit):
    log_prob = numpy(Bernoulli().log_prob(tensor([[x]]), tensor([[logit]])))
    np.testing.assert_allclose(log_prob, oracles.bernoulli_log_prob([x], [logit]), rtol=1e-5)


@pytest.mark.parametrize("logit", [-50.0, -2.0, 0.0, 2.0, 50.0])
@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
def test_bernoulli_gradient_is_x_minus_p(gradient, x, logit):
    """Also at logit 0, where the usual max(l, 0) - l x + log1p(exp(-|l|)) has a corner that autodiff gets wrong."""
    g = gradient(lambda logits: ops.sum(Bernoulli().log_prob(tensor([[x]]), logits)), [[logit]])
    np.testing.assert_allclose(g, [[x - 1.0 / (1.0 + np.exp(-logit))]], atol=1e-6)


def test_bernoulli_gradient_equals_finite_differences(gradient):
    rng = np.random.default_rng(1)
    x, logits = rng.random((2, 5)), rng.normal(size=(2, 5))
    g = gradient(lambda value: ops.sum(Bernoulli().log_prob(tensor(x), value)), logits)
    expected = oracles.finite_difference(lambda value: oracles.bernoulli_log_prob(x, value).sum(), logits)
    np.testing.assert_allclose(g, expected, rtol=1e-4, atol=1e-6)


def test_bernoulli_from_probabilities_agrees_with_logits_and_stays_finite():
    rng = np.random.default_rng(2)
    x, logits = rng.integers(0, 2, (4, 7)), rng.normal(size=(4, 7))
    from_probabilities = numpy(Bernoulli(from_logits=False).log_prob(tensor(x), ops.sigmoid(tensor(logits))))
    np.testing.assert_allclose(from_probabilities, numpy(Bernoulli().log_prob(tensor(x), tensor(logits))), rtol=1e-5)
    assert np.isfinite(numpy(Bernoulli(from_logits=False).log_prob(tensor([[1.0, 0.0]]), tensor([[0.0, 1.0]])))).all()


@pytest.mark.parametrize("scale", [0.05, 1.0, 3.0])
def test_gaussian_is_the_normal_density_with_its_constant(scale):
    rng = np.random.default_rng(3)
    x, mean = rng.normal(size=(6, 4, 2)).astype("float32"), rng.normal(size=(6, 4, 2)).astype("float32")
    log_prob = numpy(Gaussian(scale).log_prob(tensor(x), tensor(mean)))
    np.testing.assert_allclose(log_prob, oracles.normal_log_prob(x, mean, scale).sum(axis=(1, 2)), rtol=1e-5)


def test_gaussian_is_minus_half_the_squared_error_plus_a_constant():
    x, mean = tensor(np.random.default_rng(4).normal(size=(3, 9))), tensor(np.zeros((3, 9)))
    half_squared_error = 0.5 * numpy(ops.sum(ops.square(x - mean), axis=1))
    np.testing.assert_allclose(
        numpy(Gaussian().log_prob(x, mean)), -half_squared_error - 4.5 * np.log(2.0 * np.pi), rtol=1e-5
    )


def test_gaussian_gradient_equals_finite_differences(gradient):
    rng = np.random.default_rng(5)
    x, mean = rng.normal(size=(2, 5)), rng.normal(size=(2, 5))
    g = gradient(lambda value: ops.sum(Gaussian(0.3).log_prob(tensor(x), value)), mean)
    expected = oracles.finite_difference(lambda value: oracles.normal_log_prob(x, value, 0.3).sum(), mean)
    np.testing.assert_allclose(g, expected, rtol=1e-4)


@pytest.mark.parametrize("likelihood", [Bernoulli(), Gaussian(0.5)])
def test_a_leading_axis_of_samples_is_kept(likelihood):
    rng = np.random.default_rng(6)
    x, parameters = rng.integers(0, 2, (2, 3, 1)), rng.normal(size=(5, 2, 3, 1))
    log_prob = numpy(likelihood.log_prob(tensor(x), tensor(parameters)))
    assert log_prob.shape == (5, 2)
    np.testing.assert_allclose(log_prob[3], numpy(likelihood.log_prob(tensor(x), tensor(parameters[3]))), rtol=1e-6)


@pytest.mark.parametrize("likelihood", [Bernoulli(), Bernoulli(from_logits=False), Gaussian(0.5)])
def test_samples_have_the_mean_and_repeat_for_a_seed(likelihood):
    parameters = tensor(np.tile([[0.2, 0.9]], (20_000, 1)))
    samples = numpy(likelihood.sample(parameters, seed=0))
    np.testing.assert_array_equal(samples, numpy(likelihood.sample(parameters, seed=0)))
    np.testing.assert_allclose(samples.mean(axis=0), numpy(likelihood.mean(parameters))[0], atol=0.02)
    if isinstance(likelihood, Gaussian):
        np.testing.assert_allclose(samples.std(axis=0), 0.5, rtol=0.03)
    else:
        assert set(np.unique(samples)) == {0.0, 1.0}


@pytest.mark.parametrize("likelihood", [Bernoulli(), Bernoulli(from_logits=False), Gaussian()])
def test_parameters_at_mean_reproduce_the_mean(likelihood):
    mean = np.array([0.002, 0.5, 0.97])
    np.testing.assert_allclose(numpy(likelihood.mean(tensor(likelihood.parameters_at_mean(mean)))), mean, rtol=1e-5)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([0.0, 255.0], r"x ranges from 0 to 255: divide x by 255"),
        ([0.0, 16.0], "divide x by 16"),
        ([-1.0, 1.0], r"map x from \[-1, 1\] to \[0, 1\]"),
        ([-3.0, 1.0], "scale x to"),
        ([-1.0, 3.0], "scale x to"),
        ([0.0, 2.0], r'The Bernoulli \("bce"\) likelihood needs'),
        ([-3.0, 7.0], r'scale x to \[0, 1\], or use likelihood="mse"'),
        ([0.0, np.nan], "x contains NaN, first at index"),
        ([np.inf, 0.0], "x contains infinite values"),
    ],
)
def test_bernoulli_says_what_is_wrong_with_data(data, words):
    with pytest.raises(ValueError, match=words):
        Bernoulli().validate(np.array([data]))


@pytest.mark.parametrize(
    ("likelihood", "data", "words"),
    [
        (ContinuousBernoulli(), [[0.0, 255.0]], "continuous Bernoulli likelihood needs .* divide x by 255"),
        (DiscretizedLogistic(), [[0.0, 255.0]], "one of 256 evenly spaced levels from 0 to 1, .*: divide x by 255"),
        (DiscretizedLogistic(), [[0.0, 1.0 / 16.0]], "pass levels=17"),
        (DiscretizedLogistic(levels=4), [[0.0, 0.5]], "pass levels=3"),
        (DiscretizedLogistic(levels=4), [[0.0, 2.0]], "divide x by 3"),
        (DiscretizedLogistic(levels=4), [[0.0, 3.0]], "divide x by 3"),
        (DiscretizedLogistic(levels=4), [[0.0, 4.0]], "scale the levels to"),
        (DiscretizedLogistic(), [[-1.0, 1.0]], r"map x from \[-1, 1\]"),
        (DiscretizedLogistic(), [[0.123, 0.71341]], "its values are none of them"),
        (DiscretizedLogistic(), [[0.0, 700.0]], "scale the levels to .* set levels="),
        (Mixed([("mse", 1), ("poisson", 1)]), [[0.5, 0.5]], "column 1 of x holds 0.5"),
        (Categorical(), [[0.0, 2.0]], r"needs one-hot vectors .* At index \(0,\) it holds \[0. 2.\]. Encode labels"),
        (Categorical(), [[0.0, 1.0], [1.0, 1.0]], r"At index \(1,\)"),
        (Categorical(), [[[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]], r"At index \(1, 1\)"),
        (Categorical(), [[np.nan, np.nan]], "contains NaN"),
        (Categorical(num_classes=3), [[0.0, 3.0]], r"whole numbers from 0 to 2, but x holds 3 at index \(0, 1\)"),
        (Categorical(num_classes=3), [[0.5, -1.0]], r"but x holds 0.5 at index \(0, 0\). Number the categories from 0"),
        (Poisson(), [[1.0, 2.5]], r"needs counts, .* x holds 2.5 at index \(0, 1\)"),
        (NegativeBinomial(), [[-1.0]], "NegativeBinomial likelihood needs counts"),
        (Mixed([("mse", 1), ("poisson", 2)]), [[0.5, 1.0, 0.5]], "columns 1 to 2 of x holds 0.5"),
        (Mixed([("mse", 1), ("poisson", 2)]), [[0.5]], r"Mixed has 3 columns \(1 \+ 2\), but the last axis .* 1"),
    ],
)
def test_others_say_what_is_wrong_with_data(likelihood, data, words):
    with pytest.raises(ValueError, match=words):
        likelihood.validate(np.array(data))


BOUNDED = ("relu", "tanh", "softplus", "softmax")
UNBOUNDED = ("linear", "relu", "tanh", "softplus", "elu", "gelu", "leaky_relu")
COUNTS_REFUSE = ("sigmoid", "exponential", *BOUNDED)


@pytest.mark.parametrize(
    ("likelihood", "refused", "words"),
    [
        (Bernoulli(), ("sigmoid", "hard_sigmoid"), r"would apply another.*Bernoulli\(from_logits=False\)"),
        (Bernoulli(), BOUNDED, r"but logits must be able.* Remove the last activation"),
        (Bernoulli(from_logits=False), UNBOUNDED, r"leaves \[0, 1\].*end the decoder in a sigmoid"),
        (ContinuousBernoulli(), ("sigmoid", "hard_sigmoid", *BOUNDED), "but the continuous Bernoulli expects logits"),
        (Gaussian("predicted"), ("sigmoid", *BOUNDED), "but its output is a location and a log scale"),
        (Gaussian(), (), ""),
        (Categorical(), ("sigmoid", *BOUNDED), "but the categorical likelihood expects logits"),
        (Poisson(), COUNTS_REFUSE, "but the Poisson likelihood expects the logarithm of the mean"),
        (NegativeBinomial(), COUNTS_REFUSE, "but the NegativeBinomial likelihood expects the logarithm"),
        (Mixed([("mse", 1), ("poisson", 1)]), COUNTS_REFUSE, "but the Poisson likelihood"),
    ],
)
def test_an_activation_that_contradicts_a_likelihood_is_refused_and_no_other(likelihood, refused, words):
    for activation in refused:
        with pytest.raises(ValueError, match=f"ends in a {activation}.*{words}"):
            likelihood.validate_activation(activation)
    likelihood.validate_activation(None)
    likelihood.validate_activation("sigmoid" if "linear" in refused else "linear")


def test_grey_values_are_no_bernoulli_and_fit_says_so_once(digits, make_vae):
    grey = 0.5 * digits
    vae = make_vae()
    with pytest.warns(
        UserWarning,
        match='^[0-9]{2} % of these data.*not a log-likelihood.*"continuous_bernoulli".* make the data binary\\.$',
    ):
        vae.fit(grey, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        vae.fit(grey, verbose=0)
        make_vae().fit(digits, verbose=0)
        make_vae(likelihood="continuous_bernoulli").fit(grey, verbose=0)


def test_an_encoder_of_ones_own_is_to_standardise_what_the_likelihood_does():
    x = np.random.default_rng(0).normal(1000.0, 5.0, (40, 4)).astype("float32")
    likelihood = likelihoods.Standardized.fit(likelihoods.Gaussian("learned"), x)
    _, decoder = keras_vae.networks.mlp((4,), 2, (8,), likelihood=likelihood)
    inputs = keras.Input((4,))

    def fit(h):
        encoder = keras.Model(inputs, [keras.layers.Dense(2)(h), keras.layers.Dense(2)(h)])
        vae = keras_vae.VAE(encoder, decoder, likelihood, seed=0)
        vae.compile("adam")
        vae.fit(x, epochs=1, verbose=0)

    words = r"encoder's first layer is given numbers such as 100\d.*h = likelihood.for_encoder\(x\)"
    with pytest.warns(UserWarning, match=words):
        fit(inputs)
    normalization = keras.layers.Normalization()
    normalization.adapt(x)
    series = keras.layers.Reshape((4, 1))(inputs)
    for fine in (
        likelihood.for_encoder(inputs),
        keras.layers.BatchNormalization()(inputs),
        keras.Sequential([normalization, keras.layers.Dense(3)])(inputs),
        keras.layers.GRU(3)(series, initial_state=inputs[:, :3]),  # what of several tensors it is given, nobody knows
    ):
        fit(fine)  # no warning


def test_data_far_from_1_are_warned_of_once_with_what_to_do(digits, make_vae):
    """And the advice, taken as it is written, is not repeated."""
    pixels, vae = 255.0 * digits, make_vae(likelihood="mse")
    with pytest.warns(
        UserWarning, match=r'(?s)such as 255.*\.fit\(keras_vae.Gaussian\("learned"\), x\)\n.*x / 255'
    ) as found:
        vae.fit(pixels, epochs=2, verbose=0)
    (words,) = [str(one.message) for one in found if "Standardized" in str(one.message)]
    line = words.split("\n")[1].strip()
    scope = {"keras_vae": keras_vae, "x": pixels}
    exec(line, scope)
    table = np.random.default_rng(0).standard_t(2.5, size=(64, 6)).astype("float32")
    thousands = np.where(np.arange(6) == 4, 1000.0 * table, table)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        make_vae(likelihood=scope["likelihood"]).fit(pixels, verbose=0)
        make_vae(likelihood="mse").fit(digits, verbose=0)
    assert Gaussian().advice(table) is None  # heavy tails
    assert Gaussian().advice(np.where(table > 1.0, np.nan, 5.0 + table)) is None
    words = Mixed([("mse", 3), (Laplace("predicted"), 3)]).advice(thousands)
    assert 'Standardized.fit(keras_vae.Laplace("predicted"), x[..., 3:6])' in words
    assert "255" not in words
    assert Mixed([("mse", 3), (Standardized.fit("mse", thousands[:, 3:]), 3)]).advice(thousands) is None


def test_binary_data_are_no_continuous_bernoulli(digits):
    assert "grows without bound" in ContinuousBernoulli().caveat(digits)
    assert ContinuousBernoulli().caveat(0.5 * digits) is None
    assert "cross-entropy" in Mixed([("mse", 1), ("bce", 1)]).caveat(np.array([[0.5, 0.5]]))
    assert Mixed([("mse", 1), ("bce", 1)]).caveat(np.array([[0.5, 1.0]])) is None


def test_log_gamma_is_that_of_scipy():
    x = np.array([1e-6, 0.1, 0.5, 1.0, 2.0, 7.3, 40.0, 101.0])
    np.testing.assert_allclose(numpy(discrete.log_gamma(tensor(x))), special.gammaln(x), rtol=2e-6, atol=3e-6)


@pytest.mark.parametrize("mean", [0.5, 30.0, 99.0, 103.0, 5e3, 1e5, 1e6, 1e9])
def test_counts_of_any_size_have_their_probability(mean, gradient):
    """At the mean and two deviations above, within what float32 knows of the logarithm of the mean."""
    log_mean = np.float32(np.log(mean))
    x = np.round(mean + np.array([0.0, 2.0]) * np.sqrt(mean)).astype("float32").astype("float64")
    point = np.full((2, 1), log_mean)
    found = numpy(Poisson().log_prob(tensor(x[:, None]), tensor(point)))
    rate = np.exp(np.float64(log_mean))
    np.testing.assert_allclose(found, stats.poisson(rate).logpmf(x), rtol=1e-5, atol=1e-3 + 3e-6 * np.sqrt(mean))
    g = gradient(lambda value: ops.sum(Poisson().log_prob(tensor(x[:, None]), value)), point)[:, 0]
    np.testing.assert_allclose(g, x - rate, rtol=1e-3, atol=1e-5 + 2e-6 * mean)
    for log_r in (-10.0, 0.0, 5.0, 10.0):
        r = np.exp(log_r)
        point = np.column_stack([np.full(2, log_mean), np.full(2, log_r)])
        found = numpy(NegativeBinomial().log_prob(tensor(x[:, None]), tensor(point)))
        np.testing.assert_allclose(
            found, stats.nbinom(r, r / (r + rate)).logpmf(x), rtol=1e-5, atol=5e-3 + 3e-6 * np.sqrt(mean)
        )


def test_a_negative_binomial_of_large_inverse_dispersion_is_a_poisson():
    x = np.array([[0.0, 3.0, 20.0]])
    log_mean = np.log([[0.5, 4.0, 15.0]])
    both = tensor(np.concatenate([log_mean, np.full_like(log_mean, 14.0)], axis=1))
    np.testing.assert_allclose(
        numpy(NegativeBinomial().log_prob(tensor(x), both)),
        numpy(Poisson().log_prob(tensor(x), tensor(log_mean))),
        1e-3,
    )


@pytest.mark.parametrize("total", [0, 7, 99, 150, 10_000, 1_000_000])
def test_a_multinomial_of_any_total_has_its_probability(total, gradient):
    p = np.array([0.5, 0.3, 0.2 - 1e-6, 1e-6])
    x = np.array([[round(total * share) for share in p[:3]] + [0]], "float64")
    x[0, 0] += total - x.sum()
    logits = np.log(p)[None]
    found = numpy(Multinomial().log_prob(tensor(x), tensor(logits)))
    np.testing.assert_allclose(found, stats.multinomial(total, p).logpmf(x), rtol=1e-5, atol=1e-4 * (1 + total / 1e5))
    g = gradient(lambda value: ops.sum(Multinomial().log_prob(tensor(x), value)), logits)
    np.testing.assert_allclose(g, x - total * p, rtol=1e-3, atol=1e-5 + 1e-6 * total)


def test_a_multinomial_says_what_it_cannot_know():
    """The total is not the decoder's to know, and a count that is missing leaves it unknown."""
    logits = np.log([[0.2, 0.8]])
    np.testing.assert_allclose(numpy(Multinomial().mean(tensor(logits))), [[0.2, 0.8]], rtol=1e-6)
    with pytest.raises(ValueError, match=r"needs the number of counts: pass Multinomial\(total=...\)"):
        Multinomial().sample(logits)
    Multinomial().validate(np.array([[np.nan, np.nan], [0.0, 3.0]]), missing=True)
    with pytest.raises(ValueError, match=r"^x has an example of which only some counts .* total, at index \(1,\)"):
        Multinomial().validate(np.array([[0.0, 3.0], [np.nan, 3.0]]), missing=True)


def test_a_category_by_its_code_is_the_same_as_one_hot():
    """Alone with an axis of categories, and as columns of a table, where a missing one is no class for the encoder."""
    rng = np.random.default_rng(3)
    codes, logits = rng.integers(0, 4, (6, 2)).astype("float32"), rng.normal(size=(3, 6, 2, 4)).astype("float32")
    holes, by_code = np.where(rng.random((6, 2)) < 0.3, np.nan, codes), Categorical(num_classes=4)
    one_hot, observed = np.eye(4, dtype="float32")[codes.astype(int)], ~np.isnan(holes)
    assert by_code.data_shape((None, *by_code.parameter_shape((7, 2)))) == (None, 7, 2)
    expected = numpy(ops.sum(Categorical().log_prob_per_dimension(tensor(one_hot), tensor(logits)), axis=-1))
    np.testing.assert_allclose(numpy(by_code.log_prob(codes, logits)), expected.sum(axis=-1), rtol=1e-5)
    found = numpy(by_code.log_prob(holes, logits, observed))
    np.testing.assert_allclose(found, (expected * observed).sum(axis=-1), rtol=1e-5)
    draws, drawn_one_hot = by_code.sample(logits, seed=1), Categorical().sample(logits, seed=1)
    np.testing.assert_array_equal(draws, drawn_one_hot.argmax(axis=-1))
    np.testing.assert_array_equal(numpy(by_code.mean(tensor(logits))), logits.argmax(axis=-1))
    np.testing.assert_array_equal(numpy(by_code.for_encoder(tensor(codes))), one_hot)

    table, expanded = Mixed([(by_code, 2), ("mse", 1)]), Mixed([("categorical", 4), ("categorical", 4), ("mse", 1)])
    flat = np.concatenate([logits.reshape(3, 6, 8), rng.normal(size=(3, 6, 1))], axis=-1).astype("float32")
    x, wide = np.column_stack([codes, codes[:, 0]]), np.column_stack([one_hot.reshape(6, 8), codes[:, 0]])
    assert table.parameter_shape((3,)) == (9,)
    np.testing.assert_allclose(numpy(table.log_prob(x, flat)), numpy(expanded.log_prob(wide, flat)), rtol=1e-5)
    np.testing.assert_array_equal(numpy(table.for_encoder(tensor(x))), numpy(tensor(wide)))
    np.testing.assert_array_equal(numpy(table.mean(tensor(flat)))[..., :2], logits.argmax(axis=-1))
    np.testing.assert_array_equal(table.sample(flat, 0)[..., :2].shape, draws.shape)
    seen = numpy(table.for_encoder(table.fill_missing(tensor(np.column_stack([holes, codes[:, 0]])))))
    np.testing.assert_array_equal(seen[:, :8], (one_hot * observed[..., None]).reshape(6, 8))


def test_a_model_of_tokens_takes_them_as_they_are(tmp_path):
    """An encoder that embeds integers, a decoder that ends in an axis of as many units as there are words."""
    tokens = np.tile([[3, 0, 4, 1]], (1024, 1))
    x, z = keras.Input((4,), dtype="int32"), keras.Input((2,))
    h = keras.layers.Flatten()(keras.layers.Embedding(5, 3)(x))
    encoder = keras.Model(x, [keras.layers.Dense(2)(h), keras.layers.Dense(2)(h)])
    decoder = keras.Model(z, keras.layers.Reshape((4, 5))(keras.layers.Dense(20)(z)))
    vae = keras_vae.VAE(encoder, decoder, Categorical(num_classes=5), seed=0)
    vae.compile(keras.optimizers.Adam(0.1))
    vae.fit(tokens, epochs=3, verbose=0)
    tokens = tokens[:5]
    for found in (vae.reconstruct(tokens), vae.predict(tokens, verbose=0), vae.sample(3, seed=0)):
        np.testing.assert_array_equal(found, tokens[: len(found)])
    vae.save(tmp_path / "tokens.keras")
    loaded = keras.saving.load_model(tmp_path / "tokens.keras")
    np.testing.assert_allclose(loaded.elbo(tokens, seed=0), vae.elbo(tokens, seed=0), rtol=1e-5)
    with pytest.raises(ValueError, match=r"num_classes=5\) needs whole numbers from 0 to 4, but x holds 5 at"):
        vae.fit(tokens + (tokens == 4), verbose=0)


def test_what_is_missing_is_not_judged():
    Poisson().validate(np.array([[np.nan, 2.0]]), missing=True)
    Poisson().validate(np.array([[1, 2]]), missing=True)
    Categorical().validate(np.array([[[np.nan, np.nan], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]]), missing=True)
    with pytest.raises(ValueError, match=r"^x has a category .* at index \(0, 1\)"):
        Categorical().validate(np.array([[[0.0, 1.0, 0.0], [np.nan, 0.0, 1.0]]]), missing=True)
    with pytest.raises(ValueError, match="^column 0 of x contains NaN"):
        Mixed([("mse", 1), ("bce", 1)]).validate(np.array([[np.nan, 1.0]]))


def test_the_mean_of_a_continuous_bernoulli_is_that_of_float64():
    logits = np.concatenate([np.linspace(-1.2, 1.2, 49), [-30.0, -5.0, 5.0, 30.0]])
    logits[logits == 0.0] = 1e-4
    expected = 0.5 + 0.5 / np.tanh(0.5 * logits) - 1.0 / logits
    np.testing.assert_allclose(numpy(ContinuousBernoulli().mean(tensor(logits))), expected, atol=8e-7)


@pytest.mark.parametrize("parts", [("mse", "laplace"), ("bce", "continuous_bernoulli"), ("bce", "poisson")])
def test_mixed_is_what_its_parts_are(parts):
    parts = [likelihoods.get(part) for part in parts]
    mixed = Mixed([(part, 1) for part in parts])
    assert repr(mixed) == f"Mixed([({parts[0]!r}, 1), ({parts[1]!r}, 1)])"
    assert mixed.is_discrete == all(part.is_discrete for part in parts)
    mean = np.array([[0.2, 0.7], [0.5, 0.6]])
    parameters = mixed.parameters_at_mean(mean)
    np.testing.assert_allclose(numpy(mixed.mean(tensor(parameters))), mean, rtol=1e-4)
    whole = [
        part.log_prob(tensor(mean[:, i : i + 1]), tensor(parameters[:, i : i + 1])) for i, part in enumerate(parts)
    ]
    found = numpy(mixed.log_prob_per_dimension(tensor(mean), tensor(parameters)))
    np.testing.assert_allclose(found, np.stack([numpy(part) for part in whole], axis=1), rtol=1e-6)
    if mixed.has_stddev:
        stddevs = [numpy(part.stddev(tensor(parameters[:, i : i + 1]))) for i, part in enumerate(parts)]
        np.testing.assert_allclose(numpy(mixed.stddev(tensor(parameters))), np.concatenate(stddevs, axis=1))
    low, high = mixed.ranges(2)
    expected = None if np.isinf(low).all() and np.isinf(high).all() else (low.min(), high.max())
    assert mixed.data_range == expected


def test_standardized_is_the_change_of_variables_of_each_column():
    """Also of a mixture, with holes, with a column that is constant, and as a group of columns."""
    rng = np.random.default_rng(8)
    unit, offset = np.array([1000.0, 0.01, 1.0]), np.array([-7000.0, 3.0, 4.0])
    x = (rng.normal(size=(50, 3)) * [1.0, 1.0, 0.0] * unit + offset).astype("float32")
    holes = np.where(rng.random(x.shape) < 0.2, np.float32(np.nan), x)
    observed = ~np.isnan(holes)
    likelihood = Standardized.fit(Mixed([(Gaussian("optimal"), 2), (Laplace("predicted"), 1)]), holes)
    mean, stddev = np.nanmean(holes, axis=0, dtype="float64"), np.nanstd(holes, axis=0, dtype="float64")
    stddev[2] = 1.0
    config = likelihood.get_config()
    np.testing.assert_allclose([config["mean"], config["stddev"]], [mean, stddev], rtol=1e-6)
    standard = np.where(observed, (holes - np.float32(mean)) / np.float32(stddev), np.nan)
    point = rng.normal(size=(2, 50, 4)).astype("float32")
    base, group = likelihoods.get(config["likelihood"]), Mixed([(likelihood, 3), ("poisson", 1)])
    fitted, expected_fitted = (
        one.update(tensor(data), tensor(point), tensor(observed) > 0)
        for one, data in ((likelihood, holes), (base, standard))
    )
    expected = base.log_prob(tensor(standard), tensor(point), observed, expected_fitted)
    found = likelihood.log_prob(tensor(holes), tensor(point), observed, fitted)
    np.testing.assert_allclose(numpy(found), numpy(expected) - observed @ np.log(stddev), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(numpy(likelihood.mean(tensor(point))), numpy(base.mean(tensor(point))) * stddev + mean)
    np.testing.assert_allclose(numpy(likelihood.stddev(tensor(point))), numpy(base.stddev(tensor(point))) * stddev)
    np.testing.assert_allclose(likelihood.sample(point, 0), base.sample(point, 0) * stddev + mean, rtol=1e-6)
    np.testing.assert_allclose(likelihood.parameters_at_mean(x), base.parameters_at_mean((x - mean) / stddev), 1e-2)
    # The encoder sees standardised data, and 0 where a value is missing.
    seen = numpy(group.for_encoder(group.fill_missing(tensor(np.column_stack([holes, np.full(50, np.nan)])))))
    np.testing.assert_allclose(seen, np.nan_to_num(np.column_stack([standard, np.zeros(50)])), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bce",), r"needs a likelihood of real numbers, .* but Bernoulli\(.*standardise the real columns alone"),
        ((Mixed([("mse", 1), ("poisson", 1)]),), "of real numbers, .* but Mixed"),
        (("mse", [1.0, 2.0], [1.0, 2.0, 3.0]), "must be for as many channels; got 2, 3"),
        (("mse", 0.0, [1.0, 0.0]), "stddev must be above 0; got 0. For a constant column it is 1"),
        (("mse", [[0.0]]), r"mean must be a finite number, or one for each channel .* of shape \(1, 1\)"),
        (("mse", 0.0, float("nan")), "stddev must be a finite number"),
    ],
)
def test_standardized_refuses_what_it_cannot_standardise(arguments, words):
    with pytest.raises(ValueError, match=words):
        Standardized(*arguments)


def test_standardized_refuses_other_data_than_it_was_made_for():
    likelihood = Standardized("mse", [0.0, 1.0], 2.0)
    for act in (
        likelihood.ranges,
        likelihood.parameter_channels,
        lambda channels: likelihood.validate(np.zeros((4, channels))),
        lambda channels: likelihood.for_encoder(np.zeros((4, channels))),
    ):
        act(2)
        with pytest.raises(ValueError, match="for 2 channels, but the last axis of the data has 3"):
            act(3)
    with pytest.raises(ValueError, match=r"axis of examples and one of channels; got shape \(3,\)"):
        Standardized.fit("mse", np.zeros(3))


def test_the_scale_of_standardized_data_is_in_their_units():
    assert Standardized(Gaussian(0.5), 3.0, 4.0).current_scale == 2.0
    np.testing.assert_allclose(Standardized(Gaussian(0.5), 0.0, [4.0, 1.0]).current_scale, [2.0, 0.5])
    assert not hasattr(Standardized(Mixed([(Gaussian(1.0), 2)])), "current_scale")  # its parts have


@pytest.mark.parametrize(
    ("scale", "names", "trainable"),
    [("learned", ["raw_log_scale", "error", "batches"], 1), ("optimal", ["error", "batches"], 0), (1.0, [], 0)],
)
def test_what_a_scale_learns_is_a_weight_and_what_it_measures_is_not_trained(scale, names, trainable):
    likelihood = Laplace(scale)
    assert [weight.name for weight in likelihood.weights] == names
    assert len(likelihood.trainable_weights) == trainable


@pytest.mark.parametrize("groups", [[], [("mse",)], [("mse", 0)], "mse", ("mse", 3), ["mse", "bce"]])
def test_mixed_refuses_what_are_no_groups(groups):
    with pytest.raises(
        ValueError, match=r"Mixed needs pairs.*got .*|number of columns must be a whole number"
    ) as found:
        Mixed(groups)
    assert "'m', 's', 'e'" not in str(found.value)


def test_validate_accepts_what_is_right_and_gaussian_takes_any_finite_number():
    Bernoulli().validate(np.array([[0, 1]]))
    Bernoulli().validate(np.array([[True, False]]))
    Gaussian().validate(np.array([[-300.0, 300.0]]))
    with pytest.raises(ValueError, match="NaN"):
        Gaussian().validate(np.array([[np.nan]]))


def test_arguments_out_of_their_range_are_named():
    with pytest.raises(ValueError, match="^levels must be a whole number of at least 2"):
        DiscretizedLogistic(levels=1)
    with pytest.raises(ValueError, match="^Gaussian initial_scale must be above min_scale"):
        Gaussian("learned", initial_scale=0.1, min_scale=0.1)
    with pytest.raises(ValueError, match='or use likelihood="mse" for real-valued data'):
        ContinuousBernoulli().validate(np.array([[-7.0, 300.0]]))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), "big"])
def test_gaussian_refuses_a_scale_that_is_none(scale):
    with pytest.raises(ValueError, match="must be a positive number"):
        Gaussian(scale)


def test_get_by_name_object_and_config():
    assert isinstance(likelihoods.get("BCE"), Bernoulli)
    assert isinstance(likelihoods.get("bernoulli"), Bernoulli)
    assert isinstance(likelihoods.get("mse"), Gaussian)
    assert isinstance(likelihoods.get("gaussian"), Gaussian)
    for likelihood in (Bernoulli(from_logits=False), Gaussian(0.25)):
        assert likelihoods.get(likelihood) is likelihood
        copy = likelihoods.get(keras.saving.serialize_keras_object(likelihood))
        assert repr(copy) == repr(likelihood)
    with pytest.raises(ValueError, match='must be one of "bce", "bernoulli", "mse", "gaussian"'):
        likelihoods.get("mae")
    with pytest.raises(ValueError, match=r"the class Gaussian; pass an object: Gaussian\(...\)"):
        likelihoods.get(Gaussian)

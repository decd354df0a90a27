"""Coverage of draws: what is known of a linear-Gaussian model, right and wrong, and of categories and counts."""

import keras
import numpy as np
import pytest
from keras import layers
from scipy.stats import norm

from keras_vae import VAE, Bernoulli, Categorical, Gaussian, Mixed, Poisson, evaluation, networks

pytestmark = pytest.mark.once

SIGMA2 = 0.3
WEIGHTS = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 2)))[0] * [1.5, 0.8]
ROWS = 2000


def linear(scale=1.0, widen=1.0):
    """x = W z + noise with `scale` times the true standard deviation, and `widen` times the variance of its q(z|x)."""
    x, z = keras.Input((5,)), keras.Input((2,))
    encoder = keras.Model(x, [layers.Dense(2, name="mean")(x), layers.Dense(2, name="log_var")(x)])
    decoder = keras.Model(z, layers.Dense(5, name="x")(z))
    sigma2 = scale**2 * SIGMA2
    vae = VAE(encoder, decoder, likelihood=Gaussian(float(np.sqrt(sigma2))), seed=0, allow_missing=True)
    m = (WEIGHTS**2).sum(axis=0) + sigma2
    vae.encoder.get_layer("mean").set_weights([WEIGHTS / m, np.zeros(2)])
    vae.encoder.get_layer("log_var").set_weights([np.zeros((5, 2)), np.log(widen * sigma2 / m)])
    vae.decoder.get_layer("x").set_weights([WEIGHTS.T, np.zeros(5)])
    return vae


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(1)
    return (rng.normal(size=(ROWS, 2)) @ WEIGHTS.T + np.sqrt(SIGMA2) * rng.normal(size=(ROWS, 5))).astype("float32")


def covariance(sigma2):
    return WEIGHTS @ WEIGHTS.T + sigma2 * np.eye(5)


def shares(level, spread, promised):
    """Share of errors N(0, spread**2) inside the interval of a level of N(0, promised**2)."""
    return 2.0 * norm.cdf(norm.ppf(0.5 + level / 2.0) * promised / spread) - 1.0


def check(found, expected, count):
    error = np.sqrt(expected * (1.0 - expected) / count)
    assert np.all(np.abs(found - expected) < 4.0 * error + 0.005), (found, expected)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_intervals_of_imputation_hold_what_the_normal_says(x, scale):
    """One of five values hidden in each row: its law given the others, in the model and in truth."""
    hidden = np.arange(ROWS)[:, None] % 5 == np.arange(5)
    vae = linear(scale, widen=4.0)
    found = evaluation.coverage(vae, x, hidden, num_samples=200, seed=0, batch_size=40000)
    np.testing.assert_array_equal(np.isnan(found.pit), ~hidden)
    for level in (0.5, 0.9):
        expected = []
        for i in range(5):
            others = np.delete(np.arange(5), i)
            of_model, true = covariance(scale**2 * SIGMA2), covariance(SIGMA2)
            slope = np.linalg.solve(of_model[np.ix_(others, others)], of_model[others, i])
            promised = of_model[i, i] - slope @ of_model[others, i]
            weights = np.insert(-slope, i, 1.0)
            expected.append(shares(level, np.sqrt(weights @ true @ weights), np.sqrt(promised)))
        check(found.at(level), np.array(expected), ROWS // 5)
        assert found.overall(level) == pytest.approx(np.mean(found.at(level)), abs=1e-6)
    if scale == 1.0:
        check(found.at(0.9), np.full(5, 0.9), ROWS // 5)
        assert found.error < 0.02
    else:
        assert found.error > 0.1
        assert np.histogram(found.pit, 3, (0, 1))[0][1] < 0.25 * ROWS  # a valley


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_intervals_of_reconstructions_hold_what_the_normal_says(x, scale):
    """Errors of the mean at E[z|x], and the spread of z and of x given z."""
    sigma2 = scale**2 * SIGMA2
    found = evaluation.coverage(linear(scale), x, seed=0)
    m = (WEIGHTS**2).sum(axis=0) + sigma2
    rest = np.eye(5) - WEIGHTS @ (WEIGHTS / m).T
    spread = np.sqrt(np.diag(rest @ covariance(SIGMA2) @ rest.T))
    promised = np.sqrt(np.diag(WEIGHTS @ np.diag(sigma2 / m) @ WEIGHTS.T) + sigma2)
    for level in (0.5, 0.9):
        check(found.at(level), shares(level, spread, promised), ROWS)
    if scale == 1.0:
        assert found.overall(0.9) > 0.92  # z has seen x


def test_the_pit_of_many_draws_is_the_distribution_function(x):
    vae = linear()
    pit = evaluation.coverage(vae, x[:50], draws=4000, seed=1).pit
    m = (WEIGHTS**2).sum(axis=0) + SIGMA2
    promised = np.sqrt(np.diag(WEIGHTS @ np.diag(SIGMA2 / m) @ WEIGHTS.T) + SIGMA2)
    np.testing.assert_allclose(pit, norm.cdf(x[:50], vae.reconstruct(x[:50]), promised), atol=0.04)


def constant(likelihood, parameters, width):
    """A model that does not listen to z."""
    encoder, decoder = networks.mlp((width,), 1, hidden=(2,), likelihood=likelihood)
    kernel, _ = decoder.layers[-2].get_weights()
    decoder.layers[-2].set_weights([np.zeros_like(kernel), np.asarray(parameters)])
    return VAE(encoder, decoder, likelihood, seed=0, allow_missing=True)


@pytest.mark.parametrize("hidden", [None, 0.3])
def test_counts_and_categories_of_a_right_model_are_covered_exactly_by_few_draws(hidden):
    """Ties are most of the ranks here, and 9 draws have no quantile of 95 %."""
    rng = np.random.default_rng(2)
    likelihood = Mixed([(Poisson(), 1), (Categorical(), 3), (Categorical(num_classes=4), 1), (Bernoulli(), 1)])
    p, q = [0.7, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]
    numbers = [rng.poisson(0.8, ROWS)[:, None], np.eye(3)[rng.choice(3, ROWS, p=p)]]
    data = np.concatenate([*numbers, rng.choice(4, (ROWS, 1), p=q), rng.random((ROWS, 1)) < 0.4], axis=1)
    right = constant(likelihood, [np.log(0.8), *np.log(p), *np.log(q), np.log(0.4 / 0.6)], 6)
    found = evaluation.coverage(right, data, hidden, draws=9, num_samples=5, seed=0, batch_size=10000)
    first = [0, 1, 4, 5]
    assert np.isnan(found.pit[:, 2:4]).all()
    for level in (0.3, 0.8, 0.95):
        check(found.at(level)[first], np.full(4, level), ROWS if hidden is None else 0.3 * ROWS)
    assert found.error < 0.02
    sure = constant(likelihood, [np.log(0.8), 20.0, 0.0, 0.0, *np.log(q), 0.0], 6)
    wrong = evaluation.coverage(sure, data, hidden, draws=9, num_samples=5, seed=0, batch_size=10000)
    # It says the first category always. That is right in 70 %; a tenth of the level belongs to what 9 draws never say.
    check(wrong.at(0.95)[1], 0.7 * 0.95 + 0.3 * 0.5, ROWS if hidden is None else 0.3 * ROWS)


def test_hidden_categories_are_hidden_as_a_whole_and_missing_values_do_not_count():
    rng = np.random.default_rng(3)
    likelihood = Mixed([(Gaussian(), 2), (Categorical(), 3)])
    data = np.concatenate([rng.normal(size=(60, 2)), np.eye(3)[rng.integers(3, size=60)]], axis=1)
    data[:20, 0], data[10:30, 2:] = np.nan, np.nan
    vae = constant(likelihood, np.zeros(5), 5)
    shown = evaluation.coverage(vae, data, seed=0).pit
    np.testing.assert_array_equal(np.isnan(shown[:, :3]), np.isnan(data[:, :3]))
    hidden = evaluation.coverage(vae, data, 0.5, seed=0).pit
    assert np.isnan(hidden[np.isnan(data)]).all()
    assert 0.3 < np.mean(~np.isnan(hidden[30:, :3])) < 0.7


@pytest.mark.every_backend
@pytest.mark.parametrize("hidden", [None, 0.4])
def test_named_parts_with_a_condition_and_the_same_numbers_however_the_work_is_cut(hidden):
    shapes, rng = {"image": (2, 2), "label": ()}, np.random.default_rng(4)
    data = {"image": rng.integers(0, 2, (30, 2, 2)).astype("float32"), "label": rng.integers(0, 3, 30)}
    data["style"] = rng.integers(0, 5, 30)
    likelihood = {"image": "bce", "label": Categorical(3)}
    pair = networks.mlp(shapes, 2, hidden=(4,), likelihood=likelihood, condition={"style": 5})
    vae = VAE(*pair, likelihood, seed=0, allow_missing=True)
    found = evaluation.coverage(vae, data, hidden, draws=7, num_samples=20, seed=0)
    again = evaluation.coverage(vae, data, hidden, draws=7, num_samples=20, seed=0, batch_size=40)
    for name, shape in shapes.items():
        assert found.pit[name].shape == (30, *shape)
        assert found.at(0.5)[name].shape == shape
        np.testing.assert_array_equal(found.pit[name], again.pit[name])
    batches = [{name: part[i : i + 8] for name, part in data.items()} for i in range(0, 30, 8)]
    streamed = evaluation.coverage(vae, iter(batches), hidden, draws=7, num_samples=20, seed=0)
    assert streamed.overall(0.9) == found.overall(0.9)


def test_what_cannot_be_compared_says_so(x, make_vae, digits):
    vae = linear()
    with pytest.raises(ValueError, match=r"hidden must be a number between 0 and 1"):
        evaluation.coverage(vae, x, hidden=2)
    with pytest.raises(ValueError, match=r"booleans of the shape of x, \(2000, 5\); got bool of shape \(5,\)"):
        evaluation.coverage(vae, x, hidden=np.ones(5, bool))
    with pytest.raises(ValueError, match="No value is hidden"):
        evaluation.coverage(vae, x, hidden=np.zeros_like(x, bool))
    with pytest.raises(ValueError, match="allow_missing=True"):
        evaluation.coverage(make_vae(), digits, hidden=0.5)
    with pytest.raises(ValueError, match="Draws of this model are not like x"):
        evaluation.coverage(make_vae(), digits * 0.5)
    with pytest.raises(ValueError, match="level must be a number between 0 and 1"):
        evaluation.coverage(vae, x[:20], draws=3).at(90)

"""The threshold of the anomaly score: a quantile that keeps its promise, and tells digits from what is none.

And where an example is strange, in models whose densities are known.
"""

import dataclasses

import keras
import numpy as np
import pandas
import pytest
from keras import layers

import keras_vae
from keras_vae import VAE, Gaussian, tables
from keras_vae.evaluation import Threshold, anomalies, fit_threshold, surprise

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def data():
    return keras_vae.datasets.load("digits", binarize="threshold")


@pytest.fixture(scope="module")
def vae(data):
    """Trained for long enough to know a digit."""
    keras.utils.set_random_seed(3)
    encoder, decoder = keras_vae.networks.mlp((8, 8, 1), 4, hidden=(64,), data_mean=data.train.mean(0))
    vae = keras_vae.VAE(encoder, decoder, seed=0)
    vae.compile(keras.optimizers.Adam(5e-3))
    vae.fit(data.train, epochs=8, batch_size=64, verbose=0)
    return vae


def test_it_is_a_quantile_of_the_scores(vae, data):
    x = data.test
    threshold = fit_threshold(vae, x, 0.95, num_samples=3, seed=7, batch_size=50)
    scores = -vae.elbo(x, 3, 7)
    assert threshold.nats == pytest.approx(np.quantile(scores, 0.95, method="higher"), rel=1e-6)
    assert threshold == Threshold(threshold.nats, 0.95, 3, 7, len(x))
    # Anything else the scores are made with is another threshold.
    assert fit_threshold(vae, x, 0.95, num_samples=3, seed=8).nats != threshold.nats
    assert fit_threshold(vae, x, 0.95, num_samples=4, seed=7).nats != threshold.nats


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.95, 0.983, 0.99])
def test_of_the_data_it_was_fitted_on_no_more_than_promised_is_called_anomalous(vae, data, quantile, two_sided):
    x = data.test
    threshold = fit_threshold(vae, x, quantile, num_samples=2, two_sided=two_sided)
    found = anomalies(vae, x, threshold)
    assert (found.shape, found.dtype) == ((len(x),), bool)
    promised = round((1 - quantile) * len(x), 9)
    assert max(promised - (4 if two_sided else 2), 1) <= found.sum() <= promised
    assert (threshold.low is not None) == two_sided
    if two_sided:
        scores = -vae.elbo(x, 2, 0)
        assert (scores < threshold.low).sum() == (scores > threshold.nats).sum() > 0


def test_other_digits_are_normal_and_what_is_no_digit_is_not(vae, data):
    fitted, normal = data.test[:150], data.test[150:]
    threshold = fit_threshold(vae, fitted, 0.95)
    assert anomalies(vae, normal, threshold).mean() < 0.15
    rng = np.random.default_rng(0)
    for name, strange in {
        "inverted": 1.0 - normal,
        "noise": (rng.random(normal.shape) < 0.5).astype("float32"),
        "shuffled": rng.permuted(normal.reshape(len(normal), -1), axis=1).reshape(normal.shape),
    }.items():
        assert anomalies(vae, strange, threshold).mean() > 0.9, name


def test_the_error_of_the_share_is_that_of_a_quantile():
    """Whatever the distribution of the scores: here, 4000 times 500 of them, of which the true share is known."""
    scores = np.random.default_rng(0).exponential(size=(4000, 500))
    shares = np.exp(-np.quantile(scores, 0.98, axis=1, method="higher"))
    threshold = Threshold(0.0, 0.98, 1, 0, 500)
    assert shares.mean() == pytest.approx(0.02, rel=0.1)
    assert shares.std() == pytest.approx(threshold.standard_error, rel=0.05)


def test_a_score_at_the_threshold_is_normal_and_one_that_is_no_number_is_not():
    scores = np.array([-np.inf, 1.0, 2.0, 2.5, np.inf, np.nan], "float32")
    assert Threshold(2.0, 0.99, 1, 0, 100).is_anomaly(scores).tolist() == [False, False, False, True, True, True]
    two_sided = Threshold(2.0, 0.99, 1, 0, 100, low=1.0)
    assert two_sided.is_anomaly(scores).tolist() == [True, False, False, True, True, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantile": 1.0}, "quantile must be a number between 0 and 1, such as 0.99; got 1.0"),
        ({"quantile": 0}, "quantile must be a number between 0 and 1"),
        ({"quantile": "0.9"}, "quantile must be a number between 0 and 1.*got '0.9'"),
        ({"quantile": float("nan")}, "quantile must be a number between 0 and 1"),
        ({"quantile": 0.91}, "quantile 0.91 needs at least 13 examples.*x has 11. Give more, or a smaller quantile"),
        ({"num_samples": 0}, "num_samples must be a whole number"),
        ({"seed": None}, "seed must be a whole number of at least 0; got None"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
    ],
)
def test_what_gives_no_threshold_is_refused(make_vae, digits, arguments, message):
    vae = make_vae()
    with pytest.raises(ValueError, match=message):
        fit_threshold(vae, digits[:11], **{"quantile": 0.9, **arguments})


@pytest.mark.parametrize(
    ("quantile", "fewest", "sides"), [(0.9, 11, 1), (0.5, 3, 1), (0.7, 5, 1), (0.99, 101, 1), (0.9, 21, 2), (0.7, 8, 2)]
)
def test_of_the_fewest_examples_that_are_allowed_one_lies_beyond_each_side(make_vae, digits, quantile, fewest, sides):
    vae, x = make_vae(), np.tile(digits, (10, 1, 1, 1))[:fewest]
    assert anomalies(vae, x, fit_threshold(vae, x, quantile, two_sided=sides == 2)).sum() == sides
    with pytest.raises(ValueError, match=f"needs at least {fewest} examples, or none of them lies beyond it"):
        fit_threshold(vae, x[1:], quantile, two_sided=sides == 2)


def test_scores_that_are_not_finite_give_no_threshold(make_vae, digits):
    vae = make_vae()
    vae.decoder.set_weights([np.full_like(weights, np.nan) for weights in vae.decoder.get_weights()])
    with pytest.raises(ValueError, match="The ELBO of 11 of 11 examples is not finite: look for NaN in the model's"):
        fit_threshold(vae, digits[:11], 0.9)


def linear_gaussian(likelihood, weights, variance, shift=0.0, scale=1.0):
    """A VAE of (x - shift) / scale = W z + noise, with its exact posterior: the bound is log p(x)."""
    x, z = keras.Input((len(weights),)), keras.Input((weights.shape[1],))
    mean, log_var, decode = layers.Dense(weights.shape[1]), layers.Dense(weights.shape[1]), layers.Dense(len(weights))
    vae = VAE(keras.Model(x, [mean(x), log_var(x)]), keras.Model(z, decode(z)), likelihood, seed=0, allow_missing=True)
    covariance = np.linalg.inv(np.eye(weights.shape[1]) + weights.T @ weights / variance)
    assert np.allclose(covariance, np.diag(np.diag(covariance)))  # a diagonal normal is exact
    to_mean = weights @ covariance / variance / np.reshape(np.broadcast_to(scale, len(weights)), (-1, 1))
    mean.set_weights([to_mean, -np.broadcast_to(shift, len(weights)) @ to_mean])
    log_var.set_weights([np.zeros(weights.shape), np.log(np.diag(covariance))])
    decode.set_weights([weights.T, np.zeros(len(weights))])
    return vae


def test_a_stuck_sensor_is_caught_by_two_sides_and_by_one_it_is_the_most_normal_of_all():
    rng = np.random.default_rng(0)
    weights = np.linalg.qr(rng.normal(size=(40, 2)))[0] * [3.0, 2.0]
    vae = linear_gaussian(Gaussian(0.5), weights, 0.25)
    x = (rng.normal(size=(3000, 2)) @ weights.T + 0.5 * rng.normal(size=(3000, 40))).astype("float32")
    stuck = np.repeat(x[:50, :1], 40, axis=1) * 0.05  # one number all the time, near the mean
    one, two = (fit_threshold(vae, x[:2000], 0.98, num_samples=2, two_sided=sides) for sides in (False, True))
    assert not anomalies(vae, stuck, one).any()
    assert anomalies(vae, stuck, two).all()
    assert anomalies(vae, x[2000:], two).mean() == pytest.approx(0.02, abs=0.015)
    assert anomalies(vae, 2.0 * x[2000:], two).mean() > 0.9  # above, as before
    # What is usual adds up to what log p(x) loses but for the KL, and no dimension of normal data is surprising.
    nats = surprise(vae, x[:2000], two)
    np.testing.assert_allclose(nats.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(two.usual, -vae.elbo(x[:2000], 2, 0, per_dimension=True).mean(axis=0), rtol=1e-5)
    # By hand: E_q of the squared error is that at the mean of q, and the variance of what is decoded.
    squares = np.square(x[2000:] - vae.reconstruct(x[2000:])).mean(axis=0) + np.square(weights) @ (
        0.25 / (0.25 + np.square(weights).sum(axis=0))
    )
    expected = 0.5 * squares / 0.25 + 0.5 * np.log(2 * np.pi * 0.25)
    np.testing.assert_allclose(two.usual, expected, rtol=0.15)


@pytest.fixture(scope="module")
def table():
    """Numbers that one latent moves together, one of them in tiny units, and categories of their own."""
    rng = np.random.default_rng(1)
    h = rng.normal(size=2000)
    moved = np.sqrt(0.8) * h[:, None] + np.sqrt(0.2) * rng.normal(size=(2000, 4))
    colours = np.array([f"colour {i}" for i in range(8)])
    columns = {"a": moved[:, 0], "colour": colours[rng.integers(8, size=2000)], "b": 3.0 + moved[:, 1]}
    columns |= {"c": 1e20 * moved[:, 2], "d": 0.01 * moved[:, 3], "is new": rng.random(2000) < 0.5}
    return pandas.DataFrame(columns)


@pytest.fixture(scope="module")
def of_table(table):
    """The model that drew the table; without training, it is as its formula says."""
    kinds = tables.Table.fit(table)
    likelihood = kinds.likelihood(Gaussian(float(np.sqrt(0.2))))
    numbers = np.array([(column.mean, column.stddev) for column in kinds.columns if column.kind != "category"])
    shift, scale = np.concatenate([numbers, np.tile([0.0, 1.0], (10, 1))]).T
    weights = np.concatenate([np.full((4, 1), np.sqrt(0.8)), np.zeros((10, 1))])
    return linear_gaussian(likelihood, weights, 0.2, shift, scale)


def test_the_guilty_column_is_named_whatever_its_units(table, of_table):
    kinds = of_table.likelihood.table
    normal, rows = kinds.to_array(table), table.iloc[:200].copy()
    threshold = fit_threshold(of_table, normal, num_samples=2)
    numbers = ["a", "b", "c", "d"]
    guilty = np.resize(numbers, len(rows))
    for name in numbers:  # a deviation of 4 from what the others say
        rows.loc[guilty == name, name] += 4.0 * table[name].std()
    x = kinds.to_array(rows)
    nats = kinds.by_column(surprise(of_table, x, threshold))
    assert list(nats) == list(table.columns)
    assert all(each.shape == (200,) for each in nats.values())
    named = pandas.DataFrame(nats).idxmax(axis=1).to_numpy()
    assert (named == guilty).mean() > 0.98
    assert anomalies(of_table, x, threshold).mean() > 0.9
    # The costs themselves name the column of the largest units.
    costs = pandas.DataFrame(kinds.by_column(-of_table.elbo(x, 2, 0, per_dimension=True)))
    assert (costs.idxmax(axis=1) == "c").all()


def test_a_category_is_the_sum_of_its_columns_and_what_is_missing_surprises_nobody(table, of_table):
    kinds = of_table.likelihood.table
    x = kinds.to_array(table)
    places = [i for i, name in enumerate(kinds.names) if name.startswith("colour")]
    x[:1000, 1], x[500:, 2], x[:200, places] = np.nan, np.nan, np.nan
    threshold = fit_threshold(of_table, x, num_samples=2)
    # Equal probabilities, whatever z is: log 8 nats each time, of which nothing is a surprise.
    assert threshold.usual[places].sum() == pytest.approx(np.log(8.0), rel=1e-5)
    nats = surprise(of_table, x, threshold)
    assert nats.shape == x.shape
    np.testing.assert_array_equal(nats[np.isnan(x)], 0.0)
    np.testing.assert_allclose(kinds.by_column(nats)["colour"], 0.0, atol=1e-5)
    np.testing.assert_allclose(nats.sum(axis=0) / (~np.isnan(x)).sum(axis=0), 0.0, atol=1e-4)
    np.testing.assert_array_equal(kinds.by_column(nats)["c"], nats[:, 2])


def test_batches_that_can_be_read_once_give_the_same_threshold_and_the_same_surprise(vae, data):
    x = data.test[:64]
    expected = fit_threshold(vae, x, 0.9, num_samples=2)
    found = fit_threshold(vae, (x[start : start + 20] for start in range(0, 64, 20)), 0.9, num_samples=2)
    assert found.nats == pytest.approx(expected.nats, rel=1e-6)
    np.testing.assert_allclose(found.usual, expected.usual, rtol=1e-4, atol=1e-5)
    nats = surprise(vae, (x[start : start + 20] for start in range(0, 64, 20)), expected)
    np.testing.assert_allclose(nats, surprise(vae, x, expected), rtol=1e-4, atol=1e-4)


def test_thresholds_are_compared_and_shown_without_what_is_usual():
    usual = np.zeros((28, 28), "float32")
    one, other = Threshold(2.0, 0.99, 1, 0, 100, usual=usual), Threshold(2.0, 0.99, 1, 0, 100, usual=usual.copy())
    assert one == other == Threshold(2.0, 0.99, 1, 0, 100)
    assert hash(one) == hash(other)
    assert one != dataclasses.replace(one, low=1.0)
    assert repr(one) == "Threshold(nats=2.0, quantile=0.99, num_samples=1, seed=0, examples=100, low=None)"


def test_a_threshold_of_other_data_surprises_nobody(vae, data):
    with pytest.raises(
        ValueError, match=r"does not know what each dimension usually costs: fit it anew, on data of one shape"
    ):
        surprise(vae, data.test, Threshold(2.0, 0.99, 1, 0, 100))
    with pytest.raises(ValueError, match=r"fitted on examples of shape \(28, 28\), and those of x have \(8, 8, 1\)"):
        surprise(vae, data.test, Threshold(2.0, 0.99, 1, 0, 100, usual=np.zeros((28, 28), "float32")))


def test_where_sizes_are_free_nothing_is_usual():
    networks = keras_vae.networks.conv_spatial((None, None, 1), 1, filters=(2,))
    vae = VAE(*networks, seed=0)
    x = np.zeros((11, 4, 6, 1), "float32")
    assert fit_threshold(vae, x, 0.9).usual is None

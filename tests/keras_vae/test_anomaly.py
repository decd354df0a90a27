"""The threshold of the anomaly score: a quantile that keeps its promise, and tells digits from what is none."""

import keras
import numpy as np
import pytest

import keras_vae
from keras_vae.evaluation import Threshold, anomalies, fit_threshold

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


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.95, 0.983, 0.99, 0.996])
def test_of_the_data_it_was_fitted_on_no_more_than_promised_is_called_anomalous(vae, data, quantile):
    x = data.test
    found = anomalies(vae, x, fit_threshold(vae, x, quantile))
    assert (found.shape, found.dtype) == ((len(x),), bool)
    promised = round((1 - quantile) * len(x), 9)
    assert max(promised - 2, 1 if promised >= 2 else 0) <= found.sum() <= promised


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


@pytest.mark.parametrize(("quantile", "fewest"), [(0.9, 11), (0.5, 3), (0.7, 5), (0.99, 101)])
def test_of_the_fewest_examples_that_are_allowed_one_lies_above(make_vae, digits, quantile, fewest):
    vae, x = make_vae(), np.tile(digits, (10, 1, 1, 1))[:fewest]
    assert anomalies(vae, x, fit_threshold(vae, x, quantile)).sum() == 1
    with pytest.raises(ValueError, match=f"needs at least {fewest} examples, or none of them lies beyond it"):
        fit_threshold(vae, x[1:], quantile)


def test_scores_that_are_not_finite_give_no_threshold(make_vae, digits):
    vae = make_vae()
    vae.decoder.set_weights([np.full_like(weights, np.nan) for weights in vae.decoder.get_weights()])
    with pytest.raises(ValueError, match="The ELBO of 11 of 11 examples is not finite: look for NaN in the model's"):
        fit_threshold(vae, digits[:11], 0.9)

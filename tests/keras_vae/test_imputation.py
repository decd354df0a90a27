"""Missing values filled in: the conditional distribution of a model in which it is known, and what stays as it was."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_vae import VAE, Categorical, Gaussian, Mixed, networks

pytestmark = pytest.mark.once

SIGMA2 = 0.3
WEIGHTS = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 2)))[0] * [1.5, 0.8]


@pytest.fixture(scope="module")
def linear():
    """x = W z + noise, with an encoder that is right where nothing is missing, and too wide."""
    x, z = keras.Input((5,)), keras.Input((2,))
    encoder = keras.Model(x, [layers.Dense(2, name="mean")(x), layers.Dense(2, name="log_var")(x)])
    decoder = keras.Model(z, layers.Dense(5, name="x")(z))
    vae = VAE(encoder, decoder, likelihood=Gaussian(float(np.sqrt(SIGMA2))), seed=0, allow_missing=True)
    m = (WEIGHTS**2).sum(axis=0) + SIGMA2
    vae.encoder.get_layer("mean").set_weights([WEIGHTS / m, np.zeros(2)])
    vae.encoder.get_layer("log_var").set_weights([np.zeros((5, 2)), np.log(3.0 * SIGMA2 / m)])
    vae.decoder.get_layer("x").set_weights([WEIGHTS.T, np.zeros(5)])
    return vae


@pytest.fixture(scope="module")
def holes():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(12, 2)) @ WEIGHTS.T + np.sqrt(SIGMA2) * rng.normal(size=(12, 5))
    x[rng.random(x.shape) < 0.4] = np.nan
    x[0], x[1] = np.nan, 0.5
    return x.astype("float32")


def conditional(row):
    """Mean and covariance of the missing values of a row given the others."""
    covariance, missing = WEIGHTS @ WEIGHTS.T + SIGMA2 * np.eye(5), np.isnan(row)
    slope = covariance[np.ix_(missing, ~missing)] @ np.linalg.inv(covariance[np.ix_(~missing, ~missing)])
    return slope @ row[~missing], covariance[np.ix_(missing, missing)] - slope @ covariance[np.ix_(~missing, missing)]


def test_the_mean_is_that_of_the_missing_values_given_the_observed_ones(linear, holes):
    found = linear.impute(holes, num_samples=20000, seed=0, batch_size=100000)
    for row, filled in zip(holes, found, strict=True):
        np.testing.assert_allclose(filled[np.isnan(row)], conditional(row)[0], atol=0.06)
    # What the decoder says at one z is further off.
    expected = np.concatenate([conditional(row)[0] for row in holes])
    plain = linear.reconstruct(holes)[np.isnan(holes)]
    assert np.square(plain - expected).mean() > 20 * np.square(found[np.isnan(holes)] - expected).mean()


def test_draws_have_the_conditional_covariance(linear, holes):
    """But of a row without any value: there q is too narrow for the weights to mend with so few z."""
    found = linear.impute(holes, draws=1000, num_samples=1000, seed=0, batch_size=30000)
    assert found.shape == (1000, 12, 5)
    for i, row in enumerate(holes[2:], start=2):
        missing = np.isnan(row)
        mean, covariance = conditional(row)
        np.testing.assert_allclose(found[:, i, missing].mean(axis=0), mean, atol=0.12)
        np.testing.assert_allclose(np.atleast_2d(np.cov(found[:, i, missing].T)), covariance, atol=0.3)


@pytest.mark.every_backend
@pytest.mark.parametrize("draws", [None, 2])
def test_what_is_observed_stays_bit_for_bit_and_a_seed_repeats(linear, holes, draws):
    found = linear.impute(holes, draws, num_samples=20, seed=3)
    assert found.dtype == "float32"
    assert np.isfinite(found).all()
    seen = ~np.isnan(holes)
    np.testing.assert_array_equal(found[..., seen], np.broadcast_to(holes[seen], (*found.shape[:-2], seen.sum())))
    np.testing.assert_array_equal(found, linear.impute(holes, draws, num_samples=20, seed=3))
    for batch_size in (7, 60, 500):  # a row at a time, three, all
        np.testing.assert_allclose(found, linear.impute(holes, draws, 20, 3, batch_size), rtol=1e-4, atol=1e-5)
    assert np.abs(found - linear.impute(holes, draws, num_samples=20, seed=4)).max() > 1e-3


def test_categories_are_filled_with_probabilities_or_codes_and_drawn_as_categories(digits):
    likelihood = Mixed([(Gaussian("learned"), 1), (Categorical(), 3), (Categorical(num_classes=4), 1)])
    vae = VAE(*networks.mlp((5,), 2, hidden=(8,), likelihood=likelihood), likelihood, seed=0, allow_missing=True)
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [rng.normal(size=(30, 1)), np.eye(3)[rng.integers(3, size=30)], rng.integers(4, size=(30, 1))], 1
    )
    x[:10, 0], x[5:15, 1:4], x[10:20, 4] = np.nan, np.nan, np.nan
    mean, drawn = vae.impute(x, seed=0), vae.impute(x, draws=3, seed=0)
    np.testing.assert_allclose(mean[5:15, 1:4].sum(axis=1), 1.0, rtol=1e-5)
    assert ((mean[5:15, 1:4] > 0.0) & (mean[5:15, 1:4] < 1.0)).all()
    assert set(np.unique(mean[:, 4])) <= {0.0, 1.0, 2.0, 3.0}
    assert set(np.unique(drawn[:, 5:15, 1:4])) == {0.0, 1.0}
    assert (drawn[:, 5:15, 1:4].sum(axis=-1) == 1.0).all()
    assert set(np.unique(drawn[..., 4])) <= {0.0, 1.0, 2.0, 3.0}


def test_a_conditional_model_takes_its_condition():
    vae = VAE(*networks.mlp((5,), 2, hidden=(8,), condition=3), seed=0, allow_missing=True)
    x = np.where(np.random.default_rng(0).random((9, 5)) < 0.5, np.nan, 1.0).astype("float32")
    data = {"x": x, "condition": np.arange(9) % 3}
    for draws in (None, 2):
        assert np.isfinite(vae.impute(data, draws, seed=0)).all()


def test_a_model_that_knows_no_missing_values_says_so(make_vae, digits):
    with pytest.raises(ValueError, match=r"make and train it with VAE\(\.\.\., allow_missing=True\)"):
        make_vae().impute(digits)
    with pytest.raises(ValueError, match="draws"):
        make_vae(allow_missing=True).impute(digits, draws=0)


def test_the_terms_of_each_dimension_add_up_to_the_bound(linear, holes):
    terms = linear.elbo(holes, num_samples=3, seed=0, batch_size=7, per_dimension=True)
    assert terms.shape == holes.shape
    np.testing.assert_array_equal(terms[np.isnan(holes)], 0.0)
    reconstruction, kl, _ = linear._elbo_terms(holes, 3, 0, 7)
    np.testing.assert_allclose(terms.sum(axis=1), -reconstruction, rtol=1e-5)
    np.testing.assert_allclose(terms.sum(axis=1) - kl, linear.elbo(holes, 3, 0, 7), rtol=1e-5)

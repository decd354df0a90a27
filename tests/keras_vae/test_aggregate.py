"""The density fitted to the codes: scikit-learn's numbers, and samples that are nearer to the data."""

import sys

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.mixture import GaussianMixture

from keras_vae import VAE
from keras_vae.distributions import FullMixture
from keras_vae.evaluation import fit_aggregate_posterior

pytestmark = pytest.mark.once

MEANS = np.array([[-4.0, 2.0], [3.0, 0.0]])
COVARIANCES = np.array([[[1.0, 0.6], [0.6, 0.5]], [[0.2, 0.0], [0.0, 2.0]]])


def copying(width=2):
    """A model whose codes are the data, whatever the prior says, and whose decoder gives them back."""
    x, z = keras.Input((width,)), keras.Input((width,))
    encoder = keras.Model(x, [layers.Dense(width, name="mean")(x), layers.Dense(width, name="log_var")(x)])
    vae = VAE(encoder, keras.Model(z, layers.Dense(width, name="x")(z)), "mse", seed=0)
    encoder.get_layer("mean").set_weights([np.eye(width), np.zeros(width)])
    encoder.get_layer("log_var").set_weights([np.zeros((width, width)), np.full(width, -10.0)])
    vae.decoder.get_layer("x").set_weights([np.eye(width), np.zeros(width)])
    return vae


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    return np.concatenate(
        [rng.multivariate_normal(*each, size=n) for *each, n in zip(MEANS, COVARIANCES, (600, 300), strict=True)]
    ).astype("float32")


def by_hand():
    return FullMixture(MEANS, np.linalg.cholesky(COVARIANCES), np.log([0.7, 0.3]))


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_its_density_is_that_of_scikit_learn(x, covariance):
    vae = copying()
    found = fit_aggregate_posterior(vae, x, components=3, seed=1, covariance=covariance)
    z = vae.encode(x).sample(seed=1)
    expected = GaussianMixture(3, covariance_type=covariance, random_state=1).fit(z.astype("float64"))
    np.testing.assert_allclose(found.log_prob(z), expected.score_samples(z.astype("float64")), rtol=1e-6)
    np.testing.assert_allclose(found.log_prob(z[:6].reshape(2, 3, 2)), found.log_prob(z[:6]).reshape(2, 3))


def test_it_finds_the_codes_and_not_the_prior(x):
    found = fit_aggregate_posterior(copying(), x, components=2)
    order = np.argsort(found.components.mean[:, 0])
    np.testing.assert_allclose(found.components.mean[order], MEANS, atol=0.15)
    np.testing.assert_allclose(np.exp(found.logits)[order], [2 / 3, 1 / 3], atol=0.02)
    np.testing.assert_allclose((found.factors @ found.factors.swapaxes(1, 2))[order], COVARIANCES, atol=0.25)


def test_its_draws_have_its_moments():
    mixture, n = by_hand(), 50_000
    z = mixture.sample(n, seed=0)
    assert z.shape == (n, 2)
    assert z.dtype == np.float32
    mean = 0.7 * MEANS[0] + 0.3 * MEANS[1]
    apart = MEANS - mean
    covariance = np.einsum("k,kij->ij", [0.7, 0.3], COVARIANCES + apart[:, :, None] * apart[:, None, :])
    np.testing.assert_allclose(z.mean(axis=0), mean, atol=4.0 * np.sqrt(np.diag(covariance) / n).max())
    np.testing.assert_allclose(np.cov(z.T), covariance, rtol=0.03, atol=0.03)
    in_first = z[z[:, 0] < -0.5]
    np.testing.assert_allclose(np.cov(in_first.T), COVARIANCES[0], atol=0.05)
    np.testing.assert_array_equal(z, mixture.sample(n, seed=0))
    assert not np.array_equal(z, mixture.sample(n, seed=1))


def test_its_density_integrates_to_one():
    grid = np.stack(np.meshgrid(np.arange(-10.0, 8.0, 0.05), np.arange(-8.0, 8.0, 0.05)), axis=-1)
    assert np.exp(by_hand().log_prob(grid)).sum() * 0.05**2 == pytest.approx(1.0, abs=1e-4)


def test_what_is_sampled_by_it_is_nearer_to_the_data(x):
    vae = copying()
    codes = fit_aggregate_posterior(vae, x, components=2)
    of_codes, of_prior = vae.sample(500, seed=0, prior=codes), vae.sample(500, seed=0)
    assert of_codes.shape == of_prior.shape == (500, 2)

    def energy_distance(a, b):
        def apart(a, b):
            return np.linalg.norm(a[:, None] - b[None], axis=-1).mean()

        return 2.0 * apart(a, b) - apart(a, a) - apart(b, b)

    assert energy_distance(of_codes, x) < 0.1 < 1.0 < energy_distance(of_prior, x)
    np.testing.assert_array_equal(of_codes, vae.sample(500, seed=0, prior=codes))
    np.testing.assert_allclose(of_codes, codes.sample(500, seed=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"components": 0}, "components must be a whole number of at least 1; got 0"),
        ({"components": 21}, "A mixture of 21 components needs as many examples; x has 20"),
        ({"covariance": "tied"}, 'covariance must be "full" or "diag"; got \'tied\''),
        ({"x": np.zeros((0, 2))}, "needs as many examples; x has 0"),
    ],
)
def test_what_it_refuses(x, arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_aggregate_posterior(copying(), **{"x": x[:20], "components": 2, **arguments})


def test_codes_that_are_not_finite_are_refused(x):
    vae = copying()
    vae.encoder.set_weights([np.full_like(weights, np.nan) for weights in vae.encoder.get_weights()])
    with pytest.raises(ValueError, match="not finite: look for NaN in the model's weights"):
        fit_aggregate_posterior(vae, x[:20])


def test_of_other_latents_there_is_no_density():
    with pytest.raises(ValueError, match=r"z must have shape \(..., 2\); got \(4, 3\)"):
        by_hand().log_prob(np.zeros((4, 3)))


def test_without_scikit_learn_it_says_how_to_install_it(x, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r'not installed: pip install "keras-vae\[evaluation\]"'):
        fit_aggregate_posterior(copying(), x)

"""The scale of the codes: moments of a known mixture, and two verbs that undo each other."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_vae import VAE, evaluation
from keras_vae._latent_statistics import LatentStatistics

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def x():
    """Series of 5 steps with 2 channels of different scales."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(400, 5, 2)) * [0.5, 4.0] + [3.0, -1.0]).astype("float32")


def copying():
    """A model of series whose code is the series, with a standard deviation of 0.1."""
    x, z = keras.Input((5, 2)), keras.Input((5, 2))
    heads = [layers.Dense(2, name="mean", kernel_initializer="identity")(x), layers.Dense(2, name="log_var")(x)]
    vae = VAE(keras.Model(x, heads), keras.Model(z, layers.Dense(2, kernel_initializer="identity")(z)), "mse", seed=0)
    vae.encoder.get_layer("log_var").set_weights([np.zeros((2, 2)), np.full(2, np.log(0.01))])
    return vae


@pytest.mark.parametrize(("per", "axes"), [("channel", (0, 1)), ("element", 0)])
def test_they_are_the_moments_of_all_codes(x, per, axes):
    found = evaluation.latent_statistics(copying(), x, per=per)
    np.testing.assert_allclose(found.mean, x.mean(axis=axes), rtol=1e-5)
    np.testing.assert_allclose(found.std, np.sqrt(x.var(axis=axes, dtype="float64") + 0.01), rtol=1e-5)


@pytest.mark.parametrize("per", ["channel", "element"])
def test_standardized_codes_have_mean_0_and_variance_1_and_decode_to_the_same(x, per):
    vae = copying()
    vae.latent_statistics = evaluation.latent_statistics(vae, x, per=per)
    plain, found = vae.encode(x), vae.encode(x, standardized=True)
    axes = (0, 1) if per == "channel" else 0
    np.testing.assert_allclose(found.mean.mean(axis=axes), 0.0, atol=1e-5)
    np.testing.assert_allclose((found.mean.var(axis=axes) + np.exp(found.log_var).mean(axis=axes)), 1.0, rtol=1e-4)
    np.testing.assert_allclose(vae.decode(found.mean, standardized=True), vae.decode(plain.mean), rtol=1e-4, atol=1e-4)
    z = found.sample(seed=3)
    np.testing.assert_allclose(vae.latent_statistics.restore(z), plain.sample(seed=3), rtol=1e-4, atol=1e-4)
    # A change of variables: the density of the scaled z is that of z times the scale.
    jacobian = np.log(np.broadcast_to(vae.latent_statistics.std, (5, 2))).sum()
    np.testing.assert_allclose(
        found.log_prob(z), plain.log_prob(vae.latent_statistics.restore(z)) + jacobian, rtol=1e-3
    )


def test_they_are_saved_with_the_model(x, tmp_path):
    vae = copying()
    vae.latent_statistics = evaluation.latent_statistics(vae, x)
    vae.save(tmp_path / "vae.keras")
    copy = keras.saving.load_model(tmp_path / "vae.keras")
    np.testing.assert_array_equal(copy.encode(x, standardized=True).mean, vae.encode(x, standardized=True).mean)


def test_what_they_refuse(x):
    vae = copying()
    with pytest.raises(ValueError, match="does not know the scale of its codes: set vae.latent_statistics ="):
        vae.encode(x, standardized=True)
    with pytest.raises(ValueError, match="does not know the scale"):
        vae.decode(x, standardized=True)
    with pytest.raises(ValueError, match='per must be "channel" or "element"'):
        evaluation.latent_statistics(vae, x, per="axis")
    with pytest.raises(ValueError, match="x has none"):
        evaluation.latent_statistics(vae, x[:0])
    with pytest.raises(TypeError, match="latent_statistics is what .* returns, or None; got a tuple"):
        vae.latent_statistics = (0.0, 1.0)
    vae.latent_statistics = LatentStatistics(np.zeros((5, 1)), np.ones((5, 1)))
    with pytest.raises(ValueError, match=r"is for z of shape \(5, 1\), and this model's z has \(5, 2\)"):
        vae.encode(x, standardized=True)
    with pytest.raises(ValueError, match="a latent that never changes has no scale"):
        LatentStatistics([0.0, 0.0], [1.0, 0.0])

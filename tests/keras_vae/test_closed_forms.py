"""The whole bound against closed forms: probabilistic PCA, and pixels that do not depend on z.

A linear VAE with a Gaussian likelihood is probabilistic PCA. Its log p(x) is known, its posterior is a diagonal
normal where the columns of the weights are orthogonal, and so its best ELBO is that log p(x), exactly.

Reference: Tipping & Bishop 1999; Lucas et al. 2019, Don't Blame the ELBO!, arXiv:1911.02469, section 4.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

import oracles
from keras_vae import VAE, Bernoulli, Gaussian, networks

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def linear_gaussian_data():
    """1,000 points in 6 dimensions with two strong directions."""
    rng = np.random.default_rng(0)
    weights = np.linalg.qr(rng.normal(size=(6, 2)))[0] * [2.0, 1.0]
    return (rng.normal(size=(1000, 2)) @ weights.T + 0.5 * rng.normal(size=(1000, 6)) + 1.0).astype("float32")


def linear_vae(dimensions, k, sigma2):
    x, z = keras.Input((dimensions,)), keras.Input((k,))
    log_var = layers.Dense(k, kernel_initializer="zeros", name="log_var")(x)
    encoder = keras.Model(x, [layers.Dense(k, name="mean")(x), log_var])
    decoder = keras.Model(z, layers.Dense(dimensions, name="x")(z))
    return VAE(encoder, decoder, likelihood=Gaussian(scale=float(np.sqrt(sigma2))), seed=0)


def set_to_optimum(vae, x, sigma2, weights):
    """The maximum likelihood solution of pPCA and its exact posterior: M = W'W + sigma2 I, which is diagonal."""
    mean = x.mean(axis=0, dtype="float64")
    m = (weights**2).sum(axis=0) + sigma2
    vae.encoder.get_layer("mean").set_weights([weights / m, -mean @ weights / m])
    vae.encoder.get_layer("log_var").set_weights([np.zeros_like(weights), np.log(sigma2 / m)])
    vae.decoder.get_layer("x").set_weights([weights.T, mean])


def exact_elbo(vae, x):
    """The ELBO without Monte-Carlo error: these 2k points have the mean and covariance of N(0, I), and the
    log-likelihood of a linear-Gaussian model is quadratic in epsilon."""
    k = vae.latent_dim
    points = np.sqrt(k) * np.concatenate([np.eye(k), -np.eye(k)])
    epsilon = np.repeat(points[:, None], len(x), axis=1).astype("float32")
    return -ops.convert_to_numpy(vae.terms(ops.convert_to_tensor(x), ops.convert_to_tensor(epsilon)).negative_elbo)


def test_at_the_optimum_the_elbo_is_the_log_likelihood_of_every_example(linear_gaussian_data):
    x = linear_gaussian_data
    _, sigma2, weights = oracles.ppca(x, 2)
    vae = linear_vae(6, 2, sigma2)
    set_to_optimum(vae, x, sigma2, weights)
    exact = oracles.linear_gaussian_log_prob(x, weights, x.mean(axis=0, dtype="float64"), sigma2)
    np.testing.assert_allclose(exact_elbo(vae, x), exact, rtol=1e-4, atol=1e-4)
    assert exact.mean() == pytest.approx(oracles.ppca(x, 2)[0], rel=1e-6)  # the two oracles agree


def test_away_from_the_optimum_the_elbo_is_below_the_log_likelihood(linear_gaussian_data):
    x = linear_gaussian_data
    _, sigma2, weights = oracles.ppca(x, 2)
    vae = linear_vae(6, 2, sigma2)
    set_to_optimum(vae, x, sigma2, weights)
    kernel, bias = vae.encoder.get_layer("mean").get_weights()
    vae.encoder.get_layer("mean").set_weights([1.2 * kernel, bias])  # a worse q; p(x) is what it was
    exact = oracles.linear_gaussian_log_prob(x, weights, x.mean(axis=0, dtype="float64"), sigma2)
    elbo = exact_elbo(vae, x)
    assert np.all(elbo <= exact + 1e-4)
    assert elbo.mean() < exact.mean() - 0.05


def test_a_trained_linear_vae_reaches_the_closed_form(linear_gaussian_data):
    elbo, best = trained_and_best(linear_gaussian_data)
    assert elbo <= best + 1e-4
    assert elbo == pytest.approx(best, abs=0.02)


def trained_and_best(x, k=2):
    """The ELBO that `fit` reaches on centred data in 100 epochs, and the closed form."""
    best, sigma2, _ = oracles.ppca(x, k)
    x = x - x.mean(axis=0)
    vae = linear_vae(x.shape[1], k, sigma2)
    steps = 100 * -(-len(x) // 100)
    vae.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, steps)))
    vae.fit(x, epochs=100, batch_size=100, verbose=0)
    return exact_elbo(vae, x).mean(), best


def test_frey_face_has_the_published_closed_form_and_the_elbo_equals_it(real_data):
    """Targets 555.83 nats at two latents and 754.55 at ten, for pixels in [0, 1]."""
    x = np.load(real_data / "frey_face" / "frey_face.npz")["images"].reshape(1965, 560).astype("float32") / 255.0
    for k, expected, expected_sigma2 in ((2, 555.83, 0.007905), (10, 754.55, 0.003649)):
        best, sigma2, weights = oracles.ppca(x, k)
        assert best == pytest.approx(expected, abs=0.01)
        assert sigma2 == pytest.approx(expected_sigma2, abs=1e-6)
        vae = linear_vae(560, k, sigma2)
        set_to_optimum(vae, x, sigma2, weights)
        assert exact_elbo(vae, x).mean() == pytest.approx(expected, abs=0.02)


def test_a_linear_vae_trained_on_frey_face_reaches_the_closed_form(real_data):
    x = np.load(real_data / "frey_face" / "frey_face.npz")["images"].reshape(1965, 560).astype("float32") / 255.0
    elbo, best = trained_and_best(x)
    assert elbo <= best + 0.01
    assert elbo == pytest.approx(555.83, abs=0.5)


def pixel_model(mean):
    """A decoder that starts at the pixel means and does not listen to z; an encoder that says N(0, I)."""
    encoder, decoder = networks.mlp(mean.shape, 2, hidden=(4,), data_mean=mean)
    for layer in (encoder.get_layer("z_mean"), encoder.get_layer("z_log_var")):
        layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
    kernel, bias = decoder.get_layer("x_parameters").get_weights()
    decoder.get_layer("x_parameters").set_weights([np.zeros_like(kernel), bias])
    vae = VAE(encoder, decoder, likelihood=Bernoulli())
    vae.compile("adam")
    return vae


def test_a_decoder_at_the_pixel_means_scores_the_factorised_bernoulli(digits):
    mean = digits.mean(axis=0, dtype="float64")
    p = np.clip(mean, 0.001, 0.999)
    expected = -(digits * np.log(p) + (1.0 - digits) * np.log(1.0 - p)).sum(axis=(1, 2, 3)).mean()
    logs = pixel_model(mean).evaluate(digits, verbose=0, return_dict=True)
    assert logs == pytest.approx(
        {"loss": expected, "negative_elbo": expected, "reconstruction": expected, "kl": 0.0}, rel=1e-5, abs=1e-6
    )


def test_a_decoder_at_the_pixel_means_scores_205_95_nats_on_static_binarised_mnist(real_data):
    with np.load(real_data / "binarized_mnist" / "binarized_mnist.npz") as file:
        train, test = (np.unpackbits(file[name], axis=1).astype("float32") for name in ("train", "test"))
    vae = pixel_model(train.mean(axis=0, dtype="float64"))
    logs = vae.evaluate(test, batch_size=1000, verbose=0, return_dict=True)
    assert logs["negative_elbo"] == pytest.approx(205.95, abs=0.005)

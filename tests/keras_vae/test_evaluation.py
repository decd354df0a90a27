"""Estimates of log p(x) and of what the latents hold, against models in which both are known."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import oracles
from keras_vae import IWAE, VAE, Bernoulli, Gaussian, evaluation, networks

pytestmark = pytest.mark.once

SIGMA2 = 0.3


@pytest.fixture(scope="module")
def points():
    """60 points of the model below, in five dimensions, and its weights."""
    rng = np.random.default_rng(0)
    weights = np.linalg.qr(rng.normal(size=(5, 2)))[0] * [1.5, 0.8]
    x = rng.normal(size=(60, 2)) @ weights.T + np.sqrt(SIGMA2) * rng.normal(size=(60, 5))
    return x.astype("float32"), weights


@pytest.fixture
def linear(points):
    """A linear-Gaussian model; `q(widen)` has the exact posterior's mean and `widen` times its variance."""
    _, weights = points

    def make(widen=1.0, **kwargs):
        x, z = keras.Input((5,)), keras.Input((2,))
        encoder = keras.Model(x, [layers.Dense(2, name="mean")(x), layers.Dense(2, name="log_var")(x)])
        decoder = keras.Model(z, layers.Dense(5, name="x")(z))
        vae = VAE(encoder, decoder, likelihood=Gaussian(float(np.sqrt(SIGMA2))), seed=0, **kwargs)
        m = (weights**2).sum(axis=0) + SIGMA2
        vae.encoder.get_layer("mean").set_weights([weights / m, np.zeros(2)])
        vae.encoder.get_layer("log_var").set_weights([np.zeros((5, 2)), np.log(widen * SIGMA2 / m)])
        vae.decoder.get_layer("x").set_weights([weights.T, np.zeros(5)])
        return vae

    return make


def exact(points):
    x, weights = points
    return oracles.linear_gaussian_log_prob(x, weights, np.zeros(5), SIGMA2)


def test_with_the_exact_posterior_every_weight_is_p_of_x(points, linear):
    found = evaluation.log_likelihood(linear(), points[0], num_samples=50)
    np.testing.assert_allclose(found.log_likelihood, exact(points), atol=2e-4)
    np.testing.assert_allclose(found.standard_error, 0.0, atol=1e-4)
    np.testing.assert_allclose(found.effective_sample_size, 50.0, rtol=1e-4)
    assert found.mean == pytest.approx(exact(points).mean(), abs=1e-4)


def test_with_another_posterior_it_is_right_within_its_standard_error(points, linear):
    vae = linear(widen=3.0)
    found = evaluation.log_likelihood(vae, points[0], num_samples=2000, seed=1)
    z = (found.log_likelihood - exact(points)) / found.standard_error
    assert np.abs(z).max() < 4.5
    assert 0.6 < z.std() < 1.5  # neither too small nor too large: it is the standard error
    assert abs(found.mean - exact(points).mean()) < 4.0 * found.mean_standard_error
    assert np.all(found.effective_sample_size < 1500)
    assert vae.elbo(points[0], 2000, seed=1).mean() < found.mean - 0.1


def test_the_same_numbers_however_the_work_is_cut(points, linear):
    vae, x = linear(widen=2.0), points[0][:7]
    whole = evaluation.log_likelihood(vae, x, num_samples=40, seed=2)
    for max_bytes in (1, 4 * 5 * 13, 4 * 5 * 90):  # one decoded point at a time, part of an example's, a few examples
        cut = evaluation.log_likelihood(vae, x, num_samples=40, seed=2, max_bytes=max_bytes)
        np.testing.assert_allclose(cut.log_likelihood, whole.log_likelihood, rtol=1e-5)
    other = evaluation.log_likelihood(vae, x, num_samples=40, seed=3)
    assert not np.allclose(other.log_likelihood, whole.log_likelihood, rtol=1e-4)


@pytest.mark.parametrize("nested", [False, True])
def test_no_layer_of_the_decoder_holds_more_at_a_time_than_it_is_told(nested):
    """Of a table the hidden layers are the wide ones: at 5 columns, a hundred times what the output holds."""
    rows = []

    class Counted(layers.Layer):
        def call(self, h):
            rows.append(h.shape[0])
            return h

    encoder, _ = networks.mlp((5,), 2, hidden=(4,), likelihood="mse")
    decoder = keras.Sequential([keras.Input((2,)), Counted(), layers.Dense(500), layers.Dense(5)])
    if nested:
        z = keras.Input((2,))
        decoder = keras.Model(z, decoder(z))
    vae = VAE(encoder, decoder, likelihood="mse", seed=0)
    rows.clear()
    evaluation.log_likelihood(vae, np.zeros((3, 5), "float32"), num_samples=200, max_bytes=4 * 500 * 70)
    assert max(size for size in rows if size is not None) == 70


def test_one_sample_is_the_monte_carlo_elbo_and_has_no_known_error(points, linear):
    vae, x = linear(widen=2.0), points[0]
    found = evaluation.log_likelihood(vae, x, num_samples=1, seed=4)
    posterior = vae.encode(x)
    z = posterior.sample(1, seed=4)[0]
    log_likelihood = oracles.normal_log_prob(x, vae.decode(z), np.sqrt(SIGMA2)).sum(axis=1)
    expected = log_likelihood + vae.prior.log_prob(z) - posterior.log_prob(z)
    np.testing.assert_allclose(found.log_likelihood, expected, rtol=1e-4, atol=1e-4)
    assert np.isnan(found.standard_error).all()


def test_the_bounds_rise_with_k_from_the_elbo_to_log_p(points, linear):
    """ELBO <= IWAE_k <= IWAE_2k <= log p(x), in expectation: over 4,000 draws for each of 60 points."""
    x, vae = points[0], linear(widen=3.0)
    epsilon = np.random.default_rng(0).normal(size=(64, 60, 64, 2)).astype("float32")
    log_weights = np.stack([ops.convert_to_numpy(vae.log_weights(x, noise.swapaxes(0, 1))) for noise in epsilon])
    pooled = log_weights.swapaxes(1, 2).reshape(64, 60, 64)
    bounds = []
    for k in (1, 2, 4, 16, 64):
        grouped = pooled.reshape(64, 60, 64 // k, k)
        bounds.append(float(np.mean(np.log(np.mean(np.exp(grouped), axis=-1)))))
    assert np.all(np.diff([*bounds, exact(points).mean()]) > 0)
    elbo = vae.elbo(x, 4000, seed=0).mean()
    assert bounds[0] == pytest.approx(elbo, abs=0.01)


def test_the_objective_iwae_is_that_bound_and_logs_the_elbo_beside_it(points, linear):
    x = points[0]
    vae = linear(widen=3.0, objective=IWAE(16))
    vae.compile("sgd")
    logs = vae.evaluate(np.tile(x, (20, 1)), verbose=0, return_dict=True)
    plain = -vae.elbo(x, 2000, seed=0).mean()
    assert logs["negative_elbo"] == pytest.approx(plain, abs=0.05)
    assert logs["negative_elbo"] == pytest.approx(logs["reconstruction"] + logs["kl"], rel=1e-5)
    assert -exact(points).mean() - 0.01 < logs["loss"] < logs["negative_elbo"] - 0.1


def test_it_refuses_where_the_loss_is_no_likelihood(digits):
    vae = VAE(*networks.mlp((8, 8, 1), 2, hidden=(4,)))
    with pytest.raises(ValueError, match=r"log p\(x\) is not defined here. 100 % .*continuous_bernoulli"):
        evaluation.log_likelihood(vae, 0.25 + 0.5 * digits[:4])
    with pytest.raises(ValueError, match="num_samples must be a whole number"):
        evaluation.log_likelihood(vae, digits[:4], num_samples=0)
    with pytest.raises(ValueError, match="needs \\[0, 1\\]"):
        evaluation.log_likelihood(vae, 255 * digits[:4])


def test_the_progress_bar_is_there_when_asked_for(points, linear, capsys):
    evaluation.log_likelihood(linear(), points[0], num_samples=5, verbose=0)
    assert capsys.readouterr().out == ""
    evaluation.log_likelihood(linear(), points[0], num_samples=5, verbose=1)
    assert "60/60" in capsys.readouterr().out


def one_latent(slope, log_var, copies=1):
    """A model whose posterior is N(slope * x, exp(log_var)), over data of one dimension; or so in several latents."""
    x, z = keras.Input((1,)), keras.Input((copies,))
    encoder = keras.Model(x, [layers.Dense(copies, name="mean")(x), layers.Dense(copies, name="log_var")(x)])
    vae = VAE(encoder, keras.Model(z, layers.Dense(1)(z)), likelihood="mse")
    vae.encoder.get_layer("mean").set_weights([np.full((1, copies), slope), np.zeros(copies)])
    vae.encoder.get_layer("log_var").set_weights([np.zeros((1, copies)), np.full(copies, log_var)])
    return vae


def test_surgery_of_an_encoder_that_ignores_the_data_finds_no_information():
    x = np.random.default_rng(0).normal(size=(500, 1)).astype("float32")
    found = evaluation.elbo_surgery(one_latent(0.0, 1.0), x)
    assert found.mutual_information == pytest.approx(0.0, abs=0.1)
    assert found.marginal_kl == pytest.approx(found.kl, abs=0.1)
    assert found.kl == pytest.approx(oracles.standard_normal_kl(0.0, 1.0), rel=1e-5)


def test_surgery_of_codes_that_tell_every_example_finds_the_logarithm_of_their_number():
    x = np.arange(100.0, dtype="float32")[:, None]
    found = evaluation.elbo_surgery(one_latent(1.0, -12.0), x)
    assert found.max_mutual_information == pytest.approx(np.log(100.0))
    assert found.mutual_information == pytest.approx(np.log(100.0), abs=0.1)
    assert found.kl == pytest.approx(found.mutual_information + found.marginal_kl)


@pytest.mark.parametrize("seed", range(3))
def test_surgery_finds_no_information_below_none_or_above_all(seed):
    """Whatever is drawn: 32 latents, whose noise alone would add half a nat either way."""
    x = np.arange(50.0, dtype="float32")[:, None]
    ignored = evaluation.elbo_surgery(one_latent(0.0, 0.0, copies=32), x, seed=seed)
    assert ignored.mutual_information == pytest.approx(0.0, abs=1e-9)
    told = evaluation.elbo_surgery(one_latent(1.0, -12.0, copies=32), x, seed=seed)
    assert told.mutual_information == pytest.approx(told.max_mutual_information, abs=1e-6)


def test_surgery_of_a_gaussian_channel_finds_its_capacity():
    """Codes N(a x, v) of normal x: I = 1/2 log(1 + a**2 / v), and q(z) = N(0, a**2 + v)."""
    x = np.random.default_rng(1).normal(size=(4000, 1)).astype("float32")
    slope, variance = 0.8, 0.36  # a**2 + v = 1: the aggregate is the prior
    found = evaluation.elbo_surgery(one_latent(slope, float(np.log(variance))), x)
    assert found.mutual_information == pytest.approx(0.5 * np.log(1.0 + slope**2 / variance), abs=0.04)
    assert found.marginal_kl == pytest.approx(0.0, abs=0.04)


def test_the_aggregate_posterior_has_the_moments_of_the_codes():
    x = np.random.default_rng(2).normal(3.0, 2.0, size=(1000, 1)).astype("float32")
    vae = one_latent(0.5, -1.0)
    found = evaluation.aggregate_posterior(vae, x)
    draws = vae.encode(x).sample(200, seed=0)
    np.testing.assert_allclose(found.mean, draws.mean(), rtol=1e-2)
    np.testing.assert_allclose(np.exp(found.log_var), draws.var(), rtol=1e-2)
    assert found.kl_divergence(vae.prior, per_dimension=True).shape == (1,)


def test_bits_per_dim_of_fair_coins_is_one():
    nats = -ops.convert_to_numpy(Bernoulli().log_prob(np.ones((1, 10)), np.zeros((1, 10))))
    assert evaluation.bits_per_dim(nats, 10) == pytest.approx(1.0)

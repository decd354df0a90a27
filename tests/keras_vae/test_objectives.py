"""The bound from its terms: weights, estimators, number of samples."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_vae import ELBO, IWAE, DiagonalNormal, objectives, schedules


@pytest.fixture
def bound():
    """Arguments of an objective: 3 samples, 4 examples, 2 latents, and the posterior as NumPy."""
    rng = np.random.default_rng(0)
    posterior = DiagonalNormal(rng.normal(size=(4, 2)).astype("float32"), rng.normal(size=(4, 2)).astype("float32"))
    z = posterior.sample(3, seed=1)
    as_tensors = DiagonalNormal(ops.convert_to_tensor(posterior.mean), ops.convert_to_tensor(posterior.log_var))
    log_likelihood = ops.convert_to_tensor(rng.normal(size=(3, 4)).astype("float32"))
    return log_likelihood, ops.convert_to_tensor(z), as_tensors, DiagonalNormal.standard(2), 0


def numpy(terms):
    return [ops.convert_to_numpy(term) for term in terms]


def test_the_loss_is_reconstruction_plus_kl(bound):
    terms = ELBO()(*bound)
    loss, reconstruction, kl = numpy(terms)
    assert loss.shape == reconstruction.shape == kl.shape == (4,)
    np.testing.assert_allclose(reconstruction, -ops.convert_to_numpy(bound[0]).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(loss, reconstruction + kl, rtol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(terms.negative_elbo), reconstruction + kl)


def test_beta_weighs_the_kl_in_the_loss_but_not_in_the_logs(bound):
    plain, weighted = numpy(ELBO()(*bound)), numpy(ELBO(beta=4.0)(*bound))
    np.testing.assert_allclose(weighted[0], plain[1] + 4.0 * plain[2], rtol=1e-6)
    np.testing.assert_array_equal(weighted[1:], plain[1:])


def test_beta_follows_the_step(bound):
    objective = ELBO(beta=schedules.Linear(10))
    loss, reconstruction, kl = numpy(objective(*bound[:4], ops.convert_to_tensor(5)))
    np.testing.assert_allclose(loss, reconstruction + 0.5 * kl, rtol=1e-6)


def test_the_monte_carlo_kl_has_the_analytic_kl_as_its_mean():
    """Estimators A and B of Kingma & Welling: same expectation; A differs sample by sample."""
    rng = np.random.default_rng(2)
    posterior = DiagonalNormal(rng.normal(size=(3, 2)).astype("float32"), rng.normal(size=(3, 2)).astype("float32"))
    z, prior = posterior.sample(100_000, seed=0), DiagonalNormal.standard(2)
    as_tensors = DiagonalNormal(ops.convert_to_tensor(posterior.mean), ops.convert_to_tensor(posterior.log_var))
    silent = ops.zeros((len(z), 3))
    loss, _, kl = numpy(ELBO(kl="monte_carlo")(silent, ops.convert_to_tensor(z), as_tensors, prior, 0))
    standard_error = (posterior.log_prob(z) - prior.log_prob(z)).std(axis=0) / np.sqrt(len(z))
    assert np.all(np.abs(loss - kl) < 4.0 * standard_error)
    assert not np.array_equal(loss, kl)


def per_dimension(bound):
    _, _, posterior, prior, _ = bound
    return ops.convert_to_numpy(posterior.kl_divergence(prior, per_dimension=True))


@pytest.mark.parametrize("free_bits", [0.01, 0.6, 50.0])
def test_free_bits_hold_each_latent_at_their_number_on_the_average_of_the_batch(bound, free_bits):
    """max(free_bits, batch mean of the KL), summed over latents: Kingma et al. 2016, equation 15."""
    loss, reconstruction, kl = numpy(ELBO(free_bits=free_bits)(*bound))
    expected = np.maximum(free_bits, per_dimension(bound).mean(axis=0)).sum()
    assert (loss - reconstruction).mean() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(kl, numpy(ELBO()(*bound))[2])  # the logged KL is the KL


def test_free_bits_of_one_group_are_for_the_whole_kl(bound):
    total = per_dimension(bound).sum(axis=1).mean()
    for free_bits in (0.5 * total, 2.0 * total):
        loss, reconstruction, _ = numpy(ELBO(free_bits=float(free_bits), groups=1)(*bound))
        assert (loss - reconstruction).mean() == pytest.approx(max(free_bits, total), rel=1e-5)
    by_latent = numpy(ELBO(free_bits=0.6, groups=2)(*bound))
    np.testing.assert_allclose(by_latent, numpy(ELBO(free_bits=0.6)(*bound)), rtol=1e-6)
    with pytest.raises(ValueError, match="2 latent dimensions cannot be cut into 3 groups"):
        ELBO(free_bits=0.6, groups=3)(*bound)


def test_free_bits_give_a_latent_below_them_no_gradient_and_one_above_its_own(gradient):
    """Two latents with KL 0.005 and 2 nats: only the second is pushed down."""
    prior, silent = DiagonalNormal.standard(2), ops.zeros((1, 1))

    def loss(mean):
        posterior = DiagonalNormal(mean, ops.zeros((1, 2)))
        return ops.sum(ELBO(free_bits=0.1)(silent, ops.zeros((1, 1, 2)), posterior, prior, 0).loss)

    np.testing.assert_allclose(gradient(loss, [[0.1, 2.0]]), [[0.0, 2.0]], atol=1e-6)


def test_iwae_of_one_sample_is_the_monte_carlo_elbo(bound):
    log_likelihood, z, posterior, prior, step = bound
    one = (log_likelihood[:1], z[:1], posterior, prior, step)
    np.testing.assert_allclose(numpy(IWAE(1)(*one)), numpy(ELBO(kl="monte_carlo")(*one)), rtol=1e-5)


def test_iwae_is_the_logarithm_of_the_mean_weight_and_lies_below_the_elbo(bound):
    log_likelihood, z, posterior, prior, _ = bound
    z, log_likelihood = ops.convert_to_numpy(z).astype("float64"), ops.convert_to_numpy(log_likelihood)
    as_numpy = DiagonalNormal(*(ops.convert_to_numpy(part) for part in (posterior.mean, posterior.log_var)))
    weights = np.exp(log_likelihood + prior.log_prob(z) - as_numpy.log_prob(z))
    loss, reconstruction, kl = numpy(IWAE(3)(*bound))
    np.testing.assert_allclose(loss, -np.log(weights.mean(axis=0)), rtol=1e-5)
    np.testing.assert_allclose(reconstruction, -log_likelihood.mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(kl, numpy(ELBO()(*bound))[2])
    assert np.all(loss < numpy(ELBO(kl="monte_carlo")(*bound))[0])


def test_iwae_stays_finite_where_the_weights_overflow(bound):
    _, z, posterior, prior, step = bound
    for height in (-1e5, 1e5):
        loss, *_ = numpy(IWAE(3)(ops.full((3, 4), height), z, posterior, prior, step))
        np.testing.assert_allclose(loss, -height, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"free_bits": -1.0}, "nats per group, zero or more"),
        ({"free_bits": 0.1, "kl": "monte_carlo"}, "need the closed form"),
        ({"groups": 2}, "no meaning without free_bits"),
    ],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        ELBO(**arguments)


def test_config_round_trip_and_get():
    for objective in (
        ELBO(),
        ELBO(schedules.Cyclical(10), num_samples=3, kl="monte_carlo"),
        ELBO(free_bits=0.5, groups=2),
        IWAE(7),
    ):
        copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(objective))
        assert repr(copy) == repr(objective)
        assert objectives.get(objective) is objective
    assert isinstance(objectives.get("elbo"), ELBO)
    assert isinstance(objectives.get("iwae"), IWAE)
    with pytest.raises(ValueError, match='must be "elbo", "iwae" or an Objective'):
        objectives.get("evidence")
    with pytest.raises(ValueError, match="num_samples must be a whole number"):
        ELBO(num_samples=0)
    with pytest.raises(ValueError, match='kl must be "analytic" or "monte_carlo"'):
        ELBO(kl="exact")

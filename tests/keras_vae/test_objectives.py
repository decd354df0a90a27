"""The bound from its terms: weights, estimators, number of samples."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_vae import ELBO, DiagonalNormal, objectives, schedules


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


def test_config_round_trip_and_get():
    for objective in (ELBO(), ELBO(schedules.Cyclical(10), num_samples=3, kl="monte_carlo")):
        copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(objective))
        assert repr(copy) == repr(objective)
        assert objectives.get(objective) is objective
    assert isinstance(objectives.get("elbo"), ELBO)
    with pytest.raises(ValueError, match='must be "elbo", "iwae" or an Objective'):
        objectives.get("evidence")
    with pytest.raises(ValueError, match="num_samples must be a whole number"):
        ELBO(num_samples=0)
    with pytest.raises(ValueError, match='kl must be "analytic" or "monte_carlo"'):
        ELBO(kl="exact")

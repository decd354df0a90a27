"""KL divergences, log-densities and draws of the distributions against float64 and against Monte Carlo."""

import keras
import numpy as np
import pytest
from keras import ops

import oracles
from keras_vae import DiagonalNormal, Mixture
from keras_vae.distributions import kl_divergence

pytestmark = pytest.mark.once

STANDARD = DiagonalNormal.standard(4)


def normal(mean, log_var):
    return DiagonalNormal(ops.convert_to_tensor(mean, "float32"), ops.convert_to_tensor(log_var, "float32"))


def test_kl_equals_the_textbook_form():
    rng = np.random.default_rng(0)
    mean, log_var = rng.normal(size=(50, 4)).astype("float32"), rng.normal(size=(50, 4)).astype("float32")
    expected = oracles.standard_normal_kl(mean, log_var)
    kl = ops.convert_to_numpy(normal(mean, log_var).kl_divergence(STANDARD))
    assert kl.shape == (50,)
    np.testing.assert_allclose(kl, expected.sum(axis=-1), rtol=2e-6)
    per_dimension = normal(mean, log_var).kl_divergence(STANDARD, per_dimension=True)
    np.testing.assert_allclose(ops.convert_to_numpy(per_dimension), expected, rtol=2e-6, atol=2e-7)


def test_kl_of_a_nearly_collapsed_unit_is_not_lost():
    """KL of N(0, exp(1e-4)) is log_var**2 / 4 = 2.5e-9; var - 1 - log_var in float32 has nothing left of it."""
    log_var = np.full((1, 1), 1e-4, "float32")
    textbook = 0.5 * (np.exp(log_var) - np.float32(1.0) - log_var)
    assert abs(textbook[0, 0] / 2.5e-9 - 1.0) > 0.5  # what the test guards against does happen
    kl = normal(np.zeros((1, 1)), log_var).kl_divergence(DiagonalNormal.standard(1))
    np.testing.assert_allclose(ops.convert_to_numpy(kl), [2.5e-9], rtol=5e-2)


def test_kl_is_zero_only_at_the_prior_and_finite_at_the_bounds():
    assert float(normal(np.zeros((1, 4)), np.zeros((1, 4))).kl_divergence(STANDARD)[0]) == 0.0
    for bound in (-30.0, 15.0):
        kl = ops.convert_to_numpy(normal(np.zeros((1, 4)), np.full((1, 4), bound)).kl_divergence(STANDARD))
        np.testing.assert_allclose(kl, [4 * oracles.standard_normal_kl(0.0, bound)], rtol=1e-6)


def test_kl_to_another_normal_and_its_monte_carlo_estimate_agree():
    rng = np.random.default_rng(1)
    q = DiagonalNormal(rng.normal(size=(3, 4)), rng.normal(size=(3, 4)) * 0.5)
    p = DiagonalNormal(rng.normal(size=4), rng.normal(size=4) * 0.5)
    z = q.mean + np.exp(0.5 * q.log_var) * rng.normal(size=(200_000, 3, 4))
    estimates = q.log_prob(z) - p.log_prob(z)
    standard_error = estimates.std(axis=0) / np.sqrt(len(estimates))
    assert np.all(np.abs(estimates.mean(axis=0) - q.kl_divergence(p)) < 4.0 * standard_error)


def test_log_prob_equals_float64():
    rng = np.random.default_rng(2)
    mean, log_var, z = (rng.normal(size=(20, 4)).astype("float32") for _ in range(3))
    expected = oracles.normal_log_prob(z, mean, np.exp(0.5 * log_var.astype("float64"))).sum(axis=-1)
    log_prob = normal(mean, log_var).log_prob(ops.convert_to_tensor(z))
    np.testing.assert_allclose(ops.convert_to_numpy(log_prob), expected, rtol=1e-5)


@pytest.mark.parametrize("which", ["mean", "log_var"])
def test_kl_gradient_equals_finite_differences(gradient, which):
    rng = np.random.default_rng(3)
    mean, log_var = rng.normal(size=(2, 4)), rng.normal(size=(2, 4))

    def kl(value):
        arguments = {
            "mean": ops.convert_to_tensor(mean, "float32"),
            "log_var": ops.convert_to_tensor(log_var, "float32"),
        }
        return ops.sum(DiagonalNormal(**(arguments | {which: value})).kl_divergence(STANDARD))

    def oracle(value):
        return oracles.standard_normal_kl(**({"mean": mean, "log_var": log_var} | {which: value})).sum()

    point = {"mean": mean, "log_var": log_var}[which]
    np.testing.assert_allclose(gradient(kl, point), oracles.finite_difference(oracle, point), rtol=1e-4, atol=1e-6)


def test_reparameterize_is_mean_plus_scale_times_noise():
    epsilon = np.random.default_rng(4).normal(size=(5, 2, 4)).astype("float32")
    z = normal(np.ones((2, 4)), np.full((2, 4), np.log(4.0))).reparameterize(ops.convert_to_tensor(epsilon))
    np.testing.assert_allclose(ops.convert_to_numpy(z), 1.0 + 2.0 * epsilon, rtol=1e-6)


def test_numpy_samples_repeat_for_a_seed_and_have_the_right_moments():
    posterior = DiagonalNormal(np.array([[1.0, -2.0]], "float32"), np.log(np.array([[4.0, 0.25]], "float32")))
    samples = posterior.sample(20_000, seed=0)
    assert isinstance(samples, np.ndarray)
    assert samples.shape == (20_000, 1, 2)
    assert samples.dtype == np.float32
    # As many variates as float32 takes from the generator: seeds mean the same from release to release.
    expected = np.random.default_rng(0).standard_normal((20_000, 1, 2), dtype="float32")
    np.testing.assert_allclose((samples - posterior.mean) / [[2.0, 0.5]], expected, atol=1e-5)
    np.testing.assert_array_equal(samples, posterior.sample(20_000, seed=0))
    assert not np.array_equal(samples, posterior.sample(20_000, seed=1))
    np.testing.assert_allclose(samples.mean(axis=0), posterior.mean, atol=0.05)
    np.testing.assert_allclose(samples.std(axis=0), [[2.0, 0.5]], rtol=0.03)


def test_tensor_samples_take_a_seed_generator_and_change_with_it():
    distribution, generator = normal(np.zeros((2, 4)), np.zeros((2, 4))), keras.random.SeedGenerator(0)
    first, second = (ops.convert_to_numpy(distribution.sample(3, seed=generator)) for _ in range(2))
    assert first.shape == (3, 2, 4)
    assert first.dtype == np.float32
    assert not np.array_equal(first, second)
    again = ops.convert_to_numpy(distribution.sample(3, seed=keras.random.SeedGenerator(0)))
    np.testing.assert_array_equal(again, first)


def test_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match=r"same shape; got \(2, 4\) and \(2, 3\)"):
        DiagonalNormal(np.zeros((2, 4)), np.zeros((2, 3)))


def test_config_round_trip():
    prior = DiagonalNormal(np.array([1.0, 2.0], "float32"), np.array([0.5, -0.5], "float32"))
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(prior))
    np.testing.assert_array_equal(copy.mean, prior.mean)
    np.testing.assert_array_equal(copy.log_var, prior.log_var)


@pytest.mark.parametrize("make", [lambda: DiagonalNormal(np.ones(2), np.full(2, 0.7)), lambda: mixture(components=4)])
def test_the_gradient_of_the_log_density_is_that_of_autodiff(gradient, make):
    distribution, z = make(), np.random.default_rng(6).normal(size=(3, 5, 2)).astype("float32")
    tensors = as_tensors(distribution) if isinstance(distribution, Mixture) else normal(np.ones(2), np.full(2, 0.7))
    expected = gradient(lambda z: ops.sum(tensors.log_prob(z)), z)
    np.testing.assert_allclose(distribution.grad_log_prob(z), expected, rtol=1e-5, atol=1e-5)
    found = ops.convert_to_numpy(tensors.grad_log_prob(ops.convert_to_tensor(z)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    copy = tensors.to_numpy()
    assert isinstance(copy.log_prob(z), np.ndarray)
    np.testing.assert_allclose(copy.log_prob(z), distribution.log_prob(z), rtol=1e-6)
    # What arrays and tensors make together is a tensor.
    for mixed in (tensors.grad_log_prob(z), distribution.grad_log_prob(ops.convert_to_tensor(z))):
        np.testing.assert_allclose(ops.convert_to_numpy(mixed), expected, rtol=1e-5, atol=1e-5)


# Mixtures


def mixture(seed=0, components=3, latents=2):
    rng = np.random.default_rng(seed)
    mean, log_var = rng.normal(size=(2, components, latents)).astype("float32")
    return Mixture(DiagonalNormal(2.0 * mean, log_var), rng.normal(size=components).astype("float32"))


def as_tensors(prior):
    parts = (prior.components.mean, prior.components.log_var, prior.logits)
    mean, log_var, logits = (ops.convert_to_tensor(part) for part in parts)
    return Mixture(DiagonalNormal(mean, log_var), logits)


def weights(prior):
    return np.exp(prior.logits.astype("float64")) / np.exp(prior.logits.astype("float64")).sum()


def test_the_density_of_a_mixture_is_the_weighted_sum():
    prior, z = mixture(), np.random.default_rng(1).normal(size=(4, 5, 2)).astype("float32")
    scale = np.exp(0.5 * prior.components.log_var.astype("float64"))
    each = np.exp(oracles.normal_log_prob(z[..., None, :], prior.components.mean, scale))
    whole, marginals = (
        np.log(each.prod(axis=-1) @ weights(prior)),
        np.log(np.einsum("sbkl,k->sbl", each, weights(prior))),
    )
    for made in (prior, as_tensors(prior)):
        np.testing.assert_allclose(ops.convert_to_numpy(made.log_prob(z)), whole, rtol=1e-5, atol=1e-5)
        found = ops.convert_to_numpy(made.log_prob(z, per_dimension=True))
        np.testing.assert_allclose(found, marginals, rtol=1e-5, atol=1e-5)


def test_the_density_of_a_mixture_is_finite_far_away():
    assert np.isfinite(mixture().log_prob(np.full((1, 2), 1e6, "float32"))).all()


def test_draws_of_a_mixture_have_its_moments_and_its_shares():
    prior = mixture()
    z = prior.sample(200_000, seed=0)
    mean = weights(prior) @ prior.components.mean
    variance = weights(prior) @ (np.exp(prior.components.log_var) + prior.components.mean**2) - mean**2
    np.testing.assert_allclose(z.mean(axis=0), mean, atol=5 * np.sqrt(variance.max() / len(z)))
    np.testing.assert_allclose(z.var(axis=0), variance, rtol=0.02)
    matched = prior.moment_matched()
    np.testing.assert_allclose(matched.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(np.exp(matched.log_var), variance, rtol=1e-5)
    apart = Mixture(DiagonalNormal(np.array([[-50.0], [0.0], [50.0]]), np.zeros((3, 1))), prior.logits)
    shares = np.bincount(np.round(apart.sample(100_000, seed=1)[:, 0] / 50.0).astype(int) + 1) / 100_000
    np.testing.assert_allclose(shares, weights(prior), atol=0.006)


def test_noise_gives_the_same_draws_in_numpy_and_in_tensors():
    prior = mixture(components=7)
    noise = np.random.default_rng(2).standard_normal((500, *prior.noise_shape), dtype="float32")
    noise[0], noise[1], noise[2] = 0.0, 20.0, -20.0
    found = ops.convert_to_numpy(as_tensors(prior).from_noise(ops.convert_to_tensor(noise)))
    np.testing.assert_allclose(found, prior.from_noise(noise), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(prior.sample(500, seed=3), prior.sample(500, seed=3))
    stacked = noise[:6].reshape(2, 3, *prior.noise_shape)
    np.testing.assert_array_equal(prior.from_noise(stacked).reshape(6, -1), prior.from_noise(noise[:6]))
    one = mixture(components=1)
    expected = one.components.mean + np.exp(0.5 * one.components.log_var) * noise[:, 1:]
    np.testing.assert_allclose(one.from_noise(noise), expected, rtol=1e-6)
    rising = np.linspace(-3.0, 3.0, 50)[:, None] * [[1.0, 0.0, 0.0]]  # the first variate picks the component, in order
    apart = Mixture(DiagonalNormal(np.array([[0.0, 0.0], [9.0, 0.0]]), np.zeros((2, 2))), [0.0, 0.0])
    assert np.all(np.diff(apart.from_noise(rising)[:, 0]) >= 0.0)
    tensors = as_tensors(prior)
    seed = keras.random.SeedGenerator(1)
    assert tuple(tensors.sample(4, seed=seed).shape) == (4, 2)


def test_the_kl_to_a_mixture_of_equal_components_is_that_to_one():
    """The average over many samples meets the closed form."""
    posterior = DiagonalNormal(np.array([[0.5, -1.0]], "float32"), np.array([[-0.5, 0.3]], "float32"))
    one = DiagonalNormal(np.array([0.2, 0.1], "float32"), np.array([0.4, -0.2], "float32"))
    same = Mixture(DiagonalNormal(np.tile(one.mean, (4, 1)), np.tile(one.log_var, (4, 1))))
    z = posterior.sample(100_000, seed=0)
    spread = (posterior.log_prob(z) - one.log_prob(z)).std() / np.sqrt(len(z))
    assert abs(kl_divergence(posterior, same, z) - posterior.kl_divergence(one)) < 4.0 * spread
    np.testing.assert_array_equal(kl_divergence(posterior, one, z), posterior.kl_divergence(one))
    with pytest.raises(TypeError, match="has no closed form"):
        posterior.kl_divergence(same)
    with pytest.raises(TypeError, match="has no closed form"):
        kl_divergence(same, one)


def test_what_is_no_mixture_is_refused_and_one_survives_its_config():
    with pytest.raises(ValueError, match=r"must have shape \(components, \*event_shape\)"):
        Mixture(DiagonalNormal.standard(2))
    with pytest.raises(ValueError, match=r"must have shape \(components, \*event_shape\)"):
        Mixture(DiagonalNormal(np.zeros((0, 2)), np.zeros((0, 2))))
    with pytest.raises(ValueError, match="one per component"):
        Mixture(DiagonalNormal(np.zeros((3, 2)), np.zeros((3, 2))), np.zeros(2))
    prior = mixture()
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(prior))
    np.testing.assert_array_equal(copy.sample(9, seed=0), prior.sample(9, seed=0))

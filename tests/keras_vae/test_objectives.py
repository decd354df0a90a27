"""The bound from its terms: weights, estimators, number of samples; each formula once more, slowly, in float64."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
from keras import ops

import oracles
from keras_vae import ELBO, IWAE, BetaTC, DiagonalNormal, InfoVAE, Mixture, objectives, priors, schedules
from keras_vae.objectives import LatentBatch

pytestmark = pytest.mark.once


def decode(z):
    """A decoder whose parameters are z itself."""
    return z


def draws_of(posterior, z, log_likelihood, prior=None, step=0):
    """What an objective is given, from NumPy; `log_likelihood` are numbers, whatever z."""
    epsilon = (z - posterior.mean) * np.exp(-0.5 * posterior.log_var)
    as_tensors = DiagonalNormal(ops.convert_to_tensor(posterior.mean), ops.convert_to_tensor(posterior.log_var))
    numbers = ops.convert_to_tensor(np.asarray(log_likelihood, "float32"))
    prior = DiagonalNormal.standard(z.shape[-1]) if prior is None else prior
    z, epsilon = ops.convert_to_tensor(z), ops.convert_to_tensor(epsilon)
    return LatentBatch(z, epsilon, decode, lambda z: numbers, as_tensors, prior, ops.convert_to_tensor(step))


def random_draws(samples=3, batch=4, latents=2, seed=0, **kwargs):
    rng = np.random.default_rng(seed)
    mean, log_var = rng.normal(size=(2, batch, latents)).astype("float32")
    posterior = DiagonalNormal(mean, log_var)
    return draws_of(posterior, posterior.sample(samples, seed=1), rng.normal(size=(samples, batch)), **kwargs)


@pytest.fixture
def bound():
    """3 samples, 4 examples, 2 latents."""
    return random_draws()


def numpy(terms):
    return [ops.convert_to_numpy(term) for term in terms[:3]]


def float64(draws):
    """z, and the posterior, in float64 NumPy."""
    parts = (draws.z, draws.posterior.mean, draws.posterior.log_var)
    z, mean, log_var = (ops.convert_to_numpy(part).astype("float64") for part in parts)
    return z, mean, log_var


def test_the_loss_is_reconstruction_plus_kl(bound):
    terms = ELBO()(bound)
    loss, reconstruction, kl = numpy(terms)
    assert loss.shape == reconstruction.shape == kl.shape == (4,)
    np.testing.assert_allclose(
        reconstruction, -ops.convert_to_numpy(bound.log_likelihood(None)).mean(axis=0), rtol=1e-6
    )
    np.testing.assert_allclose(loss, reconstruction + kl, rtol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(terms.negative_elbo), reconstruction + kl)


def test_beta_weighs_the_kl_in_the_loss_but_not_in_the_logs(bound):
    plain, weighted = numpy(ELBO()(bound)), numpy(ELBO(beta=4.0)(bound))
    np.testing.assert_allclose(weighted[0], plain[1] + 4.0 * plain[2], rtol=1e-6)
    np.testing.assert_array_equal(weighted[1:], plain[1:])


def test_beta_follows_the_step(bound):
    objective = ELBO(beta=schedules.Linear(10))
    terms = objective(random_draws(step=5))
    loss, reconstruction, kl = numpy(terms)
    np.testing.assert_allclose(loss, reconstruction + 0.5 * kl, rtol=1e-6)
    assert objective.log_names == ("beta",)
    assert {name: float(value) for name, value in terms.logs.items()} == {"beta": 0.5}


def test_the_monte_carlo_kl_has_the_analytic_kl_as_its_mean():
    """Estimators A and B of Kingma & Welling: same expectation; A differs sample by sample."""
    rng = np.random.default_rng(2)
    posterior = DiagonalNormal(rng.normal(size=(3, 2)).astype("float32"), rng.normal(size=(3, 2)).astype("float32"))
    z, prior = posterior.sample(100_000, seed=0), DiagonalNormal.standard(2)
    loss, _, kl = numpy(ELBO(kl="monte_carlo")(draws_of(posterior, z, np.zeros((len(z), 3)))))
    standard_error = (posterior.log_prob(z) - prior.log_prob(z)).std(axis=0) / np.sqrt(len(z))
    assert np.all(np.abs(loss - kl) < 4.0 * standard_error)
    assert not np.array_equal(loss, kl)


def per_dimension(bound):
    return ops.convert_to_numpy(bound.posterior.kl_divergence(bound.prior, per_dimension=True))


@pytest.mark.parametrize("free_bits", [0.01, 0.6, 50.0])
def test_free_bits_hold_each_latent_at_their_number_on_the_average_of_the_batch(bound, free_bits):
    """max(free_bits, batch mean of the KL), summed over latents: Kingma et al. 2016, equation 15."""
    loss, reconstruction, kl = numpy(ELBO(free_bits=free_bits)(bound))
    expected = np.maximum(free_bits, per_dimension(bound).mean(axis=0)).sum()
    assert (loss - reconstruction).mean() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(kl, numpy(ELBO()(bound))[2])  # the logged KL is the KL


def test_free_bits_of_one_group_are_for_the_whole_kl(bound):
    total = per_dimension(bound).sum(axis=1).mean()
    for free_bits in (0.5 * total, 2.0 * total):
        loss, reconstruction, _ = numpy(ELBO(free_bits=float(free_bits), groups=1)(bound))
        assert (loss - reconstruction).mean() == pytest.approx(max(free_bits, total), rel=1e-5)
    by_latent = numpy(ELBO(free_bits=0.6, groups=2)(bound))
    np.testing.assert_allclose(by_latent, numpy(ELBO(free_bits=0.6)(bound)), rtol=1e-6)
    with pytest.raises(ValueError, match="2 latent dimensions cannot be cut into 3 groups"):
        ELBO(free_bits=0.6, groups=3)(bound)


def test_free_bits_give_a_latent_below_them_no_gradient_and_one_above_its_own(gradient):
    """Two latents with KL 0.005 and 2 nats: only the second is pushed down."""
    np.testing.assert_allclose(gradient_in_mean(ELBO(free_bits=0.1), gradient), [[0.0, 2.0]], atol=1e-6)


def gradient_in_mean(objective, gradient, mean=((0.1, 2.0),)):
    """Of the loss of one example, with a log-likelihood of 0 and the noise 0."""

    def loss(mean):
        posterior = DiagonalNormal(mean, ops.zeros((1, 2)))
        zeros = ops.zeros((1, 1))
        z = ops.reshape(mean, (1, 1, 2))
        return ops.sum(
            objective(
                LatentBatch(z, ops.zeros((1, 1, 2)), decode, lambda z: zeros, posterior, DiagonalNormal.standard(2), 0)
            ).loss
        )

    return gradient(loss, mean)


def test_a_capacity_holds_the_batch_mean_of_the_kl(bound):
    """beta * |KL - C|: Burgess et al. 2018, equation 8, with the mean of the batch."""
    for capacity in (0.0, 0.3, 1000.0):
        loss, reconstruction, kl = numpy(ELBO(beta=7.0, capacity=capacity)(bound))
        assert (loss - reconstruction).mean() == pytest.approx(7.0 * abs(kl.mean() - capacity), rel=1e-5)
    np.testing.assert_allclose(numpy(ELBO(capacity=0.0)(bound)), numpy(ELBO()(bound)), rtol=1e-6)


def test_a_capacity_draws_the_kl_up_below_it_and_down_above(gradient):
    """The KL is 2.005 nats, its gradient the mean."""
    assert np.all(gradient_in_mean(ELBO(capacity=1.0), gradient) > 0.0)
    assert np.all(gradient_in_mean(ELBO(capacity=3.0), gradient) < 0.0)


def test_a_capacity_rises_with_the_steps_and_is_logged():
    objective = ELBO(beta=2.0, capacity=schedules.Linear(10, end=30.0))
    loss, reconstruction, kl = numpy(objective(random_draws(step=5)))
    assert (loss - reconstruction).mean() == pytest.approx(2.0 * abs(kl.mean() - 15.0), rel=1e-5)
    assert objective.log_names == ("capacity",)


def test_iwae_of_one_sample_is_the_monte_carlo_elbo():
    one = random_draws(samples=1)
    np.testing.assert_allclose(numpy(IWAE(1)(one)), numpy(ELBO(kl="monte_carlo")(one)), rtol=1e-5)


@pytest.mark.parametrize("gradient", ["standard", "dreg"])
def test_iwae_is_the_logarithm_of_the_mean_weight_and_lies_below_the_elbo(bound, gradient):
    z, mean, log_var = float64(bound)
    log_likelihood = ops.convert_to_numpy(bound.log_likelihood(None))
    log_prior = oracles.normal_log_prob(z, 0.0, 1.0).sum(axis=-1)
    weights = np.exp(log_likelihood + log_prior - oracles.normal_log_prob(z, mean, np.exp(0.5 * log_var)).sum(axis=-1))
    loss, reconstruction, kl = numpy(IWAE(3, gradient)(bound))
    np.testing.assert_allclose(loss, -np.log(weights.mean(axis=0)), rtol=1e-5)
    np.testing.assert_allclose(reconstruction, -log_likelihood.mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(kl, numpy(ELBO()(bound))[2])
    assert np.all(loss < numpy(ELBO(kl="monte_carlo")(bound))[0])


def test_iwae_stays_finite_where_the_weights_overflow(bound):
    z, mean, log_var = (part.astype("float32") for part in float64(bound))
    for height in (-1e5, 1e5):
        loss, *_ = numpy(IWAE(3)(draws_of(DiagonalNormal(mean, log_var), z, np.full((3, 4), height))))
        np.testing.assert_allclose(loss, -height, rtol=1e-3)


# Gradients with less noise. A linear model of one latent and one pixel: p(x|z) = N(x; w z, 1), q = N(m, exp(v)).


def linear_gradients(objective, gradient, point, k, repeats):
    """Of the loss in (m, v, w), once for each of `repeats` draws: `(repeats, 3)`."""
    epsilon = np.random.default_rng(0).standard_normal((k, repeats, 1)).astype("float32")

    def loss(parameters):  # `(repeats, 3)`: an example each, so that one gradient is that of each alone
        mean, log_var, weight = (parameters[:, i : i + 1] for i in range(3))
        posterior = DiagonalNormal(mean, log_var)

        def log_likelihood(z):
            return -0.5 * ops.square(1.5 - weight[None, :, 0] * z[..., 0])

        z = posterior.reparameterize(ops.convert_to_tensor(epsilon))
        terms = objective(LatentBatch(z, epsilon, decode, log_likelihood, posterior, DiagonalNormal.standard(1), 0))
        return ops.sum(terms.loss * 0.25)  # as a mean over a batch, or weights, would multiply it

    return gradient(loss, np.tile(np.asarray(point, "float32"), (repeats, 1))) / 0.25


PAIRS = [
    (IWAE(8), IWAE(8, "dreg"), (0.3, -0.4, 1.2)),
    (ELBO(num_samples=8, kl="monte_carlo"), ELBO(num_samples=8, kl="monte_carlo", gradient="stl"), (0.6, -0.8, 1.2)),
]


@pytest.mark.parametrize(("standard", "other", "point"), PAIRS)
def test_the_gradient_with_less_noise_has_the_same_mean_and_less_variance(gradient, standard, other, point):
    plain = linear_gradients(standard, gradient, point, 8, 40_000)
    better = linear_gradients(other, gradient, point, 8, 40_000)
    standard_error = np.sqrt((plain.var(axis=0) + better.var(axis=0)) / len(plain))
    assert np.all(np.abs(plain.mean(axis=0) - better.mean(axis=0)) < 4.5 * standard_error)
    assert np.all(better[:, :2].var(axis=0) < 0.7 * plain[:, :2].var(axis=0))  # of the posterior
    np.testing.assert_allclose(better[:, 2], plain[:, 2], rtol=1e-4, atol=1e-5)  # of the decoder: the same


@pytest.mark.parametrize("other", [IWAE(8, "dreg"), ELBO(num_samples=8, kl="monte_carlo", gradient="stl")])
def test_where_the_posterior_is_exact_its_gradient_is_exactly_zero(gradient, other):
    """Of x = 1.5 and w = 1 the posterior is N(0.75, 1/2): all weights are p(x), whatever z."""
    found = linear_gradients(other, gradient, (0.75, np.log(0.5), 1.0), 8, 100)
    np.testing.assert_allclose(found[:, :2], 0.0, atol=2e-6)
    assert np.abs(found[:, 2]).max() > 0.1


def test_dreg_is_the_formula_of_the_paper(gradient):
    """sum_i v_i**2 (d log w_i / d z_i) (d z_i / d parameters), with log q held: Tucker et al. 2019, equation 6."""
    mean, log_var, weight = 0.3, -0.4, 1.2
    found = linear_gradients(IWAE(8, "dreg"), gradient, (mean, log_var, weight), 8, 5)
    epsilon = np.random.default_rng(0).standard_normal((8, 5, 1)).astype("float32")[..., 0].astype("float64")
    z = mean + np.exp(0.5 * log_var) * epsilon
    log_w = -0.5 * (1.5 - weight * z) ** 2 - 0.5 * z**2 + 0.5 * epsilon**2 + 0.5 * log_var
    v = np.exp(log_w) / np.exp(log_w).sum(axis=0)
    in_z = (1.5 - weight * z) * weight - z + (z - mean) * np.exp(-log_var)
    np.testing.assert_allclose(found[:, 0], -(v**2 * in_z).sum(axis=0), rtol=1e-3, atol=1e-5)
    in_log_var = 0.5 * np.exp(0.5 * log_var) * epsilon
    np.testing.assert_allclose(found[:, 1], -(v**2 * in_z * in_log_var).sum(axis=0), rtol=1e-3, atol=1e-5)


def test_an_example_without_weight_does_not_spoil_dreg(gradient):
    """Its share of the loss is 0, by which the weights cannot be divided."""

    def loss(mean):
        posterior = DiagonalNormal(mean, ops.zeros((2, 1)))
        z = posterior.reparameterize(ops.convert_to_tensor(np.array([[[0.5], [1.0]], [[-1.0], [0.3]]], "float32")))
        terms = IWAE(2, "dreg")(
            LatentBatch(z, z, decode, lambda z: -ops.square(z[..., 0]), posterior, DiagonalNormal.standard(1), 0)
        )
        return ops.sum(terms.loss * ops.convert_to_tensor(np.array([1.0, 0.0], "float32")))

    found = gradient(loss, [[0.4], [0.8]])
    assert np.isfinite(found).all()
    assert found[0, 0] != 0.0
    assert found[1, 0] == 0.0


# The KL in parts


def test_beta_tc_with_all_weights_at_one_is_the_monte_carlo_elbo(bound):
    for estimator in ("weighted", "stratified"):
        terms = BetaTC(50, beta=1.0, estimator=estimator)(bound)
        np.testing.assert_allclose(numpy(terms), numpy(ELBO(kl="monte_carlo")(bound)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("estimator", ["weighted", "stratified"])
def test_beta_tc_by_brute_force(estimator):
    draws = random_draws(samples=2, batch=5, latents=3, seed=4)
    z, mean, log_var = float64(draws)
    n, b = 40, 5
    log_q = oracles.normal_log_prob(z[:, :, None], mean, np.exp(0.5 * log_var))  # (2, 5 of z, 5 of x, 3)
    share = np.full((b, b), 1.0 / (n * b))
    if estimator == "stratified":
        share[:] = (n - 1) / (n * (b - 1))
        share[np.arange(b), np.arange(b)] = 1.0 / n
    aggregate = np.log((share * np.exp(log_q.sum(axis=-1))).sum(axis=2))
    marginals = np.log((share[..., None] * np.exp(log_q)).sum(axis=2)).sum(axis=-1)
    own = np.einsum("sbbl->sb", log_q)
    prior = oracles.normal_log_prob(z, 0.0, 1.0).sum(axis=-1)
    parts = [(own - aggregate).mean(axis=0), (aggregate - marginals).mean(axis=0), (marginals - prior).mean(axis=0)]
    objective = BetaTC(n, alpha=0.5, beta=6.0, gamma=2.0, estimator=estimator, num_samples=2)
    terms = objective(draws)
    for name, part in zip(objective.log_names, parts, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(terms.logs[name]), part, rtol=1e-4, atol=1e-4)
    loss, reconstruction, _ = numpy(terms)
    expected = reconstruction + 0.5 * parts[0] + 6.0 * parts[1] + 2.0 * parts[2]
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-3)


def test_the_stratified_estimate_of_q_of_z_is_unbiased_and_the_weighted_is_not():
    """Over all batches of 3 that hold example 0, out of 6 examples: the average is q(z), exactly."""
    rng = np.random.default_rng(3)
    mean, log_var = rng.normal(size=(2, 6, 2)).astype("float32")
    z = DiagonalNormal(mean[:1], log_var[:1]).sample(1, seed=0)
    exact = np.exp(oracles.normal_log_prob(z[0], mean, np.exp(0.5 * log_var.astype("float64"))).sum(axis=-1)).mean()
    found = {"weighted": [], "stratified": []}
    for others in itertools.combinations(range(1, 6), 2):
        rows = [0, *others]
        posterior = DiagonalNormal(mean[rows], log_var[rows])
        z_of_all = np.concatenate([z, posterior.sample(1, seed=1)[:, 1:]], axis=1)
        draws = draws_of(posterior, z_of_all, np.zeros((1, 3)))
        own = ops.convert_to_numpy(draws.posterior.log_prob(draws.z))[0, 0]
        for estimator, estimates in found.items():
            information = BetaTC(6, estimator=estimator)(draws).logs["mutual_information"]
            estimates.append(np.exp(own - float(ops.convert_to_numpy(information)[0])))
    assert np.mean(found["stratified"]) == pytest.approx(exact, rel=1e-5)
    assert np.mean(found["weighted"]) < 0.9 * exact


def test_a_batch_of_one_is_no_accident():
    for objective in (BetaTC(50), BetaTC(50, estimator="weighted"), InfoVAE()):
        assert np.isfinite(numpy(objective(random_draws(batch=1)))).all()


# A distance of the codes from the prior


def kernels(name, a, b, c):
    squares = np.square(a[:, None] - b[None]).sum(axis=-1)
    return c / (c + squares) if name == "imq" else np.exp(-squares / c)


@pytest.mark.parametrize(("kernel", "scale"), [("imq", None), ("rbf", None), ("rbf", 1.5)])
def test_info_vae_by_brute_force(kernel, scale):
    prior = DiagonalNormal(np.array([0.5, -1.0], "float32"), np.array([0.2, -0.6], "float32"))
    draws = random_draws(samples=2, batch=5, seed=2, prior=prior)
    z, mean, log_var = float64(draws)
    epsilon, c = (z - mean) * np.exp(-0.5 * log_var), scale or 4.0
    z = (z - prior.mean) * np.exp(-0.5 * prior.log_var.astype("float64"))
    mmd = []
    for a, b in zip(z, epsilon, strict=True):
        h = kernels(kernel, a, a, c) + kernels(kernel, b, b, c) - kernels(kernel, a, b, c) - kernels(kernel, b, a, c)
        mmd.append((h.sum() - np.trace(h)) / (5 * 4))
    terms = InfoVAE(0.25, 100.0, kernel, scale, num_samples=2)(draws)
    assert float(ops.convert_to_numpy(terms.logs["mmd"])) == pytest.approx(np.mean(mmd), abs=1e-6)
    loss, reconstruction, kl = numpy(terms)
    np.testing.assert_allclose(loss, reconstruction + 0.75 * kl + 99.25 * np.mean(mmd), rtol=1e-4)


def test_info_vae_of_alpha_0_and_lambda_1_is_the_elbo(bound):
    np.testing.assert_allclose(numpy(InfoVAE(0.0, 1.0)(bound)), numpy(ELBO()(bound)), rtol=1e-6)


def test_the_mmd_is_zero_on_average_where_the_codes_are_the_prior():
    """Each example's mean is a draw of N(0, 1/2), and so is its noise about it: z ~ N(0, 1). Unbiased, so no offset."""
    rng, found = np.random.default_rng(0), []
    for _ in range(60):
        mean = rng.normal(scale=0.5**0.5, size=(20, 2)).astype("float32")
        posterior = DiagonalNormal(mean, np.full((20, 2), np.log(0.5), "float32"))
        z = posterior.sample(1, seed=int(rng.integers(2**31)))
        found.append(float(ops.convert_to_numpy(InfoVAE()(draws_of(posterior, z, np.zeros((1, 20)))).logs["mmd"])))
    assert abs(np.mean(found)) < 4.0 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0.0


# Priors without a closed form


def test_without_a_closed_form_the_kl_is_the_average_over_the_samples(bound):
    rng = np.random.default_rng(5)
    components = DiagonalNormal(rng.normal(size=(3, 2)).astype("float32"), rng.normal(size=(3, 2)).astype("float32"))
    prior = Mixture(components, np.array([0.0, 1.0, -1.0], "float32"))
    draws = random_draws(prior=prior)
    z, mean, log_var = float64(draws)
    weights = np.exp(prior.logits) / np.exp(prior.logits).sum()
    each = oracles.normal_log_prob(z[:, :, None], components.mean, np.exp(0.5 * components.log_var)).sum(axis=-1)
    expected = oracles.normal_log_prob(z, mean, np.exp(0.5 * log_var)).sum(axis=-1) - np.log(np.exp(each) @ weights)
    loss, reconstruction, kl = numpy(ELBO(beta=2.0)(draws))
    np.testing.assert_allclose(kl, expected.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss, reconstruction + 2.0 * kl, rtol=1e-5)


def test_a_mixture_of_one_component_is_that_normal(bound):
    normal = DiagonalNormal(np.array([[0.3, -0.2]], "float32"), np.array([[0.1, -0.4]], "float32"))
    mixed, plain = random_draws(prior=Mixture(normal)), random_draws(prior=DiagonalNormal(*vars(normal).values()))
    for objective in (ELBO(kl="monte_carlo"), IWAE(3)):
        np.testing.assert_allclose(numpy(objective(mixed))[0], numpy(objective(plain))[0], rtol=1e-5)


@pytest.mark.parametrize("of", ["z", "mean", "log_var"])
def test_the_gradient_of_a_mixture_is_that_of_its_log_prob(of, gradient):
    """Its value and its gradient come by two ways; some components are narrow, where squares written out cancel."""
    rng = np.random.default_rng(6)
    mean, log_var = rng.normal(size=(4, 3)), rng.uniform(-6.0, 1.0, size=(4, 3))
    z = mean[[0, 1, 2, 3, 0]] + rng.normal(size=(5, 3)) * np.exp(0.5 * log_var[[0, 1, 2, 3, 0]])
    arrays = {"z": z, "mean": mean, "log_var": log_var}

    def log_prob(changed):
        given = {name: ops.convert_to_tensor(array, dtype="float32") for name, array in arrays.items()} | changed
        return ops.sum(Mixture(DiagonalNormal(given["mean"], given["log_var"])).log_prob(given["z"]))

    def by_numpy(array):
        z, mean, log_var = ({**arrays, of: array}[name] for name in arrays)
        each = oracles.normal_log_prob(z[:, None], mean, np.exp(0.5 * log_var)).sum(axis=-1)
        return np.log(np.mean(np.exp(each), axis=-1)).sum()

    step, expected = 1e-6, np.zeros_like(arrays[of])
    for index in np.ndindex(expected.shape):
        moved = np.zeros_like(expected)
        moved[index] = step
        expected[index] = (by_numpy(arrays[of] + moved) - by_numpy(arrays[of] - moved)) / (2.0 * step)
    found = gradient(lambda array: log_prob({of: array}), arrays[of])
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    value = float(ops.convert_to_numpy(log_prob({})))
    np.testing.assert_allclose(value, by_numpy(arrays[of]), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"free_bits": -1.0}, "free_bits, in nats per group, must be a finite number, zero or more"),
        ({"free_bits": 0.1, "kl": "monte_carlo"}, "need the closed form"),
        ({"groups": 2}, "no meaning without free_bits"),
        ({"capacity": 5.0, "free_bits": 0.1}, "choose one"),
        ({"capacity": -1.0}, "zero or more"),
        ({"gradient": "stl", "kl": "analytic"}, 'say kl="monte_carlo"'),
        ({"gradient": "dreg"}, "^gradient must be one of 'standard', 'stl'"),
    ],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        ELBO(**arguments)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BetaTC(10, num_samples=0), "^num_samples must be"),
        (lambda: IWAE(gradient="stl"), "^gradient must be one of 'standard', 'dreg'"),
        (lambda: BetaTC(1), "dataset_size must be a whole number of at least 2"),
        (lambda: BetaTC(10, alpha=-1.0), "alpha must be a finite number, zero or more"),
        (lambda: BetaTC(10, estimator="minibatch"), "'weighted', 'stratified'"),
        (lambda: InfoVAE(alpha=1.5), "would reward a large KL"),
        (lambda: InfoVAE(0.0, 0.5), "would reward codes that are unlike the prior"),
        (lambda: InfoVAE("0", 1.0), "finite numbers"),
        (lambda: InfoVAE(scale=0.0), "positive number"),
        (lambda: InfoVAE(kernel="gaussian"), "^kernel .*'imq', 'rbf'"),
        (lambda: InfoVAE(num_samples=0), "^num_samples must be"),
        (lambda: IWAE(0), "^num_samples must be"),
        (lambda: ELBO(num_samples=0), "^num_samples must be"),
        (lambda: ELBO(free_bits=1.0, groups=0), "^groups must be"),
    ],
)
def test_what_cannot_be_of_the_others_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.every_backend
@pytest.mark.parametrize(
    "objective",
    [
        ELBO(beta=10.0, capacity=schedules.Linear(5, end=3.0)),
        ELBO(num_samples=2, kl="monte_carlo", gradient="stl"),
        IWAE(3, "dreg"),
        BetaTC(256, beta=schedules.Linear(5, end=3.0)),
        InfoVAE(0.5, 100.0),
    ],
)
def test_every_objective_trains_and_logs_what_it_says(make_vae, digits, objective):
    vae = make_vae(objective=objective, compile={"optimizer": keras.optimizers.Adam(0.01)})
    history = vae.fit(digits, epochs=3, verbose=0).history
    assert history["reconstruction"][-1] < history["reconstruction"][0]
    assert set(history) == {"loss", "reconstruction", "kl", "negative_elbo", *objective.log_names}
    np.testing.assert_allclose(history["negative_elbo"], np.add(history["reconstruction"], history["kl"]), rtol=1e-5)


def test_sample_weights_weigh_the_mean_that_a_capacity_and_free_bits_look_at(bound):
    weight = np.array([2.0, 0.0, 1.0, 0.0], "float32")
    weighted = dataclasses.replace(bound, weight=ops.convert_to_tensor(weight))
    for capacity in (0.1, 1000.0):
        loss, reconstruction, kl = numpy(ELBO(beta=7.0, capacity=capacity)(weighted))
        mean = np.average(kl, weights=weight)
        assert np.average(loss - reconstruction, weights=weight) == pytest.approx(7.0 * abs(mean - capacity), rel=1e-5)
    loss, reconstruction, _ = numpy(ELBO(free_bits=0.6)(weighted))
    expected = np.maximum(0.6, np.average(per_dimension(bound), axis=0, weights=weight)).sum()
    assert np.average(loss - reconstruction, weights=weight) == pytest.approx(expected, rel=1e-5)
    smaller = dataclasses.replace(bound, weight=ops.convert_to_tensor(0.01 * weight))
    np.testing.assert_allclose(numpy(ELBO(free_bits=0.6)(smaller))[0], loss, rtol=1e-5)


@pytest.mark.parametrize(
    ("objective", "prior", "words"),
    [
        (ELBO(kl="analytic"), "mixture", "no closed form"),
        (ELBO(free_bits=0.1), "mixture", "not a sum over latents"),
        (ELBO(gradient="stl"), "normal", 'say kl="monte_carlo"'),
        (BetaTC(10), "mixture", "each latent with its own prior"),
        (InfoVAE(), "mixture", "the noise that it was made of"),
    ],
)
def test_a_prior_that_does_not_fit_is_refused_when_the_model_is_made(make_vae, objective, prior, words):
    with pytest.raises(ValueError, match=words):
        make_vae(objective=objective, prior=priors.GaussianMixture(3) if prior == "mixture" else None)


def test_config_round_trip_and_get():
    for objective in (
        ELBO(),
        ELBO(schedules.Cyclical(10), num_samples=3, kl="monte_carlo"),
        ELBO(free_bits=0.5, groups=2),
        ELBO(1000.0, capacity=schedules.Linear(5, end=25.0)),
        ELBO(kl="monte_carlo", gradient="stl"),
        IWAE(7),
        IWAE(7, "dreg"),
        BetaTC(60_000, 0.5, schedules.Linear(9), 2.0, "weighted", 3),
        InfoVAE(0.5, 10.0, "rbf", 3.0, 2),
    ):
        copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(objective))
        assert repr(copy) == repr(objective)
        assert objectives.get(objective) is objective
        assert repr(objectives.get(keras.saving.serialize_keras_object(objective))) == repr(objective)
    assert repr(ELBO()) == "ELBO(beta=Constant(value=1.0), num_samples=1, kl='auto')"
    assert isinstance(objectives.get("elbo"), ELBO)
    assert isinstance(objectives.get("iwae"), IWAE)
    with pytest.raises(ValueError, match='must be "elbo", "iwae" or an Objective'):
        objectives.get("evidence")
    with pytest.raises(ValueError, match="num_samples must be a whole number"):
        ELBO(num_samples=0)
    with pytest.raises(ValueError, match='kl must be "auto", "analytic" or "monte_carlo"'):
        ELBO(kl="exact")


# Objectives of one's own


class Changed(objectives.Objective):
    """The ELBO with `change` made to its terms."""

    log_names = ("one",)

    def __init__(self, change, num_samples=3):
        super().__init__()
        self.change, self.num_samples = change, num_samples

    def __call__(self, batch):
        return self.change(ELBO()(batch)._replace(logs={"one": ops.ones(())}), batch)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda terms, _: tuple(terms[:3]), r"^Changed returned a tuple; an objective returns .*Terms\(loss"),
        (
            lambda terms, _: terms._replace(loss=ops.mean(terms.loss)),
            r"a loss of shape \(\).* \(4,\): leave out the mean",
        ),
        (lambda terms, _: terms._replace(kl=0.0), r"a kl of shape \(\)"),
        (
            lambda terms, batch: terms._replace(reconstruction=-batch.log_likelihood(batch.z)),
            r"a reconstruction of shape \(3, 4\).* average over the samples of z with ops.mean\(..., axis=0\)",
        ),
        (lambda terms, _: terms._replace(loss=terms.loss[:, None]), r"shape \(4, 1\).* all axes but that of the batch"),
        (lambda terms, _: terms._replace(loss=terms.loss[:1]), r"a loss of shape \(1,\)"),
        (lambda terms, _: terms._replace(logs={}), r"returned the logs \[\], and its log_names are \['one'\]"),
        (lambda terms, _: terms._replace(logs={**terms.logs, "two": 2.0}), r"the logs \['one', 'two'\]"),
        (lambda terms, batch: terms._replace(logs={"one": batch.z}), r"logs 'one' with shape \(3, 4, 2\)"),
    ],
)
def test_what_an_objective_must_not_return(bound, change, words):
    objectives.compute_terms(Changed(lambda terms, _: terms), bound)
    with pytest.raises((TypeError, ValueError), match=words):
        objectives.compute_terms(Changed(change), bound)


@pytest.mark.every_backend
def test_a_mean_over_the_batch_is_refused_before_the_first_step(make_vae, digits):
    """On TensorFlow the size of the batch is then unknown."""
    for change in (ops.mean, lambda loss: ops.mean(loss, keepdims=True)):
        vae = make_vae(objective=Changed(lambda terms, _, change=change: terms._replace(loss=change(terms.loss))))
        before = vae.get_weights()
        with pytest.raises(ValueError, match=r"Changed returned a loss of shape \(1?,?\)"):
            vae.fit(digits[:64], verbose=0)
        for one, other in zip(before, vae.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


class Squared(objectives.Objective):
    """The ELBO and, in the logs, the squared error of the mean of p(x|z), from one pass of the decoder."""

    log_names = ("error", "is_noisy")

    def __call__(self, batch):
        parameters = batch.decode(batch.z)
        reconstruction = -ops.mean(batch.log_prob_of(parameters), axis=0)
        error = ops.sum(ops.square(batch.likelihood.mean(parameters)[0] - batch.target), axis=(1, 2, 3))
        is_noisy = ops.any(batch.x != batch.target, axis=(1, 2, 3))
        logs = {"error": error, "is_noisy": ops.cast(is_noisy, "float32")}
        return objectives.Terms(reconstruction + batch.kl(), reconstruction, batch.kl(), logs)


def test_an_objective_sees_the_data_and_the_decoders_parameters(make_vae, digits, monkeypatch):
    x, target = digits[:5].copy(), digits[:5]
    x[3:] = 1.0 - x[3:]
    vae, passes = make_vae(), []
    decoder_parameters = vae.decoder_parameters
    monkeypatch.setattr(vae, "decoder_parameters", lambda *args: passes.append(1) or decoder_parameters(*args))
    arguments = [ops.convert_to_tensor(array) for array in (x, np.full((1, 5, 3), 0.3, "float32"), target)]
    expected = numpy(vae.terms(*arguments))
    vae.objective = Squared()
    passes.clear()
    terms = vae.terms(*arguments)
    assert len(passes) == 1
    np.testing.assert_allclose(numpy(terms), expected, rtol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(terms.logs["is_noisy"]), [0, 0, 0, 1, 1])
    posterior = vae.encode(x)
    decoded = vae.decode(posterior.mean + 0.3 * np.exp(0.5 * posterior.log_var))
    error = np.square(decoded - target).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(ops.convert_to_numpy(terms.logs["error"]), error, rtol=1e-4)

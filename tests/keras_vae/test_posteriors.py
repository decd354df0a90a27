"""Posteriors that are no diagonal normal: their densities, their bounds, and what they are in a model."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops
from scipy import stats
from scipy.special import logsumexp

import guide_parts
import oracles
from keras_vae import (
    ELBO,
    IWAE,
    VAE,
    BetaTC,
    DiagonalNormal,
    Gaussian,
    InfoVAE,
    Mixture,
    distributions,
    evaluation,
    networks,
    posteriors,
)
from keras_vae.posteriors import FSQ, Flow, FullNormal, LowRankNormal

pytestmark = pytest.mark.once

FAMILIES = {
    "full": (FullNormal, (3,)),
    "full_map": (FullNormal, (2, 1, 2)),
    "low_rank": (lambda: LowRankNormal(2), (4,)),
    "low_rank_map": (lambda: LowRankNormal(1), (2, 2)),
    "flow": (lambda: Flow(depth=3, hidden=(9, 8), context=2), (3,)),
    "flow_map": (lambda: Flow(depth=1, hidden=(7,), context=0), (2, 1)),
    "fsq": (lambda: FSQ((2, 4, 5)), (2, 3)),
}
CORRELATED = [name for name in FAMILIES if name.startswith(("full", "low"))]


def random_outputs(family, shape, batch=2, seed=0, scale=0.7):
    """What an encoder might return, NumPy; a family that learns is given random weights."""
    rng, shapes = np.random.default_rng(seed), family.output_shapes(shape)
    family.bind(shape, tuple(shapes.values()))
    for variable in family.trainable_variables:
        variable.assign(rng.normal(scale=0.4, size=variable.shape))
    return [rng.normal(scale=scale, size=(batch, *part)).astype("float32") for part in shapes.values()]


def made(name, **kwargs):
    """A family, its outputs, q(z|x), and the shape of z."""
    make, shape = FAMILIES[name]
    family = make()
    outputs = random_outputs(family, shape, **kwargs)
    return family, outputs, family.distribution([ops.convert_to_tensor(part) for part in outputs]), shape


def covariance(family, outputs):
    """Mean and covariance of each example, float64, as the docstrings say."""
    size = outputs[0][0].size
    for mean, *others in zip(*(part.astype("float64") for part in outputs), strict=True):
        if isinstance(family, FullNormal):
            packed = iter(others[0])
            cholesky = np.diag([math.exp(0.5 * next(packed)) for _ in range(size)])
            for row in range(size):
                for column in range(row):
                    cholesky[row, column] = next(packed)
            yield mean.ravel(), cholesky @ cholesky.T
        else:
            factor = others[1].reshape(size, -1)
            yield mean.ravel(), np.diag(np.exp(others[0].ravel())) + factor @ factor.T


def numpy(*tensors):
    found = [ops.convert_to_numpy(tensor) for tensor in tensors]
    return found if len(found) > 1 else found[0]


def drawn(q, draws, batch=2, seed=1):
    """Noise, z and log q(z), NumPy."""
    noise = np.random.default_rng(seed).standard_normal((draws, batch, *q.noise_shape), dtype="float32")
    return noise, *numpy(*q.draw(ops.convert_to_tensor(noise)))


# Densities


@pytest.mark.parametrize("name", CORRELATED)
def test_density_and_draws_are_those_of_the_covariance_in_the_outputs(name):
    family, outputs, q, shape = made(name)
    _, z, log_prob = drawn(q, 20_000)
    assert z.shape == (20_000, 2, *shape)
    exact = [stats.multivariate_normal(*moments) for moments in covariance(family, outputs)]
    expected = np.stack([each.logpdf(z[:, i].reshape(len(z), -1)) for i, each in enumerate(exact)], axis=1)
    np.testing.assert_allclose(log_prob, expected, atol=2e-4)
    np.testing.assert_allclose(numpy(q.log_prob(ops.convert_to_tensor(z))), expected, atol=2e-4)
    np.testing.assert_allclose(numpy(q.without_gradient().log_prob(ops.convert_to_tensor(z))), expected, atol=2e-4)
    for i, each in enumerate(exact):
        flat, spread = z[:, i].reshape(len(z), -1), np.sqrt(np.diag(each.cov))
        np.testing.assert_allclose(flat.mean(axis=0), each.mean, atol=5.0 * spread.max() / math.sqrt(len(z)))
        np.testing.assert_allclose(np.cov(flat.T), each.cov, atol=0.06 * spread.max() ** 2)
    np.testing.assert_array_equal(numpy(q.location), outputs[0])


@pytest.mark.parametrize("name", CORRELATED)
def test_a_density_takes_any_number_of_leading_axes(name):
    _, _, q, shape = made(name)
    z = ops.convert_to_tensor(np.random.default_rng(2).normal(size=(3, 4, 2, *shape)).astype("float32"))
    whole = numpy(q.log_prob(z))
    assert whole.shape == (3, 4, 2)
    np.testing.assert_allclose(numpy(q.log_prob(z[1])), whole[1], rtol=1e-5)
    np.testing.assert_allclose(numpy(q.log_prob(z[1, 2])), whole[1, 2], rtol=1e-5)
    noise = ops.convert_to_tensor(np.random.default_rng(3).normal(size=(3, 4, 2, *q.noise_shape)).astype("float32"))
    z, log_prob = q.draw(noise)
    np.testing.assert_allclose(numpy(q.draw(noise[1, 2])[0]), numpy(z)[1, 2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(numpy(q.log_prob(z)), numpy(log_prob), atol=1e-4)


@pytest.mark.parametrize("family", [FullNormal(), LowRankNormal(1)])
def test_densities_integrate_to_one(family):
    outputs = random_outputs(family, (2,), seed=1)
    q = family.distribution([ops.convert_to_tensor(part) for part in outputs])
    axis = np.linspace(-14.0, 14.0, 401)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 1, 2).astype("float32")
    density = np.exp(numpy(q.log_prob(ops.convert_to_tensor(np.tile(grid, (1, 2, 1))))), dtype="float64")
    np.testing.assert_allclose(density.sum(axis=0) * (axis[1] - axis[0]) ** 2, 1.0, atol=1e-4)


@pytest.mark.parametrize("name", ["flow", "flow_map", "full"])
def test_the_density_of_a_draw_is_that_of_its_noise_and_the_volume(name):
    """log q(z) = log N(noise) - log |det dz/dnoise|, the Jacobian by finite differences."""
    _, _, q, shape = made(name)
    size, step = math.prod(shape), 2e-3
    noise, _, log_prob = drawn(q, 5)
    moves = step * np.eye(size, dtype="float32").reshape(size, 1, 1, *shape)
    ends = (numpy(q.draw(ops.convert_to_tensor(noise + sign * moves))[0]).astype("float64") for sign in (1.0, -1.0))
    jacobian = np.subtract(*ends).reshape(size, 5, 2, size).transpose(1, 2, 3, 0) / (2.0 * step)
    log_noise = oracles.normal_log_prob(noise, 0.0, 1.0).reshape(5, 2, -1).sum(axis=-1)
    np.testing.assert_allclose(log_prob, log_noise - np.linalg.slogdet(jacobian)[1], atol=3e-3)
    if name == "flow_map":  # of one step: element i is a function of the noise up to i
        assert np.all(jacobian[..., np.triu_indices(size, 1)[0], np.triu_indices(size, 1)[1]] == 0.0)
        assert np.all(np.abs(jacobian[..., np.tril_indices(size)[0], np.tril_indices(size)[1]]) > 1e-4)


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("step", [0, 1])
def test_each_step_of_a_flow_is_autoregressive_and_the_next_in_reverse(gradient, step, context):
    size, flow = 4, Flow(depth=2, hidden=(11, 9), context=context)
    *_, context = [*random_outputs(flow, (size,)), None][: 3 + (context == 0)]
    given = () if context is None else (ops.convert_to_tensor(context),)
    z = np.random.default_rng(0).normal(size=(2, size))

    def element(i):
        return lambda z: ops.sum(flow._transform(step, (size,), *given)(z)[0][:, i])

    depends = np.stack([np.abs(gradient(element(i), z)).max(axis=0) for i in range(size)])
    order = np.arange(size) if step == 0 else np.arange(size)[::-1]
    assert np.array_equal(depends > 0.0, order[:, None] >= order)


def test_a_flow_starts_at_its_base_but_for_the_gate_and_without_steps_is_it():
    rng, latents = np.random.default_rng(0), 3
    outputs = [ops.convert_to_tensor(rng.normal(size=(2, n)).astype("float32")) for n in (latents, latents, 5)]
    noise = ops.convert_to_tensor(rng.normal(size=(7, 2, latents)).astype("float32"))
    z, log_prob = numpy(*posteriors.Normal().distribution(outputs[:2]).draw(noise))
    for depth in (0, 1, 2):
        flow = Flow(depth, context=5)
        flow.bind((latents,), ((latents,), (latents,), (5,)))
        moved, density = numpy(*flow.distribution(outputs).draw(noise))
        gate = (1.0 / (1.0 + math.exp(-2.0))) ** depth
        if depth == 0:
            np.testing.assert_array_equal(moved, z)
            np.testing.assert_array_equal(density, log_prob)
        np.testing.assert_allclose(moved, gate * z, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(density, log_prob - latents * math.log(gate), rtol=1e-5, atol=1e-5)


def test_a_matrix_of_zeros_is_the_diagonal_normal():
    rng, noise = np.random.default_rng(0), np.random.default_rng(1).normal(size=(5, 2, 5)).astype("float32")
    mean, log_var = (ops.convert_to_tensor(rng.normal(size=(2, 3)).astype("float32")) for _ in range(2))
    plain, prior = DiagonalNormal(mean, log_var), DiagonalNormal(np.ones(3, "float32"), np.full(3, 0.3, "float32"))
    z = numpy(plain.from_noise(ops.convert_to_tensor(noise[..., :3])))
    for kind, columns in ((distributions.FullNormal, 3), (distributions.LowRankNormal, 2)):
        q = kind(mean, log_var, ops.zeros((2, 3, columns)))
        np.testing.assert_array_equal(numpy(q.from_noise(noise[..., : q.noise_shape[0]])), z)
        np.testing.assert_array_equal(numpy(distributions.kl_divergence(q, prior)), numpy(plain.kl_divergence(prior)))


@pytest.mark.parametrize("name", CORRELATED)
def test_the_closed_form_of_the_kl_is_the_average_over_draws_and_the_textbook_s(name):
    family, outputs, q, shape = made(name)
    rng = np.random.default_rng(4)
    prior = DiagonalNormal(*rng.normal(scale=0.5, size=(2, *shape)).astype("float32"), len(shape))
    kl = numpy(distributions.kl_divergence(q, prior))
    _, z, log_prob = drawn(q, 50_000)
    estimates = log_prob.astype("float64") - prior.log_prob(z)
    assert np.all(np.abs(estimates.mean(axis=0) - kl) < 4.0 * estimates.std(axis=0) / math.sqrt(len(z)))
    precision, expected = np.exp(-prior.log_var.ravel().astype("float64")), []
    for mean, cov in covariance(family, outputs):
        distance, size = mean - prior.mean.ravel(), len(mean)
        log_ratio = -np.log(precision).sum() - np.linalg.slogdet(cov)[1]
        expected.append(0.5 * (precision @ np.diag(cov) + precision @ distance**2 - size + log_ratio))
    np.testing.assert_allclose(kl, expected, rtol=1e-5)
    with pytest.raises(TypeError, match="not a sum over dimensions"):
        distributions.kl_divergence(q, prior, per_dimension=True)


def test_a_low_rank_density_keeps_its_digits_where_the_textbook_has_none():
    """Two columns that are nearly the same, a million times larger than the noise of each dimension."""
    rng = np.random.default_rng(0)
    factor = np.repeat(rng.normal(size=(1, 6, 1)), 2, axis=2).astype("float32")
    factor[..., 1] += 1e-4 * rng.normal(size=(1, 6)).astype("float32")
    log_var = np.full((1, 6), 2.0 * math.log(1e-5), "float32")
    g = factor[0] * np.float32(1e5)
    textbook = np.linalg.slogdet(np.eye(2, dtype="float32") + g.T @ g)[1]
    q = distributions.LowRankNormal(*(ops.convert_to_tensor(part) for part in (np.zeros((1, 6)), log_var, factor)))
    noise, _, log_prob = drawn(q, 50, batch=1)
    wide, own, shared = g.astype("float64"), *np.split(noise[:, 0].astype("float64"), [6], axis=-1)
    capacitance = np.eye(2) + wide.T @ wide
    assert not abs(textbook - np.linalg.slogdet(capacitance)[1]) < 0.5  # what the test guards against does happen
    # |w|**2 in its metric is the distance of [w; 0] from the columns of [G; I], and so that of [own; -shared].
    columns, vectors = np.concatenate([wide, np.eye(2)]), np.concatenate([own, -shared], axis=-1).T
    squares = ((vectors - columns @ np.linalg.lstsq(columns, vectors, rcond=None)[0]) ** 2).sum(axis=0)
    volume = log_var.astype("float64").sum() + np.linalg.slogdet(capacitance)[1] + 6 * math.log(2.0 * math.pi)
    np.testing.assert_allclose(log_prob[:, 0], -0.5 * (squares + volume), rtol=2e-3)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_gradients_are_finite_whatever_the_encoder_returns(gradient, name, scale):
    family, outputs, _, shape = made(name, scale=scale)
    prior, noise = family.usual_prior(shape), np.random.default_rng(0).normal(size=(3, 2, *family.noise_shape(shape)))
    for i, point in enumerate(outputs):

        def total(part, i=i):
            tensors = [ops.convert_to_tensor(each) for each in outputs]
            q = family.distribution([*tensors[:i], part, *tensors[i + 1 :]], training=True)
            z, log_prob = q.draw(ops.convert_to_tensor(noise.astype("float32")))
            return 1e-3 * ops.sum(ops.tanh(z)) + ops.sum(log_prob - prior.log_prob(z))

        assert np.isfinite(gradient(total, point)).all()


# The bound of a linear-Gaussian model, whose posterior is a normal with a covariance that is not diagonal

WEIGHTS = np.array([[1.0, 0.8], [0.2, 1.0], [-0.5, 0.4]])
SIGMA2 = 0.25


def linear_gaussian(family):
    """The model with the exact mean and the best covariance that the family has; and log p(x) of some x."""
    precision = WEIGHTS.T @ WEIGHTS / SIGMA2 + np.eye(2)
    cov = np.linalg.inv(precision)
    cholesky, coupling = np.linalg.cholesky(cov), math.sqrt(abs(cov[0, 1]))
    factor = coupling * np.sqrt(cov.diagonal() / cov.diagonal()[::-1]) ** 0.5 * [1.0, np.sign(cov[0, 1])]
    biases = {
        "z_cholesky": [*(2.0 * np.log(cholesky.diagonal())), cholesky[1, 0]],
        "z_log_var": -np.log(precision.diagonal()),  # the best of independent dimensions, by KL(q || p)
    }
    if isinstance(family, LowRankNormal):
        biases |= {"z_log_var": np.log(cov.diagonal() - factor**2), "z_factor": factor}
    x, outputs = keras.Input((3,)), {}
    for name, shape in family.output_shapes((2,)).items():
        head = layers.Dense(math.prod(shape), name=name)
        outputs[name] = layers.Reshape(shape)(head(x))
        kernel = WEIGHTS @ cov / SIGMA2 if name == "z_mean" else np.zeros((3, math.prod(shape)))
        head.set_weights([kernel, np.asarray(biases.get(name, np.zeros(math.prod(shape))))])
    z, decoder = keras.Input((2,)), layers.Dense(3, name="x_mean")
    vae = VAE(keras.Model(x, outputs), keras.Model(z, decoder(z)), Gaussian(math.sqrt(SIGMA2)), posterior=family)
    decoder.set_weights([WEIGHTS.T, np.zeros(3)])
    data = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    return vae, data, oracles.linear_gaussian_log_prob(data, WEIGHTS, np.zeros(3), SIGMA2)


def exact_elbo(vae, x):
    """Without Monte-Carlo error: the points have the moments of the noise, and log p(x|z) is quadratic in it."""
    (size,) = vae.noise_shape()
    points = np.sqrt(size) * np.concatenate([np.eye(size), -np.eye(size)])
    noise = np.repeat(points[:, None], len(x), axis=1).astype("float32")
    return -numpy(vae.terms(ops.convert_to_tensor(x), ops.convert_to_tensor(noise)).negative_elbo)


def test_the_diagonal_posterior_stays_below_log_p_by_what_theory_says():
    vae, x, log_p = linear_gaussian(posteriors.Normal())
    precision = WEIGHTS.T @ WEIGHTS / SIGMA2 + np.eye(2)
    gap = 0.5 * (np.log(precision.diagonal()).sum() - np.linalg.slogdet(precision)[1])
    assert gap > 0.1
    np.testing.assert_allclose(log_p - exact_elbo(vae, x), gap, rtol=1e-4)


@pytest.mark.parametrize("family", [FullNormal(), LowRankNormal(1)])
def test_a_posterior_with_correlations_is_exact(family):
    vae, x, log_p = linear_gaussian(family)
    np.testing.assert_allclose(exact_elbo(vae, x), log_p, rtol=1e-5)
    found = evaluation.log_likelihood(vae, x, num_samples=5, seed=0)
    np.testing.assert_allclose(found.log_likelihood, log_p, rtol=1e-5)  # every weight is p(x)
    vae.objective = IWAE(3)
    loss = vae.terms(ops.convert_to_tensor(x), vae.noise(len(x))).loss
    np.testing.assert_allclose(-numpy(loss), log_p, rtol=1e-5)


@pytest.mark.parametrize("family", [Flow(1, (4,), 2), Flow(2, (4,), 0)])
def test_the_importance_estimate_with_a_flow_is_log_p(family):
    vae, x, log_p = linear_gaussian(family)
    for variable in family.trainable_variables:
        variable.assign(np.random.default_rng(0).normal(scale=0.3, size=variable.shape))
    found = evaluation.log_likelihood(vae, x, num_samples=20_000, seed=0)
    assert np.all(np.abs(found.log_likelihood - log_p) < 5.0 * found.standard_error + 1e-4)
    assert np.all(found.standard_error < 0.1)
    assert np.all(vae.elbo(x, 500, seed=0) < log_p)
    vae.objective = IWAE(200)
    bound = -numpy(vae.terms(ops.convert_to_tensor(x), vae.noise(len(x))).loss)
    assert np.all(bound < log_p + 0.3)
    assert np.all(bound > vae.elbo(x, 500, seed=0) - 0.3)


def test_annealing_along_the_prior_needs_no_density_of_the_posterior():
    vae, x, log_p = linear_gaussian(FullNormal())
    found = evaluation.annealed_log_likelihood(vae, x[:3], chains=16, steps=50, leapfrog=3, start="prior")
    np.testing.assert_allclose(found.log_likelihood, log_p[:3], atol=0.25)
    with pytest.raises(ValueError, match='FullNormal.* gives no density of any z.*pass start="prior"'):
        evaluation.annealed_log_likelihood(vae, x, chains=2, steps=2)


# Codes


def test_codes_are_numbered_and_come_back():
    family = FSQ((2, 4, 5))
    z = family.from_codes(np.arange(40, dtype="int32").reshape(2, 20))
    assert z.shape == (2, 20, 3)
    assert len(np.unique(z.reshape(40, 3), axis=0)) == 40
    for i, level in enumerate((2, 4, 5)):
        np.testing.assert_allclose(np.unique(z[..., i]), np.linspace(-1.0, 1.0, level), atol=1e-6)
    np.testing.assert_array_equal(family.codes(z), np.arange(40).reshape(2, 20))
    assert family.codes(z).dtype == np.int32
    np.testing.assert_array_equal(numpy(family.codes(ops.convert_to_tensor(z))), family.codes(z))
    np.testing.assert_array_equal(numpy(family.from_codes(ops.convert_to_tensor(family.codes(z)))), z)


def test_numbers_that_are_no_codes_are_refused():
    family = FSQ((2, 4, 5))
    np.testing.assert_array_equal(family.from_codes([0, 39]), [[-1.0] * 3, [1.0] * 3])
    np.testing.assert_array_equal(family.codes([[-1, -1, -1], [1, 1, 1]]), [0, 39])
    for codes, words in (
        (np.array([[3, 40]]), r"codes must be whole numbers from 0 to 39; got 40, first at \(0, 1\)"),
        ([-1], r"got -1, first at \(0,\)"),
        ([1.0, 2.5], "got 2.5"),
        ([np.nan], "got nan"),
    ):
        with pytest.raises(ValueError, match=words):
            family.from_codes(codes)
    for z, words in (
        (np.float32([[0, 0, 1.5]]), r"z must have values from -1 to 1; got 1.5, first at \(0, 2\)"),
        ([[0.0, 0.0, np.nan]], "got nan"),
        (np.zeros((4, 1)), r"z must have a last axis of 3, one for each of its levels; got \(4, 1\)"),
    ):
        with pytest.raises(ValueError, match=words):
            family.codes(z)


def test_rounding_is_to_the_nearest_value_and_passes_the_gradient_on(gradient):
    family = FSQ((2, 4, 5))
    x = np.linspace(-3.0, 3.0, 61)[:, None].repeat(3, axis=1)
    z = numpy(family.distribution((ops.convert_to_tensor(x.astype("float32")),)).location)
    bounded = np.tanh(x + np.array([0.0, np.arctanh(1.0 / 3.0), 0.0]))
    for i, level in enumerate((2, 4, 5)):
        values = np.linspace(-1.0, 1.0, level)
        np.testing.assert_allclose(
            np.abs(z[:, i] - bounded[:, i]), np.abs(values - bounded[:, i, None]).min(1), atol=1e-6
        )
    found = gradient(lambda x: ops.sum(family.distribution((x,), training=True).location), x)
    np.testing.assert_allclose(found, 1.0 - bounded**2, atol=1e-5)
    middle = numpy(family.distribution((ops.zeros((1, 3)),)).location)  # 0 is in the middle of an interval
    np.testing.assert_allclose(middle[0, 1:], [1.0 / 3.0, 0.0], atol=1e-6)


def test_uniform_codes_have_equal_shares_and_the_moments_that_they_say():
    prior = distributions.UniformCodes((2, 3), places=(2,))
    z = prior.sample(30_000, seed=0)
    shares = np.bincount(prior.codes(z).ravel(), minlength=6) / z[..., 0].size
    np.testing.assert_allclose(shares, 1.0 / 6.0, atol=0.006)
    np.testing.assert_allclose(prior.log_prob(z[:5]), -2.0 * math.log(6.0), rtol=1e-6)
    matched = prior.moment_matched()
    np.testing.assert_allclose(np.exp(matched.log_var), z.var(axis=0), rtol=0.02)
    tensors = numpy(prior.from_noise(ops.convert_to_tensor(np.float32([[[-9.0, 9.0], [0.1, -0.1]]]))))
    np.testing.assert_array_equal(tensors, [[[-1.0, 1.0], [1.0, 0.0]]])


def test_the_bound_of_codes_is_below_log_p_which_is_the_sum_over_all(digits):
    family, likelihood = FSQ((3, 2)), "bce"
    vae = VAE(*networks.mlp((8, 8, 1), (2, 2), (16,), posterior=family), likelihood, posterior=family, seed=0)
    vae.compile(keras.optimizers.Adam(0.01))
    vae.fit(digits, epochs=3, verbose=0)
    codes = np.stack(np.meshgrid(*[np.arange(6)] * 2), axis=-1).reshape(-1, 2)
    parameters = vae.decoder_parameters(ops.convert_to_tensor(family.from_codes(codes)))
    x = ops.convert_to_tensor(digits[:20])
    log_joint = [numpy(vae.likelihood.log_prob(x, parameters[i, None])) - math.log(36.0) for i in range(36)]
    log_p, elbo = logsumexp(np.stack(log_joint), axis=0), vae.elbo(digits[:20], seed=0)
    assert np.all(elbo < log_p + 1e-4)
    chosen = vae.encode(digits[:20]).codes
    index = [np.flatnonzero((codes == code).all(-1))[0] for code in chosen]
    np.testing.assert_allclose(elbo, np.stack(log_joint)[index, np.arange(20)], rtol=1e-4)
    np.testing.assert_allclose(evaluation.kl_per_unit(vae, digits), np.tile(np.log([3.0, 2.0]), (2, 1)))


# In a model


def life(name):
    """A family and its networks over digits."""
    if name == "fsq_map":
        family = FSQ((4, 3))
        return family, networks.conv_spatial((None, None, 1), 2, filters=(4,), kernel_size=2, posterior=family)
    family = {"full": FullNormal, "low_rank": lambda: LowRankNormal(2), "flow": lambda: Flow(2, (8,), 4)}.get(
        name, guide_parts.StudentT
    )()
    return family, networks.mlp((8, 8, 1), (2, 2) if name == "full" else 3, (16,), posterior=family)


@pytest.mark.every_backend
@pytest.mark.parametrize("name", ["flow", "fsq_map"])
def test_a_model_with_such_a_posterior_is_trained_saved_and_loaded(make_vae, digits, tmp_path, name):
    posterior, network = life(name)
    vae = make_vae(network=network, posterior=posterior, compile={"optimizer": keras.optimizers.Adam(0.01)})
    before = [np.array(weight) for weight in vae.posterior_family.get_weights()]
    loss = vae.fit(digits[:128], epochs=2, verbose=0).history["loss"]
    assert loss[-1] < loss[0]
    assert len(before) == (2 * 5 if name == "flow" else 0)
    for one, other in zip(before, vae.posterior_family.get_weights(), strict=True):
        assert np.abs(one - other).max() > 1e-6
    vae.save(tmp_path / "vae.keras")
    copy = keras.saving.load_model(tmp_path / "vae.keras")
    np.testing.assert_array_equal(copy.elbo(digits[:32], seed=0), vae.elbo(digits[:32], seed=0))


@pytest.mark.parametrize("name", ["full", "low_rank", "flow", "fsq_map", "own"])
def test_the_whole_life_of_a_model_with_such_a_posterior(make_vae, digits, tmp_path, name):
    posterior, network = life(name)
    x = digits[:128]
    vae = make_vae(network=network, posterior=posterior, compile={"optimizer": keras.optimizers.Adam(0.01)})
    history = vae.fit(x, epochs=2, validation_data=(x[:50],), verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert np.isfinite(history["val_negative_elbo"]).all()
    vae.save(tmp_path / "vae.keras")
    copy = keras.saving.load_model(tmp_path / "vae.keras")
    assert type(copy.posterior_family) is type(posterior)
    for verb in (
        lambda model: model.elbo(x, 2, seed=0),
        lambda model: model.encode(x).sample(2, seed=1),
        lambda model: model.reconstruct(x[:5], sample=True, seed=2),
        lambda model: model.sample(3, seed=1, latent_shape=(4, 4, 2) if name == "fsq_map" else None),
    ):
        np.testing.assert_array_equal(verb(copy), verb(vae))
    assert copy.evaluate(x, verbose=0, return_dict=True)["loss"] == pytest.approx(history["loss"][-1], rel=0.2)
    found = vae.encode(x)
    assert found.sample(2, seed=1).shape == (2, 128, *found.event_shape)
    if name == "fsq_map":
        assert found.codes.shape == (128, 4, 4)
        assert 0 <= found.codes.min() <= found.codes.max() < 12
        larger = np.tile(x[:2], (1, 2, 1, 1))
        assert vae.encode(larger).codes.shape == (2, 8, 4)
        assert np.all(vae.elbo(larger, seed=0) < -8 * 4 * math.log(12.0))


def test_a_posterior_without_weights_moves_to_another_model_and_a_flow_does_not(make_vae):
    for family in (FullNormal(), Flow(context=0)):
        make_vae(network=networks.mlp((8, 8, 1), 3, (4,), posterior=family), posterior=family)
        other = networks.mlp((8, 8, 1), 2, (4,), posterior=family)
        if isinstance(family, Flow):
            with pytest.raises(ValueError, match=r"has weights for a model with latents of shape \(3,\)"):
                make_vae(network=other, posterior=family)
        else:
            assert make_vae(network=other, posterior=family).latent_shape == (2,)


def test_names_and_configs():
    assert isinstance(posteriors.get("Full"), FullNormal)
    assert isinstance(posteriors.get("full_normal"), FullNormal)
    for family in (LowRankNormal(3), Flow(1, (7, 5), 0), FSQ((8, 5))):
        copy = posteriors.get(keras.saving.serialize_keras_object(family))
        assert repr(copy) == repr(family)
        assert copy.outputs == family.outputs


MIXTURE = Mixture(DiagonalNormal(np.eye(3, dtype="float32"), np.zeros((3, 3), "float32")))
CODES = FSQ((3, 3, 3))
REFUSED = {
    "iwae_codes": (CODES, {"objective": "iwae"}, r"IWAE averages over different draws of z, and a PointMass is one"),
    "capacity_codes": (CODES, {"objective": ELBO(capacity=3.0)}, "hold the KL up, and a PointMass is one code"),
    "free_bits_codes": (CODES, {"objective": ELBO(free_bits=0.1)}, "hold the KL up, and a PointMass is one code"),
    "tc_codes": (CODES, {"objective": BetaTC(9)}, "BetaTC compares the densities of z .* choose ELBO"),
    "info_codes": (CODES, {"objective": InfoVAE()}, "InfoVAE compares z with the noise .* choose ELBO"),
    "stl_codes": (CODES, {"objective": ELBO(kl="monte_carlo", gradient="stl")}, "a PointMass gives z without noise"),
    "density_codes": (CODES, {"prior": DiagonalNormal.standard(3)}, "z that are codes.*a DiagonalNormal is a density"),
    "mixture_codes": (CODES, {"prior": MIXTURE}, "a Mixture is a density: leave the prior at None"),
    "levels": (CODES, {"prior": distributions.UniformCodes((2, 3, 3))}, r"levels \(2, 3, 3\), and FSQ.* has others"),
    "codes_normal": ("full", {"prior": distributions.UniformCodes((2, 3, 3))}, "over codes, and FullNormal.* density"),
    "free_bits": ("full", {"objective": ELBO(free_bits=0.1)}, "a FullNormal to a DiagonalNormal is not a sum"),
    "tc": ("full", {"objective": BetaTC(9)}, "the dimensions of a FullNormal depend on each other"),
    "stl": ("full", {"objective": ELBO(gradient="stl")}, 'has a closed form: say kl="monte_carlo"'),
    "analytic": (
        Flow(context=0),
        {"objective": ELBO(kl="analytic")},
        "a Transformed to a DiagonalNormal has no closed",
    ),
    "dreg": (Flow(context=0), {"objective": IWAE(2, "dreg")}, "a Transformed has it of its own draws only"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_meaning_is_refused_when_the_model_is_made(make_vae, case):
    posterior, options, words = REFUSED[case]
    network = networks.mlp((8, 8, 1), 3, (4,), posterior=posterior)
    with pytest.raises(ValueError, match=words):
        make_vae(network=network, posterior=posterior, **options)


@pytest.mark.parametrize("name", ["full", "low_rank", "flow"])
def test_objectives_take_the_posteriors_that_they_have_a_meaning_for(make_vae, digits, name):
    posterior, network = life(name)
    vae = make_vae(network=network, posterior=posterior)
    need_density = [IWAE(2, "dreg"), ELBO(kl="monte_carlo", gradient="stl")] if name != "flow" else []
    for objective in (InfoVAE(), ELBO(capacity=3.0), IWAE(2), *need_density):
        vae.objective = objective
        assert np.isfinite(vae.train_on_batch(digits, return_dict=True)["loss"])


class OnALine(LowRankNormal):
    """All elements of z of one variate."""

    def noise_shape(self, latent_shape):
        return (1,)

    def distribution(self, outputs, training=False):
        q = super().distribution(outputs, training)
        draw = q.draw
        q.draw = lambda noise: draw(ops.repeat(noise, 5, axis=-1))
        return q


def test_the_mmd_needs_as_many_variates_as_z_has_elements(make_vae, digits):
    family = OnALine(2)
    vae = make_vae(network=networks.mlp((8, 8, 1), 3, (4,), posterior=family), posterior=family, objective=InfoVAE())
    with pytest.raises(ValueError, match="makes 3 elements of z of 1 variates: choose another objective"):
        vae.train_on_batch(digits)


@pytest.mark.parametrize("family", [FullNormal(), LowRankNormal(1)])
def test_where_q_is_exact_the_doubly_reparameterised_gradient_and_that_of_stl_vanish(family):
    """Both leave out the part of the gradient that is noise there."""
    vae, x, _ = linear_gaussian(family)
    vae.decoder.trainable = False
    vae.compile(keras.optimizers.SGD(1.0))
    before = vae.encoder.get_weights()
    for objective in (IWAE(3, "dreg"), ELBO(kl="monte_carlo", gradient="stl")):
        vae.objective = objective
        vae.train_on_batch(x)
        for one, other in zip(before, vae.encoder.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_outputs_that_do_not_fit_are_named(make_vae):
    x, z = keras.Input((4,)), keras.Input((3,))
    decoder = keras.Model(z, layers.Dense(4)(z))
    for posterior, sizes, words in (
        ("full", (3, 5), r"returns z_cholesky of shape \('batch', 5\); .* must be \('batch', 6\)"),
        (LowRankNormal(2), (3, 3, 2), r"returns z_factor of shape .* must be \('batch', 3, 2\)"),
        (Flow(context=4), (3, 3, 5), r"returns context of shape \('batch', 5\)"),
        (Flow(context=4), (3, 3), r"it must return 3, z_mean, z_log_var, context"),
        (FSQ((3, 3)), (3,), r"has 2 channels, one for each of its levels, .* units or filters"),
    ):
        with pytest.raises(ValueError, match=words):
            VAE(keras.Model(x, [layers.Dense(n)(x) for n in sizes]), decoder, posterior=posterior)
    for make, words in (
        (lambda: FSQ((1, 3)), "Each of levels must be a whole number of at least 2"),
        (lambda: FSQ([2] * 31), r"whose product is below 2\*\*31"),
        (lambda: LowRankNormal(0), "rank must be"),
        (lambda: Flow(hidden=()), "at least one layer"),
        (
            lambda: VAE(*networks.mlp((5,), 2), posterior=Flow()),
            r"dict with keys \['z_log_var', 'z_mean'\].* when they are passed the same posterior=",
        ),
        (lambda: posteriors.get("fool"), '"normal", "full" or a Posterior object'),
    ):
        with pytest.raises(ValueError, match=words):
            make()


@pytest.mark.parametrize("posterior", ["full", LowRankNormal(1), Flow(context=0)])
def test_free_sizes_are_refused_where_dimensions_must_be_counted(posterior):
    x, z = keras.Input((None, 2)), keras.Input((None, 2))
    heads = [layers.Dense(2)(x) for _ in posteriors.get(posterior).outputs]
    with pytest.raises(ValueError, match=r"needs z of one shape, and a size in \(None, 2\) is free"):
        VAE(keras.Model(x, heads), keras.Model(z, layers.Dense(2)(z)), "mse", posterior=posterior)


def test_evaluation_of_codes_says_what_it_cannot(digits, make_vae):
    vae = make_vae(network=networks.mlp((8, 8, 1), 3, (4,), posterior=CODES), posterior=CODES)
    for estimate in (evaluation.log_likelihood, evaluation.annealed_log_likelihood):
        with pytest.raises(ValueError, match=r"a sum over all codes, .*: that is vae.elbo\(x\)"):
            estimate(vae, digits[:2])
    assert evaluation.active_units(vae, digits).shape == (3,)
    vae.latent_statistics = evaluation.latent_statistics(vae, digits)
    plain, standardized = vae.encode(digits), vae.encode(digits, standardized=True)
    np.testing.assert_array_equal(standardized.codes, plain.codes)
    np.testing.assert_array_equal(standardized.draw(np.zeros((1, 256), "float32"))[1], np.zeros((1, 256)))
    with pytest.raises(TypeError, match="The z of FullNormal.* are no codes"):
        make_vae(network=networks.mlp((8, 8, 1), 3, (4,), posterior="full"), posterior="full").encode(digits).codes  # noqa: B018


def test_free_sizes_train_with_a_posterior_whose_noise_has_another_shape_than_z():
    posterior = guide_parts.StudentT()
    vae = VAE(*networks.conv_spatial((None, 1), 2, filters=(3,), posterior=posterior), posterior=posterior, seed=0)
    vae.compile("adam")
    for steps in (4, 6):
        x = np.ones((8, steps, 1), "float32")
        assert np.isfinite(vae.fit(x, verbose=0).history["loss"]).all()
        assert vae.evaluate(x, verbose=0, return_dict=True)["negative_elbo"] > 0.0

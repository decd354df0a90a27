"""Annealed importance sampling, against models whose log p(x) is known."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_vae
import oracles
from keras_vae import VAE, DiagonalNormal, Gaussian, Mixture, evaluation, networks
from keras_vae.evaluation import annealed_log_likelihood, log_likelihood

pytestmark = pytest.mark.once

SCALE = 0.4
WEIGHTS = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 2)))[0] * [1.5, 0.8]


def linear(shift=0.0, widen=1.0, **kwargs):
    """x = WEIGHTS z + SCALE e; q(z|x) is the exact posterior, but shifted and with `widen` times its variance."""
    x, z = keras.Input((5,)), keras.Input((2,))
    encoder = keras.Model(x, [layers.Dense(2, name="mean")(x), layers.Dense(2, name="log_var")(x)])
    vae = VAE(encoder, keras.Model(z, layers.Dense(5, name="x")(z)), Gaussian(SCALE), seed=0, **kwargs)
    m = (WEIGHTS**2).sum(axis=0) + SCALE**2
    encoder.get_layer("mean").set_weights([WEIGHTS / m, np.full(2, shift)])
    encoder.get_layer("log_var").set_weights([np.zeros((5, 2)), np.log(widen * SCALE**2 / m)])
    vae.decoder.get_layer("x").set_weights([WEIGHTS.T, np.zeros(5)])
    return vae


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(1)
    return (rng.normal(size=(20, 2)) @ WEIGHTS.T + SCALE * rng.normal(size=(20, 5))).astype("float32")


def exact(x, columns=slice(None), mean=0.0):
    return oracles.linear_gaussian_log_prob(x[:, columns], WEIGHTS[columns], mean, SCALE**2)


def assert_right(found, expected):
    """Within the standard error, which is neither too large nor too small."""
    z = (found.log_likelihood - expected) / found.standard_error
    assert np.abs(z).max() < 4.5
    assert 0.5 < z.std() < 1.8
    assert abs(found.mean - expected.mean()) < 4.0 * found.mean_standard_error


@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_it_is_right_within_its_standard_error(x, start):
    vae = linear(shift=0.6, widen=0.5)
    assert_right(annealed_log_likelihood(vae, x, chains=32, steps=50, leapfrog=4, start=start, seed=1), exact(x))


def test_it_is_right_where_the_encoder_is_of_no_use(x):
    """An encoder that is ten standard deviations off: importance sampling misses by nats with as many decodings."""
    vae = linear(shift=2.0, widen=0.3)
    annealed = annealed_log_likelihood(vae, x, chains=16, steps=100, leapfrog=4, seed=0)
    plain = log_likelihood(vae, x, num_samples=5 * 16 * 100 * 4)  # a gradient costs some three decodings
    assert abs(annealed.mean - exact(x).mean()) < 0.3
    assert plain.mean < exact(x).mean() - 3.0
    assert annealed.effective_sample_size.mean() > 5.0


def test_one_step_is_importance_sampling(x):
    vae = linear(shift=0.3)
    one, plain = annealed_log_likelihood(vae, x, chains=12, steps=1, seed=3), log_likelihood(vae, x, 12, seed=3)
    np.testing.assert_allclose(one.log_likelihood, plain.log_likelihood, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(one.standard_error, plain.standard_error, rtol=1e-3)
    assert one.num_samples == 12


def test_with_the_exact_posterior_every_weight_is_p_of_x(x):
    found = annealed_log_likelihood(linear(), x, chains=4, steps=5, leapfrog=2)
    np.testing.assert_allclose(found.log_likelihood, exact(x), atol=1e-3)
    np.testing.assert_allclose(found.effective_sample_size, 4.0, rtol=1e-4)


def test_from_the_prior_it_does_not_depend_on_the_encoder(x):
    quick = {"chains": 3, "steps": 4, "leapfrog": 2, "start": "prior", "seed": 2}
    good, bad = (annealed_log_likelihood(linear(shift), x, **quick) for shift in (0.0, 5.0))
    np.testing.assert_array_equal(good.log_likelihood, bad.log_likelihood)


def test_more_steps_come_nearer(x):
    vae = linear(shift=1.5)
    found = [annealed_log_likelihood(vae, x, chains=8, steps=steps, leapfrog=3) for steps in (1, 6, 50)]
    missed = [exact(x).mean() - each.mean for each in found]
    assert missed[0] > 3.0 * missed[1] > 10.0 * abs(missed[2])
    assert abs(missed[2]) < 0.3


def test_the_same_numbers_however_the_work_is_cut(x):
    vae, quick = linear(shift=0.5), {"chains": 4, "steps": 6, "leapfrog": 2}
    whole = annealed_log_likelihood(vae, x[:5], seed=2, **quick)
    for max_bytes in (1, 4 * 5 * 4 * 2):  # one example at a time, two examples
        cut = annealed_log_likelihood(vae, x[:5], seed=2, max_bytes=max_bytes, **quick)
        np.testing.assert_allclose(cut.log_likelihood, whole.log_likelihood, rtol=1e-4, atol=1e-4)
    other = annealed_log_likelihood(vae, x[:5], seed=3, **quick)
    assert np.abs(other.log_likelihood - whole.log_likelihood).min() > 1e-3


def test_a_mixture_as_the_prior(x):
    """Two halves that are shifted: p(x) is the average of two linear models."""
    means = np.array([[-1.0, 0.5], [1.0, 1.0]], "float32")
    vae = linear(widen=2.0, prior=Mixture(DiagonalNormal(means, np.zeros((2, 2), "float32"))))
    expected = np.logaddexp(*(exact(x, mean=WEIGHTS @ mean) for mean in means)) - np.log(2.0)
    for start in ("posterior", "prior"):
        assert_right(annealed_log_likelihood(vae, x, chains=32, steps=30, leapfrog=4, start=start), expected)


def test_missing_values_are_left_out(x):
    vae = linear(allow_missing=True)
    holes = x.copy()
    holes[:, 1] = np.nan
    found = annealed_log_likelihood(vae, holes, chains=32, steps=40, leapfrog=4)
    assert_right(found, exact(x, [0, 2, 3, 4]))


def test_a_conditional_model(x):
    """The condition moves the mean of x by a known amount, which is then the mean of the marginal."""
    data, z, condition = keras.Input((5,)), keras.Input((2,)), keras.Input((1,), name="condition")
    encoder = keras.Model(data, [layers.Dense(2)(data), layers.Dense(2)(data)])
    decoder = keras.Model([z, condition], layers.Dense(5, name="x")(layers.Concatenate()([z, condition])))
    vae = VAE(encoder, decoder, Gaussian(SCALE), seed=0)
    moved = np.array([1.0, -2.0, 0.0, 0.5, 3.0])
    vae.decoder.get_layer("x").set_weights([np.concatenate([WEIGHTS.T, moved[None]]), np.zeros(5)])
    c = np.random.default_rng(3).normal(size=(len(x), 1)).astype("float32")
    given = {"x": (x + c * moved).astype("float32"), "condition": c}
    found = annealed_log_likelihood(vae, given, chains=32, steps=40, leapfrog=4, start="prior")
    assert_right(found, exact(x))


@pytest.mark.every_backend
def test_the_gradient_is_that_of_each_row():
    vae = VAE(*networks.mlp((4, 3), 2, hidden=(6,), activation="tanh"), seed=0)
    rng = np.random.default_rng(0)
    z = rng.normal(size=(3, 5, 2)).astype("float32")
    x = (rng.random((5, 4, 3)) < 0.5).astype("float32")
    for _ in range(12):  # PyTorch writes the operations down in between
        value, slope = (
            ops.convert_to_numpy(part) for part in vae._batched.value_and_grad(vae._batched_log_likelihood)(z, x)
        )
    np.testing.assert_allclose(value, ops.convert_to_numpy(vae._batched_log_likelihood(z, x)), rtol=1e-5)
    for dimension in range(2):
        step = np.zeros(2, "float32")
        step[dimension] = 1e-2
        above, below = (ops.convert_to_numpy(vae._batched_log_likelihood(z + s * step, x)) for s in (1.0, -1.0))
        np.testing.assert_allclose(slope[..., dimension], (above - below) / 2e-2, atol=5e-3)


@pytest.mark.every_backend
def test_new_weights_are_seen(x):
    vae, quick = linear(), {"chains": 2, "steps": 3, "leapfrog": 2}
    before = annealed_log_likelihood(vae, x, **quick)
    vae.decoder.get_layer("x").set_weights([WEIGHTS.T, np.full(5, 2.0)])
    assert annealed_log_likelihood(vae, x, **quick).mean < before.mean - 1.0


@pytest.mark.parametrize("parameters", [(np.array([0.3, -1.0]), np.array([0.5, -2.0]), None), "mixture"])
def test_the_score_is_the_slope_of_the_density(parameters):
    if parameters == "mixture":
        rng = np.random.default_rng(0)
        components = DiagonalNormal(rng.normal(size=(3, 2)), rng.normal(size=(3, 2)))
        distribution = Mixture(components, np.array([0.1, -0.5, 1.0]))
    else:
        distribution = DiagonalNormal(*parameters[:2])
    for z in np.random.default_rng(1).normal(scale=2.0, size=(4, 2)):
        slope = oracles.finite_difference(lambda z: float(distribution.log_prob(z)), z)
        np.testing.assert_allclose(distribution.grad_log_prob(z), slope, rtol=1e-6, atol=1e-7)


def test_what_it_refuses(digits):
    vae = keras_vae.VAE(*networks.mlp((8, 8, 1), 2, hidden=(4,)))
    with pytest.raises(ValueError, match=r"log p\(x\) is not defined here. 100 % .*continuous_bernoulli"):
        annealed_log_likelihood(vae, 0.25 + 0.5 * digits[:4])
    for name in ("chains", "steps", "leapfrog", "max_bytes"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1; got 0"):
            annealed_log_likelihood(vae, digits[:4], **{name: 0})
    with pytest.raises(ValueError, match='start must be "posterior" or "prior".*got \'encoder\''):
        annealed_log_likelihood(vae, digits[:4], start="encoder")
    for estimate in (annealed_log_likelihood, evaluation.log_likelihood):
        with pytest.raises(ValueError, match="estimated for each example, and x has none"):
            estimate(vae, digits[:0])

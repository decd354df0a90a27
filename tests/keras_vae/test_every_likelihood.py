"""What holds for every likelihood: a density that integrates to one, whose mean and draws are those it says.

All tests run over `CASES` of tests/likelihood_cases.py.
"""

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

import oracles
from keras_vae import (
    VAE,
    Bernoulli,
    DiscretizedLogistic,
    Gaussian,
    Mixed,
    NegativeBinomial,
    Poisson,
    Standardized,
    likelihoods,
    networks,
)
from likelihood_cases import CASES

pytestmark = pytest.mark.once


@pytest.fixture(params=CASES)
def case(request):
    likelihood, support, parameters, reference = CASES[request.param]
    # Weights made while another test was collected do not survive `clear_session` everywhere.
    copy = likelihoods.get(keras.saving.serialize_keras_object(likelihood))
    return copy, support, np.array(parameters), reference


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def tensor(array):
    return ops.convert_to_tensor(np.asarray(array, "float32"))


def tabulated(likelihood, support, parameter):
    """p(x) over the support for one setting of the parameters, in float64, and the weight of each point."""
    parameters = np.tile(parameter, (len(support), 1))
    p = np.exp(numpy(likelihood.log_prob(tensor(support), tensor(parameters))).astype("float64"))
    if likelihood.is_discrete:
        return p, np.ones(len(support))
    weights = np.full(len(support), support[1, 0] - support[0, 0])
    weights[[0, -1]] *= 0.5  # the trapezoidal rule
    return p, weights


def test_there_is_a_case_for_every_likelihood():
    named = {likelihoods.get(name).__class__ for name in likelihoods.NAMES}
    assert named | {Standardized} == {type(likelihood) for likelihood, *_ in CASES.values()}


def test_the_density_integrates_or_sums_to_one(case):
    likelihood, support, parameters, _ = case
    for parameter in parameters:
        p, weights = tabulated(likelihood, support, parameter)
        assert (p * weights).sum() == pytest.approx(1.0, abs=2e-4), parameter


def test_mean_and_stddev_are_those_of_the_density(case):
    likelihood, support, parameters, _ = case
    for parameter in parameters:
        p, weights = tabulated(likelihood, support, parameter)
        mean = ((p * weights)[:, None] * support).sum(axis=0)
        # Of the discretized logistic the mean is that before rounding.
        atol = 0.5 / 15.0 if isinstance(likelihood, DiscretizedLogistic) else 1e-3
        array = parameter[None].astype("float32")  # of NumPy, as a user has it
        np.testing.assert_allclose(numpy(likelihood.mean(array))[0], mean, rtol=1e-3, atol=atol)
        if likelihood.has_stddev:
            variance = ((p * weights)[:, None] * np.square(support - mean)).sum(axis=0)
            stddev = numpy(likelihood.stddev(tensor(parameter[None])))[0]
            np.testing.assert_allclose(stddev, np.sqrt(variance), rtol=2e-3)


def test_draws_follow_the_density_and_repeat_for_a_seed(case):
    """The mean and the mean square of many draws, within five standard errors of those of the density."""
    likelihood, support, parameters, _ = case
    n = 50_000
    for parameter in parameters:
        many = np.tile(parameter, (n, 1)).astype("float32")
        draws = likelihood.sample(many, seed=3)
        assert isinstance(draws, np.ndarray)
        assert draws.dtype == np.float32
        np.testing.assert_array_equal(draws, likelihood.sample(tensor(many), seed=3))
        assert not np.array_equal(draws, likelihood.sample(many, seed=4))
        likelihood.validate(draws)
        p, weights = tabulated(likelihood, support, parameter)
        for power in (1, 2):
            expected = ((p * weights)[:, None] * support**power).sum(axis=0)
            moments = draws.astype("float64") ** power
            error = 5.0 * moments.std(axis=0) / np.sqrt(n) + 1e-4 * np.abs(expected) + 1e-9
            assert np.all(np.abs(moments.mean(axis=0) - expected) < error), (parameter, power)


def test_log_prob_is_the_reference_in_float64(case):
    likelihood, support, parameters, reference = case
    points = support[np.linspace(0, len(support) - 1, 60).astype(int)]
    for parameter in parameters:
        found = numpy(likelihood.log_prob_per_dimension(tensor(points), tensor(np.tile(parameter, (len(points), 1)))))
        expected = reference(points, np.tile(parameter, (len(points), 1)))
        seen = expected > -1e4
        np.testing.assert_allclose(found[seen], expected[seen], rtol=1e-4, atol=2e-4)


def test_the_gradient_is_that_of_the_reference(case, gradient):
    likelihood, support, parameters, reference = case
    center = numpy(likelihood.mean(tensor(parameters)))
    # A point of the support near the mean of each setting, and not on a corner of the density.
    x = np.stack([support[np.argmin(np.abs(support - mean - 0.013).sum(axis=-1))] for mean in center])
    found = gradient(lambda value: ops.sum(likelihood.log_prob(tensor(x), value)), parameters)
    expected = oracles.finite_difference(lambda value: reference(x, value).sum(), parameters)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_extreme_parameters_give_finite_numbers_and_gradients(case, gradient):
    likelihood, support, parameters, _ = case
    probability = isinstance(likelihood, Bernoulli) and not likelihood.from_logits
    for extreme in (0.0, 1.0) if probability else (-1e4, -40.0, 0.0, 40.0, 1e4):
        point = np.full_like(parameters[:1], extreme)
        for x in (support[:1], support[len(support) // 2][None], support[-1:]):
            assert np.isfinite(numpy(likelihood.log_prob(tensor(x), tensor(point)))).all(), (x, extreme)
            g = gradient(lambda value, x=x: ops.sum(likelihood.log_prob(tensor(x), value)), point)
            assert np.isfinite(g).all(), (x, extreme, g)
        assert np.isfinite(numpy(likelihood.mean(tensor(point)))).all()


@pytest.mark.parametrize("likelihood", [Gaussian("predicted"), DiscretizedLogistic(), Poisson(), NegativeBinomial()])
def test_a_parameter_that_overflowed_in_half_precision_gives_a_number(likelihood):
    """Infinity minus infinity would be NaN, and every weight with it."""
    location = [[0.0]] if likelihood.num_parameters == 2 else np.zeros((1, 0))
    parameters = np.concatenate([location, [[np.inf]]], axis=1)
    assert np.isfinite(numpy(likelihood.log_prob(tensor([[1.0]]), tensor(parameters)))).all()


def test_a_leading_axis_of_samples_is_kept(case):
    likelihood, support, parameters, _ = case
    x = np.stack([support[0], support[-1], support[len(support) // 2]])[:, None]  # (3, 1, channels)
    stacked = np.stack([np.tile(parameter, (3, 1, 1)) for parameter in parameters])
    log_prob = numpy(likelihood.log_prob(tensor(x), tensor(stacked)))
    assert log_prob.shape == (len(parameters), 3)
    np.testing.assert_allclose(log_prob[1], numpy(likelihood.log_prob(tensor(x), tensor(stacked[1]))), rtol=1e-5)


def test_what_is_missing_counts_for_nothing_in_value_and_gradient(case, gradient):
    """Also where NaN stands in its place, and where the likelihood learns from the batch."""
    likelihood, support, parameters, _ = case
    x = np.tile(support[len(support) // 2], (4, 1))
    point = np.tile(parameters[-1], (4, 1))
    holes = x.copy()
    holes[2] = np.nan
    observed = ops.logical_not(ops.isnan(tensor(holes)))
    whole = [0, 1, 3]

    def log_prob(x, parameters, observed, training):
        fitted = likelihood.update(x, parameters, observed) if training else None
        return likelihood.log_prob(x, parameters, observed, fitted)

    for training in (False, True):
        found = numpy(log_prob(tensor(holes), tensor(point), observed, training))
        kept = numpy(log_prob(tensor(x[whole]), tensor(point[whole]), None, training))
        np.testing.assert_allclose(found, [kept[0], kept[1], 0.0, kept[2]], rtol=1e-6)
        g = gradient(lambda value, how=training: ops.sum(log_prob(tensor(holes), value, observed, how)), point)
        assert np.isfinite(g).all()
        np.testing.assert_array_equal(g[2], 0.0)


def test_config_round_trip(case):
    likelihood, _, parameters, _ = case
    copy = likelihoods.get(keras.saving.serialize_keras_object(likelihood))
    assert type(copy) is type(likelihood)
    assert repr(copy) == repr(likelihood)
    assert copy.get_config() == likelihood.get_config()
    assert copy.data_channels(copy.parameter_channels(6)) == 6
    assert isinstance(copy.data_channels(6), int)
    assert copy.parameter_channels(6) == 6 * (1 if parameters.shape[1] in (1, 3) else 2)


def test_parameters_at_mean_have_that_mean(case):
    likelihood, *_ = case
    # In the support, and distributions over three categories.
    mean = getattr(likelihood, "total", 1) * np.array([[[0.1, 0.3, 0.6], [0.5, 0.4, 0.1]]])
    parameters = likelihood.parameters_at_mean(mean)
    assert parameters.shape == (1, 2, likelihood.parameter_channels(3))
    np.testing.assert_allclose(numpy(likelihood.mean(tensor(parameters))), mean, rtol=1e-3)
    assert likelihood.sample(parameters, seed=0).shape == mean.shape


def test_parameters_at_a_mean_on_the_edge_of_the_support_are_finite(case):
    likelihood, *_ = case
    mean = getattr(likelihood, "total", 1) * np.array([[0.0, 0.0, 1.0]])
    parameters = likelihood.parameters_at_mean(mean)
    assert np.isfinite(parameters).all()
    np.testing.assert_allclose(numpy(likelihood.mean(tensor(parameters))), mean, atol=0.03)


@pytest.mark.parametrize("floatx", ["float16", "float64"])
def test_everything_is_float32_whatever_keras_computes_in(case, floatx):
    likelihood, support, parameters, _ = case
    config = keras.saving.serialize_keras_object(likelihood)
    x, point = support[:1], parameters[:1]
    observed = ops.convert_to_tensor(np.ones(x.shape, bool))
    keras.config.set_floatx(floatx)
    try:
        likelihood = likelihoods.get(config)
        fitted = likelihood.update(x, point, observed, ops.ones((1,), "float32"))
        for found in (
            likelihood.log_prob(x, point, observed, fitted),
            likelihood.log_prob(x, point),
            likelihood.mean(tensor(point)),
            *likelihood.weights,
            *([] if fitted is None else [fitted]),
        ):
            assert keras.backend.standardize_dtype(found.dtype) == "float32"
    finally:
        keras.config.set_floatx("float32")


def test_the_range_of_the_data_is_that_of_the_support(case):
    likelihood, support, *_ = case
    low, high = likelihood.ranges(support.shape[1])
    assert low.shape == high.shape == support.shape[1:]
    assert np.all((low == support.min()) | np.isinf(low))
    assert np.all((high == support.max()) | np.isinf(high))


def test_a_model_hands_its_likelihood_a_seed_that_the_contract_knows():
    """What a likelihood of one's own, drawing with SciPy, can take."""

    class Exponential(likelihoods.Likelihood):
        def log_prob_per_dimension(self, x, parameters):
            return parameters - x * ops.exp(parameters)

        def mean(self, parameters):
            return ops.exp(-parameters)

        def sample(self, parameters, seed=None):
            assert seed is None or isinstance(seed, int | np.random.Generator)
            return stats.expon.rvs(scale=np.exp(-numpy(parameters)), random_state=seed).astype("float32")

    vae = VAE(*networks.mlp((3,), 2, hidden=(4,)), likelihood=Exponential(), seed=0)
    first = vae.sample(5, seed=1, draw=True)
    np.testing.assert_array_equal(first, vae.sample(5, seed=1, draw=True))
    assert not np.array_equal(first, vae.sample(5, seed=2, draw=True))
    assert vae.sample(5, draw=True).shape == (5, 3)


def test_mixed_is_its_parts_side_by_side():
    names = ("gaussian_predicted", "categorical", "poisson", "bernoulli")
    parts = [CASES[name] for name in names]
    mixed = Mixed([(likelihood, support.shape[1]) for likelihood, support, *_ in parts])
    x = np.concatenate([support[:2] for _, support, *_ in parts], axis=1)
    parameters = np.concatenate([np.array(values)[:2] for _, _, values, _ in parts], axis=1)
    assert x.shape == (2, 6)
    assert mixed.parameter_channels(6) == parameters.shape[1] == 7
    assert mixed.data_channels(7) == 6
    expected = sum(
        numpy(likelihood.log_prob(tensor(support[:2]), tensor(np.array(values)[:2])))
        for likelihood, support, values, _ in parts
    )
    np.testing.assert_allclose(numpy(mixed.log_prob(tensor(x), tensor(parameters))), expected, rtol=1e-5)
    assert numpy(mixed.mean(tensor(parameters))).shape == (2, 6)
    draws = mixed.sample(parameters, seed=0)
    mixed.validate(draws)
    np.testing.assert_array_equal(draws, mixed.sample(parameters, seed=0))
    copy = likelihoods.get(keras.saving.serialize_keras_object(mixed))
    assert repr(copy) == repr(mixed)
    assert mixed.data_range is None
    assert [float(end) for end in mixed.ranges(6)[1]] == [np.inf, 1.0, 1.0, 1.0, np.inf, 1.0]

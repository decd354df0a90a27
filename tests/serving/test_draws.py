"""What a bundle draws of p(x|z) is what the library draws, number for number."""

import numpy as np
import pytest
from keras import ops

import keras_vae
import likelihood_cases
from keras_vae import Categorical, Gaussian, Laplace, Mixed, Standardized
from keras_vae_serving import draws

pytestmark = pytest.mark.once

LIKELIHOODS = {name: (case[0], case[2]) for name, case in likelihood_cases.CASES.items()}
LIKELIHOODS["codes"] = Categorical(num_classes=3), [[[0.0, 1.0, 2.0], [-200.0, 0.0, 0.0]]]
LIKELIHOODS["table"] = (
    Mixed(
        [(Standardized("gaussian", 5.0, 2.0), 2), (Categorical(num_classes=3), 2), (Categorical(), 2), ("poisson", 1)]
    ),
    np.linspace(-1.0, 2.0, 11)[None],
)
LIKELIHOODS["real columns"] = (
    Standardized(Mixed([(Gaussian(0.5), 1), (Laplace("predicted"), 2)]), [1.0, -30.0, 4.0], [0.1, 5.0, 1.0]),
    np.linspace(-1.0, 2.0, 5)[None],
)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_draws_are_those_of_the_library(name):
    likelihood, parameters = LIKELIHOODS[name]
    parameters = np.repeat(np.asarray(parameters, "float32"), 50, axis=0)
    spec = likelihood.drawn_as()
    draws.check(spec)
    given = ops.convert_to_numpy(likelihood.draw_parameters(ops.convert_to_tensor(parameters)))
    if not draws.needs_parameters(spec):
        moments = [likelihood.mean(parameters), *([likelihood.stddev(parameters)] if likelihood.has_stddev else [])]
        np.testing.assert_array_equal(given, np.concatenate([ops.convert_to_numpy(each) for each in moments], -1))
    for shape in ((), (2, 5)):  # further axes in front, as those of several draws
        found = draws.draw(spec, np.tile(given, (*shape, *[1] * given.ndim)), np.random.default_rng(3))
        expected = likelihood.sample(np.tile(parameters, (*shape, *[1] * given.ndim)), np.random.default_rng(3))
        assert found.dtype == expected.dtype == "float32"
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert len(np.unique(found)) > 1


class Own(Gaussian):
    """It draws otherwise, which nobody can know."""

    def sample(self, parameters, seed=None):
        return 2.0 * super().sample(parameters, seed)


@pytest.mark.parametrize("likelihood", [Own(), Standardized(Own()), Mixed([(Own(), 2)]), keras_vae.Multinomial()])
def test_a_likelihood_of_ones_own_is_not_drawn(likelihood):
    assert likelihood.drawn_as() is None


def test_an_unknown_distribution_is_refused():
    for spec in ({"name": "cauchy"}, {"name": "mixed", "groups": [[{"name": "cauchy"}, 1]]}):
        with pytest.raises(ValueError, match="it draws from 'cauchy', and this keras_vae_serving knows bernoulli"):
            draws.check(spec)

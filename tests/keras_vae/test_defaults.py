"""What an argument is when nothing is said: a change of a default changes the numbers of everybody's models."""

import math

import pytest

from keras_vae import likelihoods, objectives, priors, schedules

pytestmark = pytest.mark.once

SCALE = {"initial_scale": None, "min_scale": math.exp(-6.0), "per_column": None}
DEFAULTS = [
    (lambda: likelihoods.Bernoulli(), {"from_logits": True}),
    (lambda: likelihoods.Gaussian(), {"scale": 1.0}),
    (lambda: likelihoods.Gaussian("learned"), {"scale": "learned", **SCALE}),
    (lambda: likelihoods.Laplace("optimal"), {"scale": "optimal", **SCALE}),
    (
        lambda: likelihoods.DiscretizedLogistic(),
        {"scale": "predicted", "initial_scale": None, "min_scale": 1e-4, "per_column": None, "levels": 256},
    ),
    (
        lambda: objectives.ELBO(),
        {
            "beta": 1.0,
            "num_samples": 1,
            "kl": "auto",
            "free_bits": 0.0,
            "groups": None,
            "capacity": None,
            "gradient": "standard",
        },
    ),
    (lambda: objectives.IWAE(), {"num_samples": 5, "gradient": "standard"}),
    (
        lambda: objectives.BetaTC(100),
        {"dataset_size": 100, "alpha": 1.0, "beta": 6.0, "gamma": 1.0, "estimator": "stratified", "num_samples": 1},
    ),
    (
        lambda: objectives.InfoVAE(),
        {"alpha": 0.0, "lambda_": 1000.0, "kernel": "imq", "scale": None, "num_samples": 1},
    ),
    (lambda: priors.GaussianMixture(), {"components": 10, "seed": None}),
    (lambda: priors.VampPrior(), {"components": 500, "seed": None}),
    (lambda: schedules.Constant(), {"value": 1.0}),
    (lambda: schedules.Linear(7), {"steps": 7, "start": 0.0, "end": 1.0}),
    (lambda: schedules.Cyclical(9), {"period": 9, "ramp": 0.5, "cycles": None, "start": 0.0, "end": 1.0}),
]


@pytest.mark.parametrize(("make", "config"), DEFAULTS)
def test_defaults(make, config):
    made = make()
    found = made.get_config()
    if "beta" in found:
        found["beta"] = made.beta.value
    assert found == config

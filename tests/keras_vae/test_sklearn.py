"""The estimators for scikit-learn: its own checks, and numbers that are those of the model."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from keras_vae.sklearn import VAEDetector, VAETransformer

pytestmark = pytest.mark.once

TINY = {"latent_dim": 2, "hidden": (4,), "epochs": 1, "batch_size": 256}


@parametrize_with_checks([VAETransformer(**TINY), VAEDetector(**TINY)])
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)

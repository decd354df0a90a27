"""Bundles that were exported by an earlier version, in schema 1, give the numbers that their models gave then."""

import pathlib

import numpy as np
import pytest

from keras_vae_serving import Pipeline

pytestmark = pytest.mark.once

FOLDER = pathlib.Path(__file__).parents[1] / "data" / "schema_1"


@pytest.mark.parametrize(("name", "condition"), [("binary", None), ("conditional", 1)])
def test_an_old_bundle_gives_its_old_numbers(name, condition):
    pipeline = Pipeline.load(FOLDER / name, providers="cpu")
    with np.load(FOLDER / f"{name}.npz") as file:
        old = dict(file)
    given = {key: old[key] for key in ("x", "condition") if key in old}
    assert ("condition" in given) == (condition is not None)
    posterior = pipeline.encode(given)
    np.testing.assert_allclose(posterior.mean, old["mean"], atol=1e-5)
    np.testing.assert_allclose(posterior.log_var, old["log_var"], atol=1e-5)
    np.testing.assert_allclose(pipeline.score(given, num_samples=3, seed=3), -old["elbo"], rtol=1e-5)
    np.testing.assert_allclose(pipeline.reconstruct(given), old["reconstruction"], atol=1e-5)
    np.testing.assert_allclose(pipeline.sample(5, seed=3, condition=condition), old["sample"], atol=1e-5)

"""Models that an older version of the library has saved load and give the numbers that they gave then."""

import pathlib

import keras
import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "data" / "schema_1"


@pytest.mark.parametrize("name", ["binary", pytest.param("conditional", marks=pytest.mark.once)])
def test_a_model_of_the_first_schema_gives_its_numbers(name):
    vae = keras.saving.load_model(FOLDER / f"{name}.keras")
    with np.load(FOLDER / f"{name}.npz") as expected:
        is_conditional = "condition" in expected.files
        x = {"x": expected["x"], "condition": expected["condition"]} if is_conditional else expected["x"]
        found = {
            "mean": vae.encode(x).mean,
            "log_var": vae.encode(x).log_var,
            "elbo": vae.elbo(x, num_samples=3, seed=3),
            "reconstruction": vae.reconstruct(x),
            "sample": vae.sample(5, seed=3, condition=1 if is_conditional else None),
        }
        for key, value in found.items():
            np.testing.assert_allclose(value, expected[key], rtol=1e-4, atol=1e-5, err_msg=key)
    assert int(vae.training_step.value) == 4
    vae.jit_compile = keras.backend.backend() == "jax"  # they were saved on PyTorch, and hold what "auto" means there
    assert np.isfinite(vae.fit(x, verbose=0).history["loss"]).all()

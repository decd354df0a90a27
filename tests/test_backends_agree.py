"""The three backends: same weights, same noise, same data give the same terms, gradients and files."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

INSTALLED = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
MODELS = ("dense", "conv", "table", "labels")
WORKER = pathlib.Path(__file__).with_name("backend_worker.py")

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(len(INSTALLED) < 2, reason=f"needs two backends to compare; installed: {INSTALLED}"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folder in which each backend has written, and then read what each has written."""
    folder = tmp_path_factory.mktemp("backends")
    for backend in INSTALLED:
        run(backend, "write", folder / backend)
    for backend in INSTALLED:
        run(backend, "read", folder, *INSTALLED)
    return folder


def run(backend, *arguments):
    subprocess.run([sys.executable, WORKER, *arguments], check=True, env={**os.environ, "KERAS_BACKEND": backend})


def assert_close(path, reference, rtol, atol):
    with np.load(path) as found, np.load(reference) as expected:
        for name in expected.files:
            if name != "x":
                np.testing.assert_allclose(
                    found[name], expected[name], rtol=rtol, atol=atol, err_msg=f"{name}: {path.name} and {reference}"
                )


@pytest.mark.parametrize("model", MODELS)
def test_loss_terms_and_gradients_agree(results, model):
    first, *others = INSTALLED
    with np.load(results / first / f"{model}-step.npz") as step:
        assert sum(np.abs(step[name]).max() > 1e-3 for name in step.files if "gradient" in name) > 4
    for backend in others:
        assert_close(results / backend / f"{model}-step.npz", results / first / f"{model}-step.npz", 2e-4, 2e-5)


@pytest.mark.parametrize("model", MODELS)
def test_inference_and_seeded_samples_agree(results, model):
    first, *others = INSTALLED
    for backend in others:
        assert_close(results / backend / f"{model}.npz", results / first / f"{model}.npz", 1e-4, 1e-5)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("reader", INSTALLED)
@pytest.mark.parametrize("writer", INSTALLED)
def test_a_model_saved_on_one_backend_is_the_same_on_another(results, model, writer, reader):
    assert_close(results / f"{model}-{writer}-read-by-{reader}.npz", results / writer / f"{model}.npz", 1e-4, 1e-5)

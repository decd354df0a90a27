"""The three backends: same weights, same noise, same data give the same terms, gradients and files.

The mathematics is tested on one backend only; here its values and gradients are compared with those of the others.
"""

import contextlib
import importlib.util
import itertools
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import formulas

INSTALLED = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
MODELS = ("dense", "conv", "table", "labels")
WORKER = pathlib.Path(__file__).with_name("backend_worker.py")

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(len(INSTALLED) < 2, reason=f"needs two backends to compare; installed: {INSTALLED}"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folder in which each backend has written, and then read what the others have written."""
    folder = tmp_path_factory.mktemp("backends")
    with contextlib.ExitStack() as started:
        workers = [started.enter_context(worker(folder, backend)) for backend in INSTALLED]
        for process in workers:
            process.communicate("read\n")
            assert process.returncode == 0
    return folder


@contextlib.contextmanager
def worker(folder, backend):
    """A process on a backend that has written its results and waits."""
    command = [sys.executable, WORKER, folder, backend, *(name for name in INSTALLED if name != backend)]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert "written\n" in iter(process.stdout.readline, "")
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def tables(results):
    """Each backend's values and gradients, by name."""
    found = {}
    for backend in INSTALLED:
        with np.load(results / backend / "mathematics.npz") as file:
            found[backend] = dict(file)
    return found


def assert_close(path, reference, rtol, atol, names=None):
    with np.load(path) as found, np.load(reference) as expected:
        for name in names or expected.files:
            if name != "x":
                np.testing.assert_allclose(
                    found[name], expected[name], rtol=rtol, atol=atol, err_msg=f"{name}: {path.name} and {reference}"
                )


def test_the_mathematics_agrees(tables):
    """With PyTorch, on which its tests run: within 1e-4 of each number, or 1e-7 of the largest in its array."""
    first = "torch" if "torch" in tables else INSTALLED[0]
    assert len(tables[first]) > 130
    for backend, found in tables.items():
        assert found.keys() == tables[first].keys()
        for name, expected in tables[first].items():
            assert np.isfinite(expected).all(), name
            atol = 1e-7 * np.abs(expected).max() + 1e-6
            np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=atol, err_msg=f"{name} on {backend}")


def test_every_part_that_can_be_saved_is_compared():
    modules = ("likelihoods", "distributions", "objectives", "posteriors", "priors", "schedules")
    registered = {
        part
        for name, part in keras.saving.get_custom_objects().items()
        if name.startswith("keras_vae>") and part.__module__.removeprefix("keras_vae.").split(".")[0] in modules
    }
    assert len(registered) > 15
    assert registered == {type(part) for part in formulas.PARTS}


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
@pytest.mark.parametrize(("writer", "reader"), list(itertools.permutations(INSTALLED, 2)))
def test_a_model_saved_on_one_backend_is_the_same_on_another(results, model, writer, reader):
    read = results / f"{model}-{writer}-read-by-{reader}.npz"
    assert_close(read, results / writer / f"{model}.npz", 1e-4, 1e-5, ["mean", "log_var", "sample", "elbo", "step"])

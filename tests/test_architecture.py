"""Promises about imports. Each is seen to fail on a planted violation, so that it is known to look."""

import functools
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

pytestmark = pytest.mark.once


def python(code, backend):
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "KERAS_BACKEND": backend}, capture_output=True, text=True
    )


# What importing does in a fresh process, as JSON: frameworks that are there after it, and the state before and after.
# An import that others share is made before, so that what is seen is ours.
IMPORT = """
import json, os, random, signal, sys, warnings
import keras, numpy
def state():
    torch = sys.modules.get("torch")
    return repr({"keras": (keras.config.floatx(), keras.config.dtype_policy().name, keras.config.image_data_format()),
                 "random": random.getstate(), "numpy": str(numpy.random.get_state()), "warnings": warnings.filters,
                 "environment": dict(os.environ), "interrupt": signal.getsignal(signal.SIGINT),
                 "matplotlib": "matplotlib.pyplot" in sys.modules,
                 "torch": torch and (torch.is_grad_enabled(), torch.get_default_dtype(), torch.initial_seed())})
before = state()
import keras_vae
after, threads = state(), None
frameworks = sorted({"tensorflow", "jax", "torch"} & set(sys.modules))
if keras.backend.backend() == "tensorflow":
    from tensorflow.python.eager import context
    threads = context.context()._context_handle is not None
print(json.dumps({"before": before, "after": after, "frameworks": frameworks, "threads": threads}))
"""


@functools.cache
def imported(backend):
    if not importlib.util.find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    done = python(IMPORT, backend)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_on_jax_imports_neither_tensorflow_nor_torch():
    assert imported("jax")["frameworks"] == ["jax"]


def test_the_test_above_would_see_another_framework():
    assert "torch" in imported("torch")["frameworks"]


def test_importing_starts_no_threads_of_tensorflow():
    """A process that forks, as some servers do, would wait for them for ever."""
    assert imported("tensorflow")["threads"] is False


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_importing_changes_nothing_global(backend):
    assert imported(backend)["after"] == imported(backend)["before"]


def test_an_unsupported_backend_is_refused_with_the_fix():
    done = python("import keras_vae", "numpy")
    assert "KERAS_BACKEND to one of the three" in done.stderr


@pytest.mark.parametrize("backend", ["torch", "theano"])
def test_a_backend_that_cannot_be_imported_is_a_sentence(backend):
    done = python("import sys; sys.modules['torch'] = None; import keras_vae", backend)
    assert re.search(f"ImportError: Keras has no usable backend .*{backend}.*KERAS_BACKEND=jax", done.stderr)
    assert done.stderr.count("Error: ") == 1  # that of Keras, deep inside, is not shown


VIOLATIONS = {
    "A framework is imported at the two seams and nowhere else": ("export/keras_vae_export/parity.py", "import jax"),
    "Serving knows neither Keras nor a framework nor the other packages": (
        "serving/keras_vae_serving/session.py",
        "import keras",
    ),
    "The library knows neither the exporter nor serving": ("keras_vae/plotting/__init__.py", "import keras_vae_export"),
    "Likelihoods know neither latents nor objectives nor the model": (
        "keras_vae/likelihoods/base.py",
        "from keras_vae import objectives",
    ),
    "Objectives know neither networks nor backends nor likelihoods": (
        "keras_vae/objectives/base.py",
        "from keras_vae import networks",
    ),
    "The backends know no likelihood, objective or network": (
        "keras_vae/_backend/stateless.py",
        "from keras_vae import likelihoods",
    ),
    "What is there for speed is behind the seam": (
        "keras_vae/training.py",
        "from keras_vae._backend.fast import adam",
    ),
    "Nothing imports the command line": ("keras_vae/datasets.py", "import keras_vae_cli"),
    "The command line starts, and serves, without Keras": ("cli/keras_vae_cli/serve.py", "import keras"),
}
PACKAGES = ("keras_vae", "cli/keras_vae_cli", "export/keras_vae_export", "serving/keras_vae_serving")


def lint_imports(folder):
    executable = pathlib.Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [executable, "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str((folder / name).parent) for name in PACKAGES)},
    )


@pytest.fixture
def copy(tmp_path):
    if not pathlib.Path(sys.executable).with_name("lint-imports").exists():
        pytest.skip("import-linter is not installed")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_import_contracts_hold(copy):
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_each_import_contract_catches_a_planted_violation(copy, contract):
    name, line = VIOLATIONS[contract]
    with open(copy / name, "a") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(copy)
    assert done.returncode != 0
    assert f"{contract} BROKEN" in done.stdout, done.stdout

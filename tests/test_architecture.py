"""Promises about imports. Each is seen to fail on a planted violation, so that it is known to look."""

import importlib.util
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


FRAMEWORKS = "sorted({'tensorflow', 'jax', 'torch'} & set(__import__('sys').modules))"


@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="jax is not installed")
def test_importing_on_jax_imports_neither_tensorflow_nor_torch():
    done = python(f"import keras_vae; print({FRAMEWORKS})", "jax")
    assert done.stdout.strip() == "['jax']", done.stderr


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
def test_the_test_above_would_see_another_framework():
    done = python(f"import keras_vae, torch; print({FRAMEWORKS})", "jax")
    assert "torch" in done.stdout


def test_importing_starts_no_threads_of_tensorflow():
    """A process that forks, as some servers do, would wait for them for ever."""
    code = "import keras_vae; from tensorflow.python.eager import context; print(context.context()._context_handle)"
    if not importlib.util.find_spec("tensorflow"):
        pytest.skip("tensorflow is not installed")
    done = python(code, "tensorflow")
    assert done.stdout.strip() == "None", done.stderr


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_importing_changes_nothing_global(backend):
    if not importlib.util.find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    code = """
import keras, numpy, warnings, random, os, signal
def state():
    import sys
    torch, matplotlib = sys.modules.get("torch"), sys.modules.get("matplotlib.pyplot")
    return (keras.config.floatx(), keras.config.dtype_policy().name, keras.config.image_data_format(),
            random.getstate(), str(numpy.random.get_state()), list(warnings.filters), dict(os.environ),
            signal.getsignal(signal.SIGINT),
            torch and (torch.is_grad_enabled(), torch.get_default_dtype(), torch.initial_seed()), matplotlib)
before = state()
import keras_vae
assert state() == before, (state(), before)
"""
    done = python(code, backend)
    assert done.returncode == 0, done.stderr


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

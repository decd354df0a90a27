"""Chooses Keras's backend for a command.

Keras reads KERAS_BACKEND when it is imported, so this file imports neither Keras nor anything that needs it.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import sys

# In order of preference. TensorFlow is last, as it may be installed for the exporter only.
BACKENDS = ("jax", "torch", "tensorflow")

# What Keras writes into its configuration file when it is imported for the first time: nobody's choice.
UNTOUCHED = {"floatx": "float32", "epsilon": 1e-07, "backend": "tensorflow", "image_data_format": "channels_last"}


def prepare(given: argparse.Namespace) -> None:
    """Sets the environment in which Keras and the backend are imported.

    Raises:
        ValueError: If the backend is unknown or not installed, or Keras already runs on another one.
    """
    if "keras" in sys.modules:
        running = sys.modules["keras"].backend.backend()
        if given.backend not in (None, running):
            raise ValueError(f"Keras runs on {running} already; set KERAS_BACKEND={given.backend} before it starts.")
        return
    os.environ["KERAS_BACKEND"] = choose(given.backend, getattr(given, "model", None))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides TensorFlow's page of log lines
    if given.command != "export":
        # Hides one more. But without oneDNN TensorFlow lacks some convolutions on the CPU that export may need.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def choose(asked: str | None, model: str | None = None) -> str:
    """The backend of the command line, the environment, Keras's configuration, the model's run, or the first installed.

    Args:
        asked: Value of --backend.
        model: Path of the model or of its run, whose summary names the backend that it was trained on.
    """
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    backend = asked or os.environ.get("KERAS_BACKEND") or _configured(installed)
    backend = backend or (model is not None and _trained_on(model, installed)) or next(iter(installed), None)
    if backend is None:
        raise ValueError('no backend is installed: pip install "keras-vae[jax]", or [tensorflow], or [torch].')
    if backend not in BACKENDS:
        raise ValueError(f"there is no backend {backend!r}: choose one of {', '.join(BACKENDS)}.")
    if backend not in installed:
        has = f"installed: {', '.join(installed)}" if installed else "none is installed"
        raise ValueError(
            f'the backend {backend} is not installed ({has}): pip install "keras-vae[{backend}]", or choose another.'
        )
    return backend


def _configured(installed):
    """The backend in Keras's own configuration file, if it names one that is installed."""
    home = pathlib.Path(os.environ.get("KERAS_HOME", pathlib.Path.home() / ".keras"))
    settings = _read(home / "keras.json")
    return settings.get("backend") if settings != UNTOUCHED and settings.get("backend") in installed else None


def _trained_on(model, installed):
    """The backend that a model was trained on, if it is installed."""
    path = pathlib.Path(model)
    backend = _read((path if path.is_dir() else path.parent) / "summary.json").get("backend")
    return backend if backend in installed else None


def _read(path):
    """The dict in a JSON file; empty if there is none."""
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}

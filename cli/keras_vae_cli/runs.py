"""What a run leaves in its folder: the model, and the settings and data it was trained with."""

import json
import pathlib
from typing import Any

import keras
import numpy as np

from keras_vae import VAE, callbacks
from keras_vae_cli.commands import sentence


def load_model(path: str) -> VAE:
    """The model in a `.keras` file or in the folder of a run."""
    file = _model_file(path)
    if not file.is_file() or file.suffix != ".keras":
        raise ValueError(f"There is no model {file}: name a .keras file, or the output folder of quickstart or train.")
    try:
        model = keras.saving.load_model(file)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(f"{file} cannot be loaded as a Keras model: {sentence(error)}") from None
    if not isinstance(model, VAE):
        raise ValueError(f"{file} holds a {type(model).__name__}, not a keras_vae.VAE.")
    return model


def load_settings(path: str) -> dict[str, Any]:
    """The settings that the model was trained with, from the summary beside it; empty if there is none."""
    summary = _model_file(path).parent / "summary.json"
    if not summary.is_file():
        return {}
    try:
        return dict(json.loads(summary.read_text())["settings"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{summary} does not hold the settings of a run: name the data with --data.") from None


def is_run(folder: pathlib.Path) -> bool:
    """Whether a folder is the output of a run, which --overwrite may replace."""
    try:
        return "held_out" in json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError, TypeError):
        return False


def fit_shape(x: np.ndarray, vae: VAE) -> np.ndarray:
    """Gives images the channel axis that training gave them for a convolutional network."""
    return x[..., None] if (*x.shape[1:], 1) == tuple(vae.data_shape) else x


def in_words(terms: dict[str, float]) -> str:
    """The terms of `evaluation.held_out` in words."""
    return (
        f"negative ELBO {terms['negative_elbo']:.3f} = reconstruction {terms['reconstruction']:.3f} + kl "
        f"{terms['kl']:.3f} nats per example, {terms['bits_per_dim']:.4f} bits per dimension"
    )


def collapse_report(vae: VAE, x: np.ndarray, steps_per_epoch: int | None = None) -> str | None:
    """What is said of a collapsed posterior, with the options that help; None if it has not collapsed."""
    if len(x) < 2:  # of one example nobody can tell whether z distinguishes it from others
        return None
    words = callbacks.collapse_report(vae, x, steps_per_epoch)
    return words and f"{words}\nOptions of train for these: --epochs, --scale, --beta, --warm-up, --free-bits."


def _model_file(path):
    path = pathlib.Path(path)
    return path / "model.keras" if path.is_dir() else path

"""The curves of a training, from whatever form its history has."""

import csv
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_vae.plotting._figure import new_figure, written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The panels of `training_curves`: logs, and what to call them.
_PANELS = {
    "negative_elbo": "negative ELBO (nats)",
    "reconstruction": "reconstruction (nats)",
    "kl": "KL (nats)",
    "beta": "beta",
    "active_units": "active units",
}


def training_curves(history: Any, path: str | os.PathLike[str] | None = None) -> "Figure":
    """The terms of the bound over the epochs, counted from 1, for training and for validation data.

    Args:
        history: Result of `fit`, its `.history`, a list of one dict per epoch, or the path of a csv file that
            `keras-vae train` or Keras's CSVLogger wrote.
        path: Path of the picture to write, or None.

    Returns:
        A `matplotlib.figure.Figure` with a panel each for negative_elbo, reconstruction, kl, beta and active_units,
        as far as they were logged.

    Raises:
        ValueError: If the history has none of these, no epochs, or not one value of each per epoch.
    """
    from matplotlib.ticker import MaxNLocator

    epochs, logs = _history(history)
    panels = [name for name in _PANELS if name in logs]
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = new_figure(0.5 + 3.5 * columns, 0.4 + 2.8 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(grid, panels, strict=False):
        for key, label, style in ((name, "training", "-"), (f"val_{name}", "validation", "--")):
            if key in logs:
                # Dots while they can be told apart: one epoch, or one validation in several, has no line.
                axes.plot(epochs, logs[key], style, marker="." if len(epochs) <= 30 else None, label=label)
        axes.set_title(_PANELS[name], fontsize=10)
        axes.set_xlabel("epoch")
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        if f"val_{name}" in logs:
            axes.legend(fontsize=8)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return written(figure, path)


def _history(history):
    """The epochs, counted from 1, and the logs as float arrays of the same length, NaN where there is no value."""
    columns = _columns(history)
    panels = [name for name in _PANELS if name in columns]
    if not panels:
        raise ValueError(
            f"The history has none of {', '.join(_PANELS)}, the logs of a VAE; it has {sorted(map(str, columns))}."
        )
    # Validation runs at the beta that training has reached: its curve would be the other's, half an epoch late.
    wanted = panels + [f"val_{name}" for name in panels if name != "beta" and f"val_{name}" in columns]
    logs = {key: np.array([_number(value, key) for value in columns[key]]) for key in wanted}
    lengths = {key: len(values) for key, values in logs.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"The history has {lengths} values: which epochs are missing is not known (validation_freq leaves some "
            "out). Pass a list of one dict per epoch, or the file of a CSVLogger."
        )
    count = lengths[wanted[0]]
    if count == 0:
        raise ValueError("The history has no epochs.")
    epochs = np.array([_number(value, "epoch") for value in columns.get("epoch", range(1, count + 1))])
    return epochs + (epochs[0] == 0), logs  # Keras counts from 0


def _columns(history):
    """A dict from the name of a log to a list of its values."""
    if isinstance(history, str | os.PathLike):
        with open(history, newline="") as file:
            history = list(csv.DictReader(file))
    if isinstance(history, list | tuple) and all(isinstance(row, Mapping) for row in history):
        return {name: [row.get(name) for row in history] for name in dict.fromkeys(n for row in history for n in row)}
    columns = getattr(history, "history", history)
    if not isinstance(columns, Mapping):
        raise ValueError(
            "history must be what fit returned, its .history, a list of one dict per epoch, or the path of a csv "
            f"file; got {type(history).__name__}."
        )
    return {"epoch": history.epoch, **columns} if columns is not history else columns


def _number(value, name):
    if value in (None, "", "NA"):  # Keras's CSVLogger writes NA
        return np.nan
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"The history has {value!r} under {name}, where a number should be.") from None

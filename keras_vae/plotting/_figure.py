"""A matplotlib Figure without pyplot, and how it is written; what all pictures share."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_vae import _files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI: int = 150  # resolution of the pictures written


def require_one_tensor(vae: Any) -> None:
    """Raises a ValueError for a model with named parts, of which a picture would be of one."""
    names = vae.likelihood.part_names
    if names:
        raise ValueError(
            f"Pictures are of one tensor, and this model has {', '.join(map(repr, names))}: draw one of those that "
            f"reconstruct and sample return, such as plotting.examples(vae.reconstruct(x)[{names[0]!r}])."
        )


def new_figure(width: float, height: float) -> "Figure":
    """An empty Figure of that size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def written(figure: "Figure", path: str | os.PathLike[str] | None) -> "Figure":
    """The figure, after writing it if a path is given."""
    if path is not None:
        with _files.atomic_file(path) as temporary:
            figure.savefig(temporary, dpi=DPI)
    return figure


def largest_first(kl: np.ndarray) -> np.ndarray:
    """The order of the latents by their KL."""
    return np.argsort(-kl, kind="stable")  # stable: units that are all at 0 stay in the order of their index

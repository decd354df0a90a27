"""Charts of the latents: where the data lie, and how the KL is spread."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_vae import evaluation, validation
from keras_vae.data import split_condition
from keras_vae.distributions import Mixture
from keras_vae.model import VAE
from keras_vae.plotting._figure import largest_first, new_figure, written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_CATEGORIES = 20  # colours that an eye, and tab20, can tell apart
_ACTIVE, _INACTIVE = "tab:blue", "tab:gray"


def latent_scatter(vae: VAE, x: Any, labels: Any = None, path: str | os.PathLike[str] | None = None) -> "Figure":
    """The posterior means of data in the two latents of largest KL, and the prior's ellipses.

    Of latents with several axes, such as `(8, 8, 4)`, each element is one.

    Args:
        vae: A trained `VAE` with at least two latents.
        x: `(n, ...)` data.
        labels: `(n,)` labels that colour the points: integers, booleans or strings of at most 20 kinds get a legend,
            other numbers a colour bar.
        path: Path of the picture to write, or None.

    Returns:
        A `matplotlib.figure.Figure`. The ellipses are the prior's one and two standard deviations; of a conditional
        prior those of the average of p(z|c) over the data.

    Raises:
        ValueError: If the model has one latent, or the labels do not fit.
    """
    from matplotlib.patches import Ellipse

    if vae.latent_dim == 1:
        raise ValueError(
            "A scatter needs two latents or more, and this model has one: see what it does with plotting.traversals."
        )
    posterior = vae.encode(x)
    location = posterior.location
    labels = None if labels is None else _checked_labels(labels, len(location))
    kl = evaluation.kl_per_unit(vae, x if vae.has_conditional_prior else posterior)
    shape, kl = kl.shape, kl.ravel()
    pair = largest_first(kl)[:2]
    points = location.reshape(len(location), -1)[:, pair]

    figure = new_figure(7.0, 6.0)
    axes = figure.subplots()
    size = np.clip(12000.0 / max(len(points), 1), 8.0, 30.0)
    if labels is None:
        axes.scatter(*points.T, s=size, linewidths=0)
    elif _is_categorical(labels):
        _scatter_categories(figure, axes, points, labels, size)
    else:
        drawn = axes.scatter(*points.T, s=size, c=labels, linewidths=0)
        figure.colorbar(drawn, ax=axes, label="label")
    prior = vae.numpy_prior(_condition(vae, x) if vae.has_conditional_prior else None)
    prior = (Mixture(prior) if vae.has_conditional_prior else prior).moment_matched()
    mean, log_var = (np.broadcast_to(part, shape).ravel()[pair] for part in (prior.mean, prior.log_var))
    for deviations in (1.0, 2.0):
        width, height = 2.0 * deviations * np.exp(0.5 * log_var)
        axes.add_patch(
            Ellipse((mean[0], mean[1]), width, height, fill=False, edgecolor="black", linestyle="--", linewidth=0.8)
        )
    axes.set_aspect("equal", adjustable="datalim")
    for set_name, i in zip((axes.set_xlabel, axes.set_ylabel), pair, strict=True):
        index = ", ".join(map(str, np.unravel_index(i, shape)))
        set_name(f"latent {index} (KL {kl[i]:.2f} nats)")
    axes.set_title("posterior means, and one and two standard deviations of the prior", fontsize=10)
    return written(figure, path)


def kl_per_unit(vae: VAE, x: Any, path: str | os.PathLike[str] | None = None) -> "Figure":
    """The KL of each latent as bars, the largest first, with active units in another colour.

    Of latents with several axes, such as `(8, 8, 4)`, a bar is one channel: the sum over its places, active if one is.

    Args:
        vae: A trained `VAE`.
        x: `(n, ...)` data, n >= 2.
        path: Path of the picture to write, or None.

    Returns:
        A `matplotlib.figure.Figure`. Active are the units that `evaluation.active_units` finds with its defaults.
    """
    posterior = vae.encode(x)
    kl = evaluation.kl_per_unit(vae, x if vae.has_conditional_prior else posterior)
    active = evaluation.active_units(vae, posterior)
    what, places = "channel" if kl.ndim > 1 else "latent", tuple(range(kl.ndim - 1))
    kl, active = kl.sum(axis=places), np.asarray(active.any(axis=places))
    order = largest_first(kl)
    figure = new_figure(float(np.clip(0.3 * len(kl), 5.0, 16.0)), 3.5)
    axes = figure.subplots()
    place = np.arange(len(kl))
    for which, colour, name in ((active, _ACTIVE, "active"), (~active, _INACTIVE, "inactive")):
        if which.any():
            axes.bar(place[which[order]], kl[order][which[order]], color=colour, label=f"{name} ({which.sum()})")
    every = -(-len(kl) // 50)  # more names than 50 would run into one another
    axes.set_xticks(place[::every], [str(i) for i in order[::every]], fontsize=8)
    axes.set_xlim(-0.6, max(len(kl), 8) - 0.4)  # few bars stay bars, beside the legend
    axes.set_ylim(0.0, max(1.05 * kl.max(), 0.1))
    axes.set_xlabel(what)
    axes.set_ylabel("KL (nats)")
    axes.legend()
    figure.suptitle(f"KL to the prior: {kl.sum():.2f} nats per example in total", fontsize=10)
    return written(figure, path)


def _condition(vae, x):
    names = vae.likelihood.part_names
    return {name: part for name, part in x.items() if name not in names} if names else split_condition(x)[1]


def _checked_labels(labels, n):
    labels = validation.to_numpy(labels) if not isinstance(labels, list | tuple) else np.asarray(labels)
    if labels.shape != (n,):
        raise ValueError(f"labels must have one value per example, shape ({n},); got shape {labels.shape}.")
    if labels.dtype.kind not in "buifUS":
        raise ValueError(f"labels must be numbers or strings; got dtype {labels.dtype}.")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError("labels contain NaN or infinite values: leave such examples out.")
    if labels.dtype.kind in "US" and not _is_categorical(labels):
        raise ValueError(
            f"labels are strings of {len(np.unique(labels))} kinds, and more than {_MOST_CATEGORIES} colours cannot be "
            "told apart: merge some, or pass numbers, which get a colour bar."
        )
    return labels


def _is_categorical(labels):
    return labels.dtype.kind != "f" and len(np.unique(labels)) <= _MOST_CATEGORIES


def _scatter_categories(figure, axes, points, labels, size):
    import matplotlib

    kinds, codes = np.unique(labels, return_inverse=True)
    colours = matplotlib.colormaps["tab10" if len(kinds) <= 10 else "tab20"]
    # One scatter in the order of the data: one for each kind would paint the last over the others.
    axes.scatter(*points.T, s=size, color=colours(codes), linewidths=0)
    for code, kind in enumerate(kinds):
        axes.scatter([], [], s=30, color=[colours(code)], label=str(kind))
    figure.legend(loc="outside right upper")

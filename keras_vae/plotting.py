"""Pictures of what a model does (reconstructions, samples, the latent space) and of how it was trained.

Each function returns a matplotlib Figure, made without pyplot so that no window or global state is involved, and
writes it if a path is given. Data that are images, `(height, width)` or with 1, 3 or 4 channels, are drawn as such;
anything else as curves. Latents are numbered from 0, as the columns of `vae.encode(x).mean` are.
"""

import csv
import os
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from keras_vae import _checks, _conditions, _files, evaluation

DPI = 150  # of the pictures written

# The panels of `training_curves`: logs, and what to call them.
_PANELS = {
    "negative_elbo": "negative ELBO (nats)",
    "reconstruction": "reconstruction (nats)",
    "kl": "KL (nats)",
    "beta": "beta",
    "active_units": "active units",
}
_MOST_CATEGORIES = 20  # colours that an eye, and tab20, can tell apart
_ACTIVE, _INACTIVE = "tab:blue", "tab:gray"


def reconstructions(vae, x, path=None, columns=10):
    """Data above their reconstructions.

    Args:
        vae: A trained `VAE`.
        x: `(n, ...)` data, a dict of a conditional model, of which the first are shown: at most 4 rows of `columns`.
        path: Where to write the picture, or None.
        columns: Pairs in a row.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    x = _conditions.rows(x, 0, 4 * columns)
    reconstructed = vae.reconstruct(x)
    x = np.asarray(_conditions.split_condition(x)[0])
    pairs = np.stack([x, reconstructed], axis=1)  # (n, 2, ...)
    rows = [pairs[start : start + columns] for start in range(0, len(x), columns)]
    tiles = [[pair[i] for pair in row] for row in rows for i in range(2)]
    return _draw(tiles, f"data, and below each row its reconstruction ({_latents(vae)})", path)


def samples(vae, n=100, path=None, columns=10, seed=0, condition=None):
    """Decoded draws from the prior; arguments as in `reconstructions` and `VAE.sample`."""
    drawn = vae.sample(n, seed=seed, condition=condition)
    tiles = [list(drawn[start : start + columns]) for start in range(0, n, columns)]
    return _draw(tiles, f"decoded samples of the prior ({_latents(vae)})", path)


def manifold(vae, path=None, steps=20, condition=None):
    """What a two-dimensional latent space holds: the decoder on a grid through the prior's quantiles.

    The grid is linear on the unit square and mapped through the inverse of the normal distribution function, so that
    each tile stands for an equal share of the prior; of a mixture, of the normal with its mean and variance.

    Raises:
        ValueError: If the model's latent space is not two-dimensional.

    Reference: Kingma & Welling 2014, arXiv:1312.6114, figure 4.
    """
    if vae.latent_dim != 2:
        raise ValueError(f"A manifold picture needs a model with latent_dim=2; this one has {vae.latent_dim}.")
    quantiles = _quantiles(steps)
    z = np.array([(a, b) for b in reversed(quantiles) for a in quantiles], "float32")
    decoded = vae.decode(vae.numpy_prior().moment_matched().reparameterize(z), condition=condition)
    tiles = [list(decoded[start : start + steps]) for start in range(0, steps**2, steps)]
    return _draw(tiles, "the latent plane, decoded at the quantiles of the prior", path)


def traversals(vae, x=None, path=None, units=10, steps=11, span=0.96, example=None, condition=None):
    """What each latent does: one row per latent, which runs through the prior while the others stay.

    The steps are quantiles of the prior, evenly apart in probability, as in `manifold`.

    Args:
        vae: A trained `VAE`.
        x: `(n, ...)` data. If given, the latents come in the order of their KL, averaged over these, the largest
            first, with the KL beside the row; if None, in the order of their index.
        path: Where to write the picture, or None.
        units: Latents shown, at most.
        steps: Tiles in a row.
        span: The central share of the prior that a row runs through, between 0 and 1.
        example: `(...)`, one example without the batch axis: the other latents stay at its posterior mean. If None,
            at the prior's mean.
        condition: Of a conditional model: that of the whole picture, without the batch axis.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If `units`, `steps` or `span` make no picture, or x or the example are not what the model
            reconstructs.

    Reference: Higgins et al. 2017, beta-VAE, figure 1.
    """
    units, steps = _checks.whole_number("units", units), _checks.whole_number("steps", steps, least=2)
    if not 0.0 < span < 1.0:
        raise ValueError(f"span is a share of the prior and must be between 0 and 1, without both; got {span!r}.")
    prior = vae.numpy_prior().moment_matched()
    if example is None:
        base, others = prior.mean, "the prior's mean"
    else:
        example = _checks.to_numpy(example)[None]
        if condition is not None:
            example = {"x": example, "condition": _checks.to_numpy(condition)[None]}
        base, others = vae.encode(example).mean[0], "the example's posterior mean"
    if x is None:
        order = range(min(units, vae.latent_dim))
        names = [f"latent {i}" for i in order]
    else:
        kl = evaluation.kl_per_unit(vae, x)
        order = _largest_first(kl)[:units]
        names = [f"latent {i}\n{kl[i]:.2f} nats" for i in order]
    quantiles = _quantiles(steps, span)
    along = prior.reparameterize(np.array(quantiles, "float32")[:, None].repeat(len(base), 1))
    z = np.tile(base, (len(order), steps, 1))  # (rows, steps, latent_dim)
    for row, i in zip(z, order, strict=True):
        row[:, i] = along[:, i]
    decoded = vae.decode(z.reshape(-1, len(base)), condition=condition)
    tiles = [list(decoded[start : start + steps]) for start in range(0, len(decoded), steps)]
    title = f"each latent in standard deviations of the prior, the others at {others}"
    # Rounded before it is written, and 0.0 added: the median would come out as -0.0 on some machines.
    return _draw(tiles, title, path, names, [f"{round(quantile, 1) + 0.0:.1f}" for quantile in quantiles])


def latent_scatter(vae, x, labels=None, path=None):
    """Where data lie: the posterior means in the two latents of largest KL, and the prior's ellipses.

    Args:
        vae: A trained `VAE` of two latents or more.
        x: `(n, ...)` data.
        labels: `(n,)` to colour the points by: integers, booleans or strings of at most 20 kinds get a legend, other
            numbers a colour bar.
        path: Where to write the picture, or None.

    Returns:
        A `matplotlib.figure.Figure`. The ellipses are the prior's one and two standard deviations.

    Raises:
        ValueError: If the model has one latent, or the labels do not fit.
    """
    from matplotlib.patches import Ellipse

    if vae.latent_dim < 2:
        raise ValueError(
            "A scatter needs two latents or more, and this model has one: see what it does with plotting.traversals."
        )
    labels = None if labels is None else _checked_labels(labels, _conditions.count(x))
    posterior = vae.encode(x)
    kl = evaluation.mean_kl(posterior, vae.numpy_prior())
    pair = _largest_first(kl)[:2]
    points = posterior.mean[:, pair]

    figure = _figure(7.0, 6.0)
    axes = figure.subplots()
    size = np.clip(12000.0 / max(len(points), 1), 8.0, 30.0)
    if labels is None:
        axes.scatter(*points.T, s=size, linewidths=0)
    elif _is_categorical(labels):
        _scatter_categories(figure, axes, points, labels, size)
    else:
        drawn = axes.scatter(*points.T, s=size, c=labels, linewidths=0)
        figure.colorbar(drawn, ax=axes, label="label")
    prior = vae.numpy_prior().moment_matched()
    mean, log_var = prior.mean[pair], prior.log_var[pair]
    for deviations in (1.0, 2.0):
        width, height = 2.0 * deviations * np.exp(0.5 * log_var)
        axes.add_patch(
            Ellipse((mean[0], mean[1]), width, height, fill=False, edgecolor="black", linestyle="--", linewidth=0.8)
        )
    axes.set_aspect("equal", adjustable="datalim")
    for set_name, i in zip((axes.set_xlabel, axes.set_ylabel), pair, strict=True):
        set_name(f"latent {i} (KL {kl[i]:.2f} nats)")
    axes.set_title("posterior means, and one and two standard deviations of the prior", fontsize=10)
    return _written(figure, path)


def kl_per_unit(vae, x, path=None):
    """How the KL is spread over the latents: bars, the largest first, with active units in another colour.

    Args:
        vae: A trained `VAE`.
        x: `(n, ...)` data, n >= 2.
        path: Where to write the picture, or None.

    Returns:
        A `matplotlib.figure.Figure`. What is active is what `evaluation.active_units` says at its threshold.
    """
    posterior = vae.encode(x)
    kl, active = evaluation.mean_kl(posterior, vae.numpy_prior()), evaluation.is_active(posterior)
    order = _largest_first(kl)
    figure = _figure(float(np.clip(0.3 * len(kl), 5.0, 16.0)), 3.5)
    axes = figure.subplots()
    place = np.arange(len(kl))
    for which, colour, name in ((active, _ACTIVE, "active"), (~active, _INACTIVE, "inactive")):
        if which.any():
            axes.bar(place[which[order]], kl[order][which[order]], color=colour, label=f"{name} ({which.sum()})")
    every = -(-len(kl) // 50)  # more names than 50 would run into one another
    axes.set_xticks(place[::every], [str(i) for i in order[::every]], fontsize=8)
    axes.set_xlim(-0.6, max(len(kl), 8) - 0.4)  # few bars stay bars, beside the legend
    axes.set_ylim(0.0, max(1.05 * kl.max(), 0.1))
    axes.set_xlabel("latent")
    axes.set_ylabel("KL (nats)")
    axes.legend()
    figure.suptitle(f"KL to the prior: {kl.sum():.2f} nats per example in total", fontsize=10)
    return _written(figure, path)


def training_curves(history, path=None):
    """How training went: the terms of the bound over the epochs, counted from 1, of training and of validation data.

    Args:
        history: What `fit` returned, its `.history`, a list of one dict per epoch, or the path of a csv file that
            `keras-vae train` or Keras's CSVLogger wrote.
        path: Where to write the picture, or None.

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
    figure = _figure(0.5 + 3.5 * columns, 0.4 + 2.8 * rows)
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
    return _written(figure, path)


def is_image(data_shape):
    """Whether one example of that shape can be drawn as a picture."""
    return len(data_shape) == 2 or (len(data_shape) == 3 and data_shape[-1] in (1, 3, 4))


def _latents(vae):
    return f"{vae.latent_dim} latent dimension{'s' if vae.latent_dim > 1 else ''}"


def _quantiles(steps, span=0.96):
    """Quantiles of N(0, 1), evenly apart in probability, over its central share `span`."""
    return [NormalDist().inv_cdf(p) for p in np.linspace(0.5 - span / 2, 0.5 + span / 2, steps)]


def _largest_first(kl):
    return np.argsort(-kl, kind="stable")  # stable: units that are all at 0 stay in the order of their index


def _checked_labels(labels, n):
    labels = _checks.to_numpy(labels) if not isinstance(labels, list | tuple) else np.asarray(labels)
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


def _figure(width, height):
    """A Figure of that size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _written(figure, path):
    if path is not None:
        with _files.atomic_file(path) as temporary:
            figure.savefig(temporary, dpi=DPI)
    return figure


def _draw(tiles, title, path, row_names=None, column_names=None):
    """Rows of examples as one picture, with names to the left and below if given."""
    columns = max(len(row) for row in tiles)
    left, above = (0.8 if row_names else 0.0), (0.75 if column_names else 0.5)  # inches for names and title
    most = 2.0 * len(tiles)  # inches: one example alone need not fill a page
    if is_image(tiles[0][0].shape):
        mosaic, gap = _mosaic(tiles, columns)
        figure = _figure(8.0, min((8.0 - left) * mosaic.shape[0] / mosaic.shape[1], most) + above)
        axes = figure.subplots()
        axes.imshow(mosaic, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelsize=8)
        height, width = tiles[0][0].shape[:2]
        axes.set_yticks(*_centres(row_names, height, gap))
        axes.set_xticks(*_centres(column_names, width, gap))
    else:
        figure = _figure(8.0, min(8.0 / columns * len(tiles), most) + above)
        grid = figure.subplots(len(tiles), columns, squeeze=False, sharey=True)
        for row, axes_row in zip(tiles, grid, strict=True):
            for i, axes in enumerate(axes_row):
                axes.set_axis_off()
                if i < len(row):
                    # A single number is no line.
                    axes.plot(np.ravel(row[i]), linewidth=0.8, marker="." if row[i].size == 1 else None)
        for axes, name in zip(grid[:, 0], row_names or (), strict=False):
            axes.text(-0.1, 0.5, name, transform=axes.transAxes, fontsize=8, ha="right", va="center")
        for axes, name in zip(grid[-1], column_names or (), strict=False):
            axes.text(0.5, -0.1, name, transform=axes.transAxes, fontsize=8, ha="center", va="top")
    figure.suptitle(title, fontsize=10)
    return _written(figure, path)


def _centres(names, size, gap):
    """Where tiles of `size` pixels, `gap` apart, have their centres, and what to write there."""
    return [i * (size + gap) + (size - 1) / 2 for i in range(len(names or ()))], names or []


def _mosaic(tiles, columns):
    """One picture of all tiles, scaled to [0, 1], and the pixels between two of them."""
    everything = np.concatenate([np.stack(row) for row in tiles])
    low, high = min(0.0, float(np.nanmin(everything))), max(1.0, float(np.nanmax(everything)))  # NaN: missing
    height, width = tiles[0][0].shape[:2]
    channels = tiles[0][0].shape[2:] if tiles[0][0].ndim == 3 else (1,)
    gap = max(1, min(height, width) // 14)
    mosaic = np.full(((height + gap) * len(tiles) - gap, (width + gap) * columns - gap, *channels), 0.35, "float32")
    for r, row in enumerate(tiles):
        for c, tile in enumerate(row):
            top, left = r * (height + gap), c * (width + gap)
            mosaic[top : top + height, left : left + width] = (tile.reshape(height, width, *channels) - low) / (
                high - low
            )
    return (mosaic[..., 0] if channels == (1,) else mosaic), gap

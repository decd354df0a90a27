"""Pictures made of examples: reconstructions, samples, the manifold and traversals."""

import os
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_vae import _containers, data, evaluation, validation
from keras_vae.model import VAE
from keras_vae.plotting._figure import largest_first, new_figure, written

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reconstructions(vae: VAE, x: Any, path: str | os.PathLike[str] | None = None, columns: int = 10) -> "Figure":
    """Data above their reconstructions.

    Args:
        vae: A trained `VAE`.
        x: `(n, ...)` data, a dict for a conditional model; the first are shown, at most 4 rows of `columns`.
        path: Path of the picture to write, or None.
        columns: Number of pairs in a row.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    x = _containers.first(x, 4 * columns)
    reconstructed = vae.reconstruct(x)
    x = np.asarray(data.split_condition(x)[0])
    pairs = np.stack([x, reconstructed], axis=1)  # (n, 2, ...)
    rows = [pairs[start : start + columns] for start in range(0, len(x), columns)]
    tiles = [[pair[i] for pair in row] for row in rows for i in range(2)]
    return _draw(tiles, f"data, and below each row its reconstruction ({_latents(vae)})", path)


def samples(
    vae: VAE,
    n: int = 100,
    path: str | os.PathLike[str] | None = None,
    columns: int = 10,
    seed: int | None = 0,
    condition: Any = None,
) -> "Figure":
    """Decoded draws from the prior; arguments as in `reconstructions` and `VAE.sample`."""
    drawn = vae.sample(n, seed=seed, condition=condition)
    tiles = [list(drawn[start : start + columns]) for start in range(0, n, columns)]
    return _draw(tiles, f"decoded samples of the prior ({_latents(vae)})", path)


def manifold(vae: VAE, path: str | os.PathLike[str] | None = None, steps: int = 20, condition: Any = None) -> "Figure":
    """A two-dimensional latent space, decoded on a grid through the prior's quantiles.

    The grid is linear on the unit square and mapped through the inverse of the normal distribution function, so that
    each tile stands for an equal share of the prior; for a mixture, of the normal with its mean and variance.

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


def traversals(
    vae: VAE,
    x: Any = None,
    path: str | os.PathLike[str] | None = None,
    units: int = 10,
    steps: int = 11,
    span: float = 0.96,
    example: Any = None,
    condition: Any = None,
) -> "Figure":
    """The effect of each latent: one row per latent, which runs through the prior while the others stay.

    The steps are quantiles of the prior, evenly apart in probability, as in `manifold`.

    Args:
        vae: A trained `VAE`.
        x: `(n, ...)` data. If given, the latents come in the order of their KL, averaged over these, the largest
            first, with the KL beside the row; if None, in the order of their index.
        path: Path of the picture to write, or None.
        units: Largest number of latents shown.
        steps: Number of tiles in a row.
        span: Central share of the prior that a row runs through, between 0 and 1.
        example: `(...)`, one example without the batch axis: the other latents stay at its posterior mean. If None,
            at the prior's mean.
        condition: Condition of the whole picture, without the batch axis, for a conditional model.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If `units`, `steps` or `span` are out of range, or x or the example do not fit the model.

    Reference: Higgins et al. 2017, beta-VAE, figure 1.
    """
    units, steps = validation.whole_number("units", units), validation.whole_number("steps", steps, least=2)
    if not 0.0 < span < 1.0:
        raise ValueError(f"span is a share of the prior and must be above 0 and below 1; got {span!r}.")
    prior = vae.numpy_prior().moment_matched()
    if example is None:
        base, others = prior.mean, "the prior's mean"
    else:
        example = validation.to_numpy(example)[None]
        if condition is not None:
            example = {"x": example, "condition": validation.to_numpy(condition)[None]}
        base, others = vae.encode(example).mean[0], "the example's posterior mean"
    if x is None:
        order = range(min(units, vae.latent_dim))
        names = [f"latent {i}" for i in order]
    else:
        kl = evaluation.kl_per_unit(vae, x)
        order = largest_first(kl)[:units]
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


def is_image(data_shape: tuple[int, ...]) -> bool:
    """Whether one example of that shape can be drawn as a picture."""
    return len(data_shape) == 2 or (len(data_shape) == 3 and data_shape[-1] in (1, 3, 4))


def _latents(vae):
    return f"{vae.latent_dim} latent dimension{'s' if vae.latent_dim > 1 else ''}"


def _quantiles(steps, span=0.96):
    """Quantiles of N(0, 1), evenly apart in probability, over its central share `span`."""
    return [NormalDist().inv_cdf(p) for p in np.linspace(0.5 - span / 2, 0.5 + span / 2, steps)]


def _draw(tiles, title, path, row_names=None, column_names=None):
    """Rows of examples as one picture, with names to the left and below if given."""
    columns = max(len(row) for row in tiles)
    left, above = (0.8 if row_names else 0.0), (0.75 if column_names else 0.5)  # inches for names and title
    most = 2.0 * len(tiles)  # inches: one example alone need not fill a page
    if is_image(tiles[0][0].shape):
        mosaic, gap = _mosaic(tiles, columns)
        figure = new_figure(8.0, min((8.0 - left) * mosaic.shape[0] / mosaic.shape[1], most) + above)
        axes = figure.subplots()
        axes.imshow(mosaic, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelsize=8)
        height, width = tiles[0][0].shape[:2]
        axes.set_yticks(*_centres(row_names, height, gap))
        axes.set_xticks(*_centres(column_names, width, gap))
    else:
        figure = new_figure(8.0, min(8.0 / columns * len(tiles), most) + above)
        grid = figure.subplots(len(tiles), columns, squeeze=False, sharey=True)
        for row, axes_row in zip(tiles, grid, strict=True):
            for i, axes in enumerate(axes_row):
                axes.set_axis_off()
                if i < len(row):
                    # A single number needs a dot, as it makes no line.
                    axes.plot(np.ravel(row[i]), linewidth=0.8, marker="." if row[i].size == 1 else None)
        for axes, name in zip(grid[:, 0], row_names or (), strict=False):
            axes.text(-0.1, 0.5, name, transform=axes.transAxes, fontsize=8, ha="right", va="center")
        for axes, name in zip(grid[-1], column_names or (), strict=False):
            axes.text(0.5, -0.1, name, transform=axes.transAxes, fontsize=8, ha="center", va="top")
    figure.suptitle(title, fontsize=10)
    return written(figure, path)


def _centres(names, size, gap):
    """The centres of tiles of `size` pixels, `gap` apart, and the names to write there."""
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

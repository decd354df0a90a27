"""Pictures made of examples: reconstructions, samples, the manifold and traversals.

A shape alone does not say what data are, so the rule of `is_image` decides, which the page of `keras_vae_serving` has
too. All tiles are in one Axes, whether they are pixels or lines: hundreds of small Axes are slow to lay out.
"""

import math
import os
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_vae import _containers, data, evaluation, validation
from keras_vae.likelihoods import Bernoulli, ContinuousBernoulli
from keras_vae.model import VAE
from keras_vae.plotting._figure import largest_first, new_figure, require_one_tensor, written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_CHANNELS = 16  # lines that can be told apart in a tile
_MOST_COLUMNS = 64  # of a table; longer 1-d data are a series, such as a spectrum
_LEAST_SIDE = 8  # pixels; smaller squares are hardly pictures


def reconstructions(vae: VAE, x: Any, path: str | os.PathLike[str] | None = None, columns: int = 10) -> "Figure":
    """Data and their reconstructions: pictures above one another, lines over one another.

    Args:
        vae: A trained `VAE`.
        x: `(n, ...)` data, a dict for a conditional model; the first are shown, at most 4 rows of `columns`.
        path: Path of the picture to write, or None.
        columns: Number of pairs in a row.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    require_one_tensor(vae)
    x = _containers.first(x, 4 * columns)
    reconstructed = vae.reconstruct(x)
    x, reconstructed = (_rows(vae, each, columns) for each in (data.split_condition(x)[0], reconstructed))
    if is_image(x[0][0].shape):
        tiles = [row for pair in zip(x, reconstructed, strict=True) for row in pair]
        return _draw(tiles, f"data, and below each row its reconstruction ({_latents(vae)})", path)
    return _draw(reconstructed, f"data (pale), and over them their reconstructions ({_latents(vae)})", path, behind=x)


def samples(
    vae: VAE,
    n: int = 100,
    path: str | os.PathLike[str] | None = None,
    columns: int = 10,
    seed: int | None = 0,
    condition: Any = None,
    prior: Any = None,
    latent_shape: Any = None,
) -> "Figure":
    """Decoded draws from the prior; arguments as in `reconstructions` and `VAE.sample`."""
    require_one_tensor(vae)
    drawn = vae.sample(n, seed=seed, condition=condition, prior=prior, latent_shape=latent_shape)
    tiles = _rows(vae, drawn, columns)
    whose = "the prior" if prior is None else f"a {type(prior).__name__}"
    return _draw(tiles, f"decoded samples of {whose} ({_latents(vae)})", path)


def examples(x: Any, path: str | os.PathLike[str] | None = None, columns: int = 10, title: str = "") -> "Figure":
    """Examples of any origin: data, `vae.interpolate(a, b, steps=10)`, or one part of a model with named parts.

    Args:
        x: `(n, ...)` array; `is_image` has the rule by which it is drawn as pictures or as lines.
        path: Path of the picture to write, or None.
        columns: Number of examples in a row.
        title: Title of the picture.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If x holds no examples, or single numbers.
    """
    x = validation.to_numpy(x)
    if x.ndim < 2 or not x.size:
        raise ValueError(f"x must hold examples, shape (n, ...); got shape {x.shape}. For one example pass x[None].")
    return _draw(_rows(None, x, validation.whole_number("columns", columns)), title, path)


def manifold(vae: VAE, path: str | os.PathLike[str] | None = None, steps: int = 20, condition: Any = None) -> "Figure":
    """A two-dimensional latent space, decoded on a grid through the prior's quantiles.

    The grid is linear on the unit square and mapped through the inverse of the normal distribution function, so that
    each tile stands for an equal share of the prior; for a mixture, of the normal with its mean and variance.

    Raises:
        ValueError: If the model's latent space is not two-dimensional.

    Reference: Kingma & Welling 2014, arXiv:1312.6114, figure 4.
    """
    require_one_tensor(vae)
    if vae.latent_shape != (2,):
        raise ValueError(f"A manifold picture needs a model with latent_dim=2; this one has {_latents(vae)}.")
    quantiles = _quantiles(steps)
    z = np.array([(a, b) for b in reversed(quantiles) for a in quantiles], "float32")
    decoded = vae.decode(vae.numpy_prior(condition).moment_matched().reparameterize(z), condition=condition)
    tiles = _rows(vae, decoded, steps)
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

    Of latents with several axes, such as `(8, 8, 4)`, a row is one channel, which moves at all places together.

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
            at the prior's mean. A model with latents of free sizes needs one.
        condition: Condition of the whole picture, without the batch axis, for a conditional model.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If `units`, `steps` or `span` are out of range, x or the example do not fit the model, or the
            example is missing where the latents have free sizes.

    Reference: Higgins et al. 2017, beta-VAE, figure 1.
    """
    require_one_tensor(vae)
    units, steps = validation.whole_number("units", units), validation.whole_number("steps", steps, least=2)
    if not 0.0 < span < 1.0:
        raise ValueError(f"span is a share of the prior and must be above 0 and below 1; got {span!r}.")
    prior = vae.numpy_prior(condition).moment_matched()
    if example is None:
        if None in vae.latent_shape:
            raise ValueError(f"This model has {_latents(vae)}: give an example, whose size they have.")
        base, others = np.broadcast_to(prior.mean, vae.latent_shape), "the prior's mean"
    else:
        example = validation.to_numpy(example)[None]
        if condition is not None:
            example = {"x": example, "condition": validation.to_numpy(condition)[None]}
        base, others = vae.encode(example).location[0], "the example's posterior mean"
    what = "latent" if base.ndim == 1 else "channel"
    if x is None:
        order = range(min(units, base.shape[-1]))
        names = [f"{what} {i}" for i in order]
    else:
        kl = evaluation.kl_per_unit(vae, x)
        kl = kl.sum(axis=tuple(range(kl.ndim - 1)))
        order = largest_first(kl)[:units]
        names = [f"{what} {i}\n{kl[i]:.2f} nats" for i in order]
    quantiles = _quantiles(steps, span)
    along = np.array(quantiles, "float32").reshape(-1, *[1] * base.ndim)
    along = prior.reparameterize(np.broadcast_to(along, (steps, *base.shape)))
    z = np.tile(base, (len(order), steps, *[1] * base.ndim))  # (rows, steps, *latent_shape)
    for row, i in zip(z, order, strict=True):
        row[..., i] = along[..., i]
    decoded = vae.decode(z.reshape(-1, *base.shape), condition=condition)
    tiles = _rows(vae, decoded, steps)
    title = f"each {what} in standard deviations of the prior, the others at {others}"
    # Rounded before it is written, and 0.0 added: the median would come out as -0.0 on some machines.
    return _draw(tiles, title, path, names, [f"{round(quantile, 1) + 0.0:.1f}" for quantile in quantiles])


def is_image(data_shape: tuple[int, ...]) -> bool:
    """Whether one example of that shape, with channels last, is drawn as a picture, and not as lines.

    A picture has the shape `(height, width, channels)` with 1, 3 or 4 channels. Data of two axes are a series `(steps,
    channels)`, as `networks.conv` reads them, with two exceptions: a square of at least 8 x 8 is a grey picture, as
    people often leave out its channel axis, and so are more than 16 channels, whose lines could not be told apart.
    """
    if len(data_shape) == 2:
        steps, channels = data_shape
        return channels > _MOST_CHANNELS or steps == channels >= _LEAST_SIDE
    return len(data_shape) == 3 and data_shape[-1] in (1, 3, 4)


def _latents(vae):
    if len(vae.latent_shape) > 1:
        return f"latents of shape {' x '.join('any' if size is None else str(size) for size in vae.latent_shape)}"
    return f"{vae.latent_dim} latent dimension{'s' if vae.latent_dim > 1 else ''}"


def _quantiles(steps, span=0.96):
    """Quantiles of N(0, 1), evenly apart in probability, over its central share `span`."""
    return [NormalDist().inv_cdf(p) for p in np.linspace(0.5 - span / 2, 0.5 + span / 2, steps)]


def _rows(vae, x, columns):
    """Examples as rows of `columns` tiles; those that are pictures in another layout as pictures, channels last."""
    x = np.asarray(x)
    side = math.isqrt(x.shape[1])
    is_square = x.ndim == 2 and x.shape[1] == side**2 and side >= _LEAST_SIDE
    if x.ndim == 4 and not is_image(x.shape[1:]) and x.shape[1] in (1, 3, 4):
        x = np.moveaxis(x, 1, -1)
    elif is_square and isinstance(vae and vae.likelihood, Bernoulli | ContinuousBernoulli):  # mostly flattened pictures
        x = x.reshape(-1, side, side)
    return [list(x[start : start + columns]) for start in range(0, len(x), columns)]


def _draw(tiles, title, path, row_names=None, column_names=None, behind=None):
    """Rows of examples as one picture, with names to the left and below if given, and others behind if not images."""
    columns, shape = max(len(row) for row in tiles), tiles[0][0].shape
    # Inches for names and title.
    left, above = (0.8 if row_names else 0.0), (0.75 if column_names else 0.5 if title else 0.1)
    most = 2.0 * len(tiles)  # inches: one example alone need not fill a page
    if is_image(shape):
        mosaic, gap = _mosaic(tiles, columns)
        height, width = shape[:2]
        figure = new_figure(8.0, min((8.0 - left) * mosaic.shape[0] / mosaic.shape[1], most) + above)
        axes = figure.subplots()
        axes.imshow(mosaic, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    else:
        height, width, gap = 1, 1, 0.12
        inches = min(max(8.0, 1.4 * columns), 14.0)
        keys = -(-shape[1] // 4) if len(shape) == 2 else 0
        figure = new_figure(inches, min(0.75 * inches / columns * len(tiles), most) + above + 0.35 + 0.2 * keys)
        axes = figure.subplots()
        _draw_lines(axes, tiles, behind or [], gap)
        if keys and shape[1] > 1:
            figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=8)
    axes.set_yticks(*_centres(row_names, height, gap))
    axes.set_xticks(*_centres(column_names, width, gap))
    if title:
        figure.suptitle(title, fontsize=10)
    return written(figure, path)


def _draw_lines(axes, tiles, behind, gap):
    """A line in each tile for each channel of a series, or one for the row of a table, from its least to its greatest.

    What a column or a channel measures has a unit of its own, so each has a scale of its own, the same in all tiles.
    """
    import matplotlib

    shape = tiles[0][0].shape
    is_table = len(shape) == 1 and shape[0] <= _MOST_COLUMNS
    channels = shape[1] if len(shape) == 2 else 1

    def flat(rows):
        return np.stack([np.reshape(tile, (-1, channels)) for row in rows for tile in row])  # (n, steps, channels)

    everything = np.concatenate([flat(rows) for rows in (tiles, behind) if rows])
    over = (0,) if is_table else (0, 1)
    low, high = (end.reduce(everything, axis=over, keepdims=True) for end in (np.fmin, np.fmax))  # NaN: missing
    steps = everything.shape[1]
    along = np.linspace(-0.5, 0.5, steps) if steps > 1 else np.zeros(1)
    places = [(r * (1 + gap), c * (1 + gap)) for r, row in enumerate(tiles) for c in range(len(row))]
    across = np.array([[*(left + 0.96 * along), np.nan] for _, left in places])  # NaN: where one tile's line ends
    colours = matplotlib.colormaps["tab10" if channels <= 10 else "tab20"]
    marker = "." if is_table or steps == 1 else None  # a single number makes no line
    for r, row in enumerate(tiles):
        axes.broken_barh(
            [(c * (1 + gap) - 0.5, 1.0) for c in range(len(row))], (r * (1 + gap) - 0.5, 1.0), color="0.95"
        )
    for rows, width, alpha in ((behind, 2.6, 0.4), (tiles, 1.0, 1.0)):
        if not rows:
            continue
        share = (flat(rows) - low) / np.where(high > low, high - low, 1.0) + np.where(high > low, 0.0, 0.5)
        for k in range(channels):
            label = f"channel {k}: {low[0, 0, k]:.3g} to {high[0, 0, k]:.3g}" if rows is tiles else None
            down = [[*(top + 0.46 - 0.92 * tile), np.nan] for (top, _), tile in zip(places, share[..., k], strict=True)]
            style = {"linewidth": width, "alpha": alpha, "color": colours(k), "marker": marker, "markersize": 3 * width}
            axes.plot(across.ravel(), np.ravel(down), label=label, **style)
    axes.margins(0.01)
    axes.invert_yaxis()
    if everything[0].size == 1:
        words = f"one number, from {low.item():.3g} to {high.item():.3g}"
    elif is_table:
        words = f"columns 0 to {steps - 1}, each from its least to its greatest value drawn"
    else:
        ends = "each channel from" if channels > 1 else f"from {low.item():.3g} to {high.item():.3g},"
        words = f"steps 0 to {steps - 1}, {ends} the least to the greatest value drawn"
    axes.set_xlabel(f"in each tile: {words}", fontsize=8)


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

"""Pictures of what a model does: reconstructions, samples, the manifold of a two-dimensional latent space.

Each function returns a matplotlib Figure, made without pyplot so that no window or global state is involved, and
writes it if a path is given. Data that are images, `(height, width)` or with 1, 3 or 4 channels, are drawn as such;
anything else as curves.
"""

from statistics import NormalDist

import numpy as np

from keras_vae import _files


def reconstructions(vae, x, path=None, columns=10):
    """Data above their reconstructions.

    Args:
        vae: A trained `VAE`.
        x: `(n, ...)` data, of which the first rows are shown: at most 4 rows of `columns`.
        path: Where to write the picture, or None.
        columns: Pairs in a row.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    x = np.asarray(x[: 4 * columns])
    pairs = np.stack([x, vae.reconstruct(x)], axis=1)  # (n, 2, ...)
    rows = [pairs[start : start + columns] for start in range(0, len(x), columns)]
    tiles = [[pair[i] for pair in row] for row in rows for i in range(2)]
    return _draw(tiles, f"data, and below each row its reconstruction ({_latents(vae)})", path)


def samples(vae, n=100, path=None, columns=10, seed=0):
    """Decoded draws from the prior; arguments as in `reconstructions`."""
    drawn = vae.sample(n, seed=seed)
    tiles = [list(drawn[start : start + columns]) for start in range(0, n, columns)]
    return _draw(tiles, f"decoded samples of the prior ({_latents(vae)})", path)


def manifold(vae, path=None, steps=20):
    """What a two-dimensional latent space holds: the decoder on a grid through the prior's quantiles.

    The grid is linear on the unit square and mapped through the inverse of the normal distribution function, so that
    each tile stands for an equal share of the prior.

    Raises:
        ValueError: If the model's latent space is not two-dimensional.

    Reference: Kingma & Welling 2014, arXiv:1312.6114, figure 4.
    """
    if vae.latent_dim != 2:
        raise ValueError(f"A manifold picture needs a model with latent_dim=2; this one has {vae.latent_dim}.")
    quantiles = [NormalDist().inv_cdf(p) for p in np.linspace(0.02, 0.98, steps)]
    z = np.array([(a, b) for b in reversed(quantiles) for a in quantiles], "float32")
    decoded = vae.decode(vae.prior.reparameterize(z))
    tiles = [list(decoded[start : start + steps]) for start in range(0, steps**2, steps)]
    return _draw(tiles, "the latent plane, decoded at the quantiles of the prior", path)


def is_image(data_shape):
    """Whether one example of that shape can be drawn as a picture."""
    return len(data_shape) == 2 or (len(data_shape) == 3 and data_shape[-1] in (1, 3, 4))


def _latents(vae):
    return f"{vae.latent_dim} latent dimension{'s' if vae.latent_dim > 1 else ''}"


def _draw(tiles, title, path):
    from matplotlib.figure import Figure

    columns = max(len(row) for row in tiles)
    size = 8.0 / columns
    if is_image(tiles[0][0].shape):
        mosaic, aspect = _mosaic(tiles, columns)
        figure = Figure(figsize=(8.0, 8.0 * aspect + 0.5), layout="constrained")
        axes = figure.subplots()
        axes.imshow(mosaic, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
        axes.set_axis_off()
    else:
        figure = Figure(figsize=(8.0, size * len(tiles) + 0.5), layout="constrained")
        for row, axes_row in zip(tiles, figure.subplots(len(tiles), columns, squeeze=False, sharey=True), strict=True):
            for i, axes in enumerate(axes_row):
                axes.set_axis_off()
                if i < len(row):
                    axes.plot(np.ravel(row[i]), linewidth=0.8)
    figure.suptitle(title, fontsize=10)
    if path is not None:
        with _files.atomic_file(path) as temporary:
            figure.savefig(temporary, dpi=150)
    return figure


def _mosaic(tiles, columns):
    """One picture of all tiles with a gap between them, scaled to [0, 1], and its height over its width."""
    everything = np.concatenate([np.stack(row) for row in tiles])
    low, high = min(0.0, float(everything.min())), max(1.0, float(everything.max()))
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
    return (mosaic[..., 0] if channels == (1,) else mosaic), mosaic.shape[0] / mosaic.shape[1]

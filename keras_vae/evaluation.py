"""Numbers about a trained model."""

import math

import numpy as np


def bits_per_dim(nats, num_dimensions):
    """Nats per example as bits per data dimension: nats / (num_dimensions * log 2).

    Of a negative ELBO it is an upper bound of the bits that a lossless code needs for each dimension, where the
    likelihood is discrete; for a density it depends on the units of the data and can be negative.
    """
    return nats / (num_dimensions * math.log(2.0))


def held_out(vae, x, num_samples=16, seed=0, batch_size=256):
    """The terms of the bound on data, averaged over examples, the same noise on every backend.

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data.
        num_samples: Samples of z per example.
        seed: Of the noise.
        batch_size: Examples at a time.

    Returns:
        A dict with `reconstruction`, `kl` and `negative_elbo` in nats per example, and `bits_per_dim`.
    """
    negative_elbo = -float(np.mean(vae.elbo(x, num_samples, seed, batch_size), dtype="float64"))
    kl = float(np.mean(vae.encode(x, batch_size).kl_divergence(vae.prior), dtype="float64"))
    return {
        "reconstruction": negative_elbo - kl,
        "kl": kl,
        "negative_elbo": negative_elbo,
        "bits_per_dim": bits_per_dim(negative_elbo, math.prod(x.shape[1:])),
    }

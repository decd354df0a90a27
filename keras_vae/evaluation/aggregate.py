"""Densities fitted to the codes of a trained model, in place of a prior that the codes do not match."""

from typing import Any

import numpy as np

from keras_vae import validation
from keras_vae.distributions import DiagonalNormal, FullMixture, Mixture
from keras_vae.evaluation import _sklearn
from keras_vae.model import VAE


def fit_aggregate_posterior(
    vae: VAE, x: Any, components: int = 10, seed: int = 0, covariance: str = "full", batch_size: int = 256
) -> Mixture:
    """A mixture of normals fitted to q(z), the codes of all data together: a prior that they match.

    Decoded samples of the prior are poor where it has no codes; `marginal_kl` of `elbo_surgery` says how much. The
    mixture is fitted, after training, to one draw of q(z|x) for each example. The model is unchanged:
    `vae.sample(n, prior=...)` draws from the mixture, and `vae.prior = ...` makes it the model's own, that of the ELBO,
    of log p(x) and of an exported bundle.

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data, those of training; n at least `components`.
        components: Number of components of the mixture.
        seed: Seed for the draws and for the fit.
        covariance: Covariance of each component: "full", or "diag" for independent dimensions, which needs fewer
            examples.
        batch_size: Number of examples encoded at a time.

    Returns:
        A `FullMixture`, or with "diag" a `Mixture`, of float64 arrays.

    Raises:
        ValueError: If there are fewer examples than components, or codes that are not finite.
        ModuleNotFoundError: If scikit-learn is not installed.

    Example:

    >>> codes = evaluation.fit_aggregate_posterior(vae, data.train)
    >>> vae.sample(64, seed=0, prior=codes)
    >>> vae.prior = codes

    Reference: Ghosh et al. 2020, From variational to deterministic autoencoders, arXiv:1903.12436, section 4 (ex-post
    density estimation; 10 components, full).
    """
    components = validation.whole_number("components", components)
    if covariance not in ("full", "diag"):
        raise ValueError(f'covariance must be "full" or "diag"; got {covariance!r}.')
    z = vae.encode(x, batch_size).sample(seed=seed)
    if len(z) < components:
        raise ValueError(f"A mixture of {components} components needs as many examples; x has {len(z)}.")
    if not np.isfinite(z).all():
        raise ValueError("The codes of these data are not finite: look for NaN in the model's weights.")
    mixture = _sklearn.module("mixture").GaussianMixture(components, covariance_type=covariance, random_state=seed)
    mixture.fit(z.reshape(len(z), -1).astype("float64"))
    means, logits = mixture.means_.reshape(-1, *z.shape[1:]), np.log(np.maximum(mixture.weights_, 1e-300))
    if covariance == "full":
        return FullMixture(means, np.linalg.cholesky(mixture.covariances_), logits)
    return Mixture(DiagonalNormal(means, np.log(mixture.covariances_).reshape(means.shape), means.ndim - 1), logits)

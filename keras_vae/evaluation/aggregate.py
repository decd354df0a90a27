"""A density fitted to the codes of the data, to sample from in place of a prior that the codes do not match."""

import dataclasses
import math
from typing import Any

import numpy as np

from keras_vae import validation
from keras_vae.evaluation import _sklearn
from keras_vae.model import VAE


@dataclasses.dataclass(frozen=True)
class AggregatePosterior:
    """A mixture of normals over z, as `fit_aggregate_posterior` returns it: for `vae.sample(n, prior=...)`.

    Args:
        weights: `(components,)` probabilities, which sum to 1.
        means: `(components, latent_dim)` means.
        factors: `(components, latent_dim, latent_dim)` lower Cholesky factors of the covariances.
    """

    weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray

    def sample(self, n: int, seed: int | None = None) -> np.ndarray:
        """Draws `(n, latent_dim)` float32, the same for the same seed on every machine."""
        generator = np.random.default_rng(seed)
        index = generator.choice(len(self.weights), size=validation.whole_number("n", n), p=self.weights)
        noise = generator.standard_normal((n, self.means.shape[1]))
        z = np.empty_like(noise)
        for k in range(len(self.weights)):
            chosen = index == k
            z[chosen] = self.means[k] + noise[chosen] @ self.factors[k].T
        return z.astype("float32")

    def log_prob(self, z: Any) -> np.ndarray:
        """The log density in nats: `(..., latent_dim)` to `(...)`, float64."""
        z = np.asarray(z, "float64")
        if z.ndim == 0 or z.shape[-1] != self.means.shape[1]:
            raise ValueError(f"z must have shape (..., {self.means.shape[1]}); got {z.shape}.")
        log_prob = np.empty((*z.shape[:-1], len(self.weights)))
        for k, (mean, factor) in enumerate(zip(self.means, self.factors, strict=True)):
            noise = (z - mean) @ np.linalg.inv(factor).T
            log_prob[..., k] = -0.5 * np.sum(np.square(noise), axis=-1) - np.sum(np.log(np.diag(factor)))
        log_prob += np.log(self.weights) - 0.5 * self.means.shape[1] * math.log(2.0 * math.pi)
        return np.logaddexp.reduce(log_prob, axis=-1)


def fit_aggregate_posterior(
    vae: VAE, x: Any, components: int = 10, seed: int = 0, covariance: str = "full", batch_size: int = 256
) -> AggregatePosterior:
    """A mixture of normals fitted to q(z), the codes of all data together, to draw z from in place of the prior.

    Decoded samples of the prior are poor where it has no codes; `marginal_kl` of `elbo_surgery` says how much. The
    mixture is fitted, after training, to one draw of q(z|x) for each example. The model is unchanged, and with it the
    ELBO: log p(x) is defined with the prior.

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data, those of training; n at least `components`.
        components: Number of components of the mixture.
        seed: Seed for the draws and for the fit.
        covariance: Covariance of each component: "full", or "diag" for independent dimensions, which needs fewer
            examples.
        batch_size: Number of examples encoded at a time.

    Returns:
        An `AggregatePosterior`, with `sample` and `log_prob`.

    Raises:
        ValueError: If there are fewer examples than components, or codes that are not finite.
        ModuleNotFoundError: If scikit-learn is not installed.

    Example:

    >>> codes = evaluation.fit_aggregate_posterior(vae, data.train)
    >>> vae.sample(64, seed=0, prior=codes)

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
    mixture.fit(z.astype("float64"))
    covariances = mixture.covariances_ if covariance == "full" else [np.diag(v) for v in mixture.covariances_]
    # Normalised once more: `choice` requires a sum of 1 to the last digits.
    weights = mixture.weights_ / mixture.weights_.sum()
    return AggregatePosterior(weights, mixture.means_, np.linalg.cholesky(covariances))

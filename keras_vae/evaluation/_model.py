"""What evaluation asks of a model beyond its public methods: every use of a private name of `VAE` is in this file."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_vae import data, validation
from keras_vae.distributions import Mixture
from keras_vae.model import VAE
from keras_vae.priors import Prior


def checked_data(vae: VAE, x: Any) -> list[np.ndarray]:
    """x and, of a conditional model, the condition, as NumPy arrays for which log p(x) is defined."""
    x, *condition = vae._checked(x)
    if len(x) == 0:
        raise ValueError("log p(x) is estimated for each example, and x has none.")
    vae.likelihood.validate(x, missing=vae.allow_missing)
    caveat = vae.likelihood.caveat(x)
    if caveat:
        raise ValueError(f"log p(x) is not defined here. {caveat}")
    return [x, *condition]


def require_examples(x: Any) -> None:
    """Raises a ValueError if x, data as a `VAE` takes them, has no example."""
    if data.count(x) == 0:
        raise ValueError("This is an average over examples, and x has none.")


def elbo_terms(vae: VAE, x: Any, num_samples: int, seed: int | None, batch_size: int) -> list[np.ndarray]:
    """Reconstruction and KL of each example, two arrays `(n,)`."""
    return vae._elbo_terms(x, num_samples, seed, batch_size)


def log_weights(vae: VAE, x: np.ndarray, epsilon: np.ndarray, *condition: np.ndarray, batch_size: int) -> Any:
    """log of the importance weights of draws from q(z|x): noise `(n, k, latent_dim)` to `(n, k)`."""
    return vae._batched(vae._batched_log_weights, x, epsilon, *condition, batch_size=batch_size)


def log_likelihood_with_gradient(vae: VAE) -> Callable[..., tuple[Any, Any]]:
    """A function of z `(chains, n, latent_dim)`, x and condition to log p(x|z) `(chains, n)` and its gradient in z."""
    return vae._batched.value_and_grad(vae._batched_log_likelihood)


def values_per_z(vae: VAE) -> int:
    """Number of values held at once for each z: in the widest layer of the decoder or the prior, or by a mixture."""
    networks = [vae.decoder, vae.prior] if isinstance(vae.prior, Prior) else [vae.decoder]
    layers = [layer for network in networks for layer in network._flatten_layers()]
    nodes = [node for layer in layers for node in layer._inbound_nodes]
    shapes = [tensor.shape[1:] for node in nodes for tensor in node.output_tensors]
    sizes = [math.prod(shape) for shape in shapes if None not in shape]
    prior = vae.numpy_prior()
    of_prior = np.size(prior.components.mean) if isinstance(prior, Mixture) else vae.latent_dim
    return max(of_prior, math.prod(validation.parameter_shape(vae.data_shape, vae.likelihood)), *sizes)

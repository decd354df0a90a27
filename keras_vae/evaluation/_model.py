"""What evaluation asks of a model beyond its public methods: every use of a private name of `VAE` is in this file."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_vae import _containers, data, validation
from keras_vae.distributions import Distribution, Mixture
from keras_vae.likelihoods import Categorical, Mixed, Multinomial
from keras_vae.model import VAE
from keras_vae.priors import Prior


def pieces(vae: VAE, x: Any, max_bytes: int, draws: int) -> Iterator[tuple[list[np.ndarray], int]]:
    """Data for which log p(x) is defined, in pieces of as many examples as can be decoded at a time.

    Args:
        vae: A `VAE`.
        x: Data in any form.
        max_bytes: Number of bytes held at a time of the decoder's widest layer, as far as its structure tells.
        draws: Number of z per example.

    Yields:
        NumPy arrays, x and the condition if there is one, and the number of z that can be decoded at a time.
    """
    validation.whole_number("max_bytes", max_bytes)
    for piece in vae._pieces(x, 256):
        if len(piece[0]) == 0:
            raise ValueError("log p(x) is estimated for each example, and x has none.")
        vae._validate(piece[0])
        caveat = vae.likelihood.caveat(piece[0])
        if caveat:
            raise ValueError(f"log p(x) is not defined here. {caveat}")
        at_a_time = max(1, max_bytes // (4 * _values_per_z(vae, piece[0].shape[1:])))
        rows = max(1, at_a_time // draws)
        for start in range(0, len(piece[0]), rows):
            yield [array[start : start + rows] for array in piece], at_a_time


def require_continuous(vae: VAE) -> None:
    """Raises a ValueError if z are codes, of which q(z|x) is one: draws by which to estimate log p(x) are equal."""
    if vae.posterior_family.distribution_class.is_discrete:
        raise ValueError(
            f"log p(x) is a sum over all codes, and {vae.posterior_family!r} proposes one of them, so that no number "
            "of draws comes nearer to it than the bound: that is vae.elbo(x)."
        )


def size(x: Any) -> int | None:
    """Number of examples in data as `as_arrays` gives them; None if only reading them would tell."""
    return None if _containers.is_stream(x) else data.count(x)


def encoded(vae: VAE, x: Any, batch_size: int) -> tuple[Any, Any]:
    """q(z|x) and p(z) of examples; p(z|c) of each where the prior is conditional, for which data are read into memory.

    Raises:
        ValueError: If x is a posterior and the prior is conditional.
    """
    if not vae.has_conditional_prior:
        return (x if isinstance(x, Distribution) else vae.encode(x, batch_size)), vae.numpy_prior()
    if isinstance(x, Distribution):
        raise ValueError('This model has a prior p(z|c): pass {"x": x, "condition": c} and not the posterior alone.')
    posterior, condition = codes(vae, x, batch_size)
    return posterior, vae.numpy_prior(condition)


def codes(vae: VAE, x: Any, batch_size: int) -> tuple[Any, Any]:
    """q(z|x) of examples and their condition, None without one: data are read into memory if there is one."""
    vae._refresh()  # a prior that was assigned a moment ago may have made the model conditional
    if vae.condition_shape is None:
        return vae.encode(x, batch_size), None
    x, condition = (np.concatenate(part) for part in zip(*vae._pieces(x, batch_size), strict=True))
    return vae.encode(vae._joined_with_condition(x, condition), batch_size), condition


@contextlib.contextmanager
def restoring_prior_on_error(vae: VAE) -> Iterator[None]:
    """Gives a model back the prior that it had if what is in the block raises an error."""
    before = vae.prior
    try:
        yield
    except Exception:
        vae.prior = before
        raise


def require_examples(posterior: Any) -> None:
    """Raises a ValueError if a posterior is that of no example."""
    if len(posterior.location) == 0:
        raise ValueError("This is an average over examples, and x has none.")


def elbo_terms(vae: VAE, x: Any, num_samples: int, seed: int | None, batch_size: int) -> tuple[np.ndarray, ...]:
    """Reconstruction, KL and number of dimensions of each example, three arrays `(n,)`."""
    return vae._elbo_terms(x, num_samples, seed, batch_size)


def scored_pieces(
    vae: VAE, x: Any, num_samples: int, seed: int, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """As `pieces_with_terms`, and in the middle the negative ELBOs `(n,)`, as `elbo` has them."""
    generator = np.random.default_rng(seed)  # the same noise as of the terms
    for piece, terms in pieces_with_terms(vae, x, num_samples, seed, batch_size):
        reconstruction, kl, _ = vae._elbo_terms(vae._joined_with_condition(*piece), num_samples, generator, batch_size)
        yield piece[0], reconstruction + kl, terms


def pieces_with_terms(
    vae: VAE, x: Any, num_samples: int, seed: int, batch_size: int
) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    """Data in pieces, each read once, x `(n, ...)` and the condition if there is one, and the terms of x.

    The terms are those of `elbo(per_dimension=True)`, shaped like x.
    """
    rows = max(
        1, validation.whole_number("batch_size", batch_size) // validation.whole_number("num_samples", num_samples)
    )
    generator = np.random.default_rng(seed)
    for piece in vae._pieces(x, rows):
        data = vae._joined_with_condition(*piece)
        yield piece, vae._over_noise(vae._log_prob_terms, data, num_samples, generator, batch_size)[0]


def by_name(vae: VAE, x: np.ndarray) -> Any:
    """What is shaped like the data that `pieces` give: of named parts a dict of them."""
    return vae._by_name(x)


def in_memory(vae: VAE, x: Any, batch_size: int) -> list[np.ndarray]:
    """x as float32, with NaN where a value is missing, and the condition if there is one, of all examples.

    Raises:
        ValueError: If p(x|z) has no draws like x, or there is no example.
    """
    x, *condition = (np.concatenate(part) for part in zip(*vae._pieces(x, batch_size), strict=True))
    vae._validate(x)
    caveat = vae.likelihood.caveat(x)
    if caveat:
        raise ValueError(f"Draws of this model are not like x. {caveat}")
    return [x.astype("float32"), *condition]


def reconstructions(
    vae: VAE, x: np.ndarray, condition: list[np.ndarray], draws: int, generator: np.random.Generator, batch_size: int
) -> np.ndarray:
    """x drawn from p(x|z), z from q(z|x): `(draws, n, ...)`."""
    z = vae.encode(vae._joined_with_condition(x, *condition), batch_size).sample(draws, seed=generator)
    given = [np.concatenate([each] * draws) for each in condition]
    z = np.asarray(z, "float32").reshape(-1, *z.shape[2:])
    return vae._drawn(z, *given, noise=generator, batch_size=batch_size).reshape(draws, *x.shape)


def imputations(
    vae: VAE, x: np.ndarray, condition: list[np.ndarray], draws: int, num_samples: int, seed: int, batch_size: int
) -> np.ndarray:
    """x with its missing values drawn given the others, by `impute`: `(draws, n, ...)`."""
    data = vae._joined_with_condition(x, *condition)
    found = vae.impute(data, draws, num_samples, seed, max(batch_size, num_samples))
    parts = list(found.values()) if isinstance(found, dict) else [found]
    return np.concatenate([part.reshape(draws, len(x), -1) for part in parts], axis=-1).reshape(draws, *x.shape)


def by_part(vae: VAE, x: np.ndarray, function: Callable[[Any, np.ndarray], np.ndarray]) -> np.ndarray:
    """`function(likelihood, piece)` of each likelihood and its piece of x, `(..., *data_shape)`; shaped like x."""

    def of(likelihood, x):
        if not isinstance(likelihood, Mixed):
            return np.asarray(function(likelihood, x), x.dtype)
        pieces = zip(likelihood.parts, likelihood._of_data(x), strict=True)
        return likelihood._together([of(part, piece) for part, piece in pieces])

    return of(vae.likelihood, x)


def is_category(likelihood: Any, x: np.ndarray) -> np.ndarray:
    """Whether the values have no order."""
    return np.full(x.shape, isinstance(likelihood, Categorical))


def numbered(likelihood: Any, x: np.ndarray) -> np.ndarray:
    """x in which a one-hot category is its number, in the first of its places, with NaN in the others."""
    if not _is_one_hot(likelihood):
        return x
    found = np.full(x.shape, np.nan)
    found[..., 0] = np.where(np.isnan(x).any(axis=-1), np.nan, np.argmax(x, axis=-1))
    return found


def together(likelihood: Any, x: np.ndarray) -> np.ndarray:
    """x in which all values that can only be missing together are one, the first of them."""
    joint = _is_one_hot(likelihood) or isinstance(likelihood, Multinomial)
    return np.broadcast_to(x[..., :1], x.shape) if joint else x


def _is_one_hot(likelihood):
    return isinstance(likelihood, Categorical) and likelihood.num_classes is None


def negative_elbo_at(vae: VAE, x: np.ndarray, noise: np.ndarray, batch_size: int) -> np.ndarray:
    """Negative ELBOs `(n,)` of a built model, where each example meets the same noise `(num_samples, *noise_shape)`."""
    reconstruction, kl = vae._batched(vae._bound_terms, x, _for_each(x, noise), batch_size=batch_size)
    return reconstruction + kl


def log_prob_terms_at(vae: VAE, x: np.ndarray, noise: np.ndarray, batch_size: int) -> np.ndarray:
    """E_q log p(x_d|z), shaped like x, as `elbo(per_dimension=True)`, for the noise of `negative_elbo_at`."""
    return vae._batched(vae._log_prob_terms, x, _for_each(x, noise), batch_size=batch_size)[0]


def _for_each(x, noise):
    return np.broadcast_to(noise, (len(x), *noise.shape))


def log_weights(vae: VAE, data: list[np.ndarray], epsilon: np.ndarray) -> Any:
    """log of the importance weights of draws from q(z|x): noise `(n, k, *noise_shape)` to `(n, k)`."""
    x, *condition = data
    return vae._batched(vae._batched_log_weights, x, epsilon, *condition, batch_size=len(x))


def log_likelihood_with_gradient(vae: VAE) -> Callable[..., tuple[Any, Any]]:
    """A function of z `(chains, n, *latent_shape)`, x and condition to log p(x|z) `(chains, n)` and its slope in z."""
    return vae._batched.value_and_grad(vae._batched_log_likelihood)


def _values_per_z(vae, data_shape):
    """Number of values held at once for each z: in the widest layer of the decoder or the prior, or by a mixture."""
    networks = [vae.decoder, vae.prior] if isinstance(vae.prior, Prior) else [vae.decoder]
    layers = [layer for network in networks for layer in network._flatten_layers()]
    nodes = [node for layer in layers for node in layer._inbound_nodes]
    shapes = [tensor.shape[1:] for node in nodes for tensor in node.output_tensors]
    sizes = [math.prod(shape) for shape in shapes if None not in shape]
    of_prior = math.prod(vae.latent_shape_of(data_shape))
    if not vae.has_conditional_prior and isinstance(prior := vae.numpy_prior(), Mixture):
        of_prior = np.size(prior.components.mean)
    return max(of_prior, math.prod(validation.parameter_shape(data_shape, vae.likelihood)), *sizes)

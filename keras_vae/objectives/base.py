"""What the model hands an objective, what an objective returns, and what the model asks of it."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_vae import distributions, schedules
from keras_vae._config import Configured, forget
from keras_vae._numerics import beside
from keras_vae._typing import Layer
from keras_vae.distributions import Distribution


@dataclasses.dataclass(frozen=True)
class LatentBatch:
    """Samples of the posterior of a batch, and what is needed to judge them.

    Args:
        z: `(num_samples, batch, *latent_shape)` samples of the posterior, differentiable in its parameters.
        noise: `(num_samples, batch, *noise_shape)` draws from N(0, I), of which z was made.
        decode: Function from z, of any number of samples, to the parameters of p(x|z), `(num_samples, batch, ...)`
            float32. Call it once: it runs the decoder.
        log_prob_of: Function from those parameters to log p(x|z) of the target, `(num_samples, batch)`, nats. Call it
            once: in training a likelihood may learn from the batch.
        posterior: q(z|x) of `(batch, *latent_shape)`.
        prior: p(z) of `latent_shape`, or of one for each example where it depends on a condition.
        step: Number of training batches seen so far, a scalar.
        weight: `(batch,)` sample weights, by which the model multiplies the loss afterwards; None if there are none.
        x: `(batch, ...)` data, as the model is given them.
        target: `(batch, ...)` what is reconstructed, float32: x itself where the data have no y. NaN is missing.
        likelihood: p(x|z), which knows what the parameters mean: `likelihood.mean(parameters)`.
        training: Whether this is a training step; for networks that the objective holds.
        log_posterior: `(num_samples, batch)` log q(z|x), of a posterior that has the density of its own draws only;
            `log_q()` gives it of any.
    """

    z: Any
    noise: Any
    decode: Callable[[Any], Any]
    log_prob_of: Callable[[Any], Any]
    posterior: Any
    prior: Any
    step: Any
    weight: Any = None
    x: Any = None
    target: Any = None
    likelihood: Any = None
    training: bool = False
    log_posterior: Any = None

    def log_q(self) -> Any:
        """log q(z|x), `(num_samples, batch)`, nats."""
        return self.posterior.log_prob(self.z) if self.log_posterior is None else self.log_posterior

    def log_likelihood(self, z: Any) -> Any:
        """log p(x|z), `(num_samples, batch)`, nats: `log_prob_of(decode(z))`. Call it once: it runs the decoder."""
        return self.log_prob_of(self.decode(z))

    def batch_mean(self, values: Any) -> Any:
        """The mean over the examples, weighted by the sample weights: `(batch, ...)` to `(...)`."""
        if self.weight is None:
            return ops.mean(values, axis=0)
        return ops.sum(values * beside(self.weight, values), axis=0) / ops.maximum(ops.sum(self.weight), 1e-30)

    def reconstruction(self) -> Any:
        """-E_q log p(x|z), `(batch,)`, averaged over the samples."""
        return -ops.mean(self.log_likelihood(self.z), axis=0)

    def kl(self) -> Any:
        """KL(q(z|x) || p(z)), `(batch,)`: in closed form where one is registered, else averaged over the samples."""
        if distributions.has_closed_form_kl(self.posterior, self.prior):
            return distributions.kl_divergence(self.posterior, self.prior)
        return self.monte_carlo_kl()

    def monte_carlo_kl(self) -> Any:
        """`kl` averaged over the samples, whether or not a closed form exists."""
        return ops.mean(self.log_q() - self.prior.log_prob(self.z), axis=0)


class Terms(NamedTuple):
    """What an objective returns. Each is a float32 tensor of shape `(batch,)`, in nats."""

    loss: Any  # what is minimised
    reconstruction: Any  # -E_q log p(x|z), normalising constants included
    kl: Any  # KL(q(z|x) || p(z)), never weighted; in closed form where one is registered
    logs: dict[str, Any] = {}  # noqa: RUF012 # one for each of `Objective.log_names`: `(batch,)`, or a scalar

    @property
    def negative_elbo(self) -> Any:
        """reconstruction + kl, whatever the loss weighs them with: an upper bound of -log p(x)."""
        return self.reconstruction + self.kl


class Objective(Configured, Layer):
    """What the model asks of an objective.

    A Keras layer that is called with a `LatentBatch`: the variables of its schedules, and of networks that it holds,
    are weights of the model, which are trained and saved with it. A subclass defines `__call__`, and `get_config` if
    its constructor takes arguments; the constructor calls `super().__init__()` first.
    """

    num_samples: int = 1  # Number of samples of z that the model draws for each example.
    log_names: tuple[str, ...] = ()  # Names of what it logs beside the terms.
    _scheduled: tuple[str, ...] = ()  # Names of attributes that are schedules.

    def __init__(self):
        super().__init__(dtype="float32")
        self.built = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._scheduled:
            value = None if value is None else schedules.get(value)  # `objective.beta = 4.0`
            forget(self, name)
        super().__setattr__(name, value)

    def __call__(self, batch: LatentBatch) -> Terms:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The terms of the bound."""
        raise NotImplementedError(f"{type(self).__name__} defines no __call__(self, batch) that returns Terms.")

    def check(self, posterior: type[Distribution], prior: type[Distribution]) -> None:
        """Raises a ValueError if the objective has no meaning for q(z|x) and p(z) of these classes; says why."""


def compute_terms(objective: Objective, batch: LatentBatch) -> Terms:
    """`objective(batch)`, checked while it is traced.

    Raises:
        TypeError: If it is not `Terms`.
        ValueError: If a term has not one value for each example (a mean over the batch would be divided by the size
            of the batch once more), or the logs are not those of `log_names`.
    """
    terms, name = objective(batch), type(objective).__name__
    if not isinstance(terms, Terms):
        raise TypeError(
            f"{name} returned a {type(terms).__name__}; an objective returns "
            "keras_vae.objectives.Terms(loss, reconstruction, kl)."
        )
    size = batch.z.shape[1]
    for term in ("loss", "reconstruction", "kl"):
        shape = _shape(getattr(terms, term))
        if not _is_per_example(shape, size):
            raise ValueError(
                f"{name} returned a {term} of shape {shape}; it must have one value for each example, shape "
                f"({'batch' if size is None else size},): {_shape_fix(shape, batch.z.shape[0])}"
            )
    if set(terms.logs) != set(objective.log_names):
        raise ValueError(
            f"{name} returned the logs {sorted(terms.logs)}, and its log_names are {sorted(objective.log_names)}: "
            "name in log_names whatever Terms(..., logs={...}) holds, and nothing else."
        )
    for log, value in terms.logs.items():
        shape = _shape(value)
        if shape and not _is_per_example(shape, size):
            raise ValueError(
                f"{name} logs {log!r} with shape {shape}; a log is a scalar, or has one value for each example, shape "
                f"({'batch' if size is None else size},)."
            )
    return terms


def _shape(value):
    return tuple(value.shape) if hasattr(value, "shape") else np.shape(value)


def _is_per_example(shape, size):
    """Whether a shape is `(batch,)`, as far as it is known: a size of 1 is not that of a batch of unknown size."""
    return len(shape) == 1 and (shape[0] in (None, size) or (size is None and shape[0] != 1))


def _shape_fix(shape, num_samples):
    if not shape:
        return (
            "leave out the mean or sum over the batch, which the model takes itself. ops.mean(..., axis=0) averages "
            "over the samples of z."
        )
    if len(shape) == 2 and shape[0] == num_samples:
        return "average over the samples of z with ops.mean(..., axis=0)."
    return "sum or average over all axes but that of the batch."


def require_density(objective: str, posterior: type[Distribution]) -> None:
    """Raises a ValueError unless q(z|x) of this class can hold its parameters fixed while z moves."""
    if not hasattr(posterior, "without_gradient"):
        why = "gives z without noise" if posterior.is_discrete else "has it of its own draws only"
        raise ValueError(
            f'{objective} needs log q(z|x) of any z, and a {posterior.__name__} {why}: leave gradient at "standard".'
        )


def require_noise(objective: str, posterior: type[Distribution]) -> None:
    """Raises a ValueError if q(z|x) of this class is one code, whose KL is a constant and whose draws are equal."""
    if posterior.is_discrete:
        raise ValueError(
            f"{objective}, and a {posterior.__name__} is one code for each x, whose KL is a constant: choose ELBO(), "
            "the bound of such a model."
        )


def one_of(name: str, value: Any, values: tuple[str, ...]) -> Any:
    """`value`, if it is one of `values`; else a ValueError."""
    if value not in values:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, values))}; got {value!r}.")
    return value


def diagonal(batch: Any) -> Any:
    """The pairs of an example with itself: the diagonal of a square of the batch, bool."""
    index = ops.arange(batch)
    return index[:, None] == index[None, :]

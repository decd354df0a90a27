"""Objectives: how log p(x|z) and the KL divergence become the bound that is maximised.

    log p(x) >= ELBO = E_q [log p(x|z)] - KL(q(z|x) || p(z))

An objective sees the numbers, not the networks: the log-likelihood of the data under each sample of z, the samples,
the posterior and the prior. Add one by subclassing `Objective`.
"""

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_vae import _checks, schedules


class Terms(NamedTuple):
    """What an objective returns. Each is a float32 tensor of shape `(batch,)`, in nats."""

    loss: Any  # what is minimised
    reconstruction: Any  # -E_q log p(x|z), normalising constants included
    kl: Any  # KL(q(z|x) || p(z)), analytic, never weighted

    @property
    def negative_elbo(self):
        """reconstruction + kl, whatever the loss weighs them with: an upper bound of -log p(x)."""
        return self.reconstruction + self.kl


class Objective:
    """What the model asks of an objective.

    `num_samples` says how many samples of z the model shall draw for each example; `beta` is the schedule whose
    value is logged while it changes.
    """

    num_samples = 1
    beta: schedules.Schedule = schedules.Constant(1.0)

    def __call__(self, log_likelihood, z, posterior, prior, step):
        """The terms of the bound.

        Args:
            log_likelihood: log p(x|z), `(num_samples, batch)`, nats.
            z: `(num_samples, batch, latent_dim)` samples of the posterior.
            posterior: q(z|x), a `DiagonalNormal` of shape `(batch, latent_dim)`.
            prior: p(z), a `DiagonalNormal` of shape `(latent_dim,)`.
            step: Training batches seen so far, a scalar.

        Returns:
            `Terms`.
        """
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="keras_vae")
class ELBO(Objective):
    """The evidence lower bound; its negative is minimised.

        loss = reconstruction + beta * KL(q(z|x) || p(z))

    Args:
        beta: The weight of the KL term: a number, or a schedule from `keras_vae.schedules`. Only at 1 is the loss a
            bound on -log p(x); the logs always carry the unweighted `negative_elbo` too.
        num_samples: Samples of z per example, L in the paper.
        kl: "analytic" puts the closed form into the loss (estimator B), "monte_carlo" the average of
            log q(z|x) - log p(z) over the same samples (estimator A: unbiased too, noisier). The logged `kl` is
            the closed form in both cases.

    Example:

    >>> ELBO(beta=keras_vae.schedules.Linear(steps=1000))

    Reference: Kingma & Welling 2014, arXiv:1312.6114, equations 6 (A) and 7 (B); Higgins et al. 2017 (beta).
    """

    def __init__(self, beta=1.0, num_samples=1, kl="analytic"):
        if kl not in ("analytic", "monte_carlo"):
            raise ValueError(f'kl must be "analytic" or "monte_carlo"; got {kl!r}.')
        self.beta = schedules.get(beta)
        self.num_samples = _checks.whole_number("num_samples", num_samples)
        self.kl = kl

    def __call__(self, log_likelihood, z, posterior, prior, step):
        reconstruction = -ops.mean(log_likelihood, axis=0)
        kl = posterior.kl_divergence(prior)
        sampled = self.kl == "monte_carlo"
        penalty = ops.mean(posterior.log_prob(z) - prior.log_prob(z), axis=0) if sampled else kl
        return Terms(reconstruction + self.beta(step) * penalty, reconstruction, kl)

    def get_config(self):
        return {
            "beta": keras.saving.serialize_keras_object(self.beta),
            "num_samples": self.num_samples,
            "kl": self.kl,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __repr__(self):
        return f"ELBO(beta={self.beta!r}, num_samples={self.num_samples}, kl={self.kl!r})"


def get(objective) -> Objective:
    """An objective from its name ("elbo"), its config, or itself."""
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, dict):
        return keras.saving.deserialize_keras_object(objective)
    if isinstance(objective, str) and objective.lower() == "elbo":
        return ELBO()
    raise ValueError(f'objective must be "elbo" or an Objective such as ELBO(beta=4.0); got {objective!r}.')

"""Objectives: how log p(x|z) and the KL divergence become the bound that is maximised.

    log p(x) >= ELBO = E_q [log p(x|z)] - KL(q(z|x) || p(z))

`ELBO` is that bound, `IWAE` a tighter one. An objective sees the numbers, not the networks: the log-likelihood of the
data under each sample of z, the samples, the posterior and the prior. Add one by subclassing `Objective`.
"""

import math
from numbers import Real
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_vae import _checks, schedules
from keras_vae._config import Configured


class Terms(NamedTuple):
    """What an objective returns. Each is a float32 tensor of shape `(batch,)`, in nats."""

    loss: Any  # what is minimised
    reconstruction: Any  # -E_q log p(x|z), normalising constants included
    kl: Any  # KL(q(z|x) || p(z)), analytic, never weighted

    @property
    def negative_elbo(self):
        """reconstruction + kl, whatever the loss weighs them with: an upper bound of -log p(x)."""
        return self.reconstruction + self.kl


class Objective(Configured):
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

    Free bits keep latents in use: a group of latents whose KL, averaged over the batch, is below `free_bits` adds
    that constant in place of its KL, and so is not pushed further down:

        loss = reconstruction + beta * sum over groups of max(free_bits, batch mean of the group's KL)

    Args:
        beta: The weight of the KL term: a number, or a schedule from `keras_vae.schedules`. Only at 1 is the loss a
            bound on -log p(x); the logs always carry the unweighted `negative_elbo` too.
        num_samples: Samples of z per example, L in the paper.
        kl: "analytic" puts the closed form into the loss (estimator B), "monte_carlo" the average of
            log q(z|x) - log p(z) over the same samples (estimator A: unbiased too, noisier). The logged `kl` is
            the closed form in both cases.
        free_bits: Nats that each group may have for free; 0 is the plain bound. It needs the analytic KL.
        groups: Latents are cut into this many groups of neighbours, of equal size; 1 is the whole KL. None: each
            latent dimension is a group.

    Example:

    >>> ELBO(beta=keras_vae.schedules.Linear(steps=1000))
    >>> ELBO(free_bits=0.125)  # per latent dimension

    Reference: Kingma & Welling 2014, arXiv:1312.6114, equations 6 (A) and 7 (B); Higgins et al. 2017 (beta); Kingma
    et al. 2016, arXiv:1606.04934, appendix C.8 (free bits).
    """

    def __init__(self, beta=1.0, num_samples=1, kl="analytic", free_bits=0.0, groups=None):
        if kl not in ("analytic", "monte_carlo"):
            raise ValueError(f'kl must be "analytic" or "monte_carlo"; got {kl!r}.')
        if isinstance(free_bits, bool) or not isinstance(free_bits, Real) or not 0.0 <= free_bits < math.inf:
            raise ValueError(f"free_bits must be a number of nats per group, zero or more; got {free_bits!r}.")
        if free_bits and kl == "monte_carlo":
            raise ValueError('free_bits need the closed form of the KL of each latent: leave out kl="monte_carlo".')
        if groups is not None and not free_bits:
            raise ValueError(f"groups={groups!r} has no meaning without free_bits.")
        self.beta = schedules.get(beta)
        self.num_samples = _checks.whole_number("num_samples", num_samples)
        self.kl = kl
        self.free_bits = float(free_bits)
        self.groups = None if groups is None else _checks.whole_number("groups", groups)

    def __call__(self, log_likelihood, z, posterior, prior, step):
        reconstruction = -ops.mean(log_likelihood, axis=0)
        kl = posterior.kl_divergence(prior)
        if self.free_bits:
            penalty = self._with_free_bits(posterior.kl_divergence(prior, per_dimension=True))
        elif self.kl == "monte_carlo":
            penalty = ops.mean(posterior.log_prob(z) - prior.log_prob(z), axis=0)
        else:
            penalty = kl
        return Terms(reconstruction + self.beta(step) * penalty, reconstruction, kl)

    def _with_free_bits(self, kl):
        """`(batch, latent_dim)` to `(batch,)`, whose mean over the batch is the sum in the class's docstring."""
        if self.groups is not None:
            latents = kl.shape[-1]
            if latents % self.groups:
                raise ValueError(f"{latents} latent dimensions cannot be cut into {self.groups} groups of equal size.")
            kl = ops.sum(ops.reshape(kl, (-1, self.groups, latents // self.groups)), axis=-1)
        counts = ops.mean(kl, axis=0) > self.free_bits
        return ops.sum(ops.where(counts, kl, self.free_bits), axis=-1)

    def get_config(self):
        return {
            "beta": keras.saving.serialize_keras_object(self.beta),
            "num_samples": self.num_samples,
            "kl": self.kl,
            "free_bits": self.free_bits,
            "groups": self.groups,
        }

    def __repr__(self):
        free_bits = f", free_bits={self.free_bits}, groups={self.groups}" if self.free_bits else ""
        return f"ELBO(beta={self.beta!r}, num_samples={self.num_samples}, kl={self.kl!r}{free_bits})"


@keras.saving.register_keras_serializable(package="keras_vae")
class IWAE(Objective):
    """The importance-weighted bound, which is tighter the more samples it takes; its negative is minimised.

        log p(x) >= E [log 1/k sum_i w_i] >= ELBO,   w_i = p(x|z_i) p(z_i) / q(z_i|x),   z_i ~ q(z|x)

    With one sample it is the ELBO (with `kl="monte_carlo"`). The logs carry the terms of the ELBO beside it, averaged
    over the same samples: `negative_elbo` is worse than that of a model trained on it, and `loss` better.

    Args:
        num_samples: k in the paper: samples of z per example.

    Example:

    >>> IWAE(num_samples=5)

    Reference: Burda et al. 2016, arXiv:1509.00519, equation 8.
    """

    def __init__(self, num_samples=5):
        self.num_samples = _checks.whole_number("num_samples", num_samples)

    def __call__(self, log_likelihood, z, posterior, prior, step):
        log_weights = log_likelihood + prior.log_prob(z) - posterior.log_prob(z)
        bound = ops.logsumexp(log_weights, axis=0) - math.log(self.num_samples)
        return Terms(-bound, -ops.mean(log_likelihood, axis=0), posterior.kl_divergence(prior))

    def get_config(self):
        return {"num_samples": self.num_samples}


def get(objective) -> Objective:
    """An objective from its name ("elbo" or "iwae"), its config, or itself."""
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, dict):
        return keras.saving.deserialize_keras_object(objective)
    by_name = {"elbo": ELBO, "iwae": IWAE}
    if isinstance(objective, str) and objective.lower() in by_name:
        return by_name[objective.lower()]()
    raise ValueError(f'objective must be "elbo", "iwae" or an Objective such as ELBO(beta=4.0); got {objective!r}.')

"""The evidence lower bound, and what is done to its KL term: a weight, free bits, a capacity."""

from typing import Any

import keras
from keras import ops

from keras_vae import distributions, schedules, validation
from keras_vae.distributions import Distribution, Factorised, flatten_event
from keras_vae.objectives.base import LatentBatch, Objective, Terms, one_of, require_density, require_noise


@keras.saving.register_keras_serializable(package="keras_vae")
class ELBO(Objective):
    """The evidence lower bound; its negative is minimised.

        loss = reconstruction + beta * KL(q(z|x) || p(z))

    Free bits keep latents in use: a group of latents whose KL, averaged over the batch, is below `free_bits` adds
    that constant in place of its KL, and so is not pushed further down:

        loss = reconstruction + beta * sum over groups of max(free_bits, batch mean of the group's KL)

    A capacity holds the KL at a number of nats instead of pushing it down, usually one that rises from 0:

        loss = reconstruction + beta * abs(batch mean of the KL - capacity)

    It is for every posterior and prior; free bits for those with a KL of each latent, "stl" for posteriors with the
    density of any z, and a capacity for all but codes.

    Args:
        beta: Weight of the KL term: a number, or a schedule from `keras_vae.schedules`. Only at 1 is the loss a
            bound on -log p(x); the logs always carry the unweighted `negative_elbo` too.
        num_samples: Number of samples of z per example, L in the paper.
        kl: KL in the loss. "analytic" is the closed form (estimator B), "monte_carlo" the average of
            log q(z|x) - log p(z) over the same samples (estimator A: unbiased too, noisier), "auto" the closed form
            where one is registered, else "monte_carlo". The logged `kl` is always "auto".
        free_bits: Nats that are free in each group; 0 is the plain bound. It needs the analytic KL.
        groups: Number of groups of neighbouring latents, of equal size; 1 is the whole KL. None: each latent dimension
            is a group. Latents of several axes are flattened, the last axis fastest.
        capacity: Nats at which the KL is held, C: a number or a schedule. None is the plain bound, as is 0 with the
            analytic KL (an average over samples may be negative). beta is then large (gamma in the paper, 1000 there).
        gradient: Gradient of the Monte-Carlo KL. "stl" ("sticking the landing") leaves out the part that goes through
            the parameters of log q(z|x) and not through z. Its mean is 0, so the gradient and its noise vanish where
            the posterior is exact; where q is far from p(z|x) the noise is larger.

    Example:

    >>> ELBO(beta=keras_vae.schedules.Linear(steps=1000))
    >>> ELBO(free_bits=0.125)  # per latent dimension
    >>> ELBO(beta=1000.0, capacity=keras_vae.schedules.Linear(steps=100_000, end=25.0))

    Reference: Kingma & Welling 2014, arXiv:1312.6114, equations 6 (A) and 7 (B); Higgins et al. 2017 (beta); Kingma
    et al. 2016, arXiv:1606.04934, appendix C.8 (free bits); Burgess et al. 2018, arXiv:1804.03599, equation 8
    (capacity, there for each example); Roeder et al. 2017, arXiv:1703.09194 (sticking the landing).
    """

    _scheduled = ("beta", "capacity")

    def __init__(
        self,
        beta: float | schedules.Schedule = 1.0,
        num_samples: int = 1,
        kl: str = "auto",
        free_bits: float = 0.0,
        groups: int | None = None,
        capacity: float | schedules.Schedule | None = None,
        gradient: str = "standard",
    ):
        super().__init__()
        if kl not in ("auto", "analytic", "monte_carlo"):
            raise ValueError(f'kl must be "auto", "analytic" or "monte_carlo"; got {kl!r}.')
        free_bits = validation.non_negative("free_bits, in nats per group,", free_bits)
        if free_bits and kl == "monte_carlo":
            raise ValueError('free_bits need the closed form of the KL of each latent: leave out kl="monte_carlo".')
        if groups is not None and not free_bits:
            raise ValueError(f"groups={groups!r} has no meaning without free_bits.")
        if capacity is not None and free_bits:
            raise ValueError(
                "free_bits and capacity both say how large the KL shall be, each latent's and the whole: choose one."
            )
        one_of("gradient", gradient, ("standard", "stl"))
        if gradient == "stl" and kl == "analytic":
            raise ValueError(
                'gradient="stl" is for a KL that is averaged over samples, and the closed form has none: say '
                'kl="monte_carlo".'
            )
        self.beta: Any = beta
        self.num_samples = validation.whole_number("num_samples", num_samples)
        self.kl = kl
        self.free_bits = free_bits
        self.groups = None if groups is None else validation.whole_number("groups", groups)
        self.capacity: Any = capacity
        self.gradient = gradient

    @property
    def log_names(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return tuple(name for name in self._scheduled if schedules.varies(getattr(self, name)))

    def check(self, posterior: type[Distribution], prior: type[Distribution]) -> None:
        if self.gradient == "stl":
            require_density('gradient="stl"', posterior)
        if self.free_bits or self.capacity is not None:
            require_noise("free_bits and capacity hold the KL up", posterior)
        if distributions.has_closed_form_kl(posterior, prior):
            if self.gradient == "stl" and self.kl == "auto":
                raise ValueError(
                    'gradient="stl" is for a KL that is averaged over samples, and the KL of a '
                    f'{posterior.__name__} to a {prior.__name__} has a closed form: say kl="monte_carlo".'
                )
        elif self.kl == "analytic":
            raise ValueError(
                f'The KL of a {posterior.__name__} to a {prior.__name__} has no closed form: leave out kl="analytic".'
            )
        is_factorised = issubclass(posterior, Factorised) and issubclass(prior, Factorised)
        if self.free_bits and not (is_factorised and distributions.has_closed_form_kl(posterior, prior)):
            raise ValueError(
                f"free_bits need the KL of each latent, and that of a {posterior.__name__} to a {prior.__name__} is "
                "not a sum over latents: "
                "hold the whole KL up with capacity=, or warm up with beta=schedules.Linear(...)."
            )

    def __call__(self, batch: LatentBatch) -> Terms:
        beta, capacity = (schedule and schedule(batch.step) for schedule in (self.beta, self.capacity))
        reconstruction = batch.reconstruction()
        kl = batch.kl()
        penalty = self._penalty(batch, kl)
        if capacity is not None:
            distance = batch.batch_mean(penalty) - capacity
            # abs(mean - C) is the mean of this, so that each example has its share of the loss.
            penalty = ops.sign(ops.stop_gradient(distance)) * (penalty - capacity)
        scheduled = {"beta": beta, "capacity": capacity}
        return Terms(reconstruction + beta * penalty, reconstruction, kl, {n: scheduled[n] for n in self.log_names})

    def _penalty(self, batch, kl):
        if self.free_bits:
            return self._with_free_bits(
                distributions.kl_divergence(batch.posterior, batch.prior, per_dimension=True), batch
            )
        if self.gradient == "stl":
            return distributions.monte_carlo_kl(batch.posterior.without_gradient(), batch.prior, batch.z)
        if self.kl == "monte_carlo":
            return batch.monte_carlo_kl()
        return kl

    def _with_free_bits(self, kl, batch):
        """`(batch, *latent_shape)` to `(batch,)`, whose mean over the batch is the sum in the class's docstring."""
        kl = flatten_event(kl, len(kl.shape) - 1)
        if self.groups is not None:
            latents = kl.shape[-1]
            if latents % self.groups:
                raise ValueError(f"{latents} latent dimensions cannot be cut into {self.groups} groups of equal size.")
            kl = ops.sum(ops.reshape(kl, (-1, self.groups, latents // self.groups)), axis=-1)
        counts = batch.batch_mean(kl) > self.free_bits
        return ops.sum(ops.where(counts, kl, self.free_bits), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {
            "beta": keras.saving.serialize_keras_object(self.beta),
            "num_samples": self.num_samples,
            "kl": self.kl,
            "free_bits": self.free_bits,
            "groups": self.groups,
            "capacity": None if self.capacity is None else keras.saving.serialize_keras_object(self.capacity),
            "gradient": self.gradient,
        }

    def __repr__(self):
        parts = [f"beta={self.beta!r}", f"num_samples={self.num_samples}", f"kl={self.kl!r}"]
        if self.free_bits:
            parts.append(f"free_bits={self.free_bits}, groups={self.groups}")
        if self.capacity is not None:
            parts.append(f"capacity={self.capacity!r}")
        if self.gradient != "standard":
            parts.append(f"gradient={self.gradient!r}")
        return f"ELBO({', '.join(parts)})"

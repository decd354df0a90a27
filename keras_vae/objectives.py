"""Objectives: how log p(x|z) and the KL divergence become the bound that is maximised.

    log p(x) >= ELBO = E_q [log p(x|z)] - KL(q(z|x) || p(z))

`ELBO` is that bound and `IWAE` a tighter one; `BetaTC` and `InfoVAE` weigh parts of it otherwise and are bounds only
where their docstrings say so. An objective sees numbers, not networks. Add one by subclassing `Objective`.
"""

import dataclasses
import math
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_vae import _checks, distributions, schedules
from keras_vae._config import Configured
from keras_vae.distributions import DiagonalNormal


@dataclasses.dataclass(frozen=True)
class Draws:
    """What the model hands an objective: samples of the posterior of a batch, and what is needed to judge them.

    Args:
        z: `(num_samples, batch, latent_dim)` samples of the posterior, differentiable in its parameters.
        epsilon: The draws from N(0, I) that they were made of, of the same shape.
        log_likelihood: A function from z, of any number of samples, to log p(x|z), `(num_samples, batch)`, nats. Call
            it once: it runs the decoder.
        posterior: q(z|x), a `DiagonalNormal` of shape `(batch, latent_dim)`.
        prior: p(z), a `DiagonalNormal` of shape `(latent_dim,)` or a `Mixture`.
        step: Training batches seen so far, a scalar.
        weight: `(batch,)` sample weights, by which the model will multiply the loss; None if there are none.
    """

    z: Any
    epsilon: Any
    log_likelihood: Callable[[Any], Any]
    posterior: DiagonalNormal
    prior: Any
    step: Any
    weight: Any = None

    def batch_mean(self, values):
        """The mean over the examples, as the sample weights weigh them: `(batch, ...)` to `(...)`."""
        if self.weight is None:
            return ops.mean(values, axis=0)
        weight = ops.reshape(self.weight, (-1, *(1 for _ in values.shape[1:])))
        return ops.sum(values * weight, axis=0) / ops.maximum(ops.sum(self.weight), 1e-30)

    def reconstruction(self):
        """-E_q log p(x|z), `(batch,)`, averaged over the samples."""
        return -ops.mean(self.log_likelihood(self.z), axis=0)

    def kl(self):
        """KL(q(z|x) || p(z)), `(batch,)`: in closed form where there is one, else averaged over the samples."""
        return distributions.kl_divergence(self.posterior, self.prior, self.z)


class Terms(NamedTuple):
    """What an objective returns. Each is a float32 tensor of shape `(batch,)`, in nats."""

    loss: Any  # what is minimised
    reconstruction: Any  # -E_q log p(x|z), normalising constants included
    kl: Any  # KL(q(z|x) || p(z)), never weighted; in closed form where there is one
    logs: dict[str, Any] = {}  # noqa: RUF012 # what `Objective.log_names` promises: `(batch,)`, or scalars

    @property
    def negative_elbo(self):
        """reconstruction + kl, whatever the loss weighs them with: an upper bound of -log p(x)."""
        return self.reconstruction + self.kl


class Objective(Configured):
    """What the model asks of an objective."""

    num_samples = 1  # of z, that the model shall draw for each example
    log_names: tuple[str, ...] = ()  # what it logs beside the terms

    def __call__(self, draws: Draws) -> Terms:
        """The terms of the bound."""
        raise NotImplementedError

    def check_prior(self, prior):
        """Raises a ValueError if the objective has no meaning with a prior; says why."""


@keras.saving.register_keras_serializable(package="keras_vae")
class ELBO(Objective):
    """The evidence lower bound; its negative is minimised.

        loss = reconstruction + beta * KL(q(z|x) || p(z))

    Free bits keep latents in use: a group of latents whose KL, averaged over the batch, is below `free_bits` adds
    that constant in place of its KL, and so is not pushed further down:

        loss = reconstruction + beta * sum over groups of max(free_bits, batch mean of the group's KL)

    A capacity holds the KL at a number of nats instead of pushing it down, usually one that rises from 0:

        loss = reconstruction + beta * abs(batch mean of the KL - capacity)

    Args:
        beta: The weight of the KL term: a number, or a schedule from `keras_vae.schedules`. Only at 1 is the loss a
            bound on -log p(x); the logs always carry the unweighted `negative_elbo` too.
        num_samples: Samples of z per example, L in the paper.
        kl: "analytic" puts the closed form into the loss (estimator B), "monte_carlo" the average of
            log q(z|x) - log p(z) over the same samples (estimator A: unbiased too, noisier). "auto" is the closed form
            where the prior has one, which a mixture has not. The logged `kl` is "auto" in all cases.
        free_bits: Nats that each group may have for free; 0 is the plain bound. It needs the analytic KL.
        groups: Latents are cut into this many groups of neighbours, of equal size; 1 is the whole KL. None: each
            latent dimension is a group.
        capacity: C, in nats: a number or a schedule. None is the plain bound, as is 0 with the analytic KL (an average
            over samples may be negative). With it beta is large (gamma in the paper, 1000 there).
        gradient: Of the Monte-Carlo KL. "stl" ("sticking the landing") leaves out the part that goes through the
            parameters of log q(z|x) and not through z, whose mean is 0: the gradient then vanishes, with its noise,
            where the posterior is exact. It costs nothing; it is noisier where q is far from p(z|x).

    Example:

    >>> ELBO(beta=keras_vae.schedules.Linear(steps=1000))
    >>> ELBO(free_bits=0.125)  # per latent dimension
    >>> ELBO(beta=1000.0, capacity=keras_vae.schedules.Linear(steps=100_000, end=25.0))

    Reference: Kingma & Welling 2014, arXiv:1312.6114, equations 6 (A) and 7 (B); Higgins et al. 2017 (beta); Kingma
    et al. 2016, arXiv:1606.04934, appendix C.8 (free bits); Burgess et al. 2018, arXiv:1804.03599, equation 8
    (capacity, there for each example); Roeder et al. 2017, arXiv:1703.09194 (sticking the landing).
    """

    def __init__(
        self, beta=1.0, num_samples=1, kl="auto", free_bits=0.0, groups=None, capacity=None, gradient="standard"
    ):
        if kl not in ("auto", "analytic", "monte_carlo"):
            raise ValueError(f'kl must be "auto", "analytic" or "monte_carlo"; got {kl!r}.')
        free_bits = _checks.non_negative("free_bits, in nats per group,", free_bits)
        if free_bits and kl == "monte_carlo":
            raise ValueError('free_bits need the closed form of the KL of each latent: leave out kl="monte_carlo".')
        if groups is not None and not free_bits:
            raise ValueError(f"groups={groups!r} has no meaning without free_bits.")
        if capacity is not None and free_bits:
            raise ValueError(
                "free_bits and capacity both say how large the KL shall be, each latent's and the whole: choose one."
            )
        _one_of("gradient", gradient, ("standard", "stl"))
        if gradient == "stl" and kl == "analytic":
            raise ValueError(
                'gradient="stl" is for a KL that is averaged over samples, and the closed form has none: say '
                'kl="monte_carlo".'
            )
        self.beta = schedules.get(beta)
        self.num_samples = _checks.whole_number("num_samples", num_samples)
        self.kl = kl
        self.free_bits = free_bits
        self.groups = None if groups is None else _checks.whole_number("groups", groups)
        self.capacity = None if capacity is None else schedules.get(capacity)
        self.gradient = gradient
        scheduled = {"beta": self.beta, "capacity": self.capacity}
        self._logged = {n: s for n, s in scheduled.items() if s is not None and not isinstance(s, schedules.Constant)}
        self.log_names = tuple(self._logged)

    def check_prior(self, prior):
        if prior.has_closed_form_kl:
            if self.gradient == "stl" and self.kl == "auto":
                raise ValueError(
                    f'gradient="stl" is for a KL that is averaged over samples, and to {type(prior).__name__} there is '
                    'a closed form: say kl="monte_carlo".'
                )
            return
        name = type(prior).__name__
        if self.kl == "analytic":
            raise ValueError(f'The KL to a {name} has no closed form: leave out kl="analytic".')
        if self.free_bits:
            raise ValueError(
                f"free_bits are for the KL of each latent, and that to a {name} is no sum over latents: hold the whole "
                "KL up with capacity=, or warm up with beta=schedules.Linear(...)."
            )

    def __call__(self, draws):
        reconstruction = draws.reconstruction()
        kl = draws.kl()
        penalty = self._penalty(draws, kl)
        if self.capacity is not None:
            distance = draws.batch_mean(penalty) - self.capacity(draws.step)
            # abs(mean - C) is the mean of this, so that each example has its share of the loss.
            penalty = ops.sign(ops.stop_gradient(distance)) * (penalty - self.capacity(draws.step))
        logs = {name: schedule(draws.step) for name, schedule in self._logged.items()}
        return Terms(reconstruction + self.beta(draws.step) * penalty, reconstruction, kl, logs)

    def _penalty(self, draws, kl):
        if self.free_bits:
            return self._with_free_bits(draws.posterior.kl_divergence(draws.prior, per_dimension=True), draws)
        if self.gradient == "stl":
            return distributions.monte_carlo_kl(draws.posterior.without_gradient(), draws.prior, draws.z)
        if self.kl == "monte_carlo":
            return distributions.monte_carlo_kl(draws.posterior, draws.prior, draws.z)
        return kl

    def _with_free_bits(self, kl, draws):
        """`(batch, latent_dim)` to `(batch,)`, whose mean over the batch is the sum in the class's docstring."""
        if self.groups is not None:
            latents = kl.shape[-1]
            if latents % self.groups:
                raise ValueError(f"{latents} latent dimensions cannot be cut into {self.groups} groups of equal size.")
            kl = ops.sum(ops.reshape(kl, (-1, self.groups, latents // self.groups)), axis=-1)
        counts = draws.batch_mean(kl) > self.free_bits
        return ops.sum(ops.where(counts, kl, self.free_bits), axis=-1)

    def get_config(self):
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


@keras.saving.register_keras_serializable(package="keras_vae")
class IWAE(Objective):
    """The importance-weighted bound, which is tighter the more samples it takes; its negative is minimised.

        log p(x) >= E [log 1/k sum_i w_i] >= ELBO,   w_i = p(x|z_i) p(z_i) / q(z_i|x),   z_i ~ q(z|x)

    With one sample it is the ELBO (with `kl="monte_carlo"`). The logs carry the terms of the ELBO beside it, averaged
    over the same samples: `negative_elbo` is worse than that of a model trained on it, and `loss` better.

    Args:
        num_samples: k in the paper: samples of z per example.
        gradient: "standard", whose signal in the encoder drowns in noise as k grows, or "dreg", the doubly
            reparameterised gradient, in which it rises where the weights w have a finite variance, and drowns more
            slowly where not. Both have the same mean and the same loss. "dreg" costs nothing: the weights that it needs
            pass backwards through the graph that is there.

    Example:

    >>> IWAE(num_samples=5)
    >>> IWAE(num_samples=64, gradient="dreg")

    Reference: Burda et al. 2016, arXiv:1509.00519, equation 8; Rainforth et al. 2018, arXiv:1802.04537 (the noise);
    Tucker et al. 2019, arXiv:1810.04152, equation 6 (dreg).
    """

    def __init__(self, num_samples=5, gradient="standard"):
        self.num_samples = _checks.whole_number("num_samples", num_samples)
        self.gradient = _one_of("gradient", gradient, ("standard", "dreg"))

    def __call__(self, draws):
        z, posterior, own, whole = draws.z, draws.posterior, 0.0, 0.0
        if self.gradient == "dreg":
            z, own, whole = _weighted_again(z)
            posterior = posterior.without_gradient()
        log_likelihood = draws.log_likelihood(z)
        log_weights = log_likelihood + draws.prior.log_prob(z) - posterior.log_prob(z) + own
        bound = ops.logsumexp(log_weights, axis=0) - math.log(self.num_samples) + whole
        return Terms(-bound, -ops.mean(log_likelihood, axis=0), draws.kl())

    def get_config(self):
        return {"num_samples": self.num_samples, "gradient": self.gradient}


def _weighted_again(z):
    """z, through which a gradient passes multiplied once more by the normalised importance weight of its sample.

    The doubly reparameterised gradient is, for the parameters of q and with v_i = w_i / sum_j w_j,

        sum_i v_i**2 (d log w_i / d z_i) (d z_i / d parameters)

    where the gradient of the bound, log q(z|x) being held, has v_i in place of v_i**2; the decoder keeps v_i. The
    weights are known only once the decoder has run on z, but then the gradient itself brings them: a zero added to
    log w_i receives v_i * f, and a zero added to the bound receives f, where f is whatever the loss does with the bound
    (a mean over the batch, sample weights, a loss scale). So z leaves with two zeros beside it, and what comes back to
    z is multiplied by the quotient of what comes back to them.

    Returns:
        z, the zeros for log w, `(num_samples, batch)`, and those for the bound, `(batch,)`.
    """

    @ops.custom_gradient
    def with_zeros(z):
        zeros = ops.zeros_like(z[..., :1])

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            of_z, of_weight, of_bound = upstream[..., :-2], upstream[..., -2:-1], upstream[..., -1:]
            weight = of_weight / ops.where(of_bound == 0.0, 1.0, of_bound)  # 0 where the loss leaves the example out
            return of_z * weight

        return ops.concatenate([z, zeros, zeros], axis=-1), gradient

    both: Any = with_zeros(z)
    return both[..., :-2], both[..., -2], ops.sum(both[..., -1], axis=0)


@keras.saving.register_keras_serializable(package="keras_vae")
class BetaTC(Objective):
    """The ELBO with its KL taken into three parts, each with a weight of its own, for latents that are independent.

        loss = reconstruction + alpha * I(x; z) + beta * KL(q(z) || prod_j q(z_j)) + gamma * sum_j KL(q(z_j) || p(z_j))

    with q(z) the average of q(z|x) over the data set: the mutual information, the total correlation, and the distance
    of each latent's codes from the prior. At alpha = beta = gamma = 1 it is the ELBO (with `kl="monte_carlo"`). q(z) is
    estimated from the batch, in one of two ways:

    "weighted"    1 / (N B) sum_m q(z | x_m): biased low, as the batch was picked to hold the x that z belongs to.
    "stratified"  1 / N q(z | x_n) + (N - 1) / (N (B - 1)) sum_{m != n} q(z | x_m), with x_n the example that z belongs
                  to: unbiased. Of the N terms of the true average one is known, and B - 1 stand for the others. The
                  paper weighs the B - 1 unevenly, by their place in the batch; this is its average over places.

    The logarithm makes all three parts biased in any case; large batches help. The logs carry them:
    `mutual_information`, `total_correlation` and `dimension_wise_kl`.

    Args:
        dataset_size: N, the number of training examples.
        alpha, beta, gamma: The weights; beta may be a schedule.
        estimator: Of q(z).
        num_samples: Samples of z per example.

    Example:

    >>> BetaTC(dataset_size=len(x_train), beta=6.0)

    Reference: Chen et al. 2018, Isolating Sources of Disentanglement in VAEs, arXiv:1802.04942, equations 2 and 5,
    appendix C (the estimators).
    """

    log_names = ("mutual_information", "total_correlation", "dimension_wise_kl")

    def __init__(self, dataset_size, alpha=1.0, beta=6.0, gamma=1.0, estimator="stratified", num_samples=1):
        self.dataset_size = _checks.whole_number("dataset_size", dataset_size, least=2)
        self.alpha, self.gamma = _checks.non_negative("alpha", alpha), _checks.non_negative("gamma", gamma)
        self.beta = schedules.get(beta)
        self.estimator = _one_of("estimator", estimator, ("weighted", "stratified"))
        self.num_samples = _checks.whole_number("num_samples", num_samples)

    def check_prior(self, prior):
        if not prior.has_closed_form_kl:
            raise ValueError(
                f"BetaTC compares each latent with its prior, and a {type(prior).__name__} has none for each: its "
                "dimensions depend on each other. Leave the prior at N(0, I)."
            )

    def __call__(self, draws):
        z, posterior = draws.z, draws.posterior
        log_prob = posterior.log_prob(z[:, :, None, :], per_dimension=True)  # (num_samples, z of, under, latent_dim)
        log_shares = self._log_shares(ops.shape(z)[1])
        log_aggregate = ops.logsumexp(ops.sum(log_prob, axis=-1) + log_shares, axis=2)
        log_marginals = ops.sum(ops.logsumexp(log_prob + log_shares[..., None], axis=2), axis=-1)
        parts = (
            posterior.log_prob(z) - log_aggregate,
            log_aggregate - log_marginals,
            log_marginals - draws.prior.log_prob(z),
        )
        information, correlation, distance = (ops.mean(part, axis=0) for part in parts)
        reconstruction = draws.reconstruction()
        weighted = self.alpha * information + self.beta(draws.step) * correlation + self.gamma * distance
        logs = dict(zip(self.log_names, (information, correlation, distance), strict=True))
        return Terms(reconstruction + weighted, reconstruction, draws.kl(), logs)

    def _log_shares(self, batch):
        """The logarithm of what q(z|x_m) counts in q(z) for a z of x_n: `(n, m)`, a square of the batch."""
        others = ops.cast(ops.maximum(batch - 1, 1), "float32")
        own = _is_own(batch)
        if self.estimator == "weighted":
            even = -math.log(self.dataset_size) - ops.log(ops.cast(batch, "float32"))
            return even + ops.zeros_like(ops.cast(own, "float32"))
        share_of_others = math.log1p(-1.0 / self.dataset_size) - ops.log(others)
        return ops.where(own, -math.log(self.dataset_size), share_of_others)

    def get_config(self):
        return {
            "dataset_size": self.dataset_size,
            "alpha": self.alpha,
            "beta": keras.saving.serialize_keras_object(self.beta),
            "gamma": self.gamma,
            "estimator": self.estimator,
            "num_samples": self.num_samples,
        }


@keras.saving.register_keras_serializable(package="keras_vae")
class InfoVAE(Objective):
    """The ELBO with part of its KL given to a distance between the codes of all data and the prior.

        loss = reconstruction + (1 - alpha) * KL(q(z|x) || p(z)) + (alpha + lambda_ - 1) * MMD(q(z), p(z))

    The KL asks each code to look like the prior, and so to say nothing; the maximum mean discrepancy asks only that all
    together do. At alpha = 1 the KL is gone ("MMD-VAE"); alpha = 0 and lambda_ = 1 is the ELBO. Not a bound otherwise.

    The MMD is the unbiased estimate over the batch, of z against the noise that it was made of: it compares an example
    only with the others, of whose noise its own is independent. It is logged as `mmd`, and is below 0 as often as not
    where the codes match the prior. Distances are in standard deviations of the prior.

    Args:
        alpha: Of the KL; up to 1.
        lambda_: Of the mismatch; at least 1 - alpha. The MMD is below 2, so that of a loss of a hundred nats it needs a
            large weight to be heard.
        kernel: "imq", c / (c + d**2), or "rbf", exp(-d**2 / c), for a distance d.
        scale: c, a squared distance; None is 2 * latent_dim, what two draws of the prior have on average.
        num_samples: Samples of z per example.

    Example:

    >>> InfoVAE(alpha=0.0, lambda_=1000.0)

    Reference: Zhao et al. 2019, InfoVAE, arXiv:1706.02262, equation 6; Gretton et al. 2012, A Kernel Two-Sample Test,
    lemma 6 (the estimate); Tolstikhin et al. 2018, arXiv:1711.01558, section 4 ("imq" and its c).
    """

    log_names = ("mmd",)

    def __init__(self, alpha=0.0, lambda_=1000.0, kernel="imq", scale=None, num_samples=1):
        numbers = [value for value in (alpha, lambda_) if not isinstance(value, bool) and isinstance(value, Real)]
        if len(numbers) < 2 or not all(math.isfinite(value) for value in numbers):
            raise ValueError(f"alpha and lambda_ must be finite numbers; got {alpha!r} and {lambda_!r}.")
        if alpha > 1.0:
            raise ValueError(f"alpha={alpha:g} is above 1, which would reward a large KL without end.")
        if alpha + lambda_ < 1.0:
            raise ValueError(
                f"alpha + lambda_ = {alpha + lambda_:g} is below 1, which would reward codes that are unlike the prior."
            )
        if scale is not None and not (isinstance(scale, Real) and 0.0 < float(scale) < math.inf):
            raise ValueError(f"scale must be a positive number, a squared distance, or None; got {scale!r}.")
        self.alpha, self.lambda_ = float(alpha), float(lambda_)
        self.kernel = _one_of("kernel", kernel, ("imq", "rbf"))
        self.scale = None if scale is None else float(scale)
        self.num_samples = _checks.whole_number("num_samples", num_samples)

    def check_prior(self, prior):
        if not prior.has_closed_form_kl:
            raise ValueError(
                f"InfoVAE compares z with draws of the prior made of the same noise, of which a {type(prior).__name__} "
                "cannot make any. Leave the prior at N(0, I)."
            )

    def __call__(self, draws):
        reconstruction = draws.reconstruction()
        kl = draws.kl()
        prior = draws.prior
        mean, log_var = ops.convert_to_tensor(prior.mean), ops.convert_to_tensor(prior.log_var)
        whitened = (draws.z - mean) * ops.exp(-0.5 * log_var)
        mmd = self._mmd(whitened, draws.epsilon)
        loss = reconstruction + (1.0 - self.alpha) * kl + (self.alpha + self.lambda_ - 1.0) * mmd
        return Terms(loss, reconstruction, kl, {"mmd": mmd})

    def _mmd(self, a, b):
        """The squared discrepancy of two samples `(num_samples, batch, dim)`, of which rows of one index are a pair."""
        pairs = self._kernel(a, a) + self._kernel(b, b) - 2.0 * self._kernel(a, b)
        others = ops.where(_is_own(ops.shape(a)[1]), 0.0, pairs)
        batch = ops.cast(ops.shape(a)[1], "float32")
        return ops.mean(ops.sum(others, axis=(1, 2))) / (batch * ops.maximum(batch - 1.0, 1.0))

    def _kernel(self, a, b):
        squares = ops.sum(ops.square(a[:, :, None, :] - b[:, None, :, :]), axis=-1)
        scale = 2.0 * a.shape[-1] if self.scale is None else self.scale
        return scale / (scale + squares) if self.kernel == "imq" else ops.exp(-squares / scale)

    def get_config(self):
        return {
            "alpha": self.alpha,
            "lambda_": self.lambda_,
            "kernel": self.kernel,
            "scale": self.scale,
            "num_samples": self.num_samples,
        }


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


def _is_own(batch):
    """Which pairs of examples are one with itself: the diagonal of a square of the batch, bool."""
    index = ops.arange(batch)
    return index[:, None] == index[None, :]


def _one_of(name, value, values):
    if value not in values:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, values))}; got {value!r}.")
    return value

"""log p(x) by annealed importance sampling: for models whose encoder is too far off for importance sampling.

The weights of importance sampling vary as much as q(z|x) and p(z|x) differ. Here z walks from one to the other over
many distributions in between, and the weight is a product of steps that each differ little.
"""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_vae import _containers, validation
from keras_vae.distributions import DiagonalNormal
from keras_vae.evaluation import _model
from keras_vae.evaluation._importance import importance_estimate, progress_bar
from keras_vae.evaluation.bound import LogLikelihood
from keras_vae.model import VAE

# The share of moves to accept. Theory has 65% for many dimensions (Neal 2010, arXiv:1206.1901, section 5.4). In 2 and
# in 8 dimensions, 80% with steps of very unequal length gave the larger effective sample size, 4.9 against 3.0 chains
# and 7.5 against 5.7 of 16: near 65% a move of few long steps goes once around a normal distribution and ends where it
# began.
_ACCEPTANCE = 0.8
_LENGTHS = (0.2, 1.2)  # range of a step's length, in units of the adapted size
_ADAPTATION = 0.2  # change of the logarithm of the step size, per move and unit of missed acceptance


def annealed_log_likelihood(
    vae: VAE,
    x: Any,
    chains: int = 16,
    steps: int = 500,
    leapfrog: int = 10,
    start: str = "posterior",
    seed: int | None = 0,
    max_bytes: int = 2**25,
    verbose: int | str = "auto",
) -> LogLikelihood:
    """log p(x) by annealed importance sampling with Hamiltonian Monte Carlo.

        log p(x) ~ log 1/c sum_i w_i,   w_i = prod_k f_k(z_k-1) / f_k-1(z_k-1),   f_k(z) = q0(z)**(1-t) (p(z) p(x|z))**t

    for c chains, along temperatures t_k from 0 to 1. A chain starts at a draw from q0 and, at each temperature, makes
    one move that leaves the distribution there as it is. Like that of `log_likelihood` the result is a lower bound in
    expectation, whatever the moves do; `steps=1` is `log_likelihood` with `num_samples=chains`. It rises with `steps`:
    if doubling them does not change it, they suffice.

    q0 is q(z|x), which needs fewer steps where the encoder is any good, or the prior, as in the paper: the estimate
    then does not depend on the encoder at all, and models that share a decoder compare on equal terms.

    The cost is (steps - 1) * leapfrog gradients of the decoder for each chain, and a quarter more for the chains by
    which the step sizes are found beforehand. By default that is 100,000 gradients per example, where
    `log_likelihood` decodes 5,000 times: try that first, and come here if its effective sample size is a few.

    Args:
        vae: A built `VAE`, of any likelihood and prior.
        x: `(n, ...)` data.
        chains: Number of chains per example, c.
        steps: Number of temperatures after 0, spaced by a sigmoid: finely near both ends.
        leapfrog: Number of leapfrog steps of a move. Their size is adapted for each example and temperature,
            so that about 80% of the moves are accepted.
        start: Distribution of the first z: "posterior" for q0 = q(z|x), or "prior" for q0 = p(z).
        seed: Seed for all noise. The same seed gives the same noise on every backend; a move that is accepted by
            less than a rounding error may be rejected on another.
        max_bytes: Number of bytes held at a time of the decoder's widest layer, as far as its structure tells; the
            chains of one example are never parted.
        verbose: 1 shows a progress bar, 0 does not, "auto" does on a terminal.

    Returns:
        A `LogLikelihood`, whose `num_samples` are the chains.

    Raises:
        ValueError: If the model's loss is not a log-likelihood of such data, or there is no example; says why.

    Example:

    >>> found = evaluation.annealed_log_likelihood(vae, x_test[:100], steps=1000)
    >>> print(found.mean, found.mean_standard_error)

    Reference: Neal 2001, Annealed importance sampling, arXiv:physics/9803008; Wu et al. 2017, On the quantitative
    analysis of decoder-based generative models, arXiv:1611.04273, section 3 (for decoders; the temperatures).
    """
    chains, steps = validation.whole_number("chains", chains), validation.whole_number("steps", steps)
    leapfrog = validation.whole_number("leapfrog", leapfrog)
    if start not in ("posterior", "prior"):
        raise ValueError(f'start must be "posterior" or "prior", the distribution of the first z; got {start!r}.')
    _model.require_continuous(vae)
    temperatures, prior = _sigmoid_schedule(steps), None
    first = np.random.default_rng(seed)  # drawn from as `log_likelihood` does
    moves, pilots = np.random.SeedSequence(seed).spawn(2)  # one stream per example: the same however the work is cut
    x = _containers.as_arrays(x)  # once: a table or a list is copied
    bar, found = progress_bar(_model.size(x), verbose), []
    for part, _ in _model.pieces(vae, x, max_bytes, chains):
        n = len(part[0])
        if prior is None or vae.has_conditional_prior:
            prior = vae.numpy_prior(*part[1:])
        latent_shape = vae.latent_shape_of(part[0].shape[1:])
        initial, noise_shape = prior, latent_shape if None in vae.latent_shape else prior.noise_shape
        if start == "posterior":
            posterior = vae.encode(vae._joined_with_condition(*part), n)
            initial, noise_shape = _density_of_any_z(posterior, vae), latent_shape
        path = _Path(vae, part, initial, prior, latent_shape)
        sizes, latent_dim = None, math.prod(latent_shape)
        if steps > 1:
            pilot = _Noise(pilots.spawn(n), max(2, chains // 4), latent_dim)
            sizes = _anneal(path, pilot.start(noise_shape), temperatures, leapfrog, pilot)[1]
        noise = first.standard_normal((n, chains, *noise_shape), dtype="float32").swapaxes(0, 1)
        walk = _Noise(moves.spawn(n), chains, latent_dim)
        found.append(importance_estimate(_anneal(path, noise, temperatures, leapfrog, walk, sizes)[0].T))
        bar.add(n)
    estimate, standard_error, effective = (np.concatenate(column) for column in zip(*found, strict=True))
    return LogLikelihood(estimate, standard_error, effective, chains)


def _density_of_any_z(posterior, vae):
    if isinstance(posterior, DiagonalNormal):
        return posterior
    raise ValueError(
        f"The chains move through z, and {vae.posterior_family!r} gives no density of any z with its slope: pass "
        'start="prior".'
    )


def _sigmoid_schedule(steps, reach=4.0):
    """Temperatures from 0 to 1, `(steps + 1,)`: Wu et al. 2017, section 3.2."""
    values = 1.0 / (1.0 + np.exp(-np.linspace(-reach, reach, steps + 1)))
    return (values - values[0]) / (values[-1] - values[0])


class _Noise:
    """Noise of the moves, each example from a generator of its own."""

    def __init__(self, seeds, chains, latent_dim):
        self.generators = [np.random.default_rng(seed) for seed in seeds]
        self.chains, self.latent_dim = chains, latent_dim

    def start(self, noise_shape):
        return self._normal(noise_shape)

    def momentum(self):
        return self._normal((self.latent_dim,))

    def uniform(self):
        """For the acceptance and for the length of the step: two arrays `(chains, n)`."""
        return np.stack([generator.random((2, self.chains)) for generator in self.generators], axis=2)

    def _normal(self, shape):
        shape = (self.chains, *shape)
        return np.stack([generator.standard_normal(shape, dtype="float32") for generator in self.generators], axis=1)


class _Ends(NamedTuple):
    """Log densities `(chains, n)` of z `(chains, n, latent_dim)` at both ends of the path, and their slopes."""

    z: np.ndarray
    log_first: np.ndarray  # log q0(z)
    log_last: np.ndarray  # log p(z) + log p(x|z)
    slope_first: np.ndarray
    slope_last: np.ndarray

    def log_prob(self, t):
        return (1.0 - t) * self.log_first + t * self.log_last

    def slope(self, t):
        return np.float32(1.0 - t) * self.slope_first + np.float32(t) * self.slope_last

    def where(self, chosen, other):
        """These for the chains that are chosen, `(chains, n)`, and the other's for the rest."""
        columns = [chosen[..., None], chosen, chosen, chosen[..., None], chosen[..., None]]
        return _Ends(*(np.where(*choice) for choice in zip(columns, self, other, strict=True)))


class _Path:
    """From q0(z) to p(z) p(x|z), for some examples; the chains move through flat z, `(chains, n, latent_dim)`."""

    def __init__(self, vae, part, first, prior, latent_shape):
        self.first, self.prior, self.latent_shape = first, prior, latent_shape
        self.log_likelihood = _model.log_likelihood_with_gradient(vae)
        self.data = [ops.convert_to_tensor(array) for array in part]  # once, and not at each of the moves
        # The unit of the step size: moves are then the same in whatever units z is.
        log_var = first.moment_matched().log_var
        leading = log_var.shape[: log_var.ndim - len(latent_shape)]
        self.scale = self._flat(np.exp(0.5 * np.broadcast_to(log_var, (*leading, *latent_shape))))

    def _flat(self, z):
        return z.reshape(*z.shape[: z.ndim - len(self.latent_shape)], -1)

    def start(self, noise):
        return self(self._flat(self.first.from_noise(noise)))

    def __call__(self, flat):
        z = flat.reshape(*flat.shape[:-1], *self.latent_shape)
        log_likelihood, slope = (validation.to_numpy(part) for part in self.log_likelihood(z, *self.data))
        log_prior, slope_of_prior = _log_prob_with_gradient(self.prior, z)
        log_first, slope_first = log_prior, slope_of_prior
        if self.first is not self.prior:
            log_first, slope_first = _log_prob_with_gradient(self.first, z)
        log_last = log_likelihood.astype("float64") + log_prior
        slopes = self._flat(slope_first), self._flat(slope + slope_of_prior)
        return _Ends(flat, log_first.astype("float64"), log_last, *slopes)


def _log_prob_with_gradient(distribution, z):
    both = getattr(distribution, "log_prob_and_gradient", None)
    return both(z) if both else (distribution.log_prob(z), distribution.grad_log_prob(z))


def _anneal(path, start, temperatures, leapfrog, noise, sizes=None):
    """Chains from one end of the path to the other.

    Step sizes come from pilot chains: adapting them within a chain would break the lower bound.

    Args:
        path: A `_Path` of n examples.
        start: `(chains, n, *noise_shape)` noise of the first z.
        temperatures: `(steps + 1,)`.
        leapfrog: Number of leapfrog steps of a move.
        noise: A `_Noise`.
        sizes: `(steps - 1, n)` step sizes, or None to adapt them.

    Returns:
        The logarithms of the weights, `(chains, n)` float64, and the step sizes.
    """
    at = path.start(start)
    log_weights, log_size, used = 0.0, np.full(at.z.shape[1], np.log(0.5)), []
    for k, (before, t) in enumerate(itertools.pairwise(temperatures)):
        log_weights = log_weights + (t - before) * (at.log_last - at.log_first)
        if t == temperatures[-1]:
            break  # a move after the last weight changes nothing
        used.append(np.exp(log_size) if sizes is None else sizes[k])
        at, acceptance = _move(path, at, t, used[-1], leapfrog, noise)
        log_size += _ADAPTATION * (acceptance.mean(axis=0) - _ACCEPTANCE)
    return log_weights, used


def _move(path, at, t, size, leapfrog, noise):
    """One move of Hamiltonian Monte Carlo at temperature t, and the probability with which each was accepted."""
    momentum = initial = noise.momentum()
    uniform, jitter = noise.uniform()
    length = (_LENGTHS[0] + (_LENGTHS[1] - _LENGTHS[0]) * jitter) * size
    step = length[..., None].astype("float32") * path.scale
    there = at
    with np.errstate(over="ignore", invalid="ignore"):  # a step so long that it diverges is not accepted
        for _ in range(leapfrog):
            momentum = momentum + np.float32(0.5) * step * there.slope(t)
            there = path(there.z + step * momentum)
            momentum = momentum + np.float32(0.5) * step * there.slope(t)
        change = there.log_prob(t) - at.log_prob(t)
        change = change + 0.5 * np.sum(np.square(initial, dtype="float64") - np.square(momentum, dtype="float64"), -1)
    acceptance = np.exp(np.minimum(np.where(np.isnan(change), -np.inf, change), 0.0))
    return there.where(uniform < acceptance, at), acceptance

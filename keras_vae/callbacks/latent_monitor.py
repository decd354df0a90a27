"""Which latents are in use while a VAE trains, and in words when none is."""

import math
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from keras_vae import data, evaluation, validation
from keras_vae.callbacks._on_data import OnData
from keras_vae.distributions import Factorised
from keras_vae.likelihoods import Gaussian
from keras_vae.model import VAE
from keras_vae.objectives import ELBO
from keras_vae.schedules import Constant

_COLLAPSED_BELOW = 0.1  # nats per example: with less, z can tell hardly any two examples apart
# Batches. Measured: healthy models whose decoder starts at the data mean dip for up to 100.
_MIN_STEPS_BEFORE_VERDICT = 500


class LatentMonitor(OnData):
    """Logs how many latents are in use, and says in words when the posterior has collapsed and what to try.

    Collapse is reported when no unit is active or the total KL is below 0.1 nats in two consecutive checks, after 500
    training batches or at the end of training: healthy models often drop their latents for the first hundred batches,
    while they learn the mean of the data. It is not reported while beta is 0 or below a tenth of its final value, nor
    from numbers that are not finite.

    It draws no noise, so training goes on as without it. Put it before CSVLogger or TensorBoard in the list of
    callbacks: Keras hands them the logs in turn.

    Args:
        x: `(n, ...)` data to look through, n >= 2, a dict for a conditional model; a thousand held-out examples
            suffice.
        threshold: Smallest variance of an active unit; see `evaluation.active_units`.
        every: Number of epochs between two checks; the logs repeat the last in between.
        log_units: Whether to log `kl_unit_0`, `kl_unit_1`, ... too, in nats.

    Attributes:
        epochs: Epochs that were checked, counting from 1.
        kl_per_unit: `(epochs, *latent_shape)` float64, nats, as from `evaluation.kl_per_unit`.
        active_units: `(epochs,)` int, the `active_units` of the logs.

    Example:

    >>> monitor = keras_vae.callbacks.LatentMonitor(data.test)
    >>> history = vae.fit(data.train, epochs=20, callbacks=[monitor])
    >>> history.history["active_units"]

    Reference: Burda et al. 2016, arXiv:1509.00519, section 5.2 (active units); Lucas et al. 2019, arXiv:1911.02469
    (what collapses a linear VAE); Bowman et al. 2016, arXiv:1511.06349 (warm-up).
    """

    def __init__(self, x: Any, threshold: float = 0.01, every: int = 1, log_units: bool = False) -> None:
        super().__init__(x, every)
        if data.count(self.x) < 2:
            raise ValueError(f"x needs two examples or more, whose latents can differ; it has {data.count(self.x)}.")
        if not (isinstance(threshold, Real) and threshold >= 0.0):
            raise ValueError(f"threshold is a variance and must be a number, zero or more; got {threshold!r}.")
        self.threshold: float = threshold
        self.log_units: bool = log_units
        self._reset()

    def _reset(self):
        self._looks = []
        self._collapsed_checks = 0  # in a row
        self._reported = False

    @property
    def kl_per_unit(self) -> np.ndarray:
        return np.array([look.kl_per_unit for look in self._looks])

    @property
    def active_units(self) -> np.ndarray:
        return np.array([look.active_units for look in self._looks], int)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        self._reset()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if logs is not None:
            logs["active_units"] = self._looks[-1].active_units
            if self.log_units:
                logs.update({f"kl_unit_{i}": float(kl) for i, kl in enumerate(self._looks[-1].kl_per_unit.ravel())})

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._collapsed_checks >= 2:
            self._report()

    def _look(self, epoch):
        # On JAX this also puts the state into the model's variables.
        look = _look_at(self.model, self.x, self.threshold)
        self._looks.append(look)
        collapsed = look.is_collapsed(self.model)
        if collapsed is None:
            return
        if not collapsed:
            self._collapsed_checks, self._reported = 0, False
            return
        self._collapsed_checks += 1
        if self._collapsed_checks >= 2 and look.steps >= _MIN_STEPS_BEFORE_VERDICT:
            self._report()

    def _report(self):
        if not self._reported:
            self._reported = True
            after, steps = f"after epoch {self.epochs[-1]}, ", self.params.get("steps")
            print(f"\n{_words(self.model, self.x, self._looks[-1], after, steps)}")


def collapse_report(vae: VAE, x: Any, steps_per_epoch: int | None = None) -> str | None:
    """What `LatentMonitor` says of a trained model whose posterior has collapsed; None if it has not.

    Args:
        vae: A built `VAE`.
        x: `(n, ...)` data, n >= 2, a dict for a conditional model.
        steps_per_epoch: Number of batches of an epoch, for the length of the warm-up that is proposed.

    Raises:
        ValueError: If there are fewer than two examples, or x does not fit the model.
    """
    look = _look_at(vae, x)
    return _words(vae, x, look, "", steps_per_epoch) if look.is_collapsed(vae) else None


class _Look(NamedTuple):
    """What a look at the latents of a model finds."""

    kl_per_unit: np.ndarray
    active_units: int
    steps: int  # batches trained on

    def is_collapsed(self, model):
        """None without a verdict: if the KL is not finite, or the loss does not weigh it about as it finally will."""
        if not np.isfinite(self.kl_per_unit).all() or not _kl_counts(model, self.steps):
            return None
        return self.active_units == 0 or bool(self.kl_per_unit.sum() < _COLLAPSED_BELOW)


def _look_at(model, x, threshold=0.01):
    posterior = model.encode(x)
    active = int(evaluation.active_units(model, posterior, threshold).sum())
    kl = evaluation.kl_per_unit(model, x if model.has_conditional_prior else posterior)
    return _Look(kl, active, int(validation.to_numpy(model.training_step.value)))


def _kl_counts(model, steps):
    """Whether the loss weighs the KL about as it finally will; before that, unused latents have other causes."""
    capacity = getattr(model.objective, "capacity", None)
    if capacity is not None and float(validation.to_numpy(capacity(steps))) < 1.0:
        return False  # the loss holds the KL at that capacity
    beta = getattr(model.objective, "beta", Constant(1.0))
    now = float(validation.to_numpy(beta(steps)))
    return now > 0.0 and (isinstance(beta, Constant) or now >= 0.1 * getattr(beta, "end", 1.0))


def _words(model, x, look, after, steps_per_epoch):
    kl, active = look.kl_per_unit, f"{look.active_units} of {look.kl_per_unit.size} latents"
    hints = "".join(f"\n  - {hint}" for hint in _hints(model, x, look.steps, steps_per_epoch))
    return (
        f"The posterior has collapsed: {after}{active} {'is' if look.active_units == 1 else 'are'} active and the KL "
        f"is {kl.sum():.2g} nats per example, so z says next to nothing about x. What to try:{hints}"
    )


def _hints(model, x, steps, steps_per_epoch):
    if steps < _MIN_STEPS_BEFORE_VERDICT:
        yield f"train for longer: this was after {steps} batches, and the KL often falls before it rises;"
    likelihood = getattr(model.likelihood, "likelihood", model.likelihood)  # that inside a `Standardized`
    scale = getattr(likelihood, "scale", None)
    if isinstance(likelihood, Gaussian) and isinstance(scale, float):
        x = model.likelihood.for_encoder(model._split(x)[0])  # standardised, as the scale is
        spread = _largest_deviation(validation.to_numpy(x))
        linear = ", and a linear VAE trained on the bound uses no latent then" if spread <= scale else ""
        yield (
            f'let the scale of the Gaussian be learned, Gaussian("learned") or Gaussian("optimal"), or make it '
            f"less than {scale:g}: in the direction in which x varies most, its standard deviation is "
            f"{spread:.3g}{linear};"
        )
    if isinstance(model.objective, ELBO):
        yield from _beta_hints(model, steps_per_epoch)
    yield "if the decoder can model x without z (autoregression, a very flexible likelihood), make it weaker."


def _beta_hints(model, steps_per_epoch):
    beta = model.objective.beta
    steps = 10 * (steps_per_epoch or 100)  # ten epochs, where the length of one is known
    if isinstance(beta, Constant):
        end = f", end={beta.value:g}" if beta.value != 1.0 else ""
        warm_up = f"rise from 0: ELBO(beta=schedules.Linear(steps={steps}{end}))"
        if beta.value > 1.0:
            yield f"lower beta, which weighs the KL {beta.value:g} times what the bound does, or let it {warm_up};"
        else:
            yield f"let beta {warm_up};"
    else:
        yield f"let beta, now {beta!r}, rise for longer or end lower;"
    if not model.objective.free_bits and issubclass(
        getattr(model.prior, "distribution_class", type(model.prior)), Factorised
    ):
        yield "leave each latent some nats for free: ELBO(free_bits=...);"


def _largest_deviation(x):
    """The standard deviation of data along the direction in which they vary most, from at most 256 of them."""
    rows = x[:256].reshape(min(len(x), 256), -1).astype("float32")
    rows = np.nan_to_num(rows - np.nanmean(rows, axis=0))  # a missing value at the mean
    # The largest eigenvalue of the covariance is also that of the products of the rows, at most 256 x 256.
    return math.sqrt(max(float(np.linalg.eigvalsh(rows @ rows.T)[-1]), 0.0) / len(rows))

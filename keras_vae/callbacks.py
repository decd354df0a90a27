"""Keras callbacks: what goes wrong while a VAE trains, in words, and what it does meanwhile, in pictures."""

import io
import math
import os
import pathlib
import socket
import time
from numbers import Real

import keras
import numpy as np

from keras_vae import _checks, _conditions, _files, evaluation, plotting
from keras_vae.likelihoods import Gaussian
from keras_vae.objectives import ELBO
from keras_vae.schedules import Constant

_COLLAPSED_BELOW = 0.1  # nats per example: with less, z can tell hardly any two examples apart
_TOO_EARLY = 500  # batches; measured: healthy models whose decoder starts at the data mean dip for up to 100


class NonFiniteGuard(keras.callbacks.Callback):
    """Stops at the first batch whose loss is NaN or infinite, and says what it was and what usually causes it.

    Keras goes on training: every weight is NaN one step later, and the saved model with it.

    Args:
        action: "raise" a FloatingPointError, or "stop" training and print the same words.

    Example:

    >>> vae.fit(x, callbacks=[keras_vae.callbacks.NonFiniteGuard()])
    """

    def __init__(self, action="raise"):
        super().__init__()
        if action not in ("raise", "stop"):
            raise ValueError(f'action must be "raise" or "stop"; got {action!r}.')
        self.action = action
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        # The logs are means over the epoch so far: NaN from the first bad batch on.
        values = {name: float(value) for name, value in (logs or {}).items()}
        if np.isfinite(values.get("loss", 0.0)):
            return
        message = self._describe(batch, values)
        if self.action == "raise":
            raise FloatingPointError(message)
        print(f"\n{message}")
        self.model.stop_training = True

    def _describe(self, batch, values):
        bad = [name for name in ("reconstruction", "kl") if not np.isfinite(values.get(name, 0.0))]
        if bad == ["reconstruction"]:
            cause = "the decoder's output has overflowed, or the data hold NaN or values far outside their usual range"
        elif bad == ["kl"]:
            cause = "the encoder's mean or log_var has overflowed"
        else:
            cause = "the weights have diverged, or the data hold NaN"
        weights = self._non_finite_weights()
        where = f" Weights that are no longer finite: {', '.join(weights)}." if weights else ""
        what = " and ".join(bad) + (" are" if len(bad) > 1 else " is") if bad else "a regularisation loss is"
        return (
            f"The loss is {values['loss']} after batch {batch} of epoch {self.epoch} (counting from 0): {what} not "
            f"finite. Most likely {cause}.{where} Try a smaller learning rate, or clip gradients with "
            "keras.optimizers.Adam(clipnorm=1.0); check the data with np.isfinite(x).all()."
        )

    def _non_finite_weights(self):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        bad = [w.path for w in self.model.trainable_variables if not np.isfinite(_checks.to_numpy(w.value)).all()]
        return bad[:3] + ([f"and {len(bad) - 3} more"] if len(bad) > 3 else [])


class _OnData(keras.callbacks.Callback):
    """Looks at the model through data at the end of a fit's first epoch and of each `every`-th one.

    The first too, so that whoever reads the logs finds in them, from the start, what is there later: Keras's CSVLogger
    writes the columns of the first epoch for ever.
    """

    def __init__(self, x, every):
        super().__init__()
        given = x if isinstance(x, dict) else {"x": x}
        if not all(_checks.is_array(part) for part in given.values()):
            raise ValueError(f"x must be an array of examples, (n, ...); got a {type(x).__name__}.")
        given = {name: _checks.to_numpy(part) for name, part in given.items()}
        self.x = given if isinstance(x, dict) else given["x"]
        self.every = _checks.whole_number("every", every)
        self.epochs = []  # those looked at, counting from 1

    def on_train_begin(self, logs=None):
        self.epochs = []
        if self.model.built:  # a mistake is better told before an epoch than after it
            _checks.check_data(_conditions.split_condition(self.x)[0], self.model.data_shape)

    def on_epoch_end(self, epoch, logs=None):
        if not self.epochs or (epoch + 1) % self.every == 0:
            self.epochs.append(epoch + 1)
            self._look(epoch)

    def _look(self, epoch):
        raise NotImplementedError


class LatentMonitor(_OnData):
    """Logs how many latents are in use, and says in words when the posterior has collapsed and what to try.

    Collapsed means that z says nothing about x: no unit is active, or the KL is below 0.1 nats per example in total.
    It must hold at two looks in a row, and is said once 500 batches have been trained on, or when training ends:
    a healthy model too often gives its latents up for the first hundred batches, while it learns the mean of the data.
    Nothing is concluded while beta is 0, or a schedule has it below a tenth of its `end`, nor from numbers that are
    not finite.

    Draws no noise, so training goes as it would without. Put it before CSVLogger or TensorBoard in the list of
    callbacks: Keras hands them the logs in turn.

    Args:
        x: `(n, ...)` data to look through, n >= 2, a dict of a conditional model; a thousand held-out examples are
            plenty.
        threshold: Of `evaluation.active_units`.
        every: Epochs between two looks; the logs repeat the last in between.
        log_units: Whether to log `kl_unit_0`, `kl_unit_1`, ... too, in nats.

    Attributes:
        epochs: The epochs looked at, counting from 1.
        kl_per_unit: `(epochs, latent_dim)` float64, nats, as from `evaluation.kl_per_unit`.
        active_units: `(epochs,)` int, the `active_units` of the logs.

    Example:

    >>> monitor = keras_vae.callbacks.LatentMonitor(data.test)
    >>> history = vae.fit(data.train, epochs=20, callbacks=[monitor])
    >>> history.history["active_units"]

    Reference: Burda et al. 2016, arXiv:1509.00519, section 5.2 (active units); Lucas et al. 2019, arXiv:1911.02469
    (what collapses a linear VAE); Bowman et al. 2016, arXiv:1511.06349 (warm-up).
    """

    def __init__(self, x, threshold=0.01, every=1, log_units=False):
        super().__init__(x, every)
        if _conditions.count(self.x) < 2:
            raise ValueError(
                f"x needs two examples or more, whose latents can differ; it has {_conditions.count(self.x)}."
            )
        if not (isinstance(threshold, Real) and threshold >= 0.0):
            raise ValueError(f"threshold is a variance and must be a number, zero or more; got {threshold!r}.")
        self.threshold = threshold
        self.log_units = log_units
        self._reset()

    def _reset(self):
        self._kl, self._active = [], []
        self._steps = 0  # batches trained on at the last look
        self._collapsed_looks = 0  # in a row
        self._said = False

    @property
    def kl_per_unit(self):
        return np.array(self._kl)

    @property
    def active_units(self):
        return np.array(self._active, int)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._reset()

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if logs is not None:
            logs["active_units"] = self._active[-1]
            if self.log_units:
                logs.update({f"kl_unit_{i}": float(kl) for i, kl in enumerate(self._kl[-1])})

    def on_train_end(self, logs=None):
        if self._collapsed_looks >= 2:
            self._say()

    def _look(self, epoch):
        posterior = self.model.encode(self.x)  # on JAX this also puts the current state into the model's variables
        self._kl.append(evaluation.mean_kl(posterior, self.model.numpy_prior()))
        self._active.append(int(evaluation.is_active(posterior, self.threshold).sum()))
        self._steps = int(_checks.to_numpy(self.model.training_step.value))
        if not np.isfinite(self._kl[-1]).all() or not self._kl_counts():
            return
        if self._active[-1] > 0 and self._kl[-1].sum() >= _COLLAPSED_BELOW:
            self._collapsed_looks, self._said = 0, False
            return
        self._collapsed_looks += 1
        if self._collapsed_looks >= 2 and self._steps >= _TOO_EARLY:
            self._say()

    def _kl_counts(self):
        """Whether the loss weighs the KL as it is going to: without it, unused latents have other causes."""
        objective = self.model.objective
        capacity = getattr(objective, "capacity", None)
        if capacity is not None and float(_checks.to_numpy(capacity(self._steps))) < 1.0:
            return False  # the KL is where it is told to be
        beta = getattr(objective, "beta", Constant(1.0))
        now = float(_checks.to_numpy(beta(self._steps)))
        return now > 0.0 and (isinstance(beta, Constant) or now >= 0.1 * getattr(beta, "end", 1.0))

    def _say(self):
        if self._said:
            return
        self._said = True
        active = f"{self._active[-1]} of {len(self._kl[-1])} latents {'is' if self._active[-1] == 1 else 'are'} active"
        hints = "".join(f"\n  - {hint}" for hint in self._hints())
        print(
            f"\nThe posterior has collapsed: after epoch {self.epochs[-1]}, {active} and the KL is "
            f"{self._kl[-1].sum():.2g} nats per example, so z says next to nothing about x. What to try:{hints}"
        )

    def _hints(self):
        if self._steps < _TOO_EARLY:
            yield f"train for longer: this was after {self._steps} batches, and the KL often falls before it rises;"
        likelihood, objective = self.model.likelihood, self.model.objective
        scale = getattr(likelihood, "scale", None)
        if isinstance(likelihood, Gaussian) and isinstance(scale, float):
            spread = _largest_deviation(_conditions.split_condition(self.x)[0])
            linear = ", and a linear VAE trained on the bound uses no latent then" if spread <= scale else ""
            yield (
                f'let the scale of the Gaussian be learned, Gaussian("learned") or Gaussian("optimal"), or make it '
                f"less than {scale:g}: in the direction in which x varies most, its standard deviation is "
                f"{spread:.3g}{linear};"
            )
        if isinstance(objective, ELBO):
            yield from self._beta_hints(objective)
        yield "if the decoder can model x without z (autoregression, a very flexible likelihood), make it weaker."

    def _beta_hints(self, objective):
        beta = objective.beta
        steps = 10 * (self.params.get("steps") or 100)  # ten epochs, where the length of one is known
        if isinstance(beta, Constant):
            end = f", end={beta.value:g}" if beta.value != 1.0 else ""
            warm_up = f"rise from 0: ELBO(beta=schedules.Linear(steps={steps}{end}))"
            if beta.value > 1.0:
                yield f"lower beta, which weighs the KL {beta.value:g} times what the bound does, or let it {warm_up};"
            else:
                yield f"let beta {warm_up};"
        else:
            yield f"let beta, now {beta!r}, rise for longer or end lower;"
        if not objective.free_bits and self.model.prior.has_closed_form_kl:
            yield "leave each latent some nats for free: ELBO(free_bits=...);"


def _largest_deviation(x):
    """The standard deviation of data along the direction in which they vary most, by at most 256 of them."""
    rows = x[:256].reshape(min(len(x), 256), -1).astype("float32")
    rows = np.nan_to_num(rows - np.nanmean(rows, axis=0))  # a missing value at the mean
    # The greatest eigenvalue of the covariance, which is also that of the products of the rows: at most 256 x 256.
    return math.sqrt(max(float(np.linalg.eigvalsh(rows @ rows.T)[-1]), 0.0) / len(rows))


class ReconstructionGrid(_OnData):
    """Pictures of data above their reconstructions, as training goes on: as files, in TensorBoard, or both.

    Data that are not images are drawn as curves; see `plotting.reconstructions`. Draws no noise, so training goes as
    it would without.

    Args:
        x: `(n, ...)` data, of which the first are shown: at most 4 rows of `columns`.
        folder: Where to write `epoch_0001.png`, ..., numbered by the epochs done; made if it does not exist.
        every: Epochs between two pictures; the first epoch has one in any case.
        log_dir: Where to write image summaries for TensorBoard, under the tag "reconstructions", at the step that
            Keras's callback has for the same epoch, counting from 0. Needs the package tensorboard, not tensorflow.
        columns: Pairs in a row.

    Raises:
        ValueError: If neither `folder` nor `log_dir` is given.
        ModuleNotFoundError: If `log_dir` is given and tensorboard is not installed.

    Example:

    >>> vae.fit(data.train, callbacks=[keras_vae.callbacks.ReconstructionGrid(data.test, "pictures", every=5)])
    """

    def __init__(self, x, folder=None, every=1, log_dir=None, columns=10):
        super().__init__(x, every)
        self.columns = _checks.whole_number("columns", columns)
        self.x = _conditions.rows(self.x, 0, 4 * columns)
        if _conditions.count(self.x) == 0:
            raise ValueError("x has no example to draw.")
        if folder is None and log_dir is None:
            raise ValueError("Say where the pictures shall go: folder=, for files, or log_dir=, for TensorBoard.")
        self.folder = None if folder is None else pathlib.Path(folder)
        self._events = None if log_dir is None else _ImageEvents(log_dir)

    def _look(self, epoch):
        figure = plotting.reconstructions(self.model, self.x, columns=self.columns)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=plotting.DPI)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _files.atomic_file(self.folder / f"epoch_{epoch + 1:04d}.png") as temporary:
                temporary.write_bytes(buffer.getvalue())
        if self._events is not None:
            self._events.add("reconstructions", epoch, buffer)


class _ImageEvents:
    """An event file of TensorBoard's, opened for each event alone: nothing is lost or left open if training fails.

    Written with `RecordWriter`: tensorboard's `EventFileWriter` would import tensorflow wherever it is installed.
    """

    def __init__(self, log_dir):
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"log_dir needs the package tensorboard ({error}): pip install tensorboard, or pass folder= instead."
            ) from None
        self._event, self._summary, self._writer = event_pb2.Event, summary_pb2.Summary, RecordWriter
        # TensorBoard knows the file by "tfevents", and reads several in the order of their names.
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self.path = pathlib.Path(log_dir) / name

    def add(self, tag, step, png):
        from PIL import Image

        with Image.open(png) as image:
            width, height = image.size
            channels = len(image.getbands())
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(file_version="brain.Event:2")
        image = self._summary.Image(
            width=width, height=height, colorspace=channels, encoded_image_string=png.getvalue()
        )
        self._append(step=step, summary=self._summary(value=[self._summary.Value(tag=tag, image=image)]))

    def _append(self, **fields):
        with open(self.path, "ab") as file:
            self._writer(file).write(self._event(wall_time=time.time(), **fields).SerializeToString())

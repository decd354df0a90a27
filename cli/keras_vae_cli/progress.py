"""What is printed while a model trains, and what Ctrl-C does meanwhile."""

import math
import signal
import sys
import time
import warnings

import keras
import numpy as np

from keras_vae import VAE, callbacks

LINES = 60  # about as many, however many epochs


def fit(
    vae: VAE,
    train: np.ndarray,
    test: np.ndarray,
    epochs: int,
    batch_size: int,
    patience: int = 0,
    start_from_epoch: int = 0,
) -> tuple[list[dict[str, float]], int | None]:
    """Trains; the first Ctrl-C ends training after the current program.

    Args:
        vae: A compiled model.
        train: Data to train on.
        test: Held-out data.
        epochs: Greatest number of epochs.
        batch_size: Number of examples in a batch.
        patience: Number of epochs without a better held-out bound after which training stops, and the best weights are
            kept; 0: it does not stop, and the last are.
        start_from_epoch: Number of epochs before the first that may be the best.

    Returns:
        The logs of each epoch, and the number of the epoch that was chosen, counted from 1; None if none was and the
        last weights are kept.
    """
    progress = _Progress(epochs, math.ceil(len(train) / batch_size))
    previous = signal.signal(signal.SIGINT, lambda *_: progress.stop())
    best = keras.callbacks.EarlyStopping(
        "val_negative_elbo",
        patience=patience,
        mode="min",
        restore_best_weights=True,
        start_from_epoch=start_from_epoch,
    )
    watch = [callbacks.NonFiniteGuard(), *([best] if patience else []), progress]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*far from the 1 at which networks start")  # `train` has said so
            vae.fit(train, batch_size=batch_size, epochs=epochs, validation_data=(test,), verbose=0, callbacks=watch)
    finally:
        signal.signal(signal.SIGINT, previous)
    return progress.history, None if best.best_weights is None else best.best_epoch + 1


class _Progress(keras.callbacks.Callback):
    """Prints a line for each epoch, or for some of very many: the four numbers that matter; on a terminal a bar too."""

    needs_each_batch = False

    def __init__(self, epochs, batches):
        super().__init__()
        self.epochs, self.batches = epochs, batches
        self.history = []
        self.on_terminal = sys.stdout.isatty()
        self.started = self.drawn = 0.0

    def stop(self):
        if self.model.stop_training:
            raise KeyboardInterrupt
        self.model.stop_training = True
        words = "Stopping after this epoch's validation, then writing what there is. Ctrl-C again to give up."
        print(f"\n{words}", flush=True)

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        if self.on_terminal and time.monotonic() - self.drawn > 0.1:
            self.drawn = time.monotonic()
            filled = min(20, round(20 * (batch + 1) / self.batches))  # `batch` ends a group of steps
            bar = "#" * filled + "." * (20 - filled)
            print(f"\repoch {len(self.history) + 1}/{self.epochs} [{bar}]", end="", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        logs = {name: float(value) for name, value in (logs or {}).items()}
        self.history.append({"epoch": epoch + 1, **logs})
        if (epoch + 1) % math.ceil(self.epochs / LINES) and epoch + 1 < self.epochs and not self.model.stop_training:
            return
        start = "\r\033[K" if self.on_terminal else ""
        print(
            f"{start}epoch {epoch + 1:>{len(str(self.epochs))}}/{self.epochs}"
            f"  negative ELBO {logs['negative_elbo']:9.3f}"
            f"  held out {logs['val_negative_elbo']:9.3f}"
            f" = reconstruction {logs['val_reconstruction']:.3f} + kl {logs['val_kl']:.3f} nats"
            f"  {time.monotonic() - self.started:.1f} s",
            flush=True,
        )

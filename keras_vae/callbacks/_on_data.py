"""What callbacks that look at the model through data share: the data, and when to look."""

from typing import Any

import keras

from keras_vae import _containers, validation


class OnData(keras.callbacks.Callback):
    """Looks at the model through data at the end of a fit's first epoch and of each `every`-th one.

    The first epoch is included because Keras's CSVLogger writes the columns of the first epoch only.
    """

    def __init__(self, x: Any, every: int) -> None:
        super().__init__()
        self.x: Any = _containers.in_memory(x)
        self.every: int = validation.whole_number("every", every)
        self.epochs: list[int] = []  # those looked at, counting from 1

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.epochs = []
        if self.model.built:  # report a mistake before the first epoch, not after it
            validation.check_data(self.model._split(self.x)[0], self.model.data_shape)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self.epochs or (epoch + 1) % self.every == 0:
            self.epochs.append(epoch + 1)
            self._look(epoch)

    def _look(self, epoch):
        raise NotImplementedError

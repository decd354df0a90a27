"""Pictures of data and their reconstructions while a VAE trains, as files and as events of TensorBoard."""

import io
import os
import pathlib
import socket
import time
from typing import Any

from keras_vae import _containers, _files, data, plotting, validation
from keras_vae.callbacks._on_data import OnData


class ReconstructionGrid(OnData):
    """Pictures of data above their reconstructions, as training goes on: as files, in TensorBoard, or both.

    Data that are not images are drawn as lines; see `plotting.reconstructions`. It draws no noise, so training goes
    on as without it.

    Args:
        x: `(n, ...)` data; the first are shown, at most 4 rows of `columns`.
        folder: Folder for `epoch_0001.png`, ..., numbered by the epochs done; made if it does not exist.
        every: Number of epochs between two pictures; the first epoch has one in any case.
        log_dir: Folder for image summaries for TensorBoard, under the tag "reconstructions", at the step that Keras's
            callback has for the same epoch, counting from 0. Needs the package tensorboard, not tensorflow.
        columns: Number of pairs in a row.

    Raises:
        ValueError: If neither `folder` nor `log_dir` is given.
        ModuleNotFoundError: If `log_dir` is given and tensorboard is not installed.

    Example:

    >>> vae.fit(data.train, callbacks=[keras_vae.callbacks.ReconstructionGrid(data.test, "pictures", every=5)])
    """

    def __init__(
        self,
        x: Any,
        folder: str | os.PathLike[str] | None = None,
        every: int = 1,
        log_dir: str | os.PathLike[str] | None = None,
        columns: int = 10,
    ) -> None:
        super().__init__(x, every)
        self.columns: int = validation.whole_number("columns", columns)
        self.x: Any = _containers.first(self.x, 4 * columns)
        if data.count(self.x) == 0:
            raise ValueError("x has no example to draw.")
        if folder is None and log_dir is None:
            raise ValueError("The pictures need a place: folder=, for files, or log_dir=, for TensorBoard.")
        self.folder: pathlib.Path | None = None if folder is None else pathlib.Path(folder)
        if self.folder is not None and self.folder.is_file():
            raise NotADirectoryError(f"{self.folder} is a file, and the pictures need a folder: choose another.")
        self._events = None if log_dir is None else _ImageEvents(log_dir)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        plotting.require_one_tensor(self.model)  # before the first epoch, not after it
        super().on_train_begin(logs)

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
    """An event file for TensorBoard, opened for one event at a time: if training fails, nothing is lost or open.

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

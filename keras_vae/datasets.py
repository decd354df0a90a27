"""Data for the command line and the examples: named sets, and files of several formats.

Nothing is fetched unless a set is named that Keras downloads. Pixels come as float32 in [0, 1], images with a channel
axis; arrays of other numbers come as they are, and the likelihood says whether it can use them. Tables are in
`_tables.py`.
"""

import gzip
import math
import os
import pathlib
import struct
import warnings
import zipfile
from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from keras_vae import _tables
from keras_vae.tables import Table

KERAS_SETS: tuple[str, ...] = ("mnist", "fashion_mnist", "cifar10")
IMAGE_SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_SPLIT_SEED = 0  # the held-out part is a property of the data, not of a run


class Data(NamedTuple):
    """Arrays to train on and to hold out, with labels where the source has them, and the `Table` of a table."""

    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    table: Table | None = None

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the columns of a table's arrays."""
        return self.table and self.table.names


def load(
    source: str | os.PathLike[str] = "digits",
    binarize: str | None = None,
    test_fraction: float = 1 / 6,
    resize: int | tuple[int, int] | None = None,
    kinds: Mapping[str, str | None] | str | Table | None = None,
) -> Data:
    """Loads a data set.

    Args:
        source: Name or path: "digits" (embedded: 1,797 handwritten digits of 8x8); "mnist", "fashion_mnist" or
            "cifar10" (downloaded by Keras); or a `.npy` or `.npz` file, an idx file or a folder of them, gzipped or
            not, a table (`.csv`, `.tsv`, `.parquet`), or a folder of images. An `.npz` holds `x` or one array, or
            `train` and `test`, or `x_train` and `x_test`; labels are `y` or `labels`, or `y_train` and `y_test`. A
            table becomes the array of a `Table`, NaN where a cell is empty or says NA, null, None or a question mark.
            Images are turned as their EXIF data say, and transparent pixels are blended with white; hidden files are
            left out. Where images lie in several folders, their labels are the names of these, as whole numbers if all
            are such; where all have one name, their paths inside the folder.
        binarize: Method of binarisation: None; "threshold" at 0.5; or "sample", each pixel drawn once with its grey
            value as the probability, which is how binarised MNIST was made.
        test_fraction: Share held out at random, always the same examples, if the source has no test set of its own;
            0: all are in `train`, in their order.
        resize: Height and width, or one number for both, that the images of a folder are resized to; None: they must
            have one size.
        kinds: Kinds of a table's columns, where they are others than `Table.fit` finds; one for all of them, such as
            "real"; or a `Table`, whose columns are read.

    Returns:
        A `Data` of float32 arrays of shape `(n, ...)`.

    Raises:
        ValueError: If the data cannot be read or have no examples; the message says what to do.
    """
    name = str(source)
    if resize is not None and not pathlib.Path(name).expanduser().is_dir():
        raise _no_images_to_resize(name)
    if kinds is not None and pathlib.Path(name).suffix.lower() not in _tables.SUFFIXES:
        raise ValueError(f"kinds (--kinds) is for a table ({', '.join(_tables.SUFFIXES)}), and {name} is none.")
    if name == "digits":
        data = _digits(test_fraction)
    elif name in KERAS_SETS:
        data = _from_keras(name)
    else:
        data = _from_path(pathlib.Path(name).expanduser(), test_fraction, resize, kinds)
    if len(data.train) == 0 or (test_fraction and len(data.test) == 0):
        raise ValueError(
            f"{name} gives {len(data.train)} examples to train on and {len(data.test)} to hold out; each needs one."
        )
    if data.train.shape[1:] != data.test.shape[1:] or 0 in data.train.shape:
        raise ValueError(
            f"The examples of {name} must have one shape, without empty axes; those to train on have "
            f"{data.train.shape[1:]}, those to hold out {data.test.shape[1:]}."
        )
    data = _as_floats(data)
    return data if binarize is None else _binarize(data, binarize)


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """The array in an idx file (the format of MNIST), gzipped or not."""
    path = pathlib.Path(path)
    types = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError) as error:
            raise ValueError(f"{path} is not a whole gzip file ({error}): fetch it again.") from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in types:
        raise ValueError(f"{path} is not an idx file: its first four bytes are {raw[:4]!r}.")
    dtype, rank = np.dtype(types[raw[2]]), raw[3]
    shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank]) if len(raw) >= 4 + 4 * rank else ()
    body = raw[4 + 4 * rank :]
    if not shape or len(body) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{path} is cut short: its header announces shape {shape}, its body has {len(body)} bytes.")
    return np.frombuffer(body, dtype).reshape(shape)


def _digits(test_fraction):
    with resources.files("keras_vae").joinpath("digits/digits.npz").open("rb") as file, np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    return _split(images[..., None].astype("float32") / 16.0, test_fraction, labels)


def _from_keras(name):
    import keras

    try:
        (train, train_labels), (test, test_labels) = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise ValueError(
            f"Keras could not download {name} ({error}). Without a network, name a file or a folder that holds it, "
            "or use the embedded digits."
        ) from None
    return Data(_with_channels(train), _with_channels(test), np.ravel(train_labels), np.ravel(test_labels))


def _from_path(path, test_fraction, resize, kinds):
    if not path.exists():
        sets = ", ".join(("digits", *KERAS_SETS))
        raise ValueError(f"There is no file or folder {path}, and no data set of that name; the named sets are {sets}.")
    if path.is_dir():
        if all(idx := [_visible(path.glob(name), path) for name in ("*train-images*", "*t10k-images*")]):
            if resize is not None:
                raise _no_images_to_resize(path)
            return _from_idx_folder(path, *(found[0] for found in idx))
        images, labels = _from_image_folder(path, resize)
        return _split(images, test_fraction, labels)
    if path.suffix in (".npy", ".npz"):
        return _from_numpy(path, test_fraction)
    if path.suffix.lower() in _tables.SUFFIXES:
        return _from_table(_tables.read(path), test_fraction, kinds)
    if "idx" in path.name:
        return _split(_with_channels(read_idx(path)), test_fraction)
    raise ValueError(
        f"Cannot tell what {path} holds: give a .npy, .npz, .csv, .tsv, .parquet or idx file, or a folder of images; "
        "save a spreadsheet as CSV."
    )


def _from_table(sheet, test_fraction, kinds):
    values = sheet.values(kinds if isinstance(kinds, Table) else None)
    try:
        if isinstance(kinds, str):
            kinds = dict.fromkeys(values.columns, kinds)
        table = kinds if isinstance(kinds, Table) else Table.fit(values, kinds)
        return _split(table.to_array(values), test_fraction)._replace(table=table)
    except ValueError as error:
        raise ValueError(f"{sheet.path}: {error}") from None


def _no_images_to_resize(source):
    return ValueError(f"resize (--resize) is for a folder of images, and {source} is none.")


def _from_idx_folder(path, train, test):
    def labels(prefix):
        found = _visible(path.glob(f"*{prefix}-labels*"), path)
        return read_idx(found[0]) if found else None

    return Data(_with_channels(read_idx(train)), _with_channels(read_idx(test)), labels("train"), labels("t10k"))


def _visible(files, folder):
    """Files in a folder, sorted, without those that a system hides: `.DS_Store`, `._x.png`."""
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))


def _from_numpy(path, test_fraction):
    try:
        with open(path, "rb") as file:
            array = np.load(file, allow_pickle=False)
            if isinstance(array, np.ndarray):
                return _split(array, test_fraction)
            arrays = dict(array)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as NumPy data ({error}).") from None
    names = set(arrays)
    for train, test in (("x_train", "x_test"), ("train", "test")):
        if {train, test} <= names:
            return Data(arrays[train], arrays[test], arrays.get("y_train"), arrays.get("y_test"))
    others = names - {"y", "labels"}
    if "x" in names or len(others) == 1:
        x, labels = arrays["x" if "x" in names else others.pop()], arrays.get("y", arrays.get("labels"))
        if labels is not None and labels.shape[:1] != x.shape[:1]:
            raise ValueError(f"{path} holds {len(x)} examples, but labels of shape {labels.shape}.")
        return _split(x, test_fraction, labels)
    raise ValueError(
        f"{path} holds the arrays {sorted(names)}; it must hold one array, or x, or train and test, or x_train and "
        "x_test; y, labels, y_train and y_test are labels."
    )


def _from_image_folder(path, resize):
    files = [file for file in _visible(path.rglob("*"), path) if file.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise ValueError(f"{path} holds neither images ({', '.join(IMAGE_SUFFIXES)}) nor the idx files of MNIST.")
    images, transparent = [], 0
    for file in files:
        image, is_transparent = _read_image(file, resize)
        transparent += is_transparent
        if images and image.shape != images[0].shape:
            raise ValueError(
                f"All images must have one size and all be grey or all in colour, but {files[0].relative_to(path)} is "
                f"{_describe(images[0])} and {file.relative_to(path)} is {_describe(image)}: convert them first, or, "
                "for one size, pass resize=(height, width) (--resize)."
            )
        images.append(image)
    if transparent:
        warnings.warn(
            f"{transparent} of {len(files)} images have transparent pixels: blended with white.", stacklevel=2
        )
    return _with_channels(np.stack(images)), _folder_names(files, path)


def _folder_names(files, path):
    """The name of each file's folder, `(n,)`, or its path if all have one name; None if there is one folder."""
    folders = {file.parent for file in files}
    if len(folders) == 1:
        return None
    names_differ = len({folder.name for folder in folders}) > 1  # train/cat and test/cat are both cats
    names = [file.parent.name if names_differ else file.parent.relative_to(path).as_posix() for file in files]
    is_number = all(name.isascii() and name.isdigit() and int(name) < 2**63 for name in names)
    is_number = is_number and len(set(map(int, names))) == len(set(names))  # 01 and 1 are two names
    return np.array(names, "int64" if is_number else str)


def _read_image(file, resize):
    """An image as bytes, grey or RGB, and whether it has transparent pixels."""
    from PIL import Image, ImageOps

    height, width = (resize, resize) if isinstance(resize, int) else resize or (None, None)
    try:
        with Image.open(file) as opened:
            image: Any = ImageOps.exif_transpose(opened)
            if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
                raise OSError(f"its mode {image.mode} is not 8-bit; save such data as a .npy array")
            mode, is_transparent = "L" if image.mode in ("1", "L", "LA") else "RGB", False
            if "A" in image.getbands() or "transparency" in image.info:
                image = image.convert("RGBA")
                is_transparent = image.getextrema()[-1][0] < 255
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert(mode)
            if height is not None:
                image = image.resize((width, height), Image.Resampling.LANCZOS)
            return np.asarray(image), is_transparent
    except OSError as error:
        raise ValueError(f"{file} cannot be read as an image ({error}): remove or convert it.") from None


def _describe(image):
    return f"{image.shape[0]}x{image.shape[1]} {'grey' if image.ndim == 2 else 'colour'}"


def _with_channels(images):
    return images[..., None] if images.ndim == 3 else images


def _split(x, test_fraction, labels=None):
    if x.ndim < 2:
        raise ValueError(f"Data need an axis of examples and at least one more; got shape {x.shape}.")
    held_out = max(1, round(test_fraction * len(x))) if test_fraction else 0
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(x)) if test_fraction else np.arange(len(x))
    test, train = order[:held_out], order[held_out:]
    if labels is None:
        return Data(x[train], x[test])
    return Data(x[train], x[test], labels[train], labels[test])


def _as_floats(data):
    """Both parts as float32; bytes are divided by 255, unless no value exceeds 16: such data are hardly pixels."""
    for x in (data.train, data.test):
        if x.dtype.kind not in "buif":
            raise ValueError(f"Data must be numbers; got an array of dtype {x.dtype}.")
    are_bytes = data.train.dtype == data.test.dtype == np.uint8
    scale = 255.0 if are_bytes and max(data.train.max(), data.test.max(initial=0)) > 16 else 1.0
    return data._replace(train=data.train.astype("float32") / scale, test=data.test.astype("float32") / scale)


def _binarize(data, how):
    for x in (data.train, data.test):
        if x.min(initial=0.0) < 0.0 or x.max(initial=1.0) > 1.0:
            raise ValueError(f"Only data in [0, 1] can be binarised; these range from {x.min():g} to {x.max():g}.")
    if how == "threshold":
        return data._replace(train=(data.train >= 0.5).astype("float32"), test=(data.test >= 0.5).astype("float32"))
    if how == "sample":
        rng = np.random.default_rng(_SPLIT_SEED)
        train, test = (rng.random(x.shape, dtype="float32") < x for x in (data.train, data.test))
        return data._replace(train=train.astype("float32"), test=test.astype("float32"))
    raise ValueError(f'binarize must be None, "threshold" or "sample"; got {how!r}.')

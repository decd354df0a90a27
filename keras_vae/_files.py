"""Writing files so that they appear whole or not at all: to a temporary name beside the target, then rename."""

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields a temporary path with the same suffix; on leaving without an error it takes the place of `path`."""
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"Cannot write {path}: the folder {path.parent} does not exist.")
    if path.is_dir():
        raise IsADirectoryError(f"Cannot write {path}: it is a folder.")
    temporary = path.with_name(f".{path.stem}-{os.getpid()}.partial{path.suffix}")
    try:
        with _in_words(path):
            temporary.touch()
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(
    path: str | os.PathLike[str], overwrite: bool = False, is_ours: Callable[[pathlib.Path], bool] | None = None
) -> Iterator[pathlib.Path]:
    """Yields a temporary folder; on leaving without an error it becomes `path`.

    Args:
        path: Path of the folder to make.
        overwrite: Whether an existing folder may be replaced; it is removed only when the new one is complete.
        is_ours: Function that tells whether a folder that is not empty was written by us and may be replaced.

    Raises:
        FileExistsError: If `path` exists and may not be replaced.
    """
    path = pathlib.Path(path).resolve()
    _check_replaceable(path, overwrite, is_ours)
    with _in_words(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}-", suffix=".partial", dir=path.parent))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())  # mkdtemp makes a private folder; the result is an ordinary one
        _check_replaceable(path, overwrite, is_ours)  # again: it may have appeared meanwhile
        if path.exists():
            _swap(path, temporary)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _in_words(path):
    """Says of what was to be written, not of its temporary name, why it cannot be."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        file = next((folder for folder in path.parents if folder.is_file()), None)
        reason = f"{file} is a file, not a folder" if file else f"{path.parent}: {error.strerror}"
        raise type(error)(f"Cannot write {path}: {reason}. Choose another output.") from None


def _check_replaceable(path, overwrite, is_ours):
    if not path.exists():
        return
    if not overwrite:
        raise FileExistsError(
            f"{path} exists already: choose another output, or pass overwrite=True (--overwrite) to replace it."
        )
    if not path.is_dir() or (any(path.iterdir()) and is_ours and not is_ours(path)):
        raise FileExistsError(f"{path} was not written by us and is left alone: choose another output.")
    if path in (pathlib.Path.cwd(), *pathlib.Path.cwd().parents):
        raise FileExistsError(f"{path} is the folder you are in, or above it: choose another output.")


def _swap(path, new):
    old = new.with_suffix(".old")
    os.replace(path, old)
    try:
        os.replace(new, path)
    except BaseException:  # Ctrl-C between the two too
        os.replace(old, path)
        raise
    shutil.rmtree(old)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""Writing files so that they appear whole or not at all: to a temporary name beside the target, then rename."""

import contextlib
import os
import pathlib
import shutil
import tempfile


@contextlib.contextmanager
def atomic_file(path):
    """Yields a temporary path with the same suffix; on leaving without an error it takes the place of `path`."""
    path = pathlib.Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"Cannot write {path}: the folder {path.parent} does not exist.")
    temporary = path.with_name(f".{path.stem}-{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path, overwrite=False):
    """Yields a temporary folder; on leaving without an error it becomes `path`.

    Raises:
        FileExistsError: If `path` exists and `overwrite` is False. The old folder is gone only once the new one is
            in its place.
    """
    path = pathlib.Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already: choose another output, or pass --overwrite to replace it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}-", suffix=".partial", dir=path.parent))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())  # mkdtemp makes a private folder; the result is an ordinary one
        if path.exists():
            old = temporary.with_suffix(".old")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask

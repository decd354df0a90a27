"""What libraries say: their log lines, which a user cannot act on, stay off the terminal; our warnings are notes.

Imports neither Keras nor a backend.
"""

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import TextIO


@contextlib.contextmanager
def without_native_log() -> Iterator[None]:
    """Keeps back what libraries write to stderr while they are imported, past Python; shows it if the import fails."""
    with contextlib.ExitStack() as stack:
        try:
            log = stack.enter_context(tempfile.TemporaryFile())
            terminal = os.dup(2)
        except OSError:  # stderr is closed, or there is no place for the file
            yield
            return
        stack.callback(os.close, terminal)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            log.seek(0)
            os.write(terminal, log.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)


@contextlib.contextmanager
def notes(file: TextIO) -> Iterator[None]:
    """Prints the warnings of keras_vae as lines among the others."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message, category, *rest, **named):
            if category is not UserWarning:
                return show(message, category, *rest, **named)
            return print(f"Note: {message}", file=file, flush=True)

        warnings.showwarning = note
        warnings.filterwarnings("always", category=UserWarning, module=r"keras_vae\.")
        yield

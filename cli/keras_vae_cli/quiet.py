"""Keeps libraries' own log lines, which a user cannot act on, off the terminal. Imports neither Keras nor a backend."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


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

"""The command line: finds the verb, runs it, and turns a user's mistake into one sentence and an exit code.

Exit code 1 means that the command failed, 2 that the command line was wrong, 130 that Ctrl-C stopped it. No mistake
ends in a traceback. An output folder appears whole or not at all. Keras, whose import takes seconds, is imported by the
verb, and so only after the command line was found right.
"""

import errno
import importlib
import sys
from collections.abc import Sequence

from keras_vae_cli import backends, options
from keras_vae_cli.quiet import notes, without_native_log


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line, by default that of this process, and returns its exit code."""
    given = options.parser().parse_args(arguments)
    try:
        backends.prepare(given)
    except ValueError as error:
        print(f"keras-vae: {error}", file=sys.stderr)
        return 2
    try:
        with without_native_log():
            verb = importlib.import_module(f"keras_vae_cli.{given.command}")
        with notes(sys.stderr if getattr(given, "json", False) else sys.stdout):
            verb.run(given)
    except BrokenPipeError:
        return 1  # the program that reads our output has ended
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        sys.stdout.flush()
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        words = "the disk is full: free some space, or choose another output" if full else sentence(error)
        print(f"keras-vae {given.command}: {words}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; nothing half-written was left.", file=sys.stderr)
        return 130
    return 0


def sentence(error: BaseException) -> str:
    """The first paragraph of an error's message on one line."""
    return " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__

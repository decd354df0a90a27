"""The command line: finds the verb, runs it, and turns a user's mistake into one sentence and an exit code.

Exit code 1 means that the command failed, 2 that the command line was wrong, 130 that Ctrl-C stopped it. No mistake
ends in a traceback. An output folder appears whole or not at all.
"""

import argparse
import errno
import sys
from collections.abc import Sequence

import keras

from keras_vae import __version__
from keras_vae_cli import evaluate, export, options, quickstart, sample, serve, train
from keras_vae_cli.runs import sentence

VERBS = {"quickstart": quickstart, "train": train, "evaluate": evaluate, "sample": sample, "export": export}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line, by default that of this process, and returns its exit code."""
    parser, running = _parser(), keras.backend.backend()
    given = parser.parse_args(arguments)
    if given.backend not in (None, running):
        parser.error(f"Keras runs on {running} already; set KERAS_BACKEND={given.backend} before it starts")
    try:
        VERBS[given.command].run(given)
    except BrokenPipeError:
        return 1  # the program that reads our output has ended
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        sys.stdout.flush()
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        words = "the disk is full: free some space, or choose another output" if full else sentence(error)
        print(f"keras-vae {given.command}: {words}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; nothing half-written was left.", file=sys.stderr)
        return 130
    return 0


def _parser():
    # Without abbreviations: `__main__` looks for --backend before this parser does, and knows no short forms.
    parser = argparse.ArgumentParser(
        prog="keras-vae",
        description="Train, evaluate, sample and export variational autoencoders. All losses are in nats per example.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"keras-vae {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, verb in VERBS.items():
        command = commands.add_parser(name, help=verb.run.__doc__, description=verb.run.__doc__, allow_abbrev=False)
        options.add_shared(command, "--backend", "--seed")
        verb.add_options(command)
    # Only for the list of commands: `__main__` has handed it to keras_vae_serving, which needs no Keras.
    commands.add_parser("serve", help=serve.HELP)
    return parser

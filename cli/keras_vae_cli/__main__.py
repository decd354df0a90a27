"""The `keras-vae` command, also `python -m keras_vae_cli`."""

import sys

from keras_vae_cli import commands, serve


def main() -> int:
    """Runs the command line of this process and returns its exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["serve"]:  # needs no Keras and no backend
        return serve.run(arguments[1:])
    return commands.main(arguments)


if __name__ == "__main__":
    sys.exit(main())

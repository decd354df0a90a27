"""How many steps `fit` runs in one program where `compile` was not told: many, where that pays and nobody notices.

Gain: what `steps_per_execution=20` gains (many_steps.py), with nothing said.

The numbers are those of single steps, the progress bar moves twenty steps at a time, and callbacks hear of every
twentieth batch; so a fit with a callback that listens to batches runs them one by one. So does a short fit, for which
the larger program would take longer to compile than it saves, and one with convolutions, which gain nothing on a CPU;
on a GPU, where they may gain, nothing has been measured.
"""

import math

import keras

from keras_vae import data

MOST = 20  # steps of one program
# Steps of a fit for which the program is made. On TensorFlow it takes 1.7 s longer to compile than that of one step, as
# may the one for validation, and it saves 4.8 ms a step (784-500-z20, batch 100, two cores).
LEAST_IN_ALL = 1000

_HOOKS = [f"on_{verb}batch_{when}" for verb in ("", "train_", "test_", "predict_") for when in ("begin", "end")]


def number_of_steps(arguments):
    """Steps of one program for a fit with these arguments, by name; 1 where single steps are better."""
    try:
        in_all = _steps_of_an_epoch(arguments) * (arguments.get("epochs", 1) - arguments.get("initial_epoch", 0))
    except TypeError:  # unknown, or no numbers: Keras says what is wrong
        return 1
    if in_all < LEAST_IN_ALL:
        return 1
    return common_steps(arguments.get("callbacks"), arguments.get("steps_per_epoch"), arguments.get("validation_steps"))


def common_steps(callbacks, *counts):
    """The most steps of one program that suit."""
    return next(n for n in range(MOST, 0, -1) if suits(n, callbacks, *counts))


def suits(steps, callbacks, *counts):
    """Whether nobody notices: no callback listens, and Keras need not round up a count that is given."""
    if steps == 1:
        return True
    if any(count is not None and count % steps for count in counts):
        return False
    return not any(map(listens, keras.tree.flatten(getattr(callbacks, "callbacks", callbacks) or [])))


def listens(callback):
    """Whether a callback asks to hear of each batch.

    Not one of Keras's that has the method but then does nothing, nor one that says `needs_each_batch = False`.
    """
    if isinstance(callback, keras.callbacks.ProgbarLogger) or not getattr(callback, "needs_each_batch", True):
        return False
    if getattr(callback, "save_freq", None) == "epoch":  # ModelCheckpoint, BackupAndRestore
        return False
    base = keras.callbacks.Callback
    return any(name in vars(callback) or getattr(type(callback), name) is not getattr(base, name) for name in _HOOKS)


def _steps_of_an_epoch(arguments):
    """Raises a TypeError if it is unknown."""
    x, steps = arguments.get("x"), arguments.get("steps_per_epoch")
    if steps is not None or x is None:
        return steps
    if isinstance(x, dict) or hasattr(x, "shape"):
        share = 1.0 - (arguments.get("validation_split") or 0.0)
        return math.ceil(data.count(x) * share / (arguments.get("batch_size") or 32))
    return len(x)  # batches; a generator, and tf.data of unknown length, have none

"""Where the update of Keras's Adam can be put in the place of Keras's own."""

import types

import keras


def replace_adam_s(optimizer, name, update):
    """Makes `update` the method `name` of an optimizer that is Keras's Adam, plain, and leaves any other as it is.

    What is around the update (clipping, weight decay, averages, loss scaling) remains Keras's.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of Keras's LossScaleOptimizer
    # On PyTorch Keras makes an instance of a class that it hides.
    if type(optimizer) is type(keras.optimizers.Adam()) and not optimizer.amsgrad:
        vars(optimizer)[name] = types.MethodType(update, optimizer)

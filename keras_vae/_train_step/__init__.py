"""The seam: the only place of the library where a backend is named.

Keras hides the backend everywhere but in three acts: differentiating a loss, updating weights from inside a compiled
step, and compiling a function that reads weights. Each backend's file says how it does those three, and how it does
them fast; what is computed is `VAE.step_loss`, written once. Each file defines

    class BackendTrainer   train_step and test_step, mixed into `VAE`, and what `fit` runs in their place
    def compiled           a function of arrays that reads the model's weights, made fast, without gradients
    def compiled_gradient  the same with the gradient with respect to its first array
    def normal             noise
    def tune               what makes the update of an optimizer fast, with the same numbers

`pure.py`, `fused.py` and `adam.py` are the parts of it that know no backend: a step as a function of values, many steps
in one call, another update of Adam. The files `torch_...` are what PyTorch needs to be as fast as the others are by
themselves.

A backend is imported only if Keras runs on it: the others need not be installed.
"""

import keras

match keras.backend.backend():
    case "tensorflow":
        from .tensorflow import BackendTrainer as BackendTrainer
        from .tensorflow import compiled as compiled
        from .tensorflow import compiled_gradient as compiled_gradient
        from .tensorflow import normal as normal
        from .tensorflow import tune as tune
    case "jax":
        from .jax import BackendTrainer as BackendTrainer
        from .jax import compiled as compiled
        from .jax import compiled_gradient as compiled_gradient
        from .jax import normal as normal
        from .jax import tune as tune
    case "torch":
        from .torch import BackendTrainer as BackendTrainer
        from .torch import compiled as compiled
        from .torch import compiled_gradient as compiled_gradient
        from .torch import normal as normal
        from .torch import tune as tune
    case backend:
        raise ImportError(
            f'keras_vae trains on the Keras backends "tensorflow", "jax" and "torch"; this is "{backend}". '
            "Set the environment variable KERAS_BACKEND to one of the three before importing keras."
        )

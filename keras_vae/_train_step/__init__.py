"""The seam: the only place of the library where a backend is named.

Keras hides the backend everywhere but in three acts: differentiating a loss, updating weights from inside a compiled
step, and compiling a function that reads weights. Each backend's file says how it does those three and nothing more;
what is computed is `VAE.step_loss`, written once. Each file defines

    class BackendTrainer   train_step and test_step, mixed into `VAE`
    def compiled           a function of arrays that reads the model's weights, made fast, without gradients

A backend is imported only if Keras runs on it: the others need not be installed.
"""

import keras

match keras.backend.backend():
    case "tensorflow":
        from .tensorflow import BackendTrainer as BackendTrainer
        from .tensorflow import compiled as compiled
    case "jax":
        from .jax import BackendTrainer as BackendTrainer
        from .jax import compiled as compiled
    case "torch":
        from .torch import BackendTrainer as BackendTrainer
        from .torch import compiled as compiled
    case backend:
        raise ImportError(
            f'keras_vae trains on the Keras backends "tensorflow", "jax" and "torch"; this is "{backend}". '
            "Set the environment variable KERAS_BACKEND to one of the three before importing keras."
        )

"""The seam: the only place of the library where a backend is named.

Keras hides the backend everywhere but in three acts: differentiating a loss, updating weights from inside a compiled
step, and compiling a function that reads weights. Each backend's file says how it does those three; what is computed is
`Trainer.step_loss`, written once. Each defines

    class Steps        train_step and test_step, mixed into `VAE`
    compile            a function of arrays that reads the model's weights, compiled, without gradients
    value_and_grad     the same with the gradient with respect to its first array
    random_normal      noise

`fast/` holds what is there for speed alone: `FusedAdam`, which is what "adam" means, and `ManySteps`, which `fit` runs
in the place of single steps. A backend is imported only if Keras runs on it: the others need not be installed.
"""

import keras

from keras_vae._backend.fast import automatic as automatic
from keras_vae._backend.fast.adam import FusedAdam as FusedAdam
from keras_vae._backend.fast.device_data import DeviceData as DeviceData
from keras_vae._backend.fast.device_data import is_index_batch as is_index_batch
from keras_vae._backend.fast.many_steps import suppress_out_of_data_warning as suppress_out_of_data_warning

match keras.backend.backend():
    case "tensorflow":
        from .fast.tensorflow import ManySteps as ManySteps
        from .tensorflow import Steps as Steps
        from .tensorflow import compile as compile
        from .tensorflow import random_normal as random_normal
        from .tensorflow import value_and_grad as value_and_grad
    case "jax":
        from .fast.jax import ManySteps as ManySteps
        from .jax import Steps as Steps
        from .jax import compile as compile
        from .jax import random_normal as random_normal
        from .jax import value_and_grad as value_and_grad
    case "torch":
        from .fast.torch import ManySteps as ManySteps
        from .torch import Steps as Steps
        from .torch import compile as compile
        from .torch import random_normal as random_normal
        from .torch import value_and_grad as value_and_grad
    case backend:
        raise ImportError(
            f'keras_vae trains on the Keras backends "tensorflow", "jax" and "torch"; this is "{backend}". '
            "Set the environment variable KERAS_BACKEND to one of the three before importing keras."
        )

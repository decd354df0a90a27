"""`keras.Model` and `keras.Layer` as a type checker should see them.

Keras chooses some base classes by backend at run time, so a type checker takes the bases of every Keras model for
unknown, and then accepts any attribute and any argument: `vae.encodee(x)` and `VAE(likelyhood=...)` pass. The classes
below declare what a model inherits on every backend. They exist for type checkers only; at run time these names are
Keras's own classes. The price: a type checker no longer knows that a `VAE` is a `keras.Model`, so code that annotates
an argument as `keras.Model` has to say `keras.Model | keras_vae.VAE`. `tests/keras_vae/test_typing.py` compares every
signature with Keras's.
"""

import inspect
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypedDict

if TYPE_CHECKING:
    import numpy as np

    class Layer:
        built: bool
        name: str
        autocast: bool
        activity_regularizer: Any
        trainable: bool
        input_spec: Any
        dtype_policy: Any
        supports_masking: bool

        def __init__(
            self,
            *,
            activity_regularizer: Any = None,
            trainable: bool = True,
            dtype: Any = None,
            autocast: bool = True,
            name: str | None = None,
        ) -> None: ...
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
        @property
        def path(self) -> str | None: ...
        @property
        def input(self) -> Any: ...
        @property
        def output(self) -> Any: ...
        @property
        def variables(self) -> list[Any]: ...
        @property
        def trainable_variables(self) -> list[Any]: ...
        @property
        def non_trainable_variables(self) -> list[Any]: ...
        @property
        def weights(self) -> list[Any]: ...
        @property
        def trainable_weights(self) -> list[Any]: ...
        @property
        def non_trainable_weights(self) -> list[Any]: ...
        @property
        def metrics(self) -> list[Any]: ...
        @property
        def metrics_variables(self) -> list[Any]: ...
        @property
        def losses(self) -> list[Any]: ...
        @property
        def dtype(self) -> str: ...
        @property
        def compute_dtype(self) -> str: ...
        @property
        def variable_dtype(self) -> str: ...
        @property
        def input_dtype(self) -> str: ...
        @property
        def quantization_mode(self) -> str | None: ...
        def build(self, input_shape: Any) -> None: ...
        def get_build_config(self) -> dict[str, Any] | None: ...
        def build_from_config(self, config: dict[str, Any]) -> None: ...
        def add_variable(
            self,
            shape: Sequence[int],
            initializer: Any,
            dtype: Any = None,
            trainable: bool = True,
            autocast: bool = True,
            regularizer: Any = None,
            constraint: Any = None,
            name: str | None = None,
        ) -> Any: ...
        def add_weight(
            self,
            *args: Any,
            shape: Sequence[int] | None = None,
            initializer: Any = None,
            dtype: Any = None,
            trainable: bool = True,
            autocast: bool = True,
            regularizer: Any = None,
            constraint: Any = None,
            aggregation: str | None = "none",
            overwrite_with_gradient: bool = False,
            name: str | None = None,
        ) -> Any: ...
        def get_weights(self) -> list[np.ndarray]: ...
        def set_weights(self, weights: Sequence[Any]) -> None: ...
        def compute_mask(self, inputs: Any, previous_mask: Any) -> Any: ...
        def symbolic_call(self, *args: Any, **kwargs: Any) -> Any: ...
        def call(self, *args: Any, **kwargs: Any) -> Any: ...
        def stateless_call(
            self,
            trainable_variables: Any,
            non_trainable_variables: Any,
            *args: Any,
            return_losses: bool = False,
            **kwargs: Any,
        ) -> Any: ...
        def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any: ...
        def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any: ...
        def add_loss(self, loss: Any) -> None: ...
        def add_metric(self, *args: Any, **kwargs: Any) -> Any: ...
        def quantized_build(self, input_shape: Any, mode: Any) -> None: ...
        def quantized_call(self, *args: Any, **kwargs: Any) -> Any: ...
        def rematerialized_call(self, layer_call: Any, *args: Any, **kwargs: Any) -> Any: ...
        def save_own_variables(self, store: Any) -> None: ...
        def load_own_variables(self, store: Any) -> None: ...
        def count_params(self) -> int: ...
        def get_config(self) -> dict[str, Any]: ...
        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Self: ...

    class Model(Layer):
        optimizer: Any
        stop_training: bool
        steps_per_execution: int
        jit_compile: bool
        run_eagerly: bool
        train_function: Any
        test_function: Any
        predict_function: Any

        @property
        def layers(self) -> list[Any]: ...
        @property
        def metrics_names(self) -> list[str]: ...
        def compile(
            self,
            optimizer: Any = "rmsprop",
            loss: Any = None,
            loss_weights: Any = None,
            metrics: Any = None,
            weighted_metrics: Any = None,
            run_eagerly: bool = False,
            steps_per_execution: int = 1,
            jit_compile: bool | str = "auto",
            auto_scale_loss: bool = True,
        ) -> None: ...
        def fit(
            self,
            x: Any = None,
            y: Any = None,
            batch_size: int | None = None,
            epochs: int = 1,
            verbose: int | str = "auto",
            callbacks: Any = None,
            validation_split: float = 0.0,
            validation_data: Any = None,
            shuffle: bool = True,
            class_weight: dict[int, float] | None = None,
            sample_weight: Any = None,
            initial_epoch: int = 0,
            steps_per_epoch: int | None = None,
            validation_steps: int | None = None,
            validation_batch_size: int | None = None,
            validation_freq: int | Sequence[int] = 1,
        ) -> Any: ...
        def evaluate(
            self,
            x: Any = None,
            y: Any = None,
            batch_size: int | None = None,
            verbose: int | str = "auto",
            sample_weight: Any = None,
            steps: int | None = None,
            callbacks: Any = None,
            return_dict: bool = False,
        ) -> Any: ...
        def predict(
            self,
            x: Any,
            batch_size: int | None = None,
            verbose: int | str = "auto",
            steps: int | None = None,
            callbacks: Any = None,
        ) -> Any: ...
        def train_on_batch(
            self,
            x: Any,
            y: Any = None,
            sample_weight: Any = None,
            class_weight: dict[int, float] | None = None,
            return_dict: bool = False,
        ) -> Any: ...
        def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any: ...
        def predict_on_batch(self, x: Any) -> Any: ...
        def train_step(self, *args: Any) -> Any: ...
        def test_step(self, *args: Any) -> Any: ...
        def predict_step(self, *args: Any) -> Any: ...
        def make_train_function(self, force: bool = False) -> Any: ...
        def make_test_function(self, force: bool = False) -> Any: ...
        def make_predict_function(self, force: bool = False) -> Any: ...
        def reset_metrics(self) -> None: ...
        def compute_loss(
            self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
        ) -> Any: ...
        def stateless_compute_loss(
            self,
            trainable_variables: Any,
            non_trainable_variables: Any,
            metrics_variables: Any,
            x: Any = None,
            y: Any = None,
            y_pred: Any = None,
            sample_weight: Any = None,
            training: bool = True,
        ) -> Any: ...
        def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]: ...
        def get_metrics_result(self) -> dict[str, Any]: ...
        def get_compile_config(self) -> dict[str, Any] | None: ...
        def compile_from_config(self, config: dict[str, Any]) -> None: ...
        def get_layer(self, name: str | None = None, index: int | None = None) -> Any: ...
        def summary(
            self,
            line_length: int | None = None,
            positions: Sequence[float] | None = None,
            print_fn: Callable[..., Any] | None = None,
            expand_nested: bool = False,
            show_trainable: bool = False,
            layer_range: Sequence[str] | None = None,
        ) -> None: ...
        def save(
            self,
            filepath: str | os.PathLike[str],
            overwrite: bool = True,
            zipped: bool | None = None,
            **kwargs: Any,
        ) -> None: ...
        def save_weights(
            self,
            filepath: str | os.PathLike[str],
            overwrite: bool = True,
            max_shard_size: float | None = None,
        ) -> None: ...
        def load_weights(
            self, filepath: str | os.PathLike[str], skip_mismatch: bool = False, **kwargs: Any
        ) -> None: ...
        def quantize(self, mode: Any = None, config: Any = None, filters: Any = None, **kwargs: Any) -> None: ...
        def get_quantization_layer_structure(self, mode: Any = None) -> Any: ...
        def to_json(self, **kwargs: Any) -> str: ...
        def export(
            self,
            filepath: str | os.PathLike[str],
            format: str = "tf_saved_model",
            verbose: bool | None = None,
            input_signature: Any = None,
            **kwargs: Any,
        ) -> None: ...
        def get_state_tree(self, value_format: str = "backend_tensor") -> dict[str, Any]: ...
        def set_state_tree(self, state_tree: dict[str, Any]) -> None: ...
        @classmethod
        def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self: ...

else:
    from keras import Layer as Layer
    from keras import Model as Model


class ModelOptions(TypedDict, total=False):
    """Keyword arguments of `keras.Model` that a `VAE` takes besides its own."""

    name: str | None
    trainable: bool
    dtype: Any
    autocast: bool


class CompileOptions(TypedDict, total=False):
    """Keyword arguments of `keras.Model.compile` that `VAE.compile` passes on."""

    loss_weights: Any
    run_eagerly: bool
    jit_compile: bool | str
    auto_scale_loss: bool


P = ParamSpec("P")


def with_arguments_of(method: Callable[P, Any]) -> Callable[[Callable[..., Any]], Callable[P, Any]]:
    """Decorator for a method that passes `*args, **kwargs` on: editors and `help` show the arguments of `method`."""

    def give(function):
        function.__signature__ = inspect.signature(method)
        return function

    return give

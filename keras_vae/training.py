"""Keras's verbs for a VAE: `compile`, `fit`, `evaluate`, `predict`, and the step that they run.

`step_loss` is the step, for all backends; `_backend/` differentiates and compiles it. The rest is what Keras's verbs
need to be told: that x is its own target, which data cannot be right, and when a compiled step is out of date.
"""

import contextlib
import inspect
import itertools
import warnings
from typing import TYPE_CHECKING, Any, Unpack

import keras
import numpy as np
from keras import ops

from keras_vae import _backend, _row_batches, likelihoods, validation
from keras_vae._backend import automatic, is_index_batch, suppress_out_of_data_warning
from keras_vae._containers import as_arrays, dense, is_stream
from keras_vae._typing import CompileOptions, Model, with_arguments_of
from keras_vae.data import Batch, as_target, count, several_inputs, split_condition, with_condition

if TYPE_CHECKING:  # one class, and not one of three: see _typing.py
    from keras_vae._backend.fast.many_steps import ManySteps

    class Steps(Model): ...

else:
    from keras_vae._backend import ManySteps, Steps

# `evaluate` draws from the model's seed at this position of the counter, which training does not reach.
_EVALUATION_COUNTER = 2**30


class Trainer(ManySteps, Steps):
    """Mixed into `VAE`, which has the parts and the functions of the bound."""

    def step_loss(self, batch: Batch, noise: Any, training: bool) -> Any:
        """What one step minimises, for given noise; updates the trackers, and in training the step counter.

        To minimise something else write an `Objective`: what a subclass changes here is minimised but not logged.

        Args:
            batch: Tensors of one batch.
            noise: `(num_samples, batch, *noise_shape)` draws from N(0, I), as `noise` gives them.
            training: Whether this is a training step.

        Returns:
            A float32 scalar: the mean over the batch of the objective's loss, plus Keras's regularisation losses.
        """
        self._version.traces += 1
        target, weight = ops.cast(batch.target, "float32"), batch.weight
        validation.check_data(target, self.data_shape, "x" if batch.target is batch.x else "y")
        posterior = self._posterior(batch.x, training, batch.given)
        terms = self._terms(self.objective, batch, noise, training, posterior)
        penalties = sum((ops.cast(loss, "float32") for loss in self.losses), start=0.0)
        self._loss_tracker.update_state(ops.stop_gradient(terms.loss + penalties), weight)
        self._trackers.update(terms, weight)
        if self._has_compiled_metrics:
            # In inference mode, as `predict` runs it; batch normalisation must not see a second batch.
            reconstruction = ops.stop_gradient(
                self._decode_mean(ops.stop_gradient(posterior.location), batch.given, x=target)
            )
            if self.allow_missing:  # a metric knows no missing values: it sees them reconstructed exactly
                target = ops.where(ops.isnan(target), reconstruction, target)
            by_name = self._by_name
            self.compute_metrics(by_name(batch.x), by_name(target), by_name(reconstruction), weight)
        if training:
            self.training_step.assign_add(1)
        total = ops.sum(terms.loss if weight is None else terms.loss * weight)
        # One of several replicas may be left without an example of the last batch.
        return total / ops.cast(ops.maximum(batch.size, 1), "float32") + penalties

    def compile(  # pyright: ignore[reportIncompatibleMethodOverride] # metrics by name only
        self,
        optimizer: Any = "adam",
        loss: None = None,
        *,
        metrics: Any = None,
        weighted_metrics: Any = None,
        data_on_device: str | bool = "auto",
        steps_per_execution: int | str = "auto",
        **kwargs: Unpack[CompileOptions],
    ) -> None:
        """Configures training. As `keras.Model.compile`, but there is no `loss` to choose.

        Many steps are one compiled program, with the numbers of single steps, where that pays: see
        `steps_per_execution`. On TensorFlow on a CPU that program is XLA's, unless `jit_compile=False`.

        Args:
            optimizer: Name or instance. "adam" is `keras_vae.FusedAdam()`.
            loss: Refused: the loss follows from the likelihood and the objective.
            metrics, weighted_metrics: Keras metrics, which compare the target with the reconstruction.
            data_on_device: Whether `fit` copies arrays to the device once and gathers batches there, which needs
                `steps_per_execution` above 1, and no condition beside x. "auto" is up to 1 GiB; True is any size; False
                is never. Changes made to the arrays while `fit` runs are then not seen.
            steps_per_execution: Number of steps in one program. Callbacks hear of every so many batches, and Keras
                rounds `steps_per_epoch` up to a multiple. "auto" is 20 where that pays and nobody notices, in a `fit`
                of 1,000 steps or more, and else 1: convolutions gain nothing, and a callback may listen to batches (or
                say `needs_each_batch = False`).
            **kwargs: `run_eagerly`, `jit_compile`, `auto_scale_loss`.
        """
        if data_on_device not in ("auto", True, False):
            raise ValueError(f'data_on_device must be "auto", True or False; got {data_on_device!r}.')
        if isinstance(steps_per_execution, str) and steps_per_execution != "auto":
            raise ValueError(f'steps_per_execution must be a whole number or "auto"; got {steps_per_execution!r}.')
        if loss is not None or kwargs.pop("loss_weights", None) is not None:
            raise ValueError(
                f"A VAE takes no loss in compile() (got {loss!r}): the loss is -ELBO. Choose its reconstruction term "
                'with VAE(..., likelihood="bce" or "mse"), and the weight of its KL term with objective=ELBO(beta=...).'
            )
        names = self.likelihood.part_names
        for given in (metrics, weighted_metrics):
            if names and given is not None and not isinstance(given, dict):
                raise ValueError(f"Metrics of named parts are a dict by their names, {{{names[0]!r}: [...]}}.")
        told = {"steps_per_execution": steps_per_execution, "jit_compile": kwargs.get("jit_compile", "auto")}
        steps = 1 if isinstance(steps_per_execution, str) else steps_per_execution
        if told["jit_compile"] == "auto" and not kwargs.get("run_eagerly"):
            kwargs["jit_compile"] = self._auto_jit(steps)
        if isinstance(optimizer, str) and optimizer.lower() == "adam":
            optimizer = _backend.FusedAdam()
        self._refresh()
        super().compile(
            optimizer=optimizer, metrics=metrics, weighted_metrics=weighted_metrics, steps_per_execution=steps, **kwargs
        )
        self._told, self._keras_jit_compile = told, self.jit_compile
        self._chosen = self.steps_per_execution, self.jit_compile
        self.data_on_device = data_on_device
        self._has_compiled_metrics = bool(metrics or weighted_metrics)

    def get_compile_config(self) -> dict[str, Any] | None:
        # "auto" stays "auto": what it means on this backend is not what it means on the next.
        config = super().get_compile_config()
        return config and {**config, "data_on_device": self.data_on_device, **self._told}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(_without_backend(config)))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    @with_arguments_of(Model.fit)
    def fit(self, *args, **kwargs):
        """Trains the model; arguments and return value as `keras.Model.fit`. y, if given, is the target.

        Data are arrays, lists, DataFrames (pandas, polars), sparse matrices (SciPy), or what gives batches: a
        `tf.data.Dataset`, `DataLoader`, `PyDataset` or generator. Sparse matrices become dense batch by batch. Arrays
        of more than 1 GiB that are memory-mapped (`np.load(path, mmap_mode="r")`) are read batch by batch.
        """
        call = _bind_arguments(super().fit, args, kwargs)
        self._refresh()
        self._check_conditions(call.arguments.get("x"))
        self._before_fit(call.arguments.get("x"))
        if call.arguments.get("validation_data") is not None:
            x, y, weight = call.arguments["validation_data"] = _as_data(call.arguments["validation_data"])
            self._check_conditions(x)
            if _row_batches.are_read_in_rows(x, y, weight):
                size = call.arguments.get("validation_batch_size") or call.arguments.get("batch_size") or 32
                call.arguments["validation_data"] = _row_batches.RowBatches((x, y, weight), size, shuffle=False)
                call.arguments["validation_batch_size"] = None
        _row_batches.replace(call.arguments, shuffle=call.arguments.get("shuffle", True))
        callbacks, is_inner = call.arguments.get("callbacks"), self._device_data.fits > 0
        self._device_data.fits += 1
        try:
            with (
                self._steps(lambda: automatic.number_of_steps(call.arguments), keep=not is_inner),
                suppress_out_of_data_warning(self, call.arguments.get("steps_per_epoch")),
                _minimising(callbacks, self._trackers.names),
            ):
                self._device_data.arrays = None
                self._put_on_device(call.arguments, self.data_on_device)
                self._check_next_batch("train_function")
                return super().fit(*call.args, **call.kwargs)
        finally:
            self._device_data.fits -= 1

    @with_arguments_of(Model.evaluate)
    def evaluate(self, *args, **kwargs):
        """The logs on other data; as `keras.Model.evaluate`.

        The noise is the same at every call: the same weights give the same numbers, epochs are compared on equal
        terms, and validation does not change the noise that training will draw.
        """
        call = _bind_arguments(super().evaluate, args, kwargs)
        self._refresh()
        self._check_conditions(call.arguments.get("x"))
        _row_batches.replace(call.arguments, shuffle=False)
        state = validation.to_numpy(self.seed_generator.state.value)
        self.seed_generator.state.assign(np.asarray([state[0], _EVALUATION_COUNTER], state.dtype))
        try:
            with self._steps_for(call.arguments), suppress_out_of_data_warning(self, call.arguments.get("steps")):
                self._check_next_batch("test_function")
                return super().evaluate(*call.args, **call.kwargs)
        finally:
            self.seed_generator.state.assign(state)

    @with_arguments_of(Model.predict)
    def predict(self, x, *args, **kwargs):
        """The reconstruction through the posterior mean; as `keras.Model.predict`."""
        call = _bind_arguments(super().predict, (x, *args), kwargs)
        self._refresh()
        self._check_conditions(call.arguments["x"])
        _row_batches.replace(call.arguments, shuffle=False)
        with self._steps_for(call.arguments), suppress_out_of_data_warning(self, call.arguments.get("steps")):
            return super().predict(*call.args, **call.kwargs)

    @with_arguments_of(Model.train_on_batch)
    def train_on_batch(self, *args, **kwargs):
        """One training step; as `keras.Model.train_on_batch`."""
        call = _bind_arguments(super().train_on_batch, args, kwargs, are_dense=True)
        self._refresh()
        return super().train_on_batch(*call.args, **call.kwargs)

    @with_arguments_of(Model.test_on_batch)
    def test_on_batch(self, *args, **kwargs):
        """The logs of one batch; as `keras.Model.test_on_batch`."""
        call = _bind_arguments(super().test_on_batch, args, kwargs, are_dense=True)
        return super().test_on_batch(*call.args, **call.kwargs)

    @with_arguments_of(Model.predict_on_batch)
    def predict_on_batch(self, *args, **kwargs):
        """The reconstruction of one batch; as `keras.Model.predict_on_batch`."""
        call = _bind_arguments(super().predict_on_batch, args, kwargs, are_dense=True)
        return super().predict_on_batch(*call.args, **call.kwargs)

    @with_arguments_of(Model.export)
    def export(self, *args, **kwargs):
        """The reconstruction, as `keras.Model.export`.

        `keras_vae_export.export` writes what is deployed: encoder, decoder and bound, run and compared.
        """
        call = inspect.signature(super().export).bind(*args, **kwargs)
        self._require_built()
        if call.arguments.get("input_signature") is None:  # Keras knows it of models that have been called only
            call.arguments["input_signature"] = [self._input_signature()]
        try:
            return super().export(*call.args, **call.kwargs)
        except Exception as error:
            error.add_note("keras_vae_export.export(vae, folder) writes ONNX from every backend, and compares it.")
            raise

    def _input_signature(self):
        if self._fields is not None:
            shapes = self._fields.parts | self._fields.given
            floats = keras.config.floatx()
            return {name: keras.InputSpec(floats, (None, *shape), name=name) for name, shape in shapes.items()}
        condition = None
        if self.condition_shape is not None:
            condition = keras.InputSpec(self.condition_dtype, (None, *self.condition_shape), name="condition")
        return with_condition(keras.InputSpec(self.x_dtype, (None, *self.data_shape), name="x"), condition)

    def make_train_function(self, force: bool = False) -> None:
        self._set_function("train_function", force)

    def make_test_function(self, force: bool = False) -> None:
        self._set_function("test_function", force)

    def make_predict_function(self, force: bool = False) -> None:
        self._set_function("predict_function", force)

    def _set_function(self, name, force=False):
        if force or not isinstance(getattr(self, name), StepFunction):
            setattr(self, name, StepFunction(self, name))

    def _check_next_batch(self, name):
        """Has the next batch checked that a Keras function is called with."""
        self._set_function(name)
        getattr(self, name).is_checked = False

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        # Keras builds the compiled metrics with the y of the data, which is None where x is its own target.
        x = x if self.likelihood.part_names else split_condition(x)[0]
        return super().compute_metrics(x, x if y is None else y, y_pred, sample_weight)

    @property
    def metrics(self) -> list[Any]:
        loss, rest = super().metrics[:1], super().metrics[1:]
        return [*loss, *self._trackers.metrics, *rest]

    def _check_batch(self, data, is_training):
        """Raises a ValueError if a batch, as Keras hands it to a step, is not what this model can be trained on."""
        x, y, _ = keras.utils.unpack_x_y_sample_weight(self._device_data.gather(data))
        if isinstance(x, list | tuple):
            raise ValueError(several_inputs(f"{len(x)} inputs"))
        if not all(validation.is_array(part) for part in keras.tree.flatten(x)):
            return
        is_target = y is not None and y is not x and all(map(validation.is_array, keras.tree.flatten(y)))
        x, condition = self._split(keras.tree.map_structure(validation.to_numpy, x))
        y = keras.tree.map_structure(validation.to_numpy, y) if is_target else None
        if self._fields is not None and y is not None:
            y = self._fields.pack_parts(y, "y")
        self._checked_condition(condition, len(x))
        if y is None or y is x or np.array_equal(x, y, equal_nan=self.allow_missing):
            name, target = "x", x
        else:
            name, target = "y", y
            likelihoods.check_finite(x, "x", self.allow_missing)
        validation.check_data(target, self.data_shape, name)
        self._validate(target, name)
        if self._trackers.has_warned:
            return
        words = self.likelihood.caveat(target) or self.likelihood.advice(target, name)
        words = words or (self._far_from_1(x) if is_training else None)  # not at every validation inside fit
        if words:
            warnings.warn(words, stacklevel=2)
            self._trackers.has_warned = True

    def _far_from_1(self, x):
        """A note where the likelihood standardises x, and the encoder's first layer with weights is given x as is."""
        layer = next((layer for layer in getattr(self.encoder, "layers", ()) if layer.trainable_weights), None)
        is_plain = self._fields is None and len(getattr(self.encoder, "inputs", None) or ()) == 1
        if layer is None or not is_plain or not isinstance(self.likelihood, likelihoods.Standardized):
            return None
        if isinstance(layer, keras.layers.BatchNormalization) or hasattr(layer, "layers"):  # begins on any numbers
            return None
        try:
            before = keras.Model(self.encoder.inputs, layer.input, name="before")  # a name of its own: no counter moves
        except (AttributeError, ValueError):  # a layer that is called twice, or in a network of which only code knows
            return None
        if not isinstance(layer.input, keras.KerasTensor):  # of several
            return None
        filled = self.likelihood.fill_missing(ops.convert_to_tensor(x[:256], "float32"))
        usual = np.quantile(np.abs(validation.to_numpy(before(filled))), 0.9)
        if not usual > likelihoods.MAX_USUAL:
            return None
        return (
            f"The likelihood is Standardized, but the encoder's first layer is given numbers such as {usual:g}, far "
            "from the 1 at which networks start. Begin the encoder with h = likelihood.for_encoder(x), which "
            "standardises them, or with keras.layers.Normalization; networks.mlp and conv do so if they get likelihood."
        )

    def _check_optimizer(self):
        """Raises a ValueError if the optimizer has no state for what is trainable now; gives it one if it has none."""
        if not self.optimizer.built:  # on TensorFlow, where a step that makes variables is traced twice
            self.optimizer.build(self.trainable_variables)
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        known = {id(variable) for variable in getattr(optimizer, "_trainable_variables", ())}
        now = {id(variable) for variable in self.trainable_variables}
        if optimizer.built and not (now <= known if self._updates_subsets else now == known):
            raise ValueError(
                "Layers were replaced, frozen or thawed since the optimizer was built, and it has no state for what is "
                "trainable now: call compile() again before fit()."
            )

    def _check_conditions(self, x):
        """Checks all labels of arrays: an invalid label may be outside the first batch."""
        is_data = isinstance(x, dict) and not is_index_batch(x) and all(map(validation.is_array, x.values()))
        if self.built and is_data:
            parts, condition = self._fields.split(x) if self._fields is not None else split_condition(x)
            if condition is not None:
                self._checked_condition(condition, count(parts))

    def _build_like(self, x, y, weight):
        """Builds the model and its metrics from arrays, as Keras would; False if Keras has to do it."""
        self._build_for(x)
        if not all(layer.built for layer in self._flatten_layers()):
            return False
        if self._has_compiled_metrics:
            one, target, weight_of_one = (
                None if array is None else ops.convert_to_tensor(array[:1]) for array in (x, y, weight)
            )
            self.compute_metrics(one, target, self(one), weight_of_one)
            self.reset_metrics()
        return True


class StepFunction:
    """What Keras calls for its train, test and predict functions: checks a first batch, and is never out of date.

    Keras calls it with its state, on JAX, and the batches: a list on PyTorch, an iterator elsewhere. The batch that is
    looked at is handed on with the others. The state belongs to the variables that the model had when Keras took it,
    so it goes back to them before the step is made again for a model that has others.
    """

    def __init__(self, model: Any, name: str):
        self.model, self.name = model, name
        self.step: Any = None  # what is run
        self.is_checked: bool = name == "predict_function"
        self._version: Any = None
        self._has_run = False

    def __call__(self, *arguments: Any) -> Any:
        *state, batches = arguments
        model = self.model
        try:
            if not self.is_checked:
                batches = self._check(batches)
            if model._version.current() != self._version:
                state = self._remake(state)
            traces = model._version.traces
            result = self.step(*state, batches)
        except StopIteration:  # the data have ended
            raise
        except Exception:
            if state:
                model._attach_state(*state)
            if not self._has_run:
                self._version = None  # a function that failed in its first run may hold half of what it was making
            raise
        if model._version.traces != traces:
            model._version.accept()
        self._has_run = self.is_checked = True
        return result

    def _check(self, batches):
        is_training = self.name == "train_function"
        if isinstance(batches, list):
            self.model._check_batch(batches[0], is_training)
            return batches
        batch = next(batches)
        self.model._check_batch(batch, is_training)
        return itertools.chain([batch], batches)

    def _remake(self, state):
        """Makes the step for the model as it is now; returns the state of the variables that it has now."""
        model = self.model
        if state:
            model._attach_state(*state)
        version = model._refresh()
        if self.name == "train_function":
            model._check_optimizer()
        if model._device_data.arrays is not None and not model._accepts_indices():
            raise ValueError(
                "The data of this fit are on the device, where only compiled steps find them: compile with "
                "data_on_device=False before run_eagerly or jit_compile changes inside fit."
            )
        if state:
            state = [model._detach_state()]
        self.step = model._make_step(self.name.replace("function", "step"))
        setattr(model, self.name, self)  # Keras has put its own there
        self._version, self._has_run = version, False
        return state


class Trackers:
    """The means that a VAE logs beside Keras's own, by what its objective logs now. Not a Keras object."""

    def __init__(self, model: Any):
        self._model = model
        self._means = {}
        self.has_warned = False  # of data for which the likelihood is none

    @property
    def names(self) -> tuple[str, ...]:
        parts = (f"reconstruction_{name}" for name in self._model.likelihood.part_names)
        return ("reconstruction", *parts, "kl", "negative_elbo", *self._model.objective.log_names)

    @property
    def metrics(self) -> list[Any]:
        for name in self.names:
            if name not in self._means:
                self._means[name] = keras.metrics.Mean(name=name)
        return [self._means[name] for name in self.names]

    def update(self, terms: Any, weight: Any) -> None:
        values = {"reconstruction": terms.reconstruction, "kl": terms.kl, "negative_elbo": terms.negative_elbo}
        # One value per example, so that a scalar is averaged like the others.
        values |= {name: value + ops.zeros_like(terms.kl) for name, value in terms.logs.items()}
        for name, value in values.items():
            self._means[name].update_state(ops.stop_gradient(value), weight)


def _bind_arguments(method, args, kwargs, are_dense=False):
    """The bound arguments of a Keras method that takes data, as a VAE means them."""
    call = inspect.signature(method).bind(*args, **kwargs)
    if call.arguments.get("class_weight") is not None:
        raise ValueError(
            "A VAE has no classes, so class_weight has no meaning. To weight examples pass sample_weight, for instance "
            "sample_weight=np.array([weights[label] for label in labels])."
        )
    data = [call.arguments.get(name) for name in ("x", "y", "sample_weight")]
    given = zip(("x", "y", "sample_weight"), _as_data(data), strict=True)
    call.arguments.update({name: value for name, value in given if value is not None})
    if are_dense:
        call.arguments["x"] = keras.tree.map_structure(dense, call.arguments["x"])
    return call


def _as_data(data):
    """x, y and sample_weight, arrays or a stream of batches, from data as a user holds them."""
    data = data if is_stream(data) else tuple(data) if isinstance(data, list) else data
    x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
    if is_index_batch(x):  # Keras's, within `fit`
        return x, y, weight
    if isinstance(weight, dict):
        raise ValueError("sample_weight must be one array, of a weight for each example; got a dict.")
    x, y, weight = as_arrays(x), as_arrays(y, "y"), as_arrays(weight, "sample_weight")
    is_named = isinstance(x, dict) and as_target(x) is x
    lengths = {name: count(part) for name, part in x.items()} if is_named else {}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"x has unequal numbers of examples: {lengths}.")
    if inspect.isgenerator(x):  # whose batches must be tuples for Keras
        x = (batch if isinstance(batch, tuple) else (batch,) for batch in x)
    if x is not None and not is_stream(x) and count(x) == 0:
        raise ValueError(f"x holds no example: its shape is {tuple(as_target(x).shape)}.")
    # Without a y Keras would drop the weights, silently.
    return x, as_target(x) if y is None and weight is not None else y, weight


def _without_backend(config):
    """A config for any backend: Keras names the class that an optimizer has on the backend of the writer."""
    if not isinstance(config, dict):
        return config
    config = {key: _without_backend(value) for key, value in config.items()}
    if str(config.get("module")).startswith("keras.src.backend."):
        config |= {"module": "keras.optimizers", "registered_name": None}
    return config


@contextlib.contextmanager
def _minimising(callbacks, names):
    """Sets mode="min" in callbacks of mode "auto" that monitor our logs: Keras knows the direction of its own only."""
    changed = []
    for callback in keras.tree.flatten(getattr(callbacks, "callbacks", callbacks) or []):
        monitor = getattr(callback, "monitor", None)
        is_ours = isinstance(monitor, str) and monitor.removeprefix("val_") in names
        if is_ours and getattr(callback, "mode", None) == "auto":
            callback.mode = "min"
            changed.append(callback)
    try:
        yield
    finally:
        for callback in changed:
            callback.mode = "auto"

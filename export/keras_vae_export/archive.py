"""Sends a model to another process: Keras's own archive, and the classes that Keras cannot import there.

The engines run in fresh processes on a backend of their own, so the model travels as `.keras` files, which any backend
reads. Custom classes and functions are pickled beside them: by value if they come from a notebook, a script or a test,
which cannot be imported elsewhere.

Of a subclass of `VAE` its parts, its class and its other attributes travel, each by itself: its `__init__`, which may
take what no config holds, is not run again.
"""

import collections
import contextlib
import functools
import importlib.machinery
import io
import json
import os
import pathlib
import pickle
import random
import sys
import types
import zipfile
from typing import Any

import cloudpickle
import keras

from keras_vae import VAE, likelihoods
from keras_vae.networks import mlp
from keras_vae_export.errors import ExportError
from keras_vae_export.graphs import Pair

_OURS = ("keras", "keras_vae", "builtins", "numpy")
_SETTINGS = ("floatx", "image_data_format", "epsilon")
_PARTS = ("encoder", "decoder", "likelihood", "objective", "prior", "posterior_family")


def _keeps_random_state(function):
    """A function that makes layers, and leaves Python's random numbers, of which Keras makes seeds, as they were."""

    @functools.wraps(function)
    def wrapped(*arguments):
        state = random.getstate()
        try:
            return function(*arguments)
        finally:
            random.setstate(state)

    return wrapped


@_keeps_random_state
def save(model: VAE | Pair, folder: str | os.PathLike[str]) -> None:
    """Writes a `VAE` or a `Pair` into a folder that `load` reads in any process, on any backend."""
    folder, networks = pathlib.Path(folder), _networks(model)
    _refuse_quantised_layers(networks)
    attributes = _attributes(model) if isinstance(model, VAE) else {}
    kept = [value for value in attributes.values() if isinstance(value, keras.layers.Layer)]
    likelihood = getattr(model, "likelihood", None)
    parts = (likelihood, *(getattr(model, name, None) for name in ("objective", "prior", "posterior_family")))
    parents = [*networks.values(), *parts, *kept]
    with _distinct_function_names(parents):
        if isinstance(model, VAE):
            _save_vae(model, folder)
        else:
            for name, network in networks.items():
                keras.saving.save_model(network, folder / f"{name}.keras")
        described = None if likelihood is None else keras.saving.serialize_keras_object(likelihood)
        (folder / "likelihood.json").write_text(json.dumps(described))
        configs = [_config(path) for path in folder.glob("*.keras")]
        configs += [json.dumps(keras.saving.serialize_keras_object(part)) for part in (likelihood, *kept) if part]
        classes, kind = _custom_objects(parents, "".join(configs)), type(model)
        with _by_value([*classes.values(), kind]):
            (folder / "classes.pickle").write_bytes(_pickled_classes(classes, kind))
            sent, lost = _pickled_attributes(attributes, model)
            (folder / "attributes.pickle").write_bytes(pickle.dumps(sent))
            (folder / "lost.json").write_text(json.dumps(lost))
    settings = {name: getattr(keras.config, name)() for name in _SETTINGS}
    (folder / "settings.json").write_text(json.dumps(settings))


@_keeps_random_state
def load(folder: str | os.PathLike[str]) -> VAE | Pair:
    """The model that `save` wrote; it computes in float32, whatever policy it was trained under."""
    folder = pathlib.Path(folder)
    with open(folder / "classes.pickle", "rb") as file:
        classes, kind = pickle.load(file)
    networks = {path.stem: _load(path, classes) for path in sorted(folder.glob("*.keras"))}
    if "vae" in networks:
        vae = networks["vae"]
        object.__setattr__(vae, "__class__", kind)
        with keras.saving.custom_object_scope(classes):
            vae._tracker.unlock()  # Keras lets a built layer have no more layers
            for name, value in pickle.loads((folder / "attributes.pickle").read_bytes()).items():
                setattr(vae, name, _Unpickler(io.BytesIO(value), vae).load())
    for network in networks.values():
        _to_float32(network)
    if "vae" in networks:
        return networks["vae"]
    described = json.loads((folder / "likelihood.json").read_text())
    likelihood = described and likelihoods.get(keras.saving.deserialize_keras_object(described, classes))
    return Pair(networks["encoder"], networks["decoder"], likelihood)


def lost_attributes(folder: str | os.PathLike[str]) -> dict[str, str]:
    """The attributes of the model that could not be sent, and the reasons."""
    return json.loads((pathlib.Path(folder) / "lost.json").read_text())


def _load(path, classes):
    # Safe: the exporting process wrote the archive a moment ago, from its own objects.
    return keras.saving.load_model(path, classes, compile=False, safe_mode=False)


def _config(path):
    return zipfile.ZipFile(path).read("config.json").decode()


def _save_vae(vae, folder):
    """Writes a model of the same parts that Keras can load: of the class `VAE`, and without layers in both networks."""
    inside = {id(layer) for layer in _layers(vae.encoder)}
    shared = [layer for layer in _layers(vae.decoder) if id(layer) in inside and layer.weights]
    if type(vae) is VAE and not shared:
        keras.saving.save_model(vae, folder / "vae.keras")
        return
    decoder = vae.decoder
    if shared:  # Keras saves the weights of such a layer once, and looks for them twice
        path = folder / "decoder.keras"
        keras.saving.save_model(decoder, path)
        decoder = _load(path, _custom_objects([decoder], _config(path)))
        path.unlink()
    options = {"posterior": vae.posterior_family, "name": vae.name, "dtype": vae.dtype_policy}
    plain = VAE(vae.encoder, decoder, vae.likelihood, vae.objective, vae.prior, vae.seed, vae.allow_missing, **options)
    if not plain.built:
        plain.build(vae._built_input_shape())
    plain.training_step.assign(vae.training_step)
    keras.saving.save_model(plain, folder / "vae.keras")


def _attributes(vae):
    """What an object of a subclass of `VAE` holds, other than what every `VAE` and every trained model does."""
    if type(vae) is VAE:
        return {}
    plain = VAE(*mlp((1,), 1, hidden=()))
    # PyTorch keeps the layers of a layer apart from its other attributes.
    names = {*vars(vae), *getattr(vae, "_modules", ())} - {*vars(plain), *getattr(plain, "_modules", ())}
    of_training = (keras.optimizers.Optimizer, keras.callbacks.Callback, keras.metrics.Metric)
    values = {name: getattr(vae, name) for name in sorted(names)}
    return {name: value for name, value in values.items() if not isinstance(value, of_training)}


@contextlib.contextmanager
def _distinct_function_names(parents):
    """In this block every function has a name of its own.

    Keras saves a lambda, which has none, as bytecode that has lost the globals it reads, and tells the functions of one
    factory apart by their names alone.
    """
    with contextlib.ExitStack() as undo:
        for parent in parents:
            for layer in _layers(parent) if isinstance(parent, keras.layers.Layer) else ():
                if isinstance(layer, keras.layers.Lambda) and not isinstance(layer.function, types.FunctionType):
                    undo.callback(setattr, layer, "function", layer.function)
                    layer.function = _as_lambda(layer.function)  # Keras cannot save a partial or a bound method
        found = {id(value): value for parent in parents for value in _parts(parent)}.values()
        functions = [value for value in found if isinstance(value, types.FunctionType) and not _is_ours(value)]
        names = collections.Counter(function.__name__ for function in functions)
        for number, function in enumerate(functions):
            if function.__name__ == "<lambda>" or names[function.__name__] > 1:
                undo.callback(setattr, function, "__name__", function.__name__)
                function.__name__ = f"{function.__name__.strip('<>')}_{number}"
        yield


def _is_ours(value):
    return getattr(value, "__module__", "").partition(".")[0] in _OURS


def _as_lambda(function):
    return lambda *inputs, **options: function(*inputs, **options)


def restore_settings(folder: str | os.PathLike[str]) -> None:
    """Sets Keras in the process of an engine as it is set in the exporting process."""
    for name, value in json.loads((pathlib.Path(folder) / "settings.json").read_text()).items():
        getattr(keras.config, f"set_{name}")(value)


def weight_bytes(model: VAE | Pair) -> int:
    """The size of all weights in float32, as the files hold them; a shared weight counts once."""
    variables = {id(v): v for network in _networks(model).values() for v in network.variables}
    return 4 * sum(int(keras.ops.size(variable)) for variable in variables.values())


def policies(model: VAE | Pair) -> list[str]:
    """The names of the half-precision policies among the model's layers, such as `["mixed_float16"]`."""
    layers = (layer for network in _networks(model).values() for layer in _layers(network))
    return sorted({layer.dtype_policy.name for layer in layers if layer.dtype_policy.compute_dtype.endswith("float16")})


def _networks(model):
    return {"vae": model} if isinstance(model, VAE) else {"encoder": model.encoder, "decoder": model.decoder}


def _layers(network):
    return network._flatten_layers()  # Keras has no public way to the layers inside a layer


def _refuse_quantised_layers(networks):
    """Refuses weights that are rounded already: no engine has a formula for them."""
    for layer in (layer for network in networks.values() for layer in _layers(network)):
        if getattr(layer, "quantization_mode", None):
            raise ExportError(f"The layer {layer.name} is quantised; export the model before quantising it.")


def _to_float32(network):
    for layer in _layers(network):
        if layer.dtype_policy.compute_dtype.endswith("float16"):
            layer.dtype_policy = "float32"


def _custom_objects(parents, configs):
    """The classes and functions that the configs name, other than those of Keras and keras_vae, by registered name.

    Keras imports no modules when it loads a model, so it must be given each of them.
    """
    found = {}
    for item in (keras.saving.get_custom_objects().values(), *map(_parts, parents)):
        for value in item:
            name = keras.saving.get_registered_name(value)
            if f'"{name}"' not in configs:
                continue
            if getattr(value, "__module__", "") not in sys.modules or _is_ours(value):
                continue
            if found.setdefault(name, value) is not value:
                raise ExportError(
                    f"Two custom classes are both called {name!r}: register them under different names, with "
                    "@keras.saving.register_keras_serializable(name=...)."
                )
    return found


def _parts(parent):
    """The class of an object, and the classes and functions that it, and each layer in it, holds as attributes."""
    for item in [parent, *(_layers(parent) if isinstance(parent, keras.layers.Layer) else ())]:
        for value in (item, *getattr(item, "__dict__", {}).values()):
            yield value if isinstance(value, types.FunctionType | type) else type(value)


_CONTAINERS: tuple[Any, ...] = (list, dict, set)  # Keras's own kinds of them hold the layer that they belong to


class _Pickler(cloudpickle.Pickler):
    """Pickles what belongs to a backend so that another backend can read it, and parts of the model by name."""

    def __init__(self, file, model=None):
        super().__init__(file)
        self.parts = {} if model is None else {id(getattr(model, name)): name for name in _PARTS} | {id(model): ""}

    def persistent_id(self, value):
        return self.parts.get(id(value))

    def reducer_override(self, obj):
        if isinstance(obj, keras.Variable):
            return _variable, (keras.ops.convert_to_numpy(obj), obj.trainable, obj.name)
        if isinstance(obj, keras.random.SeedGenerator):
            return keras.random.SeedGenerator, (obj.get_config()["seed"],)
        if keras.ops.is_tensor(obj):
            return keras.ops.convert_to_tensor, (keras.ops.convert_to_numpy(obj),)
        for kind in _CONTAINERS:
            if isinstance(obj, kind) and type(obj).__module__.startswith("keras."):
                return kind, (kind(obj),)
        return super().reducer_override(obj)


class _Unpickler(pickle.Unpickler):
    """Reads what `_Pickler` wrote of a model, into a model."""

    def __init__(self, file, model):
        super().__init__(file)
        self.model = model

    def persistent_load(self, pid):
        return getattr(self.model, pid) if pid else self.model


def _variable(value, trainable, name):
    return keras.Variable(value, trainable=trainable, name=name)


def _dumps(value, model=None):
    with io.BytesIO() as file:
        _Pickler(file, model).dump(value)
        return file.getvalue()


def _pickled_attributes(attributes, model):
    """Each attribute by itself, and why the others cannot be pickled, such as an open file, which no graph needs."""
    found, lost = {}, {}
    for name, value in attributes.items():
        try:
            found[name] = _dumps(value, model)
        except Exception as error:  # the user's __reduce__ may raise anything
            lost[name] = str(error)
    return found, lost


def _pickled_classes(classes, kind):
    try:
        return _dumps((classes, kind))
    except Exception as error:  # the user's __reduce__ may raise anything
        names = sorted({*classes, kind.__name__})
        raise ExportError(
            f"The custom classes {names} cannot be sent to the exporting process ({error}): put them into a module "
            "that can be imported."
        ) from None


@contextlib.contextmanager
def _by_value(objects):
    """What cannot be imported is pickled by value in this block; cloudpickle does so with `__main__` by itself."""
    modules = {sys.modules[value.__module__] for value in objects if value.__module__ != "__main__"}
    modules = {module for module in modules if not _importable(module)}
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _importable(module):
    """Whether a fresh process with our `sys.path` would find the same file under the module's name."""
    if module.__name__ == "__main__":
        return False
    spec, search, name = None, None, ""
    for part in module.__name__.split("."):
        name = f"{name}.{part}" if name else part
        spec = importlib.machinery.PathFinder.find_spec(name, search)
        if spec is None:
            return False
        search = spec.submodule_search_locations
    return spec is not None and spec.origin == getattr(module, "__file__", None)

"""Sends a model to another process: Keras's own archive, and the classes that Keras cannot import there.

The engines run in fresh processes on a backend of their own, so the model travels as `.keras` files, which any backend
reads. Custom classes and functions are pickled beside them: by value if they come from a notebook, a script or a test,
which cannot be imported elsewhere.
"""

import importlib.machinery
import json
import os
import pathlib
import sys
import types
import zipfile

import cloudpickle
import keras

from keras_vae import VAE, likelihoods
from keras_vae_export.errors import ExportError
from keras_vae_export.graphs import Pair

_OURS = ("keras", "keras_vae", "builtins", "numpy")
_SETTINGS = ("floatx", "image_data_format", "epsilon")


def save(model: VAE | Pair, folder: str | os.PathLike[str]) -> None:
    """Writes a `VAE` or a `Pair` into a folder that `load` reads in any process, on any backend."""
    folder, networks = pathlib.Path(folder), _networks(model)
    _refuse_quantised_layers(networks)
    if isinstance(model, VAE):
        _refuse_shared_layers(model)
    for name, network in networks.items():
        keras.saving.save_model(network, folder / f"{name}.keras")
    likelihood = getattr(model, "likelihood", None)
    described = None if likelihood is None else keras.saving.serialize_keras_object(likelihood)
    (folder / "likelihood.json").write_text(json.dumps(described))
    parts = (likelihood, *(getattr(model, name, None) for name in ("objective", "prior")))
    (folder / "classes.pickle").write_bytes(_pickled(_custom_objects([*networks.values(), *parts], folder)))
    settings = {name: getattr(keras.config, name)() for name in _SETTINGS}
    (folder / "settings.json").write_text(json.dumps(settings))


def load(folder: str | os.PathLike[str]) -> VAE | Pair:
    """The model that `save` wrote; it computes in float32, whatever policy it was trained under."""
    folder = pathlib.Path(folder)
    with open(folder / "classes.pickle", "rb") as file:
        classes = cloudpickle.load(file)
    networks = {}
    for path in sorted(folder.glob("*.keras")):
        # Safe: the exporting process wrote the archive a moment ago, from its own objects.
        networks[path.stem] = keras.saving.load_model(path, classes, compile=False, safe_mode=False)
        _to_float32(networks[path.stem])
    if "vae" in networks:
        return networks["vae"]
    described = json.loads((folder / "likelihood.json").read_text())
    likelihood = described and likelihoods.get(keras.saving.deserialize_keras_object(described, classes))
    return Pair(networks["encoder"], networks["decoder"], likelihood)


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


def _refuse_shared_layers(vae):
    """Refuses what Keras cannot load: it saves a layer that two networks share once."""
    inside = {id(layer) for layer in _layers(vae.encoder)}
    shared = [layer.name for layer in _layers(vae.decoder) if id(layer) in inside]
    if shared:
        raise ExportError(
            f"The encoder and the decoder share the layer {shared[0]!r}, which Keras cannot save and load in one "
            "model. Export them as a pair, export((vae.encoder, vae.decoder), ..., likelihood=vae.likelihood), which "
            "gives no elbo graph."
        )


def _to_float32(network):
    for layer in _layers(network):
        if layer.dtype_policy.compute_dtype.endswith("float16"):
            layer.dtype_policy = "float32"


def _custom_objects(parents, folder):
    """The classes and functions that the configs name, other than those of Keras and keras_vae, by registered name.

    Keras imports no modules when it loads a model, so it must be given each of them.
    """
    configs = "".join(zipfile.ZipFile(path).read("config.json").decode() for path in folder.glob("*.keras"))
    found = {}
    for item in (keras.saving.get_custom_objects().values(), *map(_parts, parents)):
        for value in item:
            name = keras.saving.get_registered_name(value)
            if f'"{name}"' not in configs and f'"{name}"' not in (folder / "likelihood.json").read_text():
                continue
            module = sys.modules.get(getattr(value, "__module__", ""))
            if module is None or module.__name__.partition(".")[0] in _OURS:
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


def _pickled(objects):
    """Pickles by value what cannot be imported; cloudpickle does so with `__main__` by itself."""
    modules = {sys.modules[value.__module__] for value in objects.values() if value.__module__ != "__main__"}
    modules = {module for module in modules if not _importable(module)}
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(objects)
    except Exception as error:  # the user's __reduce__ may raise anything
        raise ExportError(
            f"The custom classes {sorted(objects)} cannot be sent to the exporting process ({error}): put them into "
            "a module that can be imported."
        ) from None
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

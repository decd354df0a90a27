"""A model on its way into another process: Keras's own archive, and the classes that Keras cannot import there.

The engines run in fresh processes on a backend of their own, so the model travels as `.keras` files, which any backend
reads. A class from a notebook, a script or a test cannot be imported elsewhere; such classes are pickled by value.
"""

import importlib.machinery
import json
import pathlib
import sys
import zipfile

import cloudpickle
import keras

from keras_vae import VAE, likelihoods
from keras_vae_export.errors import ExportError
from keras_vae_export.graphs import Pair

_OURS = ("keras", "keras_vae", "builtins")


def save(model, folder):
    """Writes a `VAE` or a `Pair` into a folder that `load` reads in any process, on any backend."""
    folder, networks = pathlib.Path(folder), _networks(model)
    for name, network in networks.items():
        network.save(folder / f"{name}.keras")
    likelihood = getattr(model, "likelihood", None)
    described = None if likelihood is None else keras.saving.serialize_keras_object(likelihood)
    (folder / "likelihood.json").write_text(json.dumps(described))
    classes = _custom_objects([*networks.values(), likelihood, getattr(model, "objective", None)], folder)
    (folder / "classes.pickle").write_bytes(_pickled(classes))


def load(folder):
    """The model that `save` wrote, computing in float32 whatever policy it was trained under."""
    folder = pathlib.Path(folder)
    with open(folder / "classes.pickle", "rb") as file:
        classes = cloudpickle.load(file)
    networks = {}
    for path in sorted(folder.glob("*.keras")):
        # The archive was written by the exporting process a moment ago, from objects it held: it is as safe as they.
        networks[path.stem] = keras.saving.load_model(path, classes, compile=False, safe_mode=False)
        _to_float32(networks[path.stem])
    if "vae" in networks:
        return networks["vae"]
    described = json.loads((folder / "likelihood.json").read_text())
    likelihood = described and likelihoods.get(keras.saving.deserialize_keras_object(described, classes))
    return Pair(networks["encoder"], networks["decoder"], likelihood)


def weight_bytes(model):
    """The size of all weights, each network's counted once, as the float32 of the files."""
    variables = {id(v): v for network in _networks(model).values() for v in network.variables}
    return 4 * sum(int(keras.ops.size(variable)) for variable in variables.values())


def policies(model):
    """The names of the half-precision policies among the model's layers, such as `["mixed_float16"]`."""
    layers = (layer for network in _networks(model).values() for layer in _layers(network))
    return sorted({layer.dtype_policy.name for layer in layers if layer.dtype_policy.compute_dtype.endswith("float16")})


def _networks(model):
    return {"vae": model} if isinstance(model, VAE) else {"encoder": model.encoder, "decoder": model.decoder}


def _layers(network):
    return network._flatten_layers()  # Keras has no public way to the layers inside a layer


def _to_float32(network):
    for layer in _layers(network):
        if getattr(layer, "quantization_mode", None):
            raise ExportError(f"The layer {layer.name} is quantised; export the model before quantising it.")
        if layer.dtype_policy.compute_dtype.endswith("float16"):
            layer.dtype_policy = "float32"


def _custom_objects(objects, folder):
    """What the configs name that is neither Keras's nor ours: classes and functions, by both their names."""
    configs = "".join(zipfile.ZipFile(path).read("config.json").decode() for path in folder.glob("*.keras"))
    found = {name: value for name, value in keras.saving.get_custom_objects().items() if f'"{name}"' in configs}
    for parent in objects:
        for item in [parent, *(_layers(parent) if isinstance(parent, keras.layers.Layer) else ())]:
            if item is not None:
                found.setdefault(keras.saving.get_registered_name(type(item)), type(item))
                found.setdefault(type(item).__name__, type(item))
    return {name: value for name, value in found.items() if _root(value) not in _OURS}


def _pickled(classes):
    modules = {sys.modules[value.__module__] for value in classes.values() if value.__module__ in sys.modules}
    by_value = [module for module in modules if module.__name__ != "__main__" and not _importable(module)]
    for module in by_value:  # cloudpickle does so with __main__ by itself
        cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(classes)
    except Exception as error:  # whatever a __reduce__ of the user's raises
        raise ExportError(
            f"The custom classes {sorted(classes)} cannot be sent to the exporting process ({error}): put them into "
            "a module that can be imported."
        ) from None
    finally:
        for module in by_value:
            cloudpickle.unregister_pickle_by_value(module)


def _importable(module):
    """Whether a fresh process with our `sys.path` would find the same file under the module's name."""
    spec, search, name = None, None, ""
    for part in module.__name__.split("."):
        name = f"{name}.{part}" if name else part
        spec = importlib.machinery.PathFinder.find_spec(name, search)
        if spec is None:
            return False
        search = spec.submodule_search_locations
    return spec is not None and spec.origin == getattr(module, "__file__", None)


def _root(value):
    return getattr(value, "__module__", "builtins").partition(".")[0]

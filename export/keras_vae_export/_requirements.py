"""Imported before everything else, so that a missing package gives one sentence instead of a long traceback."""

import importlib.util

for _package in ("onnx", "onnxruntime", "cloudpickle"):
    if importlib.util.find_spec(_package) is None:
        raise ModuleNotFoundError(f'keras_vae_export needs {_package}: pip install "keras-vae[export]".', name=_package)

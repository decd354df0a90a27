"""Imported before everything else, so that a missing package is a sentence and not a traceback from the depths."""

import importlib.util

# Uninstalling one of onnxruntime and onnxruntime-gpu leaves the other as an empty folder, which still can be imported.
if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnxruntime.capi") is None:
    raise ModuleNotFoundError(
        'keras_vae_serving needs onnxruntime: pip install "keras-vae[serving]".', name="onnxruntime"
    )

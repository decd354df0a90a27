"""Exports what `benchmarks/serving.py` serves, and what onnxruntime answers to one request for it.

python export.py FOLDER
"""

import json
import pathlib
import sys

import keras
import numpy as np
import onnxruntime

import keras_vae
import keras_vae_export

if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    pairs = {
        "dense": keras_vae.networks.mlp((28, 28, 1), 8, hidden=(512, 256)),
        "conv": keras_vae.networks.conv((28, 28, 1), 16, filters=(32, 64), hidden=(128,)),
    }
    for name, pair in pairs.items():
        folder = pathlib.Path(sys.argv[1], name)
        folder.mkdir()
        manifest = keras_vae_export.export(keras_vae.VAE(*pair), folder / "bundle")
        path = folder / "bundle" / manifest.graphs["decoder"].file
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        shape = (1, session.get_inputs()[0].shape[1])
        z = np.random.default_rng(0).standard_normal(shape).round(4).astype("float32")
        np.save(folder / "z.npy", z)
        np.save(folder / "x_mean.npy", session.run(None, {"z": z})[0])
        (folder / "decoder.json").write_text(json.dumps(str(path)))

"""NVIDIA's client for Triton talks to this server, and so will talk to Triton: `nox -- slow` makes its environment."""

import json
import os
import pathlib
import subprocess

import numpy as np
import pytest

import keras_vae
import server_process
from keras_vae_serving import Pipeline

PYTHON = os.environ.get("KERAS_VAE_TRITON_PYTHON")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="KERAS_VAE_TRITON_PYTHON is not set: `nox -- slow` does it"),
]


def test_every_model_in_every_combination_of_binary_and_json(bundle, tmp_path):
    pipeline = Pipeline.load(bundle, providers="cpu")
    x = keras_vae.datasets.load("digits", binarize="threshold").test[:5]
    posterior = pipeline.encode(x)
    z, epsilon = posterior.mean, np.random.default_rng(5).standard_normal((5, 2, 3), "float32")
    terms = pipeline.sessions["elbo"].run({"x": x, "epsilon": epsilon})
    encoded = {"x": x, "z_mean": posterior.mean, "z_log_var": posterior.log_var}
    expected = {
        "encode": encoded,
        "encoder": encoded,
        "decode": {"z": z, "x_mean": pipeline.decode(z)},
        "decoder": {"z": z, "x_mean": pipeline.decode(z)},
        "elbo": {"x": x, "epsilon": epsilon, **{name: term[:, None] for name, term in terms.items()}},
        "reconstruct": {"x": x, "x_mean": pipeline.reconstruct(x, sample=True, seed=5)},
        "sample": {"x_mean": pipeline.sample(3, seed=5)},
        "score": {"x": x, "negative_elbo": pipeline.score(x, 2, seed=5), **terms},
    }
    arrays = {f"{model}/{name}": array for model, named in expected.items() for name, array in named.items()}
    np.savez(tmp_path / "arrays.npz", **arrays)
    with server_process.running(bundle) as server:
        command = [PYTHON, pathlib.Path(__file__).with_name("triton_client.py"), f"127.0.0.1:{server.port}"]
        done = subprocess.run([*command, tmp_path / "arrays.npz"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["live"], report["ready"], report["model_ready"]) == (True, True, [True, True])
    assert report["unknown_ready"] is False
    assert (report["server"], report["index"]) == ("keras_vae_serving", 8)
    assert report["metadata"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 8, 8, 1]}]
    assert report["combinations"] == 8 * 6
    assert report["asynchronous"] == [[1, 8, 8, 1]] * 8
    assert report["keywords_not_tried"] == ["request_compression_algorithm"]  # which is among the errors
    (unknown, wrong, compressed, shared, classes) = report["errors"]
    assert (unknown[0], "there is no model 'nope'" in unknown[1]) == ("404", True)
    assert (wrong[0], wrong[1]) == ("400", "z must have shape (batch, 3); got (1, 99).")
    assert (compressed[0], "compressed requests are not read" in compressed[1]) == ("415", True)
    assert (shared[0], "is to be in shared memory" in shared[1]) == ("400", True)
    assert (classes[0], "is no set of classes" in classes[1]) == ("400", True)

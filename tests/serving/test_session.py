"""A graph in onnxruntime: held to the manifest, clear about wrong inputs, and never on a provider nobody asked for."""

import dataclasses
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import server_process
from keras_vae_serving import BundleError, Manifest, ProviderError, Session, Tensor, _requirements, providers

pytestmark = pytest.mark.once

CUDA = "CUDAExecutionProvider"


@pytest.fixture
def decoder(bundle):
    return Session(bundle, Manifest.load(bundle).graphs["decoder"], providers="cpu")


def test_it_runs(decoder):
    outputs = decoder.run({"z": np.zeros((3, 3), "float32")})
    assert {name: array.shape for name, array in outputs.items()} == {"x_mean": (3, 8, 8, 1)}
    assert decoder.providers == ["CPUExecutionProvider"]


def test_the_widest_layer_is_counted_in_bytes(decoder):
    of_one, of_three = (decoder.widest_layer({"z": np.zeros((n, 3), "float32")}) for n in (1, 3))
    assert of_one >= 4 * 8 * 8
    assert of_three == 3 * of_one


def test_outputs_can_be_chosen(bundle):
    encoder = Session(bundle, Manifest.load(bundle).graphs["encoder"], providers="cpu")
    x = np.zeros((2, 8, 8, 1), "float32")
    assert list(encoder.run({"x": x}, ["z_log_var"])) == ["z_log_var"]
    with pytest.raises(ValueError, match="has no output 'z'"):
        encoder.run({"x": x}, ["z"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"takes \['z'\]; got \[\]"),
        ({"x": np.zeros((1, 3), "float32")}, r"takes \['z'\]; got \['x'\]"),
        ({"z": np.zeros((1, 3))}, "z must be float32; got float64"),
        ({"z": np.zeros((1, 4), "float32")}, r"z must have shape \(batch, 3\); got \(1, 4\)"),
    ],
)
def test_wrong_inputs_are_named(decoder, inputs, message):
    with pytest.raises(ValueError, match=message):
        decoder.run(inputs)


def test_inputs_must_agree_in_their_batch(bundle):
    elbo = Session(bundle, Manifest.load(bundle).graphs["elbo"], providers="cpu")
    with pytest.raises(ValueError, match="one batch size; got x: 2, epsilon: 3"):
        elbo.run({"x": np.zeros((2, 8, 8, 1), "float32"), "epsilon": np.zeros((3, 1, 3), "float32")})


def test_a_file_that_is_not_what_the_manifest_says_is_refused(bundle):
    graphs = Manifest.load(bundle).graphs
    wrong = dataclasses.replace(graphs["decoder"], inputs=(Tensor("z", "float32", ("batch", 4)),))
    with pytest.raises(BundleError, match=r"has the inputs .* but the manifest says"):
        Session(bundle, wrong, providers="cpu")
    with pytest.raises(BundleError, match="cannot open"):
        Session(bundle, dataclasses.replace(graphs["decoder"], file="manifest.json"), providers="cpu")


# Providers


@pytest.fixture
def no_driver(monkeypatch):
    """A machine whose onnxruntime was built with CUDA and that has no NVIDIA driver, wherever the test runs."""

    def no_library(name):
        raise OSError(name)

    built_with = [CUDA, "CPUExecutionProvider"]
    monkeypatch.setattr(providers.onnxruntime, "get_available_providers", lambda: built_with)
    monkeypatch.setattr(providers.ctypes, "CDLL", no_library)
    all_cached = (providers.why_no_cuda, providers._say_once, providers._gpu_wheel_overwritten)
    for cached in all_cached:
        cached.cache_clear()
    yield
    for cached in all_cached:
        cached.cache_clear()


def test_cuda_without_a_gpu_is_an_error_that_says_why(bundle, no_driver):
    with pytest.raises(ProviderError, match="CUDA cannot be used: there is no NVIDIA driver on this machine"):
        Session(bundle, Manifest.load(bundle).graphs["decoder"], providers=["cuda"])


def test_auto_falls_back_and_says_so_once(bundle, no_driver, recwarn):
    graph = Manifest.load(bundle).graphs["decoder"]
    for _ in range(3):
        assert Session(bundle, graph).providers == ["CPUExecutionProvider"]
    said = [str(warning.message) for warning in recwarn if "Running on the CPU" in str(warning.message)]
    assert said == ["Running on the CPU: there is no NVIDIA driver on this machine (libcuda.so.1 is not found)."]


MEND = "run `pip uninstall -y onnxruntime onnxruntime-gpu`, then `pip install onnxruntime-gpu`"


def test_a_wheel_of_the_gpu_that_the_other_has_overwritten_is_said_with_what_mends_it(bundle, monkeypatch, no_driver):
    monkeypatch.setattr(providers.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(_requirements, "is_installed", lambda name: True)
    with pytest.raises(ProviderError, match=f"CUDA cannot be used: .* both installed, and one has .*: {MEND}"):
        providers.resolve("cuda")
    with pytest.warns(RuntimeWarning, match=f"Running on the CPU: .* both installed, and one has .*: {MEND}"):
        Session(bundle, Manifest.load(bundle).graphs["decoder"])


def test_one_wheel_without_cuda_is_no_fault_where_cuda_was_not_asked_for(monkeypatch, no_driver, recwarn):
    monkeypatch.setattr(providers.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(_requirements, "is_installed", lambda name: name == "onnxruntime")
    assert providers.resolve("auto") == ["CPUExecutionProvider"]
    assert not recwarn
    with pytest.raises(ProviderError, match="built without CUDA .run `pip uninstall -y onnxruntime`, then"):
        providers.resolve("cuda")


@pytest.mark.parametrize(
    ("left", "recorded", "message"),
    [
        (
            ["onnxruntime/capi"],
            ["onnxruntime_gpu"],
            f"no attribute 'InferenceSession'.*files of onnxruntime-gpu .*{MEND}",
        ),
        ([], ["onnxruntime", "onnxruntime_gpu"], f"No module named 'onnxruntime'.*are both installed, .*{MEND}"),
        ([], ["onnxruntime"], "files of onnxruntime are missing.*then `pip install onnxruntime`"),
        ([], [], r'keras_vae_serving needs onnxruntime: pip install "keras-vae\[serving\]"'),
    ],
)
def test_what_is_left_when_one_of_two_wheels_was_uninstalled_is_no_riddle(tmp_path, left, recorded, message):
    """The folders as pip leaves them: seen with the wheels of 1.31.1, whichever was installed first."""
    for name in left:
        (tmp_path / name).mkdir(parents=True)
    for name in recorded:
        (tmp_path / f"{name}-1.31.1.dist-info").mkdir()
        (tmp_path / f"{name}-1.31.1.dist-info/METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n"
        )
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(server_process.SERVING)])}
    command = [sys.executable, "-S", "-c", "import keras_vae_serving"]
    done = subprocess.run(command, env=os.environ | path, capture_output=True, text=True, timeout=60)
    assert re.search(f"ModuleNotFoundError: .*{message}", done.stderr), done.stderr


@pytest.mark.skipif(providers.why_no_cuda() is None, reason="this machine has a usable GPU")
def test_cuda_on_this_machine_is_an_error_and_not_the_cpu(bundle):
    with pytest.raises(ProviderError, match="CUDA cannot be used: "):
        Session(bundle, Manifest.load(bundle).graphs["decoder"], providers="cuda")


@pytest.mark.skipif(providers.why_no_cuda() is not None, reason="this machine has no usable GPU")
def test_cuda_runs_and_agrees_with_the_cpu(bundle):
    graph = Manifest.load(bundle).graphs["decoder"]
    z = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    session = Session(bundle, graph, providers="cuda")
    assert session.providers[0] == CUDA
    expected = Session(bundle, graph, providers="cpu").run({"z": z})["x_mean"]
    np.testing.assert_allclose(session.run({"z": z})["x_mean"], expected, atol=2e-3)  # TF32


def test_a_provider_that_onnxruntime_drops_is_an_error():
    class Dropped:
        def get_providers(self):
            return ["CPUExecutionProvider"]

    providers.check(Dropped(), ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match="dropped CUDAExecutionProvider and would run on CPUExecutionProvider"):
        providers.check(Dropped(), [(CUDA, {}), "CPUExecutionProvider"])


def test_unknown_providers_are_refused():
    with pytest.raises(ProviderError, match="has no provider 'tpu' here; it has"):
        providers.resolve("tpu")
    with pytest.raises(ValueError, match="providers is empty"):
        providers.resolve([])
    assert providers.resolve([("cpu", {"arena": "1"})]) == [("CPUExecutionProvider", {"arena": "1"})]

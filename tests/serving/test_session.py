"""A graph in onnxruntime: held to the manifest, clear about wrong inputs, and never on a provider nobody asked for."""

import dataclasses

import numpy as np
import pytest

from keras_vae_serving import BundleError, Manifest, ProviderError, Session, Tensor, providers

pytestmark = pytest.mark.once

CUDA = "CUDAExecutionProvider"


@pytest.fixture
def decoder(bundle):
    return Session(bundle, Manifest.load(bundle).graphs["decoder"], providers="cpu")


def test_it_runs(decoder):
    outputs = decoder.run({"z": np.zeros((3, 3), "float32")})
    assert {name: array.shape for name, array in outputs.items()} == {"x_mean": (3, 8, 8, 1)}
    assert decoder.providers == ["CPUExecutionProvider"]


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
    for cached in (providers.why_no_cuda, providers._say_once):
        cached.cache_clear()
    yield
    for cached in (providers.why_no_cuda, providers._say_once):
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

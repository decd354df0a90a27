"""The smaller variants: what they are, what they cost in nats, and that a costly one is refused with the figure."""

import shutil

import keras
import numpy as np
import onnx
import pytest

import keras_vae
import keras_vae_export
from keras_vae_export import AccuracyError, converters, quantization
from keras_vae_serving import Manifest, Session

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def data():
    return keras_vae.datasets.load("digits", binarize="threshold").test


@pytest.fixture(scope="module")
def vae():
    keras.utils.set_random_seed(5)
    train = keras_vae.datasets.load("digits", binarize="threshold").train
    model = keras_vae.VAE(*keras_vae.networks.mlp((8, 8, 1), 2, hidden=(64,), activation="gelu"), seed=0)
    model.compile(keras.optimizers.Adam(3e-3))
    model.fit(train, epochs=3, batch_size=64, verbose=0)
    return model


@pytest.fixture(scope="module")
def exported(vae, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "bundle"
    keras_vae_export.export(vae, folder, data=data, precision=("float32", "float16", "int8"), simplify=True)
    return folder


def test_each_variant_is_smaller_and_takes_and_gives_float32(exported):
    manifest = Manifest.load(exported)
    for name in ("encoder", "decoder", "elbo"):
        full = manifest.graphs[name]
        for precision, share in (("float16", 0.6), ("int8", 0.5)):
            variant = manifest.graphs[f"{name}_{precision}"]
            assert (variant.inputs, variant.outputs) == (full.inputs, full.outputs)
            assert variant.precision == precision
            sizes = [(exported / graph.file).stat().st_size for graph in (variant, full)]
            assert sizes[0] < share * sizes[1], (variant.name, sizes)
            assert (exported / variant.name / "config.pbtxt").is_file()


def test_the_weights_have_the_precision_promised(exported):
    def kinds(name):
        model = onnx.load(exported / name / "1" / "model.onnx")
        return {tensor.data_type for tensor in model.graph.initializer if np.prod(tensor.dims) > 16}

    assert kinds("encoder") == {onnx.TensorProto.FLOAT}
    assert kinds("encoder_float16") == {onnx.TensorProto.FLOAT16}
    assert onnx.TensorProto.INT8 in kinds("encoder_int8")


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_the_change_of_the_bound_is_measured(exported, data, precision):
    """Against a measurement by hand, with other noise: the noise is shared by both graphs and hardly matters."""
    manifest = Manifest.load(exported)
    epsilon = np.random.default_rng(8).standard_normal((len(data), 1, 2), dtype="float32")

    def elbo(name):
        outputs = Session(exported, manifest.graphs[name], providers="cpu").run({"x": data, "epsilon": epsilon})
        return -np.mean(outputs["reconstruction"] + outputs["kl"], dtype="float64")

    recorded = manifest.graphs[f"elbo_{precision}"].parity["elbo_change"]
    assert elbo(f"elbo_{precision}") - elbo("elbo") == pytest.approx(recorded, abs=0.02)
    assert abs(recorded) < 0.1
    difference = manifest.graphs[f"encoder_{precision}"].parity["max_abs_diff"]["z_mean"]
    assert 1e-6 < difference < 0.1


@pytest.fixture
def spoiled(exported, monkeypatch):
    """Makes a variant by adding `amount` to one output of the float32 graph, which is there already."""

    def run(archive, engine, folder):
        for graph in ("encoder", "decoder", "elbo"):
            shutil.copytree(exported / graph / "1", folder / graph / "1")

    monkeypatch.setattr(converters, "run", run)

    def plant(output, amount):
        def make(source, path, samples):
            model = onnx.load(source)
            for node in model.graph.node:
                node.output[:] = ["exact" if name == output else name for name in node.output]
            if any("exact" in node.output for node in model.graph.node):
                constant = onnx.numpy_helper.from_array(np.array(amount, "float32"), "amount")
                model.graph.initializer.append(constant)
                model.graph.node.append(onnx.helper.make_node("Add", ["exact", "amount"], [output]))
            onnx.save(model, path)
            return "spoiled"

        monkeypatch.setitem(quantization._MAKERS, "int8", make)

    return plant


def test_a_variant_that_loses_too_much_is_refused_with_the_figure(vae, data, tmp_path, spoiled):
    spoiled("reconstruction", 0.75)
    with pytest.raises(AccuracyError, match=r"int8 changes the bound by -0.750 nats per example .* at most 0.5 may"):
        keras_vae_export.export(vae, tmp_path / "bundle", data=data, precision="int8")
    assert list(tmp_path.iterdir()) == []
    manifest = keras_vae_export.export(vae, tmp_path / "bundle", data=data, precision="int8", max_elbo_loss=0.8)
    assert manifest.graphs["elbo_int8"].parity["elbo_change"] == pytest.approx(-0.75, abs=1e-4)


@pytest.mark.parametrize("amount", [3.0, np.nan])
def test_an_output_that_is_far_off_is_refused_though_the_bound_is_not(vae, data, tmp_path, spoiled, amount):
    spoiled("x_mean", amount)
    with pytest.raises(
        AccuracyError, match=r"int8 is too far from float32. decoder_int8: x_mean.* Export without int8"
    ):
        keras_vae_export.export(vae, tmp_path / "bundle", data=data, precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_convolutions_are_calibrated(bundle):
    manifest = Manifest.load(bundle)
    assert manifest.graphs["encoder_int8"].parity["method"].startswith("static: int8 weights and activations")
    operators = {node.op_type for node in onnx.load(bundle / "encoder_int8/1/model.onnx").graph.node}
    assert "QuantizeLinear" in operators
    assert "ConvInteger" not in operators


def test_simplifying_leaves_the_names(exported):
    graph = onnx.load(exported / "decoder/1/model.onnx").graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["z", "x_mean"]


def test_a_pair_has_no_bound_to_lose(data, tmp_path):
    pair = keras_vae.networks.mlp((8, 8, 1), 2, hidden=(4,))
    with pytest.raises(ValueError, match="which only a VAE has"):
        keras_vae_export.export(pair, tmp_path / "bundle", data=data, precision="int8")

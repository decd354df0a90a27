"""Outputs that float32 hardly determines: good models are exported, and wrong files are still found."""

import keras
import numpy as np
import onnx
import pytest
from keras import layers
from onnx import numpy_helper

import keras_vae
import keras_vae_export
from keras_vae_export import converters, rounding
from keras_vae_serving import Session

pytestmark = pytest.mark.once


def test_each_rounding_counts_once_and_copies_count_none(tmp_path):
    """(x + 1) - 1 keeps x to one rounding of 1; 2 x to one of its own; max(x, 0) exactly."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 18]>
        g (float[batch] x) => (float[batch] lost, float[batch] doubled, float[batch] copied)
        <float one = {1.0}, float two = {2.0}>
        { sum = Add(x, one)  lost = Sub(sum, one)  doubled = Mul(x, two)  copied = Relu(x) }
    """)
    onnx.save(onnx.shape_inference.infer_shapes(model), tmp_path / "model.onnx")
    x = np.geomspace(1e-4, 1e-2, 200, dtype="float32")
    moved = rounding.measure(tmp_path / "model.onnx", {"x": x}, ["lost", "doubled", "copied"])
    unit = 2.0**-23
    assert unit < np.median(moved["lost"]) <= moved["lost"].max() <= 4 * unit
    assert unit < np.median(moved["doubled"] / (2 * x)) < 3 * unit
    assert not moved["copied"].any()


@pytest.fixture(scope="module")
def of_probabilities():
    """A decoder of probabilities up to 1 - 1e-7, whose logarithm of 1 - p differs between any two programs."""
    keras.utils.set_random_seed(3)
    x, z = keras.Input((12,)), keras.Input((2,))
    h = layers.Dense(6, activation="tanh")(x)
    bias = keras.initializers.Constant(np.linspace(8.0, 16.0, 12))
    decoder = keras.Model(z, layers.Dense(12, activation="sigmoid", bias_initializer=bias)(z))
    return keras_vae.VAE(
        keras.Model(x, [layers.Dense(2)(h), layers.Dense(2)(h)]),
        decoder,
        likelihood=keras_vae.Bernoulli(from_logits=False),
        seed=0,
    )


def test_a_decoder_of_probabilities_is_exported_and_its_rounding_told(of_probabilities, tmp_path, monkeypatch):
    with pytest.warns(UserWarning, match="determines reconstruction of elbo to .* only.* returns logits"):
        manifest = keras_vae_export.export(of_probabilities, tmp_path / "bundle")
    elbo = manifest.graphs["elbo"].parity
    moved = elbo["rounding"]["ordinary"]["reconstruction"]
    assert elbo["max_scaled_diff"]["reconstruction"] > elbo["tolerance"]  # what would be refused otherwise
    assert 0.01 < elbo["max_abs_diff"]["reconstruction"] < 8 * moved < 8
    assert "rounding" not in manifest.graphs["encoder"].parity
    assert "rounding" not in manifest.graphs["decoder"].parity

    # A runtime that computes something else is no rounding.
    run = Session.run
    monkeypatch.setattr(Session, "run", lambda *given: {name: 1.1 * value for name, value in run(*given).items()})
    with pytest.raises(keras_vae_export.ParityError, match="encoder: z_mean"):
        keras_vae_export.check(tmp_path / "bundle")


def test_a_normalisation_of_equal_values_is_exported(tmp_path):
    keras.utils.set_random_seed(4)
    x, z = keras.Input((40,)), keras.Input((2,))
    normalised = layers.LayerNormalization(epsilon=1e-7)(x)
    encoder = keras.Model(x, [layers.Dense(2)(normalised), layers.Dense(2)(normalised)])
    vae = keras_vae.VAE(encoder, keras.Model(z, layers.Dense(40)(z)), likelihood="mse", seed=0)
    data = np.random.default_rng(0).normal(3.0, 1e-5, (20, 40)).astype("float32")
    with pytest.warns(UserWarning, match="determines z_mean of encoder to .* only: .* as much.$"):
        manifest = keras_vae_export.export(vae, tmp_path / "bundle", data=data)
    assert "ordinary" not in manifest.graphs["encoder"].parity["rounding"]


def scale_a_weight(model):
    weights = next(tensor for tensor in model.graph.initializer if tensor.dims == [2, 12])  # of the decoder
    values = numpy_helper.to_array(weights).copy()
    values[0] *= 1.3
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))


def lose_digits(model):
    """(x + c) - c, which is x but for rounding: nothing of this size can be right."""
    for node in model.graph.node:
        node.input[:] = ["kept" if name == "x" else name for name in node.input]
    model.graph.initializer.append(numpy_helper.from_array(np.array(3e6, "float32"), "c"))
    model.graph.node.insert(0, onnx.helper.make_node("Add", ["x", "c"], ["sum"]))
    model.graph.node.insert(1, onnx.helper.make_node("Sub", ["sum", "c"], ["kept"]))


@pytest.mark.parametrize(("graph", "fault"), [("elbo", scale_a_weight), ("encoder", lose_digits)])
def test_a_wrong_file_is_found_where_rounding_is_large(graph, fault, of_probabilities, tmp_path, monkeypatch):
    convert = converters.run

    def run(archive, engine, folder):
        convert(archive, engine, folder)
        path = folder / f"{graph}/1/model.onnx"
        model = onnx.load(path)
        fault(model)
        onnx.save(onnx.shape_inference.infer_shapes(model), path)

    monkeypatch.setattr(converters, "run", run)
    with pytest.raises(keras_vae_export.ParityError, match=f"{graph}: "):
        keras_vae_export.export(of_probabilities, tmp_path / "bundle", engine="tensorflow")

"""Every model and layer of the zoo, exported and compared with Keras by a second route."""

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import ops

import families
import keras_vae
import keras_vae_export
import zoo
from keras_vae_serving import Manifest, draws

pytestmark = pytest.mark.once


def run(folder, graph, **inputs):
    """Bare onnxruntime, as what is checked here must not rest on our own session: alike at a batch of 1, 5 and all."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder / graph / "1" / "model.onnx", options)
    found = session.run(None, inputs)
    for batch in (1, 5):
        fewer = session.run(None, {name: values[:batch] for name, values in inputs.items()})
        for values, whole in zip(fewer, found, strict=True):
            np.testing.assert_allclose(values, whole[:batch], rtol=1e-5, atol=1e-5)
    return found


# Converting is the same on each backend: what differs is the archive that it begins with.
EVERYWHERE = ("mixture_prior", "conditional_vae")
# Of several of a kind one is converted each time, and the others where the part `slow` runs.
EACH_TIME = (
    *EVERYWHERE,
    *("gaussian_predicted", "continuous_bernoulli", "discretized_logistic", "table_with_missing_values", "vamp_prior"),
    *("own_parts", "conv_same", "fully_convolutional", "mixed_bfloat16", "subclassed", "custom_layer"),
    *("integer_inputs", "conditional", "audio"),
    *("every_activation(x)", "LSTM(3)(Masking()(x))", "MultiHeadAttention(2, 3)(Masking()(x), Masking()(x))"),
    *("BatchNormalization(axis=1)(x)", "Conv2D(4, 3, groups=2)(x)", "ops.add(Conv2D(2, 3)(x), ops.array([1.0, 2.0]))"),
)


def params(values, name=str):
    """The values with their names and marks."""

    def marks(name):
        return [pytest.mark.every_backend] * (name in EVERYWHERE) + [pytest.mark.slow] * (name not in EACH_TIME)

    return [pytest.param(value, id=name(value), marks=marks(name(value))) for value in values]


@pytest.mark.parametrize("name", params(families.FAMILIES))
def test_the_files_compute_what_the_model_computes(name, exported):
    model, folder = families.make(name), exported(name)
    manifest = Manifest.load(folder)
    assert manifest.export["engine"] == "tensorflow"
    names = ["encoder", "decoder"]
    if isinstance(model, keras_vae.VAE):
        names += ["elbo"] if isinstance(model.numpy_prior(), keras_vae.DiagonalNormal) else ["elbo", "prior"]
    assert [graph.name for graph in manifest.graphs.values()] == names
    for graph in manifest.graphs.values():
        assert max(graph.parity["max_scaled_diff"].values()) < 1e-4 or graph.parity["rounding"].keys() == {"extreme"}
    if isinstance(model, keras_vae.VAE):
        tolerance = {"mixed_float16": 1e-2, "mixed_bfloat16": 5e-2}.get(name, 1e-4)
        assert_same(model, folder, tolerance)


@pytest.mark.filterwarnings("ignore:Layer 'flatten.*mask information", "ignore:The use of `x.T`")
@pytest.mark.filterwarnings("ignore:The torch engine wrote the files", "ignore:torch.searchsorted")
@pytest.mark.parametrize("entry", params(zoo.entries(keras.backend.backend()), lambda entry: entry[1]))
def test_no_layer_is_refused(entry, tmp_path):
    encoder, _ = pair = zoo.make(*entry)
    x = zoo.data(entry[0])
    keras_vae_export.export(pair, tmp_path / "bundle", data=x)
    expected = encoder.predict(x, batch_size=len(x), verbose=0)
    for name, found in zip(("z_mean", "z_log_var"), run(tmp_path / "bundle", "encoder", x=x), strict=True):
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-4)


def assert_same(vae, folder, tolerance):
    """The bundle at a batch of 70 against the model's own verbs."""
    encoder = onnx.load(folder / "encoder" / "1" / "model.onnx")
    if encoder.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT32:
        x = np.random.default_rng(1).integers(0, 2, (70, *vae.data_shape)).astype("int32")
    else:
        # What the likelihood allows.
        x = vae.sample(70, seed=1, draw=True, condition=None if vae.condition_shape is None else 0)
    if vae.allow_missing:
        x[0] = x[1, :2] = np.nan
    given, beside = x, {}
    if vae.condition_shape is not None:
        beside = {"condition": np.arange(70, dtype="int32") % 4}
        given = {"x": x, **beside}
    posterior = vae.encode(given)
    z_mean, z_log_var = run(folder, "encoder", x=x, **beside)
    np.testing.assert_allclose(z_mean, posterior.mean, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(z_log_var, posterior.log_var, rtol=tolerance, atol=tolerance)
    x_mean, *more = run(folder, "decoder", z=posterior.mean, **beside)
    np.testing.assert_allclose(x_mean, vae.decode(posterior.mean, **beside), rtol=tolerance, atol=tolerance)
    x_scale = more[: vae.likelihood.has_stddev]
    # Besides, what x is drawn of.
    assert len(more) == len(x_scale) + draws.needs_parameters(vae.likelihood.drawn_as())
    if x_scale:
        stddev = ops.convert_to_numpy(vae.likelihood.stddev(vae.decoder(posterior.mean)))
        np.testing.assert_allclose(x_scale[0], stddev, rtol=tolerance)
    # `elbo` draws its noise as (examples, samples, latents) from NumPy: the same noise through the graph.
    epsilon = np.random.default_rng(4).standard_normal((70, 3, vae.latent_dim), dtype="float32")
    reconstruction, kl, log_prob, *weighted = run(folder, "elbo", x=x, epsilon=epsilon, **beside)
    expected = vae.elbo(given, 3, seed=4, per_dimension=True)
    np.testing.assert_allclose(log_prob, expected, rtol=tolerance, atol=tolerance * max(1.0, np.abs(expected).max()))
    assert len(weighted) == 3 * vae.allow_missing
    assert reconstruction.shape == kl.shape == (70,)
    np.testing.assert_allclose(-(reconstruction + kl), vae.elbo(given, 3, seed=4), rtol=tolerance, atol=tolerance)
    prior = vae.numpy_prior()
    z = posterior.mean + np.exp(0.5 * posterior.log_var) * epsilon.transpose(1, 0, 2)
    expected = keras_vae.distributions.kl_divergence(posterior, prior, z)
    np.testing.assert_allclose(kl, expected, rtol=tolerance, atol=tolerance)
    if not isinstance(prior, keras_vae.DiagonalNormal):
        noise = np.random.default_rng(6).standard_normal((9, *prior.noise_shape), dtype="float32")
        (z,) = run(folder, "prior", noise=noise)
        np.testing.assert_allclose(z, prior.sample(9, seed=6), rtol=tolerance, atol=tolerance)


def test_conditional_models_keep_their_input_names(conditional):
    encoder, decoder = families.make("conditional")
    manifest = Manifest.load(conditional)
    signature = {
        name: [(tensor.name, tensor.dtype) for tensor in (*graph.inputs, *graph.outputs)]
        for name, graph in manifest.graphs.items()
    }
    named = [tensor.name for tensor in encoder.inputs]
    assert sorted(named) == ["image", "label"]
    types = {"image": "float32", "label": "int32"}
    assert signature["encoder"] == [
        *((name, types[name]) for name in named),
        ("z_mean", "float32"),
        ("z_log_var", "float32"),
    ]
    assert signature["decoder"] == [("z", "float32"), ("label", "int32"), ("x_mean", "float32")]

    image, label = (
        np.random.default_rng(2).normal(size=(4, 6)).astype("float32"),
        np.array([[0], [1], [2], [3]], "int32"),
    )
    z_mean, z_log_var = run(conditional, "encoder", image=image, label=label)
    expected = encoder.predict({"image": image, "label": label}, verbose=0)
    np.testing.assert_allclose(z_mean, expected["z_mean"], atol=1e-5)
    np.testing.assert_allclose(z_log_var, expected["z_log_var"], atol=1e-5)
    (x_mean,) = run(conditional, "decoder", z=z_mean, label=label)
    np.testing.assert_allclose(x_mean, decoder.predict([z_mean, label], verbose=0), atol=1e-5)


def test_a_likelihood_can_be_given_for_a_pair(tmp_path):
    encoder, decoder = families.make("conditional")
    keras_vae_export.export((encoder, decoder), tmp_path / "bundle", likelihood="bce")
    z, label = np.ones((2, 3), "float32"), np.zeros((2, 1), "int32")
    (x_mean,) = run(tmp_path / "bundle", "decoder", z=z, label=label)
    logits = decoder.predict([z, label], verbose=0)
    np.testing.assert_allclose(x_mean, 1.0 / (1.0 + np.exp(-logits)), atol=1e-6)


@pytest.mark.parametrize("size", [(6, 10), (31, 17)])
def test_free_height_and_width_are_free(size, exported):
    encoder, _ = families.make("fully_convolutional")
    image = np.random.default_rng(3).normal(size=(2, *size, 1)).astype("float32")
    z_mean, _ = run(exported("fully_convolutional"), "encoder", x=image)
    np.testing.assert_allclose(z_mean, keras.ops.convert_to_numpy(encoder(image)[0]), atol=1e-5)


def test_a_half_precision_model_is_exported_in_float32_and_its_rounding_told(exported):
    folder = exported("mixed_bfloat16")
    manifest = Manifest.load(folder)
    assert manifest.export["policies"] == ["mixed_bfloat16"]
    encoder = manifest.graphs["encoder"].parity
    assert max(encoder["max_scaled_diff"].values()) < 1e-5
    assert 1e-5 < encoder["rounding_of_policy"]["z_mean"] < 0.05
    weights = {tensor.data_type for tensor in onnx.load(folder / "encoder/1/model.onnx").graph.initializer}
    assert weights <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.INT32}

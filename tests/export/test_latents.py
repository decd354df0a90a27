"""Latents of any shape, posteriors and priors of one's own: what the model computes, its bundle computes everywhere."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import families
import keras_vae
import keras_vae_export
import own_posteriors
from keras_vae_export import ExportError, graphs
from keras_vae_serving import Pipeline, endpoints
from served import serving

pytestmark = pytest.mark.once

CHANNELS = families.CHANNELS
VECTOR, SERIES, PLACES, FREE = (), (4,), (3, 4), (None, None)
POSTERIORS = {
    "normal": lambda: "normal",
    "correlated": own_posteriors.Correlated,
    "rounded": lambda: own_posteriors.Rounded(5),
}


def data(vae, n=9, size=6, seed=0):
    shape = [extent or size + 2 * axis for axis, extent in enumerate(vae.data_shape)]
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype("float32")


def cases():
    """All pairs; some are exported each time, the others where the part `slow` runs."""
    each_time = {
        *((VECTOR, "correlated"), (SERIES, "normal"), (PLACES, "correlated"), (PLACES, "rounded")),
        *((FREE, "normal"), (FREE, "rounded")),
    }
    for places in (VECTOR, SERIES, PLACES, FREE):
        for posterior in POSTERIORS:
            marks = () if (places, posterior) in each_time else pytest.mark.slow
            yield pytest.param((places, posterior), marks=marks, id=f"{len(places)} axes, {posterior}{places[:1]}")


@pytest.fixture(scope="module", params=cases())
def case(request, tmp_path_factory):
    """A model, its bundle's folder and its pipeline."""
    places, posterior = request.param
    vae = families.at_places(places, POSTERIORS[posterior]())
    vae.latent_statistics = keras_vae.evaluation.latent_statistics(vae, data(vae, 40))
    folder = tmp_path_factory.mktemp("latents") / "bundle"
    keras_vae_export.export(vae, folder, data=data(vae, size=10))
    return vae, folder, Pipeline.load(folder, providers="cpu", batch_size=4)


def test_every_verb_gives_the_numbers_of_the_model(case):
    vae, _, pipeline = case
    near = {"rtol": 1e-4, "atol": 2e-5}
    for size in (6, 14):
        x = data(vae, 5, size)
        found, expected = pipeline.encode(x), vae.encode(x)
        for name in getattr(expected, "outputs", ("mean", "log_var")):
            both = (
                each.outputs[name] if hasattr(each, "outputs") else getattr(each, name) for each in (found, expected)
            )
            np.testing.assert_allclose(*both, **near)
        np.testing.assert_allclose(found.location, expected.location, **near)
        np.testing.assert_allclose(found.sample(seed=3), expected.sample(seed=3), **near)
        np.testing.assert_allclose(pipeline.decode(found.location), vae.decode(expected.location), **near)
        np.testing.assert_allclose(pipeline.reconstruct(x), vae.reconstruct(x), **near)
        drawn = pipeline.reconstruct(x, sample=True, seed=4)
        np.testing.assert_allclose(drawn, vae.reconstruct(x, sample=True, seed=4), **near)
        np.testing.assert_allclose(pipeline.score(x, 3, seed=5), -vae.elbo(x, 3, seed=5), **near)
        np.testing.assert_allclose(pipeline.interpolate(x[0], x[1], 4), vae.interpolate(x[0], x[1], 4), **near)
    shape = None if None not in vae.latent_shape else (3, 5, CHANNELS)
    found, expected = (model.sample(6, seed=7, latent_shape=shape) for model in (pipeline, vae))
    np.testing.assert_allclose(found, expected, **near)


def test_standardized_codes_are_decoded_by_the_inverse(case):
    vae, _, pipeline = case
    x = data(vae, 5)
    found, expected = pipeline.encode(x, standardized=True), vae.encode(x, standardized=True)
    np.testing.assert_allclose(found.location, expected.location, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.sample(seed=1), expected.sample(seed=1), rtol=1e-4, atol=1e-4)
    assert np.abs(found.location - pipeline.encode(x).location).max() > 0.05
    decoded = pipeline.decode(found.location, standardized=True)
    np.testing.assert_allclose(decoded, pipeline.reconstruct(x), rtol=1e-4, atol=1e-5)


def test_the_codes_of_a_discrete_posterior_are_whole_numbers(case):
    vae, _, pipeline = case
    if pipeline.verbs.is_normal:
        return
    posterior = pipeline.encode(data(vae))
    if not pipeline.manifest.posterior.is_discrete:
        with pytest.raises(TypeError, match="The z of the posterior Correlated are no codes"):
            _ = posterior.codes
        return
    codes = posterior.codes
    assert codes.dtype == np.int32
    assert set(np.unique(codes)) <= set(range(5))
    assert len(np.unique(codes)) > 2
    np.testing.assert_allclose(posterior.location, codes / 2.0 - 1.0, atol=1e-6)


def test_the_manifest_says_what_z_is(case):
    vae, folder, pipeline = case
    manifest, fields = pipeline.manifest, json.loads((folder / "manifest.json").read_text())
    assert fields["schema_version"] == 2
    assert fields["latent_shape"] == [*vae.latent_shape]
    assert manifest.latent_dim == vae.latent_dim
    assert tuple(manifest.posterior.outputs) == vae.posterior_family.outputs
    assert list(manifest.posterior.noise_shape) == list(vae.noise_shape())
    assert fields["latents"] == vae.latent_statistics.get_config()
    names = ["encoder", *(() if pipeline.verbs.is_normal else ("posterior",)), "decoder", "elbo"]
    assert list(manifest.graphs) == names
    assert "held-out" in manifest.graphs["elbo"].parity["inputs"]
    assert set(keras_vae_export.check(folder)) == set(names)


def test_the_server_gives_the_numbers_of_the_pipeline(case):
    vae, folder, pipeline = case
    x, near = data(vae, 3), {"rtol": 1e-5, "atol": 1e-6}
    with serving(folder) as client:
        encoded = client.infer("encode", {"standardized": True}, x=x)
        posterior = pipeline.encode(x, standardized=True)
        z = encoded["z_mean" if pipeline.verbs.is_normal else "z"].astype("float32")
        np.testing.assert_allclose(z, posterior.location, **near)
        assert ("codes" in encoded) == pipeline.manifest.posterior.is_discrete
        decoded = client.infer("decode", {"standardized": True}, z=z)
        np.testing.assert_allclose(decoded["x_mean"], pipeline.reconstruct(x), **near)
        scored = client.infer("score", {"num_samples": 2, "seed": 1}, x=x)
        np.testing.assert_allclose(scored["negative_elbo"], pipeline.score(x, 2, 1), **near)
        drawn = client.infer("reconstruct", {"sample": True, "seed": 1}, x=x)
        np.testing.assert_allclose(drawn["x_mean"], pipeline.reconstruct(x, True, 1), **near)
        free = None in vae.latent_shape
        shape = {"latent_shape": "3, 5,2"} if free else {}
        sampled = client.infer("sample", {"n": 2, "seed": 1, **shape})
        expected = pipeline.sample(2, 1, latent_shape=(3, 5, 2) if free else None)
        np.testing.assert_allclose(sampled["x_mean"], expected, **near)
        if free:
            assert "say how large, latent_shape=(8, 8, 2)" in client.infer("sample")
            for wrong in ("3, 5", "3, 5, 7", "0, 5, 2"):
                refused = client.infer("sample", {"latent_shape": wrong})
                assert "must be whole numbers that fit (any, any, 2)" in refused
            assert "must be sizes with commas" in client.infer("sample", {"latent_shape": [3, 5, 2]})
            refused = client.infer("sample", {"latent_shape": "99999, 99999, 2"})
            assert "1 z of shape (99999, 99999, 2) need" in refused
            assert "this server takes up to 160 MiB in one request" in refused
        described = client.described()
        assert described["latent_shape"] == [*vae.latent_shape]
        activity = described["latent_activity"]
        assert activity is None if free else len(activity) == CHANNELS


def test_what_a_request_decodes_is_bounded_by_the_widest_layer(tmp_path, monkeypatch):
    x, z = keras.Input((None, None, 2)), keras.Input((None, None, 2))
    encoder = keras.Model(x, [layers.Conv2D(2, 3, strides=2, padding="same")(x) for _ in range(2)])
    wide = layers.Conv2D(16, 1, activation="relu")(layers.UpSampling2D(2)(z))
    vae = keras_vae.VAE(encoder, keras.Model(z, layers.Conv2D(2, 3, padding="same")(wide)), "mse", seed=0)
    families.randomize([vae], 3)
    keras_vae_export.export(vae, tmp_path / "bundle")
    # 16 channels at 16 places of x for 4 of z
    monkeypatch.setattr(endpoints, "_MAX_DECODED", 16 * 16 * 4)
    with serving(tmp_path / "bundle") as client:
        for size, fits in ((2, True), (3, False)):
            codes = {"z": np.zeros((1, size, 2, 2), "float32")}
            answers = [
                client.infer("sample", {"latent_shape": f"{size}, 2, 2"}),
                client.infer("sample", {"latent_shape": "1, 2, 2", "n": size}),
                client.infer("reconstruct", x=np.zeros((1, 2 * size, 4, 2), "float32")),
                client.infer("decode", **codes),
                client.infer("decoder", **codes),
            ]
            for answer in answers:
                assert "x_mean" in answer if fits else "in the decoder's widest layer" in answer


@pytest.mark.slow
def test_the_torch_engine_knows_how_free_sizes_of_z_follow_from_those_of_x(tmp_path):
    vae = families.at_places(FREE, own_posteriors.Correlated())
    manifest = keras_vae_export.export(vae, tmp_path / "bundle", engine="torch")
    assert manifest.graphs["elbo"].inputs[1].shape == ("batch", "num_samples", "z_1", "z_2", CHANNELS)


def test_without_statistics_an_error_says_how_to_set_them(exported):
    folder = exported("gaussian_predicted")
    pipeline = Pipeline.load(folder, providers="cpu")
    x, z = np.ones((1, 3, 3, 2), "float32"), np.ones((1, 3), "float32")
    for call in (lambda: pipeline.encode(x, True), lambda: pipeline.decode(z, True)):
        with pytest.raises(ValueError, match="does not know the scale of its codes: set vae.latent_statistics"):
            call()
    with pytest.raises(ValueError, match=r"latent_shape must be whole numbers that fit \(3\); got \(4,\)"):
        pipeline.sample(1, latent_shape=(4,))
    with serving(folder) as client:
        for verb, arrays in (("encode", {"x": x}), ("decode", {"z": z})):
            assert "does not know the scale of its codes" in client.infer(verb, {"standardized": True}, **arrays)
            found, expected = client.infer(verb, {"standardized": False}, **arrays), client.infer(verb, **arrays)
            np.testing.assert_equal(found, expected)
        assert "must be whole numbers that fit (3); got (6,)" in client.infer("sample", {"latent_shape": "6"})
        found, expected = (client.infer("sample", {"seed": 1, **shape}) for shape in ({"latent_shape": "3"}, {}))
        np.testing.assert_equal(found, expected)


@keras.saving.register_keras_serializable(package="tests")
class ByLabel(keras_vae.priors.Prior):
    """p(z|c) is a normal of what a network makes of a label."""

    distribution_class = keras_vae.DiagonalNormal

    def __init__(self, condition_network):
        super().__init__()
        self.condition_network = condition_network

    def distribution(self, given=None, encode=None):
        mean, log_var = self.condition_network(given)
        return keras_vae.DiagonalNormal(mean, log_var)

    def get_config(self):
        return {"condition_network": keras.saving.serialize_keras_object(self.condition_network)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["condition_network"]))


@pytest.mark.parametrize("taker", ["encoder and prior", pytest.param("all", marks=pytest.mark.slow)])
def test_a_prior_of_the_condition_is_drawn_from_for_each_condition(taker, tmp_path):
    label = keras.Input((), dtype="int32", name="condition")
    h = layers.Embedding(3, 4)(label)
    prior = ByLabel(keras.Model(label, [layers.Dense(2)(h), layers.Dense(2)(h)]))
    encoder, decoder = keras_vae.networks.mlp((4, 4), 2, (8,), condition=3)
    if taker == "encoder and prior":
        decoder = keras_vae.networks.mlp((4, 4), 2, (8,))[1]
    vae = keras_vae.VAE(encoder, decoder, prior=prior, seed=0)
    families.randomize([vae], 3)
    keras_vae_export.export(vae, tmp_path / "bundle")
    pipeline = Pipeline.load(tmp_path / "bundle", providers="cpu")
    assert [tensor.name for tensor in pipeline.manifest.graphs["prior"].inputs] == ["noise", "condition"]
    labels, noise = np.array([0, 1, 2, 1]), np.random.default_rng(5).standard_normal((4, 2), dtype="float32")
    mean, log_var = (keras.ops.convert_to_numpy(part) for part in prior.condition_network(labels))
    z = mean + np.exp(0.5 * log_var) * noise
    np.testing.assert_allclose(pipeline.draw(4, seed=5, condition=labels), z, rtol=1e-5, atol=1e-5)
    beside = {} if taker == "encoder and prior" else {"condition": labels}
    expected = pipeline.decode({"z": z, **beside})
    np.testing.assert_allclose(pipeline.sample(4, seed=5, condition=labels), expected, atol=1e-5)
    x = np.random.default_rng(1).random((4, 4, 4)).astype("float32")
    given = {"x": x, "condition": labels}
    np.testing.assert_allclose(pipeline.score(given, 2, 1), -vae.elbo(given, 2, 1), rtol=1e-4)
    with pytest.raises(ValueError, match="This model is conditional: pass a condition"):
        pipeline.sample(2)
    with serving(tmp_path / "bundle") as client:
        found = client.infer("sample", {"seed": 5}, condition=labels)
        np.testing.assert_allclose(found["x_mean"], expected, atol=1e-5)
        described = client.described()
        assert len(described["latent_activity"]) == 2
        assert described["labels"] == {"condition": 3}


def test_networks_that_were_just_assigned_are_exported():
    label = keras.Input((), dtype="int32")
    h = layers.Embedding(3, 4)(label)
    prior = ByLabel(keras.Model(label, [layers.Dense(2)(h), layers.Dense(2)(h)]))
    vae = keras_vae.VAE(*keras_vae.networks.mlp((4,), 2, (8,), condition=3), prior=prior, seed=0)
    assert graphs.from_model(vae)[0].inputs[0].shape == ("batch", 4)
    vae.encoder, vae.decoder = keras_vae.networks.mlp((5,), 2, (8,), condition=3)
    assert graphs.from_model(vae)[0].inputs[0].shape == ("batch", 5)


@keras.saving.register_keras_serializable(package="tests")
class Misnamed(own_posteriors.Rounded):
    outputs = ("z",)


class Silent(own_posteriors.Correlated):
    """It does not say what shapes the encoder's outputs have."""

    def output_shapes(self, latent_shape):
        return dict.fromkeys(self.outputs, latent_shape)


def test_what_a_bundle_cannot_say_is_refused_in_words():
    free = families.at_places(FREE, "normal")
    free.posterior_family.noise_shape = lambda shape: tuple(2 * size if size else None for size in shape)
    with pytest.raises(ExportError, match="sizes that follow from those of z and are none of them"):
        graphs.from_model(free)
    outgrown = families.at_places(FREE, own_posteriors.Correlated())
    object.__setattr__(outgrown.posterior_family, "__class__", Silent)
    with pytest.raises(ExportError, match="The encoder's mixing has shape .* export reads there how"):
        graphs.from_model(outgrown)
    x, z = keras.Input((6,)), keras.Input((2,))
    encoder = keras.Model(x, {"z": layers.Dense(2)(x)})
    vae = keras_vae.VAE(encoder, keras.Model(z, layers.Dense(6)(z)), "mse", posterior=Misnamed())
    with pytest.raises(ExportError, match="calls an output of the encoder 'z'.* give it another name"):
        graphs.from_model(vae)

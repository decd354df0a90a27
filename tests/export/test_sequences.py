"""A decoder that follows the steps before, in a bundle: the numbers of the model, step by step."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_vae_export
import served
from keras_vae import VAE, Categorical, networks, sequences
from keras_vae_export import graphs, probes
from keras_vae_serving import Pipeline, RequestError

pytestmark = pytest.mark.once

STEPS, CODES = 5, 3


@pytest.fixture(scope="module")
def vae():
    likelihood = Categorical(num_classes=CODES)
    x = keras.Input((STEPS,), name="x")
    h = layers.Flatten()(likelihood.for_encoder(x))
    encoder = keras.Model(x, {name: layers.Dense(2, name=name)(h) for name in ("z_mean", "z_log_var")})
    z, previous = keras.Input((2,), name="z"), keras.Input((STEPS,), name="previous")
    h = layers.Concatenate()([layers.RepeatVector(STEPS)(z), likelihood.for_encoder(previous)])
    decoder = keras.Model({"z": z, "previous": previous}, layers.Conv1D(CODES, 3, padding="causal")(h))
    return VAE(encoder, decoder, likelihood, allow_missing=True, seed=0)


@pytest.fixture(scope="module")
def x():
    codes = np.random.default_rng(0).integers(0, CODES, (8, STEPS))
    return sequences.pad([row[: 2 + i % 4] for i, row in enumerate(codes)], STEPS)


@pytest.fixture(scope="module")
def folder(vae, x, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequences") / "bundle"
    keras_vae_export.export(vae, folder, data=x)
    return folder


@pytest.fixture(scope="module")
def pipeline(folder):
    return Pipeline.load(folder, providers="cpu")


@pytest.fixture(scope="module")
def client(folder):
    with served.serving(folder) as client:
        yield client


def test_the_numbers_of_the_model(vae, x, pipeline):
    np.testing.assert_allclose(pipeline.score(x, 2, seed=0), -vae.elbo(x, 2, seed=0), rtol=1e-4)
    z = vae.encode(x).location
    np.testing.assert_array_equal(pipeline.decode(z), vae.decode(z))
    np.testing.assert_array_equal(pipeline.reconstruct(x), vae.reconstruct(x))
    drawn = pipeline.sample(50, seed=0, draw=True)
    np.testing.assert_array_equal(drawn, vae.sample(50, seed=0, draw=True))
    assert len(np.unique(drawn, axis=0)) > 20
    np.testing.assert_array_equal(pipeline.impute(x, draws=3, seed=0), vae.impute(x, draws=3, seed=0))


def test_the_server_gives_the_numbers_of_the_pipeline(x, pipeline, client):
    z, draw = pipeline.encode(x).mean, {"draw": True, "seed": 0}
    asked = {
        ("score", "negative_elbo"): ({"num_samples": 2, "seed": 0}, {"x": x}, pipeline.score(x, 2, seed=0)),
        ("reconstruct", "x_mean"): ({}, {"x": x}, pipeline.reconstruct(x)),
        ("decode", "x_mean"): ({}, {"z": z}, pipeline.decode(z)),
        ("sample", "x_drawn"): ({"n": 5, **draw}, {}, pipeline.sample(5, **draw)),
        ("impute", "x_draws"): ({"draws": 3, "seed": 0}, {"x": x}, np.moveaxis(pipeline.impute(x, 3, seed=0), 0, 1)),
    }
    for (verb, output), (parameters, arrays, expected) in asked.items():
        answer = client.infer(verb, parameters, **arrays)
        np.testing.assert_allclose(answer[output], expected, rtol=1e-5, err_msg=verb)


def test_what_a_server_refuses_of_sequences(x, client):
    assert "by draws only" in client.infer("impute", x=x)
    hole = np.where(np.arange(STEPS) == 1, np.nan, np.nan_to_num(x))
    assert "lacks values at step 1 of example 0" in client.infer("score", x=hole)


def test_the_decoder_takes_the_steps_so_far(vae, x, pipeline):
    """As a client does that has no `Pipeline`."""
    decoder = pipeline.manifest.graphs["decoder"]
    assert [tensor.name for tensor in decoder.inputs] == ["z", "x"]
    z, made = vae.encode(x).location, np.full((len(x), STEPS), np.nan, "float32")
    for step in range(STEPS):
        outputs = pipeline.sessions["decoder"].run({"z": z, "x": made})
        made[:, step] = outputs["x_mean"][:, step]
    np.testing.assert_array_equal(made, vae.decode(z))


def test_the_parameters_of_a_subclass_that_knows_no_steps():
    """Its method has the arguments that it had before there were such decoders."""

    class Doubled(VAE):
        def decoder_parameters(self, z, training=False, condition=None):
            return 2.0 * super().decoder_parameters(z, training, condition)

    vae = Doubled(*networks.mlp((4,), 2, hidden=(3,)), seed=0)
    decoder = next(graph for graph in graphs.from_model(vae) if graph.name == "decoder")
    z = np.random.default_rng(0).normal(size=(3, 2)).astype("float32")
    found = decoder.function(keras.ops.convert_to_tensor(z))["x_mean"]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), vae.decode(z), rtol=1e-5)


def test_series_are_compared_on_what_may_be_missing():
    """The ends of them: after a hole there is no bound, and a model says NaN."""
    pair = networks.recurrent((STEPS, 2), 2, (4,), likelihood="mse", show_missing=True, autoregressive=True)
    vae = VAE(*pair, "mse", allow_missing=True, seed=0)
    found = probes.make_probes(graphs.from_model(vae), None)
    for graph in ("decoder", "elbo"):
        x = found[graph][0].inputs["x"]
        assert np.isnan(x).any()
        assert np.isfinite(x).any()
        assert all(np.isfinite(array).all() for array in found[graph][0].outputs.values())


def test_what_has_no_meaning_is_a_sentence(x, pipeline):
    with pytest.raises(RequestError, match="by draws only"):
        pipeline.impute(x)
    hole = np.where(np.arange(STEPS) == 1, np.nan, np.nan_to_num(x))
    with pytest.raises(RequestError, match="lacks values at step 1 of example 0"):
        pipeline.score(hole)

"""A decoder that follows the steps before, in a bundle: the numbers of the model, step by step."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_vae_export
from keras_vae import VAE, Categorical, networks, sequences
from keras_vae_export import graphs
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
def pipeline(vae, x, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequences") / "bundle"
    keras_vae_export.export(vae, folder, data=x)
    return Pipeline.load(folder, providers="cpu")


def test_the_numbers_of_the_model(vae, x, pipeline):
    np.testing.assert_allclose(pipeline.score(x, 2, seed=0), -vae.elbo(x, 2, seed=0), rtol=1e-4)
    z = vae.encode(x).location
    np.testing.assert_array_equal(pipeline.decode(z), vae.decode(z))
    np.testing.assert_array_equal(pipeline.reconstruct(x), vae.reconstruct(x))
    drawn = pipeline.sample(50, seed=0, draw=True)
    np.testing.assert_array_equal(drawn, vae.sample(50, seed=0, draw=True))
    assert len(np.unique(drawn, axis=0)) > 20
    np.testing.assert_array_equal(pipeline.impute(x, draws=3, seed=0), vae.impute(x, draws=3, seed=0))


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


def test_what_has_no_meaning_is_a_sentence(x, pipeline):
    with pytest.raises(RequestError, match="by draws only"):
        pipeline.impute(x)
    hole = np.where(np.arange(STEPS) == 1, np.nan, np.nan_to_num(x))
    with pytest.raises(RequestError, match="lacks values at step 1 of example 0"):
        pipeline.score(hole)

"""A bundle of a model with named parts: its graphs take vectors, its `Pipeline` names, as the model does.

And of a model whose bound is one of the user's own, which has no parts that anyone could name.
"""

import keras
import numpy as np
import pytest

import keras_vae_export
from keras_vae import VAE, Bernoulli, Categorical, Gaussian, evaluation, networks
from keras_vae_export import graphs
from keras_vae_serving import Pipeline
from keras_vae_serving.errors import RequestError

pytestmark = pytest.mark.once


def test_the_numbers_of_the_model_by_name(tmp_path):
    rng = np.random.default_rng(0)
    likelihood = {"image": Bernoulli(), "label": Categorical(3), "size": Gaussian("predicted")}
    data = {
        "image": rng.integers(0, 2, (8, 4, 2)).astype("float32"),
        "label": rng.integers(0, 3, 8),
        "size": rng.normal(size=(8, 2, 3)).astype("float32"),
        "style": rng.integers(0, 5, 8),
    }
    keras.utils.set_random_seed(0)
    shapes, given = {"image": (4, 2), "label": (), "size": (2, 3)}, {"style": 5}
    pair = networks.mlp(shapes, 2, (5,), likelihood=likelihood, condition=given, show_missing=True)
    vae = VAE(*pair, likelihood, seed=0, allow_missing=True)
    manifest = keras_vae_export.export(vae, tmp_path / "bundle", data=data)
    assert manifest.parts == {
        "x": {"image": [4, 2], "label": [], "size": [2, 3]},
        "condition": {"style": []},
    }
    pipeline, style = Pipeline.load(tmp_path / "bundle", providers="cpu"), {"style": data["style"]}
    missing = data | {"label": np.full(8, np.nan), "size": np.where(rng.random((8, 2, 3)) < 0.5, np.nan, data["size"])}
    one = [{name: data[name][i] for name in likelihood} for i in (0, 1)]
    for found, expected in (
        (pipeline.reconstruct(data), vae.reconstruct(data)),
        (pipeline.sample(8, 0, style), vae.sample(8, 0, condition=style)),
        (pipeline.sample(8, 0, {"style": 1}, draw=True), vae.sample(8, 0, condition={"style": 1}, draw=True)),
        (pipeline.impute(missing, seed=0), vae.impute(missing, seed=0)),
        (pipeline.impute(missing, 2, seed=0), vae.impute(missing, 2, seed=0)),
        (pipeline.interpolate(*one, 3, {"style": 1}), vae.interpolate(*one, 3, condition={"style": 1})),
        (pipeline.decode({"z": np.ones((8, 2), "float32"), **style}), vae.decode(np.ones((8, 2)), condition=style)),
    ):
        assert list(found) == list(likelihood)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(pipeline.score(data, 2, seed=0), -vae.elbo(data, 2, seed=0), rtol=1e-4)
    with pytest.raises(RequestError, match="takes .* together"):
        pipeline.score({"image": data["image"], **style})
    with pytest.raises(RequestError, match="one batch size; got x: 8, condition: 5"):
        pipeline.impute(missing | {"style": data["style"][:5]})
    for wrong in (-1, 5, 1.5):
        with pytest.raises(RequestError, match="style must hold labels"):
            pipeline.score(data | {"style": np.full(8, wrong)})
    with pytest.raises(RequestError, match="label must hold labels"):
        pipeline.score(data | {"label": np.full(8, 3)})
    with pytest.raises(RequestError, match="size must have shape"):
        pipeline.score(data | {"size": data["size"][:, 0]})


class Halved(Gaussian):
    def log_prob(self, x, parameters, observed=None, fitted=None):
        return 0.5 * super().log_prob(x, parameters, observed, fitted)


class Doubled(VAE):
    def elbo_terms(self, x, noise, condition=None, prior=None):
        terms = super().elbo_terms(x, noise, condition, prior)
        return terms._replace(reconstruction=2.0 * terms.reconstruction)


@pytest.mark.parametrize("model", [lambda pair: VAE(*pair, Halved()), lambda pair: Doubled(*pair, "mse")])
def test_a_bound_of_ones_own_is_exported_as_it_is(model):
    vae = model(networks.mlp((3,), 2, (4,), likelihood="mse"))
    x = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
    graph = next(graph for graph in graphs.from_model(vae) if graph.name == "elbo")
    assert [tensor.name for tensor in graph.outputs] == ["reconstruction", "kl"]
    noise = np.random.default_rng(5).standard_normal((40, 2, 2), dtype="float32")
    found = graph.function(keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(noise))
    scores = sum(keras.ops.convert_to_numpy(value) for value in found.values())
    np.testing.assert_allclose(scores, -vae.elbo(x, 2, seed=5, batch_size=80), rtol=1e-5)
    assert evaluation.fit_threshold(vae, x, 0.9).usual is None or isinstance(vae, Doubled)

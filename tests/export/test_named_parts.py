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
from served import serving

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def likelihood():
    return {"image": Bernoulli(), "label": Categorical(3), "size": Gaussian("predicted")}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 2, (8, 4, 2)).astype("float32"),
        "label": rng.integers(0, 3, 8),
        "size": rng.normal(size=(8, 2, 3)).astype("float32"),
        "style": rng.integers(0, 5, 8),
    }


@pytest.fixture(scope="module")
def missing(data):
    unknown = np.random.default_rng(1).random((8, 2, 3)) < 0.5
    return data | {"label": np.full(8, np.nan), "size": np.where(unknown, np.nan, data["size"])}


@pytest.fixture(scope="module")
def vae(likelihood):
    keras.utils.set_random_seed(0)
    shapes, given = {"image": (4, 2), "label": (), "size": (2, 3)}, {"style": 5}
    pair = networks.mlp(shapes, 2, (5,), likelihood=likelihood, condition=given, show_missing=True)
    return VAE(*pair, likelihood, seed=0, allow_missing=True)


@pytest.fixture(scope="module")
def folder(vae, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts") / "bundle"
    manifest = keras_vae_export.export(vae, folder, data=data)
    assert manifest.parts == {
        "x": {"image": [4, 2], "label": [], "size": [2, 3]},
        "condition": {"style": []},
    }
    assert manifest.ranges == {"image": (0.0, 1.0)}
    return folder


@pytest.fixture(scope="module")
def pipeline(folder):
    return Pipeline.load(folder, providers="cpu")


def test_the_numbers_of_the_model_by_name(vae, pipeline, likelihood, data, missing):
    style = {"style": data["style"]}
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
    with pytest.raises(RequestError, match=r"image must lie in \[0, 1\].* ranges from 0 to 255. Divide it by 255."):
        pipeline.score(data | {"image": 255 * data["image"]})
    with pytest.raises(RequestError, match="style contains NaN or infinite values"):
        pipeline.score(data | {"style": np.full(8, np.nan)})
    with pytest.raises(RequestError, match="size contains infinite values"):
        pipeline.score(data | {"size": np.full_like(data["size"], np.inf)})
    with pytest.raises(RequestError, match="label must hold numbers; got <U1"):
        pipeline.score(data | {"label": np.full(8, "a")})


def test_over_http_each_part_is_a_tensor_of_its_name(pipeline, folder, likelihood, data, missing):
    style, names = {"style": data["style"]}, list(likelihood)
    with serving(folder) as client:
        z = np.ones((8, 2))
        drawn = pipeline.impute(missing, 2, seed=0)
        for found, expected in (
            (client.infer("reconstruct", **data), pipeline.reconstruct(data)),
            (client.infer("reconstruct", binary=False, **data), pipeline.reconstruct(data)),
            (client.infer("sample", {"seed": 0, "draw": True}, **style), pipeline.sample(8, 0, style, draw=True)),
            (client.infer("decode", z=z, **style), pipeline.decode({"z": z, **style})),
            (client.infer("impute", {"seed": 0}, **missing), pipeline.impute(missing, seed=0)),
            (
                client.infer("impute", {"seed": 0, "draws": 2}, **missing),
                {name: np.moveaxis(part, 0, 1) for name, part in drawn.items()},
            ),
        ):
            assert list(found) == names, found
            for name, array in expected.items():
                np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
        scored = client.infer("score", {"per_dimension": True}, **data)
        assert list(scored) == ["negative_elbo", "reconstruction", "kl", *(f"surprise.{name}" for name in names)]
        np.testing.assert_allclose(
            scored["surprise.size"], pipeline.score(data, per_dimension=True)[1]["size"], rtol=1e-4
        )
        np.testing.assert_allclose(
            client.infer("encode", **data)["z_mean"], pipeline.encode(data).mean, rtol=1e-4, atol=1e-5
        )
        get = client.http.get("/v2/models/impute")
        described = client.loop.run_until_complete(get).json()
        shapes = {"image": [-1, 4, 2], "label": [-1], "size": [-1, 2, 3]}
        assert {tensor["name"]: tensor["shape"] for tensor in described["outputs"]} == shapes
        assert {tensor["name"]: tensor["shape"] for tensor in described["inputs"]} == shapes | {"style": [-1]}
        described = client.loop.run_until_complete(client.http.get("/openapi.json")).text
        assert (
            "`reconstruct`: The mean of p(x|z), with z from q(z|x). Takes image (batch, 4, 2), label (batch,)"
            in described
        )
        # As the page asks: in the vectors that graphs take.
        vectors = pipeline.inputs.packed(data)
        found = client.infer("reconstruct", {"by_name": False}, **vectors)
        np.testing.assert_allclose(
            pipeline.inputs.by_name(found["x_mean"])["size"], pipeline.reconstruct(data)["size"], rtol=1e-4
        )
        for wrong, words in (
            ({"image": data["image"]}, "The model takes ['image', 'label', 'size'] together; got ['image']"),
            (data | {"image": 255 * data["image"]}, "image must lie in [0, 1]"),
            (data | {"label": np.full(8, 3)}, "label must hold labels from 0 to 2"),
            (data | {"label": np.full((8, 1), 1)}, "label must have shape ('batch',); got (8, 1)"),
            (data | {"label": np.int64(1)}, "label must have shape ('batch',); got ()"),
            (data | {"label": np.ones(0)}, "label holds no examples"),
            (data | {"label": np.ones(7)}, "There are unequal numbers of"),
            (data | {"style": np.ones(7)}, "All inputs must have one batch size"),
            (data | {"other": np.ones(8)}, "The encoder takes ['x', 'condition']; got ['condition', 'other', 'x']"),
        ):
            assert words in client.infer("reconstruct", **wrong)
        assert "sample takes style, and the parameters" in client.infer("sample", **data)


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

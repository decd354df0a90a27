"""Tables with holes: a bundle fills them in, draws and says where a score comes from, with the numbers of the model."""

import importlib
import itertools
import json
import shutil
import sys
import types

import numpy as np
import openapi_spec_validator
import pandas
import pytest

import families
from keras_vae_serving import BundleError, Manifest, Pipeline
from keras_vae_serving.errors import RequestError
from served import COLUMNS, serving, with_columns

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def vae():
    return families.make("table_with_missing_values")


@pytest.fixture(scope="module")
def x(vae):
    """Draws of the model, in some of which values are missing."""
    x, rng = vae.sample(30, seed=1, draw=True), np.random.default_rng(2)
    starts = np.cumsum([0, 1, 1, 3, 1, 1, 1, 1, 1, 2])  # what is missing together
    for row in x[:20]:
        for start, end in itertools.pairwise(starts):
            if rng.random() < 0.3:
                row[start:end] = np.nan
    return x


@pytest.fixture(scope="module")
def folder(exported, vae, x, tmp_path_factory):
    """The bundle with names for its columns, and a threshold that knows what is usual: both stand in the manifest."""
    folder = tmp_path_factory.mktemp("table") / "bundle"
    fields = with_columns(exported("table_with_missing_values"), folder)
    scores = np.sort(-vae.elbo(x, 5, seed=6))
    settings = {"quantile": 0.9, "num_samples": 5, "seed": 6, "examples": 30}
    usual = np.linspace(-1.0, 1.0, 12).tolist()
    fields["anomaly"] = settings | {"nats": float(scores[-3]), "low": float(scores[1:3].mean()), "usual": usual}
    (folder / "manifest.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture(scope="module")
def pipeline(folder):
    return Pipeline.load(folder, providers="cpu", batch_size=64)


@pytest.mark.parametrize("draws", [None, 4])
def test_holes_are_filled_with_the_numbers_of_the_model(vae, pipeline, folder, x, draws):
    expected = vae.impute(x, draws, num_samples=20, seed=3, batch_size=256)
    found = pipeline.impute(x, draws, num_samples=20, seed=3)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    observed = ~np.isnan(x)
    np.testing.assert_array_equal(
        found[..., observed], np.broadcast_to(x[observed], (*found.shape[:-2], observed.sum()))
    )
    whole = Pipeline.load(folder, providers="cpu", batch_size=10_000).impute(x, draws, num_samples=20, seed=3)
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-5)
    assert np.abs(found - pipeline.impute(x, draws, num_samples=20, seed=4)).max() > 1e-3
    precise = x.astype("float64") + np.where(np.arange(12) < 2, 1e-12, 0.0)
    np.testing.assert_array_equal(pipeline.impute(precise, draws, 5)[..., observed][..., 0], precise[observed][0])
    full = x[20:]
    np.testing.assert_array_equal(pipeline.impute(full, draws), full if draws is None else np.stack([full] * draws))


def test_x_is_drawn_as_the_model_draws_it(vae, pipeline, x):
    np.testing.assert_allclose(pipeline.sample(40, 5, draw=True), vae.sample(40, 5, draw=True), rtol=1e-5, atol=1e-5)
    full = x[20:]
    drawn = pipeline.reconstruct(full, sample=True, seed=4, draw=True)
    # As if the model itself had drawn z from this seed, and x beside it.
    z = vae.encode(full).sample(seed=np.random.default_rng(4))
    rng = np.random.default_rng(np.random.SeedSequence(4).spawn(1)[0])
    expected = vae.likelihood.sample(vae._batched(vae._decode_parameters, z, batch_size=99), rng)
    np.testing.assert_allclose(drawn, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(drawn, pipeline.decode(z, draw=True, seed=4), rtol=1e-5, atol=1e-5)
    assert set(np.unique(drawn[:, 2:5])) == {0.0, 1.0}
    assert np.abs(drawn - pipeline.reconstruct(full, draw=True, seed=5)).max() > 0.1
    # What is asked for without draws is what it was.
    np.testing.assert_allclose(pipeline.decode(z), vae.decode(z), rtol=1e-5, atol=1e-5)


def test_a_score_says_where_it_comes_from(vae, pipeline, x):
    nats, surprise = pipeline.score(x, per_dimension=True)
    np.testing.assert_array_equal(nats, pipeline.score(x))
    expected = -vae.elbo(x, 5, seed=6, per_dimension=True) - np.linspace(-1.0, 1.0, 12)
    np.testing.assert_allclose(surprise, np.where(np.isnan(x), 0.0, expected), rtol=1e-4, atol=1e-4)
    terms = pipeline.run(pipeline.verbs.score(x, per_dimension=True))
    usual = np.where(np.isnan(x), 0.0, np.linspace(-1.0, 1.0, 12)).sum(axis=1)
    np.testing.assert_allclose(surprise.sum(axis=1) + usual, terms["reconstruction"], rtol=1e-4)
    of_columns = np.concatenate([surprise[:, :9], surprise[:, 9:].sum(axis=1, keepdims=True)], axis=1)
    names = [*(f"c{i}" for i in range(9)), "kind"]
    missing = np.isnan(x[:, :10])
    for row, gone, top in zip(of_columns, missing, pipeline.top_columns(x, 4), strict=True):
        order = np.argsort(np.where(gone, np.inf, -row), kind="stable")[:4]  # those that are missing come last
        assert [name for name, _ in top] == [names[i] for i in order]
        np.testing.assert_allclose([nats for _, nats in top], row[order], rtol=1e-5, atol=1e-5)
    assert len(pipeline.top_columns(x[:1], 99)[0]) == 10


def test_a_score_below_the_threshold_is_an_anomaly_too(pipeline, x):
    nats, threshold = pipeline.score(x), pipeline.threshold
    np.testing.assert_array_equal(pipeline.is_anomaly(x), (nats > threshold.nats) | (nats < threshold.low))
    assert (nats < threshold.low).sum() == 2
    assert threshold.is_anomaly(np.array([np.nan])).all()
    assert "usual" not in pipeline.describe()["anomaly"]


def test_the_server_gives_the_numbers_of_the_pipeline(pipeline, folder, x):
    near, full = {"rtol": 1e-5, "atol": 1e-5}, x[20:]
    z = pipeline.encode(full).location
    with serving(folder) as client:
        filled = client.infer("impute", {"num_samples": 20, "seed": 3}, x=x)
        np.testing.assert_allclose(filled["x_filled"], pipeline.impute(x, num_samples=20, seed=3), **near)
        filled = client.infer("impute", {"num_samples": 20, "seed": 3, "draws": 2}, x=x)
        assert list(filled) == ["x_draws"]
        expected = np.moveaxis(pipeline.impute(x, 2, 20, 3), 0, 1)
        np.testing.assert_allclose(filled["x_draws"], expected, **near)
        precise = x.astype("float64") + 1e-12
        found = client.infer("impute", {"num_samples": 2}, x=precise)["x_filled"]
        np.testing.assert_array_equal(found[~np.isnan(x)], precise[~np.isnan(x)])
        drawn = client.infer("sample", {"n": 6, "seed": 5, "draw": True})
        assert list(drawn) == ["x_drawn"]
        np.testing.assert_allclose(drawn["x_drawn"], pipeline.sample(6, 5, draw=True), **near)
        drawn = client.infer("decode", {"seed": 5, "draw": True}, z=z)["x_drawn"]
        np.testing.assert_allclose(drawn, pipeline.decode(z, draw=True, seed=5), **near)
        drawn = client.infer("reconstruct", {"seed": 5, "draw": True, "sample": True}, x=full)["x_drawn"]
        np.testing.assert_allclose(drawn, pipeline.reconstruct(full, True, 5, draw=True), **near)
        # As ever, and x_parameters to clients of the graph alone.
        assert list(client.infer("decode", z=z)) == ["x_mean"]
        assert list(client.infer("decoder", z=z)) == ["x_mean", "x_parameters"]
        nats, surprise = pipeline.score(full, per_dimension=True)
        for binary in (False, True):
            scored = client.infer("score", {"per_dimension": True, "top_columns": 2}, binary, x=full)
            assert list(scored)[-4:] == ["is_anomaly", "surprise", "top_columns", "top_surprise"]
            np.testing.assert_allclose(scored["negative_elbo"], nats, **near)
            np.testing.assert_allclose(scored["surprise"], surprise, **near)
            top = [[name for name, _ in row] for row in pipeline.top_columns(full, 2)]
            assert scored["top_columns"].tolist() == top
        assert list(client.infer("score", x=x)) == ["negative_elbo", "reconstruction", "kl", "is_anomaly"]


def test_on_ray_the_numbers_of_an_example_are_those_of_the_example_alone(pipeline, folder, x, monkeypatch):
    """The worker, without Ray, which gives it batches: what is in them changes nothing."""
    for name in ("ray", "ray.data", "ray.serve"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules["ray"], "data", sys.modules["ray.data"], raising=False)
    monkeypatch.setattr(sys.modules["ray"], "serve", sys.modules["ray.serve"], raising=False)
    monkeypatch.delitem(sys.modules, "keras_vae_serving.on_ray", raising=False)
    on_ray = importlib.import_module("keras_vae_serving.on_ray")
    monkeypatch.delitem(sys.modules, "keras_vae_serving.on_ray")

    def run(verb, x, **arguments):
        return on_ray._Worker(str(folder), {"providers": "cpu"}, verb, "data", 3, arguments)({"data": x})

    def alone(verb, x):
        return np.stack([verb(each[None], on_ray.example_seed(3, each))[0] for each in x])

    full, near = x[20:], {"rtol": 1e-5, "atol": 1e-5}
    z = pipeline.encode(full).location
    found = run("impute", x, num_samples=8)["x_filled"]
    np.testing.assert_allclose(found, alone(lambda x, seed: pipeline.impute(x, None, 8, seed), x), **near)
    found = run("reconstruct", full, draw=True, sample=True)["x_drawn"]
    expected = alone(lambda x, seed: pipeline.reconstruct(x, True, seed, draw=True), full)
    np.testing.assert_allclose(found, expected, **near)
    found = run("decode", z, draw=True)["x_drawn"]
    np.testing.assert_allclose(found, alone(lambda z, seed: pipeline.decode(z, draw=True, seed=seed), z), **near)
    assert run("score", x, top_columns=2)["top_columns"].shape == (30, 2)


def test_what_a_request_may_ask_for_is_bounded_and_refused_in_words(folder, x):
    with serving(folder) as client:
        for parameters, words in (
            ({"draws": 1000}, "30 examples with 1000 draws each are more than 21845 at a time"),
            ({"draws": 0}, 'the parameter "draws" must be a whole number of at least 1'),
            ({"seed": -1}, 'the parameter "seed" must be a whole number from 0'),
        ):
            assert words in client.infer("impute", parameters, x=x)
        many = np.tile(x, (10, 1))
        for verb in ("score", "impute"):
            words = "300 examples with 1024 samples each are more than 131072 at a time"
            assert words in client.infer(verb, {"num_samples": 1024}, x=many)
        assert "must be true or false; got 1" in client.infer("score", {"per_dimension": 1}, x=x)
        assert "must be true or false; got 1" in client.infer("sample", {"draw": 1})
        assert "of at least 1; got True" in client.infer("score", {"top_columns": True}, x=x)
        outputs = [{"name": "surprise"}]
        assert "score gives 'surprise' only where a parameter asks for it" in client.infer(
            "score", outputs=outputs, x=x
        )
        assert list(client.infer("score", {"per_dimension": True}, outputs=outputs, x=x)) == ["surprise"]


def test_many_examples_have_the_numbers_of_few_at_a_time(pipeline, folder, x):
    """Work that is more than what is done at a time is done in parts, by the same noise."""
    many, near = np.tile(x, (4, 1)), {"rtol": 1e-5, "atol": 1e-5}
    with serving(folder, max_rows=120) as client:
        found = client.infer("impute", {"seed": 3}, x=many)["x_filled"]
        np.testing.assert_allclose(found, pipeline.impute(many, seed=3), **near)
        found = client.infer("impute", {"seed": 3, "draws": 5}, x=many)["x_draws"]
        np.testing.assert_allclose(found, np.moveaxis(pipeline.impute(many, 5, seed=3), 0, 1), **near)
        found = client.infer("score", {"seed": 3, "num_samples": 50}, x=many)["negative_elbo"]
        np.testing.assert_allclose(found, pipeline.score(many, 50, 3), **near)
        assert "120 examples with 120 draws" not in client.infer("impute", {"draws": 120, "num_samples": 2}, x=many)


@pytest.fixture(scope="module")
def rows(pipeline, x):
    """The same data by name, without what is missing."""
    given = pipeline.to_rows(np.nan_to_num(x))
    places = {column["name"]: place for column, place in zip(COLUMNS, (9, *range(9)), strict=True)}
    return [
        {name: value for name, value in row.items() if not np.isnan(x[i, places[name]])} for i, row in enumerate(given)
    ]


def test_rows_by_name_are_taken_and_given(pipeline, folder, rows):
    """In Python and over HTTP: rows are what arrays are, and what is observed stays as it was sent."""
    x = pipeline.inputs.table.to_array(rows)
    filled = pipeline.impute(rows, num_samples=20, seed=3)
    assert filled == pipeline.inputs.table.to_rows(pipeline.impute(x, num_samples=20, seed=3), rows)
    assert [list(row) for row in filled] == [[column["name"] for column in COLUMNS]] * 30
    for row, given in zip(filled, rows, strict=True):
        assert given.items() <= row.items()
        assert all(type(row[f"c{i}"]) is int for i in range(1, 9))
    drawn = pipeline.impute(rows, 2, num_samples=20, seed=3)
    assert pipeline.impute(pandas.DataFrame(rows), 2, num_samples=20, seed=3) == drawn
    assert drawn == [pipeline.to_rows(each) for each in pipeline.impute(x, 2, num_samples=20, seed=3)]
    np.testing.assert_array_equal(pipeline.score(rows), pipeline.score(x))
    np.testing.assert_array_equal(pipeline.is_anomaly({"x": rows}), pipeline.is_anomaly(x))
    np.testing.assert_array_equal(pipeline.encode(rows).location, pipeline.encode(x).location)
    assert pipeline.top_columns(rows, 2) == pipeline.top_columns(x, 2)
    assert pipeline.reconstruct(rows) == pipeline.to_rows(pipeline.reconstruct(x))
    with pytest.raises(RequestError, match=r"Rows are given in a list, also one: \[row\]"):
        pipeline.score(rows[0])
    with pytest.raises(RequestError, match=r"must have shape \(n, 12\); got \(2, 3, 12\)"):
        pipeline.to_rows(np.zeros((2, 3, 12)))
    with serving(folder) as client:
        assert near(client.predict("impute", rows, num_samples=20, seed=3), filled)
        found = client.predict("impute", rows, num_samples=20, seed=3, draws=2)
        assert near(found, [list(both) for both in zip(*drawn, strict=True)])
        assert near(client.predict("sample", n=4, seed=5), pipeline.to_rows(pipeline.sample(4, 5, draw=True)))
        assert near(client.predict("sample", [], n=4, seed=5, draw=False), pipeline.to_rows(pipeline.sample(4, 5)))
        assert near(client.predict("reconstruct", rows), pipeline.reconstruct(rows))
        assert near([row["z_mean"] for row in client.predict("encode", rows)], pipeline.encode(rows).mean.tolist())
        found = client.predict("score", rows)
        assert near([row["negative_elbo"] for row in found], pipeline.score(rows).tolist())
        assert [row["is_anomaly"] for row in found] == pipeline.is_anomaly(rows).tolist()
        for prediction, given, top in zip(found, rows, pipeline.top_columns(rows), strict=True):
            assert near(prediction["surprise"], {name: nats for name, nats in top if name in given})
            assert len(prediction["surprise"]) == min(3, len(given))
        assert len(client.predict("score", rows[20:], top_columns=7)[0]["surprise"]) == 7


def near(found, expected):
    """Whether values are the same, floats up to rounding."""
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(near, found, expected))
    if isinstance(expected, dict):
        return list(found) == list(expected) and near(list(found.values()), list(expected.values()))
    return type(found) is type(expected) and found == (
        pytest.approx(expected, rel=1e-4, abs=1e-4) if isinstance(expected, float) else expected
    )


def test_requests_of_rows_are_refused_in_words(folder, bundle, rows):
    with serving(folder, max_rows=30) as client:
        for instances, words in (
            ([{"kid": "a"}], "row 0: there is no column 'kid'; did you mean 'kind'? The columns are 'kind', 'c0'"),
            ([{}, {"kind": "A"}], "row 1, column 'kind': 'A' is none of its categories; did you mean 'a'?"),
            ([{"c1": "1"}], "row 0, column 'c1' must be a number; got '1'. Send it without quotes."),
            ([{"c1": True}], "row 0, column 'c1' must be a number; got True."),
            ([{"c1": float("nan")}], "the request is not JSON"),
            ([{"c1": 10**400}], "the request is not JSON: number is infinity"),
            ([{"c1": 1e39}], "row 0, column 'c1': 1e+39 is more than float32 holds"),
            ([{"c1": [2]}], "row 0, column 'c1' must be a number; got [2]"),
            ([3], "row 0 must hold values by the names of columns; got 3."),
            ([], '"instances" must be a list of rows, each a JSON object by the names of columns; got [].'),
            (None, '"instances" must be a list of rows, each a JSON object by the names of columns; got nothing.'),
            (rows + rows[:1], "there are 31 rows; this server takes up to 30 in one request"),
        ):
            assert words in client.predict("impute", instances)
        assert "there is no parameter 'seeds'; did you mean 'seed'?" in client.predict("impute", rows, seeds=1)
        assert 'ask for more "top_columns"' in client.predict("score", rows, per_dimension=True)
        assert "sample takes no rows, but the parameters" in client.predict("sample", rows)
        assert "there is no model 'imput'; there are decode," in client.predict("imput", rows)
        assert "version 2: POST" in client.predict("decode", rows)
        how = 'rows by the names of columns: POST {"instances": [{"COLUMN": VALUE, ...}]} to /v1/models/impute:predict.'
        get = client.http.get("/v1/models/impute")
        assert client.loop.run_until_complete(get).json() == {"error": how}
        post = client.http.post("/v1/models/impute:predict", json={"instances": rows, "draws": 3})
        assert "there is no field 'draws'" in client.loop.run_until_complete(post).json()["error"]
        post = client.http.post("/v2/models/impute/infer", json={"instances": rows})
        assert client.loop.run_until_complete(post).json()["error"].endswith(f"version 1 of the protocol; {how}")
        document = client.loop.run_until_complete(client.http.get("/openapi.json")).json()
        openapi_spec_validator.validate(document)
        (row,) = document["components"]["schemas"]["Rows"]["properties"]["instances"]["items"]["anyOf"]
        assert row["properties"]["kind"] == {"enum": ["a", "b", "c", None]}
        assert row["properties"]["c8"] == {"type": ["number", "null"]}
        paths = document["paths"]["/v1/models/{model}:predict"]
        assert paths["parameters"][0]["schema"]["enum"] == ["encode", "impute", "reconstruct", "sample", "score"]
    with serving(bundle) as client:  # of no table
        assert "version 2: POST" in client.predict("score", rows)
        assert "/v1/models/{model}:predict" not in client.loop.run_until_complete(client.http.get("/openapi.json")).text


@pytest.fixture(scope="module")
def plain(bundle):
    return Pipeline.load(bundle, providers="cpu")


def test_a_bundle_that_cannot_says_so(bundle, plain, tmp_path):
    x = np.zeros((2, 8, 8, 1), "float32")
    with pytest.raises(
        BundleError, match=r"knows no missing values: its model was not made with VAE\(\.\.\., allow_mis"
    ):
        plain.impute(x)
    with pytest.raises(ValueError, match="The columns of this bundle's data have no names"):
        plain.top_columns(x)
    np.testing.assert_allclose(plain.score(x, per_dimension=True)[1].shape, x.shape)
    # As a bundle was that knew less.
    older = shutil.copytree(bundle, tmp_path / "older")
    fields = json.loads((older / "manifest.json").read_text())
    (older / "manifest.json").write_text(json.dumps({**fields, "draws": None, "missing": True}))
    with pytest.raises(BundleError, match="no weights to fill in missing values with: export the model again"):
        Pipeline.load(older, providers="cpu").impute(x)
    with serving(older) as client:
        assert "there is no model 'impute'" in client.infer("impute", x=x)
        for verb, arrays in (("sample", {}), ("reconstruct", {"x": x}), ("decode", {"z": np.zeros((1, 3), "float32")})):
            assert "and cannot draw from it: the likelihood, Bernoulli" in client.infer(verb, {"draw": True}, **arrays)
            assert list(client.infer(verb, {"draw": False}, **arrays)) == ["x_mean"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"draws": {"name": "cauchy"}}, "it draws from 'cauchy'"),
        ({"table": [{"name": "a", "kind": "real"}]}, "its table has another number of columns than the data, 12"),
        ({"anomaly": {"low": 1e9}}, "the low of an anomaly threshold must be a number below its nats"),
        ({"anomaly": {"usual": [1.0, 2.0]}}, r"the usual of its anomaly threshold is not a number for each of \(12,\)"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(folder, change, words):
    fields = json.loads((folder / "manifest.json").read_text())
    if "anomaly" in change:
        change = {"anomaly": {**fields["anomaly"], **change["anomaly"]}}
    with pytest.raises(BundleError, match=words):
        Manifest.from_json(json.dumps({**fields, **change}))

"""The verbs of a bundle give the numbers of the model that it was exported from, and refuse what makes no sense."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest

import keras_vae
import keras_vae_export
from keras_vae_serving import BundleError, Pipeline

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def x():
    return keras_vae.datasets.load("digits", binarize="threshold").test[:70]


@pytest.fixture(scope="module")
def vae():
    """With a prior that is not the standard one."""
    keras.utils.set_random_seed(2)
    prior = keras_vae.DiagonalNormal([1.0, -1.0, 0.5], [0.5, 0.0, -1.0])
    return keras_vae.VAE(*keras_vae.networks.mlp((8, 8, 1), 3, hidden=(16,)), prior=prior, seed=0)


@pytest.fixture(scope="module")
def folder(vae, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline") / "bundle"
    keras_vae_export.export(vae, folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(folder):
    return Pipeline.load(folder, providers="cpu", batch_size=32)


def test_every_verb_gives_the_numbers_of_the_model(vae, pipeline, x):
    posterior, expected = pipeline.encode(x), vae.encode(x)
    np.testing.assert_allclose(posterior.mean, expected.mean, atol=1e-5)
    np.testing.assert_allclose(posterior.log_var, expected.log_var, atol=1e-5)
    np.testing.assert_allclose(posterior.sample(3), expected.sample(seed=3), atol=1e-5)
    np.testing.assert_allclose(pipeline.decode(posterior.mean), vae.decode(expected.mean), atol=1e-5)
    np.testing.assert_allclose(pipeline.reconstruct(x), vae.reconstruct(x), atol=1e-5)
    np.testing.assert_allclose(pipeline.reconstruct(x, sample=True, seed=4), vae.reconstruct(x, True, 4), atol=1e-5)
    np.testing.assert_allclose(pipeline.sample(40, seed=5), vae.sample(40, seed=5), atol=1e-5)
    np.testing.assert_allclose(pipeline.interpolate(x[0], x[1], 7), vae.interpolate(x[0], x[1], 7), atol=1e-5)


@pytest.mark.parametrize("num_samples", [1, 5, 100])
def test_the_score_is_the_negative_elbo_of_the_model(vae, pipeline, x, num_samples):
    expected = -vae.elbo(x, num_samples, seed=6)
    np.testing.assert_allclose(pipeline.score(x, num_samples, seed=6), expected, rtol=1e-5)
    np.testing.assert_array_equal(pipeline.score(x, num_samples), pipeline.score(x, num_samples, seed=0))


@pytest.fixture(scope="module")
def threshold(vae, x):
    return keras_vae.evaluation.fit_threshold(vae, x, quantile=0.9, num_samples=5, seed=6, batch_size=20)


@pytest.fixture(scope="module")
def judging(folder, threshold, tmp_path_factory):
    """The same bundle with a threshold, which stands in the manifest alone."""
    folder = shutil.copytree(folder, tmp_path_factory.mktemp("judging") / "bundle")
    fields = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(
        json.dumps({**fields, "anomaly": dataclasses.asdict(threshold) | {"usual": None}})
    )
    return Pipeline.load(folder, providers="cpu", batch_size=32)


def test_a_threshold_scores_as_it_was_fitted(vae, judging, pipeline, threshold, x):
    expected = -vae.elbo(x, 5, seed=6)
    found = judging.score(x)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(judging.score(x, num_samples=2), judging.score(x, 2, seed=6))
    np.testing.assert_array_equal(judging.score(x, seed=0), pipeline.score(x, num_samples=5))
    assert judging.threshold.nats == threshold.nats
    verdicts = judging.is_anomaly(x)
    assert (verdicts.shape, verdicts.dtype) == ((len(x),), bool)
    np.testing.assert_array_equal(verdicts, found > threshold.nats)
    # In another order of operations, the very example that is the threshold may come out on either side of it.
    assert (verdicts != keras_vae.evaluation.anomalies(vae, x, threshold)).sum() <= 1
    assert 0 < verdicts.sum() <= 7
    described = json.loads(json.dumps(judging.describe()))["anomaly"]
    assert {name: described[name] for name in ("nats", "quantile", "num_samples", "seed", "examples")} == {
        name: getattr(threshold, name) for name in ("nats", "quantile", "num_samples", "seed", "examples")
    }


def test_without_a_threshold_nothing_is_called_anomalous(pipeline, x):
    assert pipeline.threshold is None
    assert "anomaly" not in pipeline.describe()
    with pytest.raises(BundleError, match=r"no threshold to tell anomalies by: export .*fit_threshold\(vae, x\)"):
        pipeline.is_anomaly(x)


def test_missing_numbers_are_taken_where_the_manifest_says_so(folder, pipeline, x, tmp_path):
    changed = shutil.copytree(folder, tmp_path / "bundle")
    fields = json.loads((changed / "manifest.json").read_text())
    (changed / "manifest.json").write_text(json.dumps({**fields, "missing": True}))
    taking = Pipeline.load(changed, providers="cpu")
    some = x[:3].copy()
    some[1, 2:4] = np.nan
    # These graphs leave nothing out, and give NaN: it has come to them, and stays in its row.
    for found in (taking.encode(some).mean, taking.score(some)):
        assert [bool(np.isnan(row).any()) for row in found] == [False, True, False]
    assert np.isnan(taking.encode(np.full_like(x[:1], np.nan)).mean).all()
    with pytest.raises(ValueError, match="x contains infinite values"):
        taking.encode(np.where(np.isnan(some), np.inf, some))
    with pytest.raises(ValueError, match=r"x must lie in \[0, 1\].* ranges from 0 to 2"):
        taking.encode(2 * some)
    with pytest.raises(ValueError, match="z contains NaN or infinite values"):
        taking.decode(np.full((1, 3), np.nan))
    with pytest.raises(ValueError, match="x contains NaN or infinite values"):
        pipeline.encode(some)


def test_the_size_of_the_batches_changes_nothing(folder, pipeline, x):
    whole = Pipeline.load(folder, providers="cpu", batch_size=1000)
    np.testing.assert_allclose(whole.reconstruct(x), pipeline.reconstruct(x), atol=1e-6)
    np.testing.assert_allclose(whole.score(x, 3), pipeline.score(x, 3), rtol=1e-5)


def test_numbers_of_other_types_are_taken(pipeline, x):
    expected = pipeline.encode(x).mean
    for other in (x.astype("float64"), x.astype("uint8"), x.astype(bool), x.tolist()):
        np.testing.assert_array_equal(pipeline.encode(other).mean, expected)


def test_variants_are_chosen_by_precision(bundle):
    x = keras_vae.datasets.load("digits", binarize="threshold").test
    exact, rounded = (Pipeline.load(bundle, "cpu", precision).score(x).mean() for precision in ("float32", "int8"))
    assert 0.0 < abs(exact - rounded) < 0.5
    with pytest.raises(BundleError, match="has no float16 graphs; it has float32, int8"):
        Pipeline.load(bundle, precision="float16")


def test_it_describes_itself(pipeline):
    described = json.loads(json.dumps(pipeline.describe()))
    assert described["graphs"]["decoder"] == {
        "precision": "float32",
        "providers": ["CPUExecutionProvider"],
        "threads": 0,
    }
    assert described["data_shape"] == [8, 8, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, x: p.encode(x[0]), r"looks like one example: add the batch axis with x\[None\]"),
        (lambda p, x: p.encode(x[..., 0]), r"x must have shape \(batch, 8, 8, 1\); got \(70, 8, 8\)"),
        (lambda p, x: p.encode(255 * x), r"x must lie in \[0, 1\].* ranges from 0 to 255. Divide it by 255"),
        (lambda p, x: p.encode(x - 0.5), r"x must lie in \[0, 1\].* ranges from -0.5 to 0.5\.$"),
        (lambda p, x: p.score(np.full_like(x, np.nan)), "x contains NaN"),
        (lambda p, x: p.encode(x[:0]), "x holds no examples"),
        (lambda p, x: p.encode(np.array(["a"])), "x must hold float32; got <U1"),
        (lambda p, x: p.encode({"image": x}), r"encoder takes \['x'\]; got \['image'\]"),
        (lambda p, x: p.decode(np.zeros((2, 4))), r"z must have shape \(batch, 3\); got \(2, 4\)"),
        (lambda p, x: p.decode(np.full((2, 3), np.inf)), "z contains NaN or infinite"),
        (lambda p, x: p.sample(0), "n must be a whole number of at least 1; got 0"),
        (lambda p, x: p.score(x, num_samples=1.5), "num_samples must be a whole number"),
        (lambda p, x: p.interpolate(x[0], x[1], 1), "steps, which counts both ends,"),
        (lambda p, x: p.interpolate(x[0], x[1][0]), "two examples of one shape"),
    ],
)
def test_mistakes_are_sentences(pipeline, x, call, message):
    with pytest.raises(ValueError, match=message):
        call(pipeline, x)


def test_a_pair_has_no_score_and_no_prior(conditional):
    pipeline = Pipeline.load(conditional, providers="cpu")
    given = {"image": np.zeros((2, 6)), "label": np.zeros((2, 1), "int32")}
    assert pipeline.reconstruct(given).shape == (2, 6)
    with pytest.raises(BundleError, match="no elbo graph: it was exported from a pair"):
        pipeline.score(given)
    with pytest.raises(BundleError, match="prior is None"):
        pipeline.sample(2)


def test_a_latent_that_the_decoder_ignores_is_not_active(tmp_path):
    keras.utils.set_random_seed(4)
    vae = keras_vae.VAE(*keras_vae.networks.mlp((6,), 3, hidden=(8,)), seed=0)
    kernel = next(weight for weight in vae.decoder.weights if weight.shape[0] == 3)
    kernel.assign(np.array(kernel) * np.array([[1.0], [0.0], [4.0]]))
    keras_vae_export.export(vae, tmp_path / "bundle")
    pipeline = Pipeline.load(tmp_path / "bundle", providers="cpu")
    first, ignored, strong = pipeline.latent_activity(draws=64)
    assert ignored == 0.0
    assert 0.0 < first < strong
    np.testing.assert_array_equal(pipeline.latent_activity(), pipeline.latent_activity(seed=0))


@pytest.mark.parametrize("taker", ["encoder", "decoder"])
def test_the_condition_may_be_that_of_one_network(taker, tmp_path):
    import keras_vae_export

    plain, conditional = (keras_vae.networks.mlp((4, 4, 1), 2, (8,), condition=c) for c in (None, 3))
    pair = (conditional[0], plain[1]) if taker == "encoder" else (plain[0], conditional[1])
    vae = keras_vae.VAE(*pair, seed=0, allow_missing=True)
    keras_vae_export.export(vae, tmp_path / "bundle")
    pipeline = Pipeline.load(tmp_path / "bundle", providers="cpu")
    x, labels = np.random.default_rng(0).random((3, 4, 4, 1)).astype("float32"), np.array([0, 1, 2])
    given = {"x": x, "condition": labels}
    np.testing.assert_allclose(pipeline.encode(given).mean, vae.encode(given).mean, atol=1e-5)
    np.testing.assert_allclose(pipeline.reconstruct(given), vae.reconstruct(given), atol=1e-5)
    np.testing.assert_allclose(pipeline.score(given, 2, 1), -vae.elbo(given, 2, 1), rtol=1e-4)
    np.testing.assert_allclose(pipeline.sample(4, 1, condition=2), vae.sample(4, 1, condition=2), atol=1e-5)
    found, expected = (model.interpolate(x[0], x[1], 4, condition=1) for model in (pipeline, vae))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    found, expected = (model.sample(4, 1, condition=2, draw=True) for model in (pipeline, vae))
    np.testing.assert_array_equal(found, expected)
    x[1, 2] = np.nan
    for draws in (None, 2):
        np.testing.assert_allclose(pipeline.impute(given, draws, 8, 1), vae.impute(given, draws, 8, 1), atol=1e-5)


def test_a_label_is_given_to_encoder_and_decoder_by_its_name(conditional):
    pipeline = Pipeline.load(conditional, providers="cpu")
    rng = np.random.default_rng(1)
    image, label = rng.random((5, 6)), np.array([[0], [1], [2], [3], [0]])
    given = {"image": image, "label": label}
    found = pipeline.reconstruct(given)
    np.testing.assert_array_equal(found, pipeline.decode({"z": pipeline.encode(given).mean, "label": label}))
    other = pipeline.decode({"z": pipeline.encode(given).mean, "label": (label + 1) % 4})
    assert (np.abs(found - other).max(axis=1) > 1e-3).all()
    with pytest.raises(ValueError, match=r"encoder takes \['image', 'label'\]; got \['image'\]"):
        pipeline.reconstruct({"image": image})
    with pytest.raises(ValueError, match=r"Pass a dict of arrays by these names"):
        pipeline.reconstruct(image)
    # Run 4 at a time, the label too many would be in no part.
    with pytest.raises(ValueError, match=r"one batch size; got image: 4, label: 5"):
        Pipeline.load(conditional, providers="cpu", batch_size=4).encode({"image": image[:4], "label": label})

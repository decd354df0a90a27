"""The estimators for scikit-learn: its own checks, and numbers that are those of the model."""

import importlib
import pickle
import random
import sys

import numpy as np
import pandas
import polars
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import keras_vae
from keras_vae import Gaussian, Mixed, evaluation
from keras_vae.sklearn import VAEDetector, VAETransformer

pytestmark = pytest.mark.once

TINY = {"latent_dim": 2, "hidden": (4,), "epochs": 1, "batch_size": 256}
TRAINED = {"latent_dim": 2, "hidden": (16,), "epochs": 25, "learning_rate": 0.01, "random_state": 0}


@parametrize_with_checks([VAETransformer(**TINY), VAEDetector(**TINY)])
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def x():
    """Five columns that two latents move, in units of their own."""
    rng = np.random.default_rng(0)
    weights = np.linalg.qr(rng.normal(size=(5, 2)))[0] * 2.0
    x = rng.normal(size=(600, 2)) @ weights.T + 0.3 * rng.normal(size=(600, 5))
    return x * [1.0, 100.0, 1.0, 0.01, 1.0] + [0.0, 0.0, 50.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def detector(x):
    return VAEDetector(contamination=0.05, **TRAINED).fit(x[:400])


@pytest.mark.every_backend
def test_an_example_gets_the_same_bits_whatever_stands_beside_it():
    x = np.random.default_rng(0).normal(size=(200, 30))
    detector = VAEDetector(epochs=1, random_state=0).fit(x)
    transformer = VAETransformer(epochs=1, random_state=0).fit(x)
    for function in (detector.score_samples, detector.surprise, transformer.transform):
        expected = function(x)
        np.testing.assert_array_equal(np.concatenate([function(row[None]) for row in x[:20]]), expected[:20])
        np.testing.assert_array_equal(function(x[::-1])[::-1], expected)


def test_the_score_is_the_bound_of_the_model(detector, x):
    scores = detector.score_samples(x)
    of_model = detector.vae_.elbo(x, num_samples=500, seed=0, batch_size=50_000)  # counting samples
    assert scores.mean() == pytest.approx(of_model.mean(), abs=0.02)
    # The same points for each are nearer to the expectation than as many draws.
    few = detector.vae_.elbo(x, num_samples=4, seed=0)
    assert np.square(scores - of_model).mean() < 0.1 * np.square(few - of_model).mean()


def test_the_noise_has_the_moments_of_a_normal_up_to_the_third(detector):
    noise = detector._noise().astype("float64")
    np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(noise.T @ noise / len(noise), np.eye(2), atol=1e-6)
    np.testing.assert_allclose(np.einsum("ni,nj,nk->ijk", noise, noise, noise), 0.0, atol=1e-5)


def test_outliers_are_as_many_as_was_said_and_the_guilty_column_is_named(detector, x):
    assert (detector.predict(x[:400]) == -1).sum() == 20
    normal, guilty = x[400:], np.arange(200) % 5
    strange = normal.copy()
    strange[np.arange(200), guilty] += 5.0 * x.std(axis=0)[guilty]
    assert (detector.predict(normal) == -1).mean() < 0.2
    assert (detector.predict(strange) == -1).mean() > 0.95
    nats = detector.surprise(strange)
    assert nats.shape == strange.shape
    assert (nats.argmax(axis=1) == guilty).mean() > 0.8
    np.testing.assert_allclose(detector.surprise(x[:400]).mean(axis=0), 0.0, atol=1e-9)
    beyond = [[0.0, 0.0, 0.0, 1e38, 0.0]]  # infinite once it is standardised
    assert np.isnan(detector.score_samples(beyond)).all()
    assert detector.predict(beyond) == [-1]


def test_a_constant_reading_is_an_outlier_on_two_sides(x):
    rng = np.random.default_rng(0)
    x, stuck = rng.normal(size=(500, 40)), np.full((1, 40), 0.01)
    one = VAEDetector(**{**TINY, "epochs": 5}, contamination=0.02, random_state=0).fit(x)
    two = clone(one).set_params(two_sided=True).fit(x)
    assert (one.predict(stuck)[0], two.predict(stuck)[0]) == (1, -1)
    np.testing.assert_array_equal(two.score_samples(x), -np.abs(one.score_samples(x) - one.mean_elbo_))
    assert (two.predict(x) == -1).sum() == 10


def test_the_same_seed_gives_the_same_model_and_leaves_the_global_generators_alone(x):
    def draws_after(seed, function=lambda: None):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        return function(), random.random(), np.random.rand()  # noqa: NPY002

    codes = []
    for seed in (1, 2):
        found, *draws = draws_after(seed, lambda: VAETransformer(**TINY, random_state=3).fit_transform(x))
        assert draws == list(draws_after(seed)[1:])
        codes.append(found)
    np.testing.assert_array_equal(*codes)
    assert np.abs(VAETransformer(**TINY, random_state=4).fit_transform(x) - codes[0]).max() > 0.1


def test_codes_are_those_of_the_model_and_go_back(x):
    transformer = VAETransformer(**TRAINED).fit(x[:400])
    codes = transformer.transform(x)
    np.testing.assert_allclose(codes, transformer.vae_.encode(x).location, rtol=1e-5, atol=1e-5)
    back = transformer.inverse_transform(codes)
    np.testing.assert_allclose(back, transformer.vae_.decode(codes), rtol=1e-6)
    assert np.square((back - x) / x.std(axis=0)).mean() < 0.3
    assert list(transformer.get_feature_names_out()) == ["vaetransformer0", "vaetransformer1"]
    assert transformer.score(x) == pytest.approx(transformer.score_samples(x).mean())
    frame = transformer.set_output(transform="pandas").transform(x)
    assert list(frame.columns) == ["vaetransformer0", "vaetransformer1"]


def test_missing_values_are_left_out(x):
    holes = np.where(np.random.default_rng(0).random(x.shape) < 0.3, np.nan, x)
    detector = VAEDetector(**TINY, random_state=0).fit(holes)
    assert np.isfinite(detector.score_samples(holes)).all()
    np.testing.assert_array_equal(detector.surprise(holes)[np.isnan(holes)], 0.0)
    np.testing.assert_allclose(np.nanmean(np.where(np.isnan(holes), np.nan, detector.surprise(holes)), 0), 0, atol=1e-9)
    assert np.isfinite(VAETransformer(**TINY).fit_transform(holes)).all()


def test_searches_and_pipelines(x):
    labels = x[:, 4] > 0.0
    pipeline = make_pipeline(VAETransformer(**TRAINED).set_params(epochs=5), LogisticRegression())
    assert pipeline.fit(x, labels).score(x, labels) > 0.8
    search = GridSearchCV(VAETransformer(**TINY, random_state=0), {"latent_dim": [1, 2], "beta": [1.0, 4.0]}, cv=2)
    search.fit(x)
    assert len(set(search.cv_results_["mean_test_score"])) == 4
    chosen = search.best_estimator_
    assert chosen.vae_.objective.beta.value == search.best_params_["beta"]
    assert chosen.transform(x).shape == (600, search.best_params_["latent_dim"])


def test_a_pickle_holds_the_model(detector, x):
    again = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(again.score_samples(x), detector.score_samples(x))
    assert again.get_params() == detector.get_params()
    assert isinstance(evaluation.fit_threshold(again.vae_, x), evaluation.Threshold)


def test_a_likelihood_is_copied_and_standardised_if_it_is_one_of_real_numbers(x):
    given = Gaussian("optimal")
    fitted = VAETransformer(**TINY, likelihood=given).fit(x)
    assert fitted.likelihood is given
    assert repr(fitted.vae_.likelihood).startswith("Standardized(Gaussian(scale='optimal'")
    assert fitted.vae_.likelihood.likelihood is not given
    near_one = (x - x.mean(axis=0)) / x.std(axis=0)
    assert isinstance(VAETransformer(**TINY, standardize=False).fit(near_one).vae_.likelihood, Gaussian)
    binary = (x > x.mean(axis=0)).astype(float)
    assert isinstance(VAETransformer(**TINY, likelihood="bce").fit(binary).vae_.likelihood, keras_vae.Bernoulli)
    mixed = Mixed([("gaussian", 3), ("bce", 2)])
    found = clone(VAETransformer(**TINY, likelihood=mixed)).fit(np.concatenate([x[:, :3] / 100, binary[:, :2]], 1))
    assert isinstance(found.vae_.likelihood, Mixed)


@pytest.mark.parametrize("library", [pandas, polars])
def test_a_frame_with_categories_is_a_table(x, library):
    colours = [None if i % 7 == 0 else f"colour {i % 3}" for i in range(len(x))]
    frame = library.DataFrame({"a": x[:, 0], "colour": colours, "b": x[:, 1]})
    detector = VAEDetector(**TINY, random_state=0).fit(frame)
    assert list(detector.feature_names_in_) == ["a", "colour", "b"]
    assert detector.n_features_in_ == 3
    nats = detector.surprise(frame)
    assert nats.shape == (600, 3)
    np.testing.assert_array_equal(nats[::7, 1], 0.0)
    np.testing.assert_allclose(nats.mean(axis=0), 0.0, atol=1e-9)
    transformer = VAETransformer(**TINY, random_state=0).fit(frame)
    back = transformer.inverse_transform(transformer.transform(frame))
    assert list(back.columns) == list(frame.columns)
    assert set(back["colour"]) <= {"colour 0", "colour 1", "colour 2"}
    with pytest.raises(ValueError, match="The feature names should match those that were passed during fit"):
        detector.predict(library.DataFrame({"a": x[:, 0], "colour": colours}))
    # A frame of numbers is an array with names.
    numbers = VAETransformer(**TINY).fit(library.DataFrame({"a": x[:, 0], "b": x[:, 1]}))
    assert (numbers.table_, list(numbers.feature_names_in_)) == (None, ["a", "b"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"contamination": 0.6}, "contamination must be a number above 0 and up to 0.5; got 0.6"),
        ({"contamination": "auto"}, "contamination must be a number above 0 and up to 0.5; got 'auto'"),
        ({"latent_dim": (2, 2)}, "latent_dim must be a whole number of at least 1"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1"),
        ({"likelihood": "bce"}, r"needs \[0, 1\], but x ranges"),
        ({"likelihood": "normal"}, 'likelihood must be one of "bce"'),
    ],
)
def test_what_has_no_meaning_is_refused_when_it_is_fitted(x, settings, message):
    detector = VAEDetector(**{**TINY, **settings})
    with pytest.raises(ValueError, match=message):
        detector.fit(x)
    with pytest.raises(NotFittedError):
        detector.predict(x)


def test_values_too_large_for_float32_are_refused(detector):
    with pytest.raises(ValueError, match="infinity or a value too large for dtype"):
        detector.predict([[0.0, 1e39, 0.0, 0.0, 0.0]])


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "keras_vae.sklearn")
    with pytest.raises(ModuleNotFoundError, match=r'needs scikit-learn.*pip install "keras-vae\[evaluation\]"'):
        importlib.import_module("keras_vae.sklearn")

"""A server tells how far its requests lie from the data that the bundle was exported with."""

import json
import re
import shutil

import numpy as np
import pytest
from scipy import stats

import keras_vae
from keras_vae_serving import BundleError, Manifest, Pipeline, drift
from served import serving

pytestmark = pytest.mark.once


@pytest.mark.parametrize("shift", [0.0, 0.5, 9.0])
def test_the_distance_of_scores_is_that_of_kolmogorov_and_smirnov(shift):
    values = np.random.default_rng(0).normal(shift, 1.0, 300)
    quantiles = stats.norm.ppf(np.linspace(0.0, 1.0, 20_001)[1:-1])
    expected = stats.ks_1samp(values, stats.norm.cdf).statistic
    assert drift.kolmogorov_smirnov(values, quantiles) == pytest.approx(expected, abs=2e-3)


def test_only_the_last_examples_are_compared():
    reference = {"scores": [0.0, 1.0], "codes": {"mean": [0.0, 1.0], "std": [1.0, 2.0]}, "examples": 9}
    found, rng = drift.Drift(reference), np.random.default_rng(0)
    assert found.measured() == {}
    found.scored(np.full(700, 5.0))
    found.encoded(np.tile([3.0, 1.0], (700, 4, 1)))  # at four places
    assert found.measured() == {"scores": (1.0, 700), "codes": (pytest.approx(3.0), 700)}
    for _ in range(20):
        found.scored(rng.random(500))
        found.encoded(rng.normal([0.0, 1.0], [1.0, 2.0], (500, 2)))
    assert found.measured()["scores"][0] < 1.95 / np.sqrt(drift.WINDOW)
    assert found.measured()["codes"][0] < 0.2
    before = found.measured()
    found.encoded(np.array([[np.inf, 1.0], [0.0, np.nan]]))  # of an extreme request
    found.scored(np.array([np.nan, np.inf]))
    assert found.measured() == before


@pytest.fixture(scope="module")
def x():
    return keras_vae.datasets.load("digits", binarize="threshold").test


def test_the_manifest_has_the_scores_and_codes_of_the_data(bundle, x):
    reference, pipeline = Manifest.load(bundle).reference, Pipeline.load(bundle, providers="cpu")
    scores, z = pipeline.score(x[:1000]), pipeline.encode(x[:1000]).location
    np.testing.assert_allclose(reference["scores"], np.quantile(scores, np.linspace(0.0, 1.0, 101)), rtol=1e-5)
    np.testing.assert_allclose(reference["codes"]["mean"], z.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(reference["codes"]["std"], z.std(axis=0), rtol=1e-4)
    assert reference["examples"] == len(scores)
    fields = json.loads((bundle / "manifest.json").read_text())
    fields["reference"]["scores"] = [2.0, 1.0]
    with pytest.raises(BundleError, match="the scores of its reference are no quantiles"):
        Manifest.from_json(json.dumps(fields))


def test_the_metrics_say_how_far_requests_have_drifted(bundle, x, tmp_path):
    def metrics(client):
        text = client.loop.run_until_complete(client.http.get("/metrics")).text
        found = re.findall(
            r'^keras_vae_drift(_examples)?\{bundle="",of="(\w+)",version="1"\} (.*)$', text, re.MULTILINE
        )
        return {what + name: float(value) for name, what, value in found}

    with serving(bundle) as client:
        assert metrics(client) == {}
        client.infer("score", {"num_samples": 5}, x=x[:9])  # scored otherwise than the data were
        client.infer("encode", x=x[:99])
        assert metrics(client).keys() == {"codes", "codes_examples"}
        client.infer("score", x=x[:99])
        before = metrics(client)
        assert before["scores_examples"] == before["codes_examples"] == 99.0
        assert before["scores"] < 1.63 / np.sqrt(99)
        for _ in range(3):
            client.infer("score", x=1.0 - x[:300])
            client.infer("encode", x=1.0 - x[:300])
        after = metrics(client)
        assert after["scores"] > 0.8
        assert after["codes"] > 3.0 * before["codes"]
    plain = shutil.copytree(bundle, tmp_path / "plain")
    fields = json.loads((plain / "manifest.json").read_text())
    (plain / "manifest.json").write_text(json.dumps({**fields, "reference": None}))
    with serving(plain) as client:
        client.infer("score", x=x[:9])
        assert metrics(client) == {}

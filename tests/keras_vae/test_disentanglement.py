"""MIG, DCI and SAP on codes made by hand, of which the scores are known."""

import sys

import numpy as np
import pytest

from keras_vae import evaluation
from keras_vae.evaluation import dci, mig, sap

pytestmark = pytest.mark.once

SCORES = {"mig": mig, "dci": dci, "sap": sap}


@pytest.fixture
def factors():
    """All combinations of three factors with 2, 3 and 4 values, many times: independent, each value equally often."""
    grid = np.stack(np.meshgrid(np.arange(2), np.arange(3), np.arange(4), indexing="ij"), axis=-1).reshape(-1, 3)
    return np.tile(grid, (20, 1))


def noise(factors, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(len(factors), columns))


def test_a_code_that_is_the_factors_is_perfect(factors):
    code = factors * [1.0, -2.0, 0.5] + [3.0, 0.0, -1.0]
    assert mig(code, factors) == pytest.approx(1.0)
    found = dci(code, factors)
    assert found.disentanglement == pytest.approx(1.0, abs=1e-6)
    assert found.completeness == pytest.approx(1.0, abs=1e-6)
    assert found.informativeness == 1.0
    np.testing.assert_allclose(found.importance, np.eye(3) / 3.0, atol=1e-6)
    assert sap(code, factors) == pytest.approx(1.0)
    assert sap(code, factors, continuous=True) == pytest.approx(1.0)


def test_a_constant_code_knows_nothing(factors):
    code = np.full((len(factors), 4), 0.3)
    assert mig(code, factors) == 0.0
    assert sap(code, factors) == sap(code, factors, continuous=True) == 0.0
    found = dci(code, factors)
    assert found[:2] == (0.0, 0.0)
    assert found.informativeness < 0.03  # which of two values that are as common is guessed
    assert not found.importance.any()


def test_noise_knows_next_to_nothing(factors):
    code = noise(factors, 3)
    assert mig(code, factors) < 0.05
    assert sap(code, factors) < 0.1
    assert sap(code, factors, continuous=True) < 0.02
    found = dci(code, factors)
    assert found.disentanglement < 0.05
    assert found.completeness < 0.05
    assert found.informativeness < 0.2


def test_two_latents_that_share_each_factor_leave_no_gap(factors):
    code = np.concatenate([factors, factors], axis=1).astype("float32")
    assert mig(code, factors) == pytest.approx(0.0, abs=1e-12)
    assert sap(code, factors) == sap(code, factors, continuous=True) == pytest.approx(0.0, abs=1e-12)
    found = dci(code, factors)
    assert found.disentanglement == pytest.approx(1.0, abs=1e-6)  # each is of one factor all the same
    assert found.completeness == pytest.approx(1.0 - np.log(2.0) / np.log(6.0), abs=0.02)
    assert found.informativeness == 1.0


def test_a_latent_that_holds_two_factors_is_complete_but_not_disentangled(factors):
    two = factors[:, :2]
    code = np.stack([two[:, 0] * 3 + two[:, 1], np.zeros(len(two))], axis=1)
    found = dci(code, two)
    assert found.completeness == pytest.approx(1.0)
    assert found.disentanglement == pytest.approx(0.0, abs=1e-9)
    assert found.informativeness == 1.0
    assert mig(code, two) == pytest.approx(1.0)  # which does not see it: the best latent knows all, the second nothing


def test_the_gap_is_that_of_the_information():
    """A bit that is told rightly nine times out of ten: I = log 2 - H(0.1)."""
    factor = np.tile([0, 1], 50)
    code = factor.copy()
    code[:5], code[-5:] = 1 - code[:5], 1 - code[-5:]
    entropy = -(0.1 * np.log(0.1) + 0.9 * np.log(0.9))
    expected = 1.0 - entropy / np.log(2.0)
    assert mig(code[:, None].astype(float), factor[:, None]) == pytest.approx(expected)
    assert mig(np.stack([code, factor], axis=1), factor[:, None]) == pytest.approx(1.0 - expected)
    assert sap(code[:, None], factor[:, None]) == pytest.approx(0.8)  # of the accuracy from 1/2, of guessing, to 1
    assert sap(np.stack([code, factor], axis=1), factor[:, None]) == pytest.approx(0.2)
    assert sap(np.stack([code, factor], axis=1), factor[:, None], continuous=True) == pytest.approx(1.0 - 0.8**2)


def test_balanced_means_that_a_rare_value_counts_as_much():
    factor = np.repeat([0, 1], [95, 5])
    code = np.random.default_rng(0).normal(size=(100, 1)) * 0.1 + factor[:, None]
    assert sap(code, factor[:, None]) == pytest.approx(1.0)
    assert sap(np.random.default_rng(1).normal(size=(100, 1)), factor[:, None]) < 0.7  # the share of 0 is 0.95


@pytest.mark.parametrize("name", SCORES)
def test_the_order_of_latents_factors_and_examples_does_not_matter(factors, name):
    code = factors + noise(factors, 3) * [0.1, 0.4, 1.0]
    code[:, 2] += code[:, 0]
    score = SCORES[name]
    rng = np.random.default_rng(1)
    rows = rng.permutation(len(code))
    found = [score(code, factors), score(code[:, [2, 0, 1]], factors[:, [1, 2, 0]])]
    if name != "dci":
        found.append(score(code[rows], factors[rows]))
        np.testing.assert_allclose(found, found[0], rtol=1e-9)
        assert 0.05 < found[0] < 0.9
        return
    np.testing.assert_allclose(found[1][:3], found[0][:3], atol=0.05)  # ties in a forest are broken by the order
    np.testing.assert_allclose(found[1].importance, found[0].importance[[2, 0, 1]][:, [1, 2, 0]], atol=0.03)


def test_the_scale_of_a_latent_does_not_matter(factors):
    code = factors + noise(factors, 3) * 0.3
    scaled = code * [1e-3, -7.0, 100.0] + [5.0, 0.0, -3.0]
    assert mig(scaled, factors) == pytest.approx(mig(code, factors), abs=0.02)
    assert sap(scaled, factors) == pytest.approx(sap(code, factors), abs=1e-6)
    assert sap(scaled, factors, continuous=True) == pytest.approx(sap(code, factors, continuous=True), rel=1e-6)


def test_a_factor_may_be_continuous_beside_others(factors):
    height = np.random.default_rng(0).normal(size=len(factors))
    both = np.column_stack([factors[:, 0], height])
    assert sap(both, both, continuous=[False, True]) == pytest.approx(1.0, abs=0.1)
    with pytest.raises(ValueError, match=r"continuous must be one bool, or one for each factor, shape \(2,\)"):
        sap(both, both, continuous=[True])


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (np.zeros(4), np.zeros((4, 1)), r"codes must have shape \(n, latent_dim\); got \(4,\)"),
        (
            np.zeros((4, 2)),
            np.arange(4),
            r"factors must have shape \(n, num_factors\); got \(4,\): a single column is factors",
        ),
        (np.zeros((4, 0)), np.zeros((4, 1)), r"codes must have shape \(n, latent_dim\); got \(4, 0\)"),
        (np.zeros((4, 2)), np.zeros((5, 1)), "must be of the same examples; got 4 and 5"),
        (np.full((4, 2), np.nan), np.arange(4)[:, None], "codes contain NaN or infinite values: leave out"),
        (np.zeros((4, 2)), np.full((4, 1), np.inf), "factors contain NaN or infinite values"),
        (np.zeros((4, 2)), np.array([["a"]] * 4), "factors must hold numbers; got <U1"),
        (np.zeros((1, 2)), np.zeros((1, 1)), "takes several examples to measure; got 1"),
        (np.zeros((4, 2)), np.full((4, 1), 3), "Factor 0 is 3 in all examples, so there is nothing to know"),
        (np.zeros((4, 2)), np.array([[0.0], [0.5], [1.0], [2.0]]), "Factor 0 must hold whole numbers"),
    ],
)
def test_what_they_refuse(name, codes, factors, message):
    with pytest.raises(ValueError, match=message):
        SCORES[name](codes, factors)


def test_what_one_of_them_refuses(factors):
    with pytest.raises(ValueError, match="bins must be a whole number of at least 2; got 1"):
        mig(factors, factors, bins=1)
    rare = np.zeros((40, 1), int)
    rare[0] = 1
    with pytest.raises(
        ValueError, match="Factor 0 has a single value in the .* examples that are (learned from|held out)"
    ):
        dci(noise(rare, 2), rare)


def test_without_scikit_learn_it_says_how_to_install_it(factors, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert mig(factors, factors) == pytest.approx(1.0)
    assert sap(factors, factors, continuous=True) == pytest.approx(1.0)
    for score in (dci, sap):
        with pytest.raises(ModuleNotFoundError, match=r'not installed: pip install "keras-vae\[evaluation\]"'):
            score(factors, factors)


def test_the_codes_of_a_model(make_vae, digits):
    """They take what `encode` returns."""
    codes = make_vae().encode(digits).mean
    factors = np.stack([digits[:, :4].mean((1, 2, 3)) > 0.3, digits[:, :, :4].mean((1, 2, 3)) > 0.3], axis=1)
    for score in (evaluation.mig, evaluation.sap):
        assert 0.0 <= score(codes, factors) <= 1.0

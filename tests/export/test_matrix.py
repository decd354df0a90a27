"""Every posterior with every prior and every shape of z, generated: what trains also evaluates, saves, exports, serves.

A combination either does all of it, or is refused in words when the model is built. A few of them are tested each time,
so that each posterior, prior and shape occurs; all of them in the part `slow`.
"""

import itertools

import keras
import numpy as np
import pytest
from keras import layers

from keras_vae import VAE, DiagonalNormal, Mixture, distributions, evaluation, networks, posteriors, priors

pytestmark = pytest.mark.once

SHAPES = {"vector": (3,), "series": (2, 3), "map": (2, 2, 3), "free": (None, 3)}
POSTERIORS = {
    "normal": posteriors.Normal,
    "full": posteriors.FullNormal,
    "low rank": lambda: posteriors.LowRankNormal(1),
    "flow": lambda: posteriors.Flow(2, (4,), 2),
    "codes": lambda: posteriors.FSQ((3, 2, 4)),
    "layers": lambda: posteriors.Hierarchical([networks.normal_mlp((2,), 1)]),
}
PRIORS = {
    "none": lambda shape: None,
    "fixed": lambda shape: DiagonalNormal(np.full(shape, 0.3, "float32"), np.zeros(shape, "float32"), len(shape)),
    "mixture": lambda shape: priors.GaussianMixture(2, seed=0),
    "fitted": lambda shape: fitted(shape),
    "vamp": lambda shape: priors.VampPrior(2, seed=0),
    "flow": lambda shape: priors.RealNVP(2, (4,), seed=0),
    "conditional": lambda shape: priors.Conditional(of_label(shape)),
    "layers": lambda shape: priors.Hierarchical([networks.normal_mlp((1,), 2)]),
}
EACH_TIME = {
    *(("normal", "conditional", "map"), ("full", "flow", "series"), ("low rank", "mixture", "map")),
    *(("flow", "fitted", "vector"), ("codes", "none", "free"), ("layers", "layers", "vector")),
    *(("normal", "vamp", "series"), ("full", "fixed", "map")),
}


def fitted(shape):
    """A mixture as `fit_aggregate_posterior` returns it: with full covariances of vectors, else diagonal."""
    if len(shape) > 1:
        return Mixture(
            DiagonalNormal(np.stack([np.full(shape, -0.5), np.ones(shape)]), np.zeros((2, *shape)), len(shape))
        )
    factors = np.tile(np.tril(np.full((shape[0], shape[0]), 0.3)) + 0.7 * np.eye(shape[0]), (2, 1, 1))
    return distributions.FullMixture([np.zeros(shape), np.ones(shape)], factors, np.log([0.7, 0.3]))


def of_label(shape):
    """A network from a label to mean and log variance of z."""
    label = keras.Input((), name="condition", dtype="int32")
    h = layers.Embedding(3, 4)(label)
    heads = [layers.Reshape(shape)(layers.Dense(int(np.prod(shape)))(h)) for _ in range(2)]
    return keras.Model(label, heads)


def refusal(posterior, prior, shape):
    """A piece of the words with which a combination that has no meaning is refused; None if it has one."""
    if shape == "free" and posterior not in ("normal", "codes"):
        return "is free|conv_spatial gives outputs of the sizes of z"
    if posterior == "codes":
        return None if prior == "none" else "codes|is free"
    if shape == "free" and prior not in ("none", "fixed"):
        return "is free|z of shape"
    if "layers" in (posterior, prior) and shape != "vector":
        return "shape|A VampPrior is a mixture of normals"
    if prior == "vamp" and posterior != "normal":
        return "A VampPrior is a mixture of normals"
    return None


def build(posterior, prior, shape):
    family, size = POSTERIORS[posterior](), SHAPES[shape]
    condition = 3 if prior == "conditional" else None
    if shape == "free":
        network = networks.conv_spatial((None, 2), 3, filters=(3,), posterior=family)
    else:
        encoder, decoder = networks.mlp((5, 2), size, hidden=(6,), posterior=family, condition=condition)
        network = encoder, decoder
    fixed = tuple(extent or 1 for extent in size)
    vae = VAE(*network, posterior=family, prior=PRIORS[prior](fixed), seed=0)
    vae.compile(keras.optimizers.Adam(0.01))
    return vae


def data(vae, n=24):
    """Binary series, with labels if the model takes any."""
    x = (np.random.default_rng(0).random((n, vae.data_shape[0] or 6, 2)) < 0.3).astype("float32")
    return x if vae.condition_shape is None else {"x": x, "condition": np.arange(n) % 3}


def cells():
    for cell in itertools.product(POSTERIORS, PRIORS, SHAPES):
        if refusal(*cell) is None:
            yield pytest.param(cell, marks=() if cell in EACH_TIME else pytest.mark.slow, id=", ".join(cell))


def refused():
    """All refusals, of which one for each pair of a posterior and a piece of words is tested each time."""
    seen = set()
    for cell in itertools.product(POSTERIORS, PRIORS, SHAPES):
        words = refusal(*cell)
        if words is not None:
            marks = pytest.mark.slow if (cell[0], words) in seen else ()
            seen.add((cell[0], words))
            yield pytest.param(cell, words, marks=marks, id=", ".join(cell))


def test_each_part_occurs_each_time():
    for names, chosen in zip((POSTERIORS, PRIORS, SHAPES), zip(*EACH_TIME, strict=True), strict=True):
        assert set(chosen) == set(names)


@pytest.mark.parametrize(("cell", "words"), list(refused()))
def test_what_has_no_meaning_is_refused_when_the_model_is_built(cell, words):
    with pytest.raises(ValueError, match=words):
        build(*cell)


@pytest.mark.parametrize("cell", list(cells()))
def test_what_trains_also_evaluates_saves_exports_and_serves(cell, tmp_path):
    keras_vae_export = pytest.importorskip("keras_vae_export", reason="the export extra is not installed")
    serving = pytest.importorskip("keras_vae_serving")
    vae = build(*cell)
    x = data(vae)
    logs = vae.fit(x, batch_size=8, epochs=2, verbose=0, validation_data=(x,)).history
    assert np.isfinite([logs["loss"], logs["val_negative_elbo"]]).all()

    # The bound is one of log p(x), which importance sampling estimates.
    bound = evaluation.held_out(vae, x, num_samples=50)
    is_density = not vae.posterior_family.distribution_class.is_discrete
    if is_density:
        found = evaluation.log_likelihood(vae, x, num_samples=300)
        assert -bound["negative_elbo"] < found.mean + 0.05
    np.testing.assert_allclose(vae.elbo(x, 50, seed=0).mean(), -bound["negative_elbo"], rtol=1e-5)
    shape = (3, 3) if None in vae.latent_shape else None
    condition = None if vae.condition_shape is None else np.arange(4) % 3
    drawn = vae.sample(4, seed=1, condition=condition, latent_shape=shape)
    assert drawn.shape == (4, *vae.decode(np.zeros((4, *(shape or vae.latent_shape))), condition=condition).shape[1:])
    if is_density:
        vae.latent_statistics = evaluation.latent_statistics(vae, x)
    encoded = vae.encode(x, standardized=is_density)
    given = None if condition is None else x["condition"]
    np.testing.assert_allclose(
        vae.decode(encoded.location, standardized=is_density, condition=given), vae.reconstruct(x), rtol=1e-4, atol=1e-5
    )

    vae.save(tmp_path / "vae.keras")
    copy = keras.saving.load_model(tmp_path / "vae.keras")
    np.testing.assert_array_equal(copy.elbo(x, seed=0), vae.elbo(x, seed=0))
    np.testing.assert_array_equal(copy.sample(4, seed=1, condition=condition, latent_shape=shape), drawn)

    keras_vae_export.export(vae, tmp_path / "bundle", data=x)
    pipeline = serving.Pipeline.load(tmp_path / "bundle", providers="cpu")
    near = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(pipeline.encode(x).location, vae.encode(x).location, **near)
    np.testing.assert_allclose(pipeline.encode(x).sample(seed=2), vae.encode(x).sample(seed=2), **near)
    np.testing.assert_allclose(pipeline.reconstruct(x), vae.reconstruct(x), **near)
    np.testing.assert_allclose(pipeline.score(x, 4, seed=3), -vae.elbo(x, 4, seed=3), **near)
    served = pipeline.sample(4, seed=1, condition=condition, latent_shape=shape)
    np.testing.assert_allclose(served, drawn, **near)
    np.testing.assert_allclose(pipeline.encode(x, standardized=is_density).location, encoded.location, **near)

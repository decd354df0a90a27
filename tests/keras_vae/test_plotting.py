"""Pictures are written whole, show what they should, and cope with data that are not images."""

import csv

import keras
import numpy as np
import pytest
from PIL import Image

from keras_vae import ELBO, VAE, DiagonalNormal, networks, plotting, schedules

pytestmark = pytest.mark.once


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def test_pictures_of_images(make_vae, digits, tmp_path):
    vae = make_vae(latent_dim=2)
    plotting.reconstructions(vae, digits, tmp_path / "r.png")
    plotting.samples(vae, 25, tmp_path / "s.png", columns=5)
    plotting.manifold(vae, tmp_path / "m.png", steps=6)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.png", "r.png", "s.png"]
    for file in tmp_path.iterdir():
        assert pixels(file).std() > 10  # not blank


def test_reconstructions_show_the_data_above_the_model(make_vae, digits, tmp_path):
    """A decoder biased to white draws white rows below rows of digits, whose mean is a third."""
    vae = make_vae()
    vae.decoder.get_layer("x_parameters").bias.assign(np.full(64, 50.0, "float32"))
    picture = plotting.reconstructions(vae, digits[:10], columns=10).axes[0].images[0].get_array()
    upper, lower = picture[:8], picture[9:]
    data = np.concatenate([upper[:, i * 9 : i * 9 + 8] for i in range(10)])
    np.testing.assert_allclose(data, digits[:10, ..., 0].reshape(-1, 8))
    np.testing.assert_allclose(np.concatenate([lower[:, i * 9 : i * 9 + 8] for i in range(10)]), 1.0)


def test_examples_of_any_origin(digits, tmp_path):
    figure = plotting.examples(digits[:3], tmp_path / "e.png", columns=2)
    picture = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(picture[9:, :8], digits[2, ..., 0])
    assert (tmp_path / "e.png").exists()
    assert figure.get_suptitle() == ""
    assert plotting.examples(digits[:3, :, :3, 0], title="three series").get_suptitle() == "three series"
    with pytest.raises(ValueError, match=r"shape \(n, ...\); got shape \(8,\). For one example pass x\[None\]"):
        plotting.examples(digits[0, 0, :, 0])


def test_samples_say_whose_they_are(make_vae):
    vae = make_vae()
    assert plotting.samples(vae, 3).get_suptitle().startswith("decoded samples of the prior (")
    other = vae.numpy_prior()
    assert plotting.samples(vae, 3, prior=other).get_suptitle().startswith("decoded samples of a DiagonalNormal (")


@pytest.mark.parametrize("shape", [(12,), (5, 4, 3), (6, 2, 2), (7, 3)])
def test_other_shapes(shape, tmp_path):
    vae = VAE(*networks.mlp(shape, 2, hidden=(3,)))
    x = np.random.default_rng(0).random((5, *shape)).astype("float32")
    plotting.reconstructions(vae, x, tmp_path / "r.png", columns=3)
    assert pixels(tmp_path / "r.png").std() > 1


@pytest.mark.parametrize(
    ("shape", "image"),
    [
        *(((8, 8), True), ((28, 28), True), ((28, 20), True), ((28, 28, 1), True), ((8, 8, 3), True)),
        *(((24, 7), False), ((100, 16), False), ((4, 4), False), ((12, 1), False), ((784,), False)),
    ],
)
def test_two_axes_are_a_series_unless_they_are_square_or_of_many_channels(shape, image):
    assert plotting.is_image(shape) is image


@pytest.mark.parametrize("shape", [(9, 3), (5,), (70,)])
def test_series_and_tables_are_lines_over_one_another_each_on_its_own_scale(shape):
    """The lines lead back to the data: a value is its share of the way from the least to the greatest of its scale."""
    vae = VAE(*networks.mlp(shape, 2, (3,), likelihood="mse"), likelihood="mse", allow_missing=True)
    channels, over = (shape[1], (0, 1)) if len(shape) == 2 else (1, 0 if shape == (5,) else (0, 1))
    x = np.random.default_rng(0).normal(size=(4, *shape)).astype("float32") * np.linspace(1, 1000, shape[-1])
    x[1, 2] = np.nan
    figure = plotting.reconstructions(vae, x, columns=2)
    drawn = [each.reshape(4, shape[0], channels) for each in (x, vae.reconstruct(x))]
    both = np.concatenate(drawn)
    low, high = np.nanmin(both, over, keepdims=True), np.nanmax(both, over, keepdims=True)
    lines = [line.get_ydata().reshape(4, -1)[:, :-1] for line in figure.axes[0].lines]  # the last is NaN, a gap
    for i, expected in enumerate(drawn):
        got = np.stack(lines[i * channels : (i + 1) * channels], axis=-1) - np.array([0, 0, 1.12, 1.12])[:, None, None]
        np.testing.assert_allclose((0.46 - got) / 0.92, (expected - low) / (high - low), atol=1e-4)
    keys = [text.get_text() for text in figure.legends[0].get_texts()] if figure.legends else []
    assert keys == [f"channel {k}: {low[0, 0, k]:.3g} to {high[0, 0, k]:.3g}" for k in range(channels) if channels > 1]
    assert ("columns 0 to 4" in figure.axes[0].get_xlabel()) is (shape == (5,))


def test_flat_digits_and_channels_first_are_drawn_as_pictures(digits):
    flat, first = digits.reshape(-1, 64), np.repeat(digits.transpose(0, 3, 1, 2), 3, axis=1)
    for x, expected in ((flat, digits[0, ..., 0]), (first, np.repeat(digits[0], 3, axis=-1))):
        vae = VAE(*networks.mlp(x.shape[1:], 2, (3,)))
        picture = plotting.reconstructions(vae, x[:2], columns=2).axes[0].images[0].get_array()
        np.testing.assert_array_equal(picture[:8, :8], expected)


def test_the_manifold_is_laid_out_by_quantiles(make_vae, monkeypatch):
    vae = make_vae(latent_dim=2)
    seen = []
    decode = vae.decode
    monkeypatch.setattr(vae, "decode", lambda z, condition=None: seen.append(z) or decode(z))
    plotting.manifold(vae, steps=5)
    z = seen[0].reshape(5, 5, 2)
    np.testing.assert_allclose(z[2, 2], [0.0, 0.0], atol=1e-6)  # the median is in the middle
    assert np.all(np.diff(z[0, :, 0]) > 0)  # first latent grows to the right
    assert np.all(np.diff(z[:, 0, 1]) < 0)  # second latent grows upwards
    with pytest.raises(ValueError, match="needs a model with latent_dim=2; this one has 3"):
        plotting.manifold(make_vae(latent_dim=3))


def test_nothing_is_left_behind_where_writing_fails(make_vae, digits, tmp_path):
    with pytest.raises(FileNotFoundError, match="the folder .*nowhere does not exist"):
        plotting.samples(make_vae(), 4, tmp_path / "nowhere" / "s.png")
    with pytest.raises(ValueError):
        plotting.samples(make_vae(), 4, tmp_path / "s.notapicture")
    assert list(tmp_path.iterdir()) == []


# The latent space


@pytest.fixture
def planted(make_vae):
    """A model whose posterior is N((0, 2, 1, f(x)), 1): units of 0, 2 and 0.5 nats, and one that alone sees x."""
    vae = make_vae(latent_dim=4)
    mean, log_var = (vae.encoder.get_layer(name) for name in ("z_mean", "z_log_var"))
    mean.kernel.assign(keras.ops.convert_to_numpy(mean.kernel) * np.array([0, 0, 0, 0.5], "float32"))
    mean.bias.assign(np.array([0, 2, 1, 0], "float32"))
    log_var.kernel.assign(np.zeros(log_var.kernel.shape, "float32"))
    return vae


def order_of(vae, x):
    """The latents by their KL, the largest first, and the KL."""
    kl = vae.encode(x).kl_divergence(vae.prior, per_dimension=True).mean(axis=0)
    assert len(set(kl)) == 4
    return sorted(range(4), key=lambda i: -kl[i]), kl


def tile(figure, row, column):
    return figure.axes[0].images[0].get_array()[row * 9 : row * 9 + 8, column * 9 : column * 9 + 8]


def test_traversals_go_along_one_latent_each_in_the_order_of_the_kl(planted, digits, tmp_path):
    figure = plotting.traversals(planted, digits, tmp_path / "t.png", units=3, steps=5, span=0.8)
    order, kl = order_of(planted, digits)
    assert order[:3] != [0, 1, 2]
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == [f"latent {i}\n{kl[i]:.2f} nats" for i in order[:3]]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["-1.3", "-0.5", "0.0", "0.5", "1.3"]
    for row, unit in enumerate(order[:3]):
        for column, quantile in enumerate([-1.281552, -0.524401, 0.0, 0.524401, 1.281552]):  # of 10, 30, ..., 90%
            z = np.zeros((1, 4), "float32")
            z[0, unit] = quantile
            np.testing.assert_allclose(tile(figure, row, column), planted.decode(z)[0, ..., 0], atol=1e-5)
    assert pixels(tmp_path / "t.png").std() > 10


def test_traversals_of_another_prior_around_an_example(make_vae, digits):
    prior = DiagonalNormal(np.array([1.0, -2.0], "float32"), np.log(np.array([4.0, 0.25], "float32")))
    vae = make_vae(latent_dim=2, prior=prior)
    figure = plotting.traversals(vae, steps=3, span=0.8, example=digits[7])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["latent 0", "latent 1"]
    here = vae.encode(digits[7:8]).mean[0]
    for row, (mean, deviation) in enumerate([(1.0, 2.0), (-2.0, 0.5)]):
        z = np.tile(here, (3, 1))
        z[:, row] = mean + deviation * np.array([-1.281552, 0.0, 1.281552])
        for column, decoded in enumerate(vae.decode(z)):
            np.testing.assert_allclose(tile(figure, row, column), decoded[..., 0], atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"units": 0}, "units must be a whole number of at least 1"),
        ({"steps": 1}, "steps must be a whole number of at least 2"),
        ({"span": 1.0}, "span is a share of the prior .*; got 1.0"),
        ({"example": np.zeros((8, 8))}, "add the channel axis"),
    ],
)
def test_bad_arguments_of_traversals(make_vae, arguments, words):
    with pytest.raises(ValueError, match=words):
        plotting.traversals(make_vae(), **arguments)


@pytest.mark.parametrize("shape", [(1,), (6,), (5, 4, 3), (7, 3)])
def test_latent_pictures_of_other_shapes(shape, tmp_path):
    vae = VAE(*networks.mlp(shape, 2, hidden=(3,)))
    x = np.random.default_rng(0).random((5, *shape)).astype("float32")
    figure = plotting.traversals(vae, x, tmp_path / "t.png", steps=3)
    assert shape != (1,) or figure.axes[0].lines[0].get_marker() == "."  # a single number is no line
    plotting.latent_scatter(vae, x, path=tmp_path / "s.png")
    plotting.kl_per_unit(vae, x, tmp_path / "k.png")
    for name in "tsk":
        assert pixels(tmp_path / f"{name}.png").std() > 1


def test_scatter_shows_the_posterior_means_of_the_two_largest(planted, digits):
    order, kl = order_of(planted, digits)
    figure = plotting.latent_scatter(planted, digits, np.arange(256) % 3)
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.collections[0].get_offsets(), planted.encode(digits).mean[:, order[:2]], rtol=1e-5)
    for label, unit in ((axes.get_xlabel(), order[0]), (axes.get_ylabel(), order[1])):
        assert label == f"latent {unit} (KL {kl[unit]:.2f} nats)"
    assert axes.get_aspect() == 1.0


def test_scatter_draws_one_and_two_deviations_of_the_prior(make_vae, digits):
    prior = DiagonalNormal(np.array([1.0, -2.0], "float32"), np.log(np.array([4.0, 0.25], "float32")))
    vae = make_vae(latent_dim=2, prior=prior)
    kl = vae.encode(digits).kl_divergence(prior, per_dimension=True).mean(axis=0)
    first = int(kl[1] > kl[0])
    ellipses = plotting.latent_scatter(vae, digits).axes[0].patches
    mean, deviation = np.array([1.0, -2.0]), np.array([2.0, 0.5])
    for ellipse, times in zip(ellipses, (1, 2), strict=True):
        np.testing.assert_allclose(ellipse.center, np.roll(mean, first))
        np.testing.assert_allclose([ellipse.width, ellipse.height], 2 * times * np.roll(deviation, first), rtol=1e-6)


@pytest.mark.parametrize(
    ("labels", "legend"),
    [
        (np.arange(40) % 3, ["0", "1", "2"]),
        ([f"digit {i % 2}" for i in range(40)], ["digit 0", "digit 1"]),
        (np.arange(40) % 2 == 0, ["False", "True"]),
        (np.arange(40) % 20, [str(i) for i in range(20)]),
        (np.arange(40) % 21, None),
        (np.linspace(0, 1, 40), None),
    ],
)
def test_labels_colour_the_points(make_vae, digits, labels, legend):
    figure = plotting.latent_scatter(make_vae(), digits[:40], labels)
    drawn = [text.get_text() for text in figure.legends[0].get_texts()] if figure.legends else None
    assert drawn == legend
    assert len(figure.axes) == (1 if legend else 2)  # the second is the colour bar
    if legend:
        colours = figure.axes[0].collections[0].get_facecolors()
        assert len(np.unique(colours, axis=0)) == len(legend)
        keys = [handle.get_facecolor()[0] for handle in figure.legends[0].legend_handles]
        np.testing.assert_array_equal(colours, [keys[legend.index(str(label))] for label in labels])
    else:
        np.testing.assert_array_equal(figure.axes[0].collections[0].get_array(), labels)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.zeros(39), r"one value per example, shape \(40,\); got shape \(39,\)"),
        (np.zeros((40, 1)), r"got shape \(40, 1\)"),
        ([str(i) for i in range(40)], "strings of 40 kinds, and more than 20 colours"),
        (np.full(40, np.nan), "labels contain NaN"),
        (np.array([None] * 40), "must be numbers or strings; got dtype object"),
    ],
)
def test_labels_that_do_not_fit_are_refused(make_vae, digits, labels, words):
    with pytest.raises(ValueError, match=words):
        plotting.latent_scatter(make_vae(), digits[:40], labels)


def test_one_latent_has_no_plane(make_vae, digits):
    with pytest.raises(ValueError, match="needs two latents or more"):
        plotting.latent_scatter(make_vae(latent_dim=1), digits)


def test_bars_are_the_kl_sorted_and_coloured_by_activity(planted, digits, tmp_path):
    order, kl = order_of(planted, digits)
    figure = plotting.kl_per_unit(planted, digits, tmp_path / "k.png")
    axes = figure.axes[0]
    bars = sorted(axes.patches, key=lambda bar: bar.get_x())
    np.testing.assert_allclose([bar.get_height() for bar in bars], kl[order], rtol=1e-5)
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(i) for i in order]
    colours = [bar.get_facecolor() for bar in bars]
    assert [i for i, colour in zip(order, colours, strict=True) if colours.count(colour) == 1] == [3]  # the active one
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["active (1)", "inactive (3)"]
    assert f"{kl.sum():.2f} nats" in figure.get_suptitle()
    planted.encoder.get_layer("z_mean").kernel.assign(np.zeros((16, 4), "float32"))
    planted.encoder.get_layer("z_mean").bias.assign(np.zeros(4, "float32"))
    figure = plotting.kl_per_unit(planted, digits)  # nothing to see, and no axis below zero to see it on
    assert figure.axes[0].get_ylim() == (0.0, 0.1)


# Training


def curves(figure):
    """What is drawn: {panel: {line: [(epoch, value), ...]}}."""
    return {
        axes.get_title(): {line.get_label(): list(map(tuple, line.get_xydata().tolist())) for line in axes.lines}
        for axes in figure.axes
        if axes.get_title()
    }


def test_training_curves_are_the_same_from_every_form(make_vae, digits, tmp_path):
    vae = make_vae(objective=ELBO(beta=schedules.Linear(10)))
    logger = keras.callbacks.CSVLogger(tmp_path / "keras.csv")
    history = vae.fit(digits, epochs=3, verbose=0, validation_data=(digits[:64],), callbacks=[logger])
    expected = {
        title: {
            label: [(float(i + 1), value) for i, value in enumerate(history.history[prefix + name])]
            for label, prefix in (("training", ""), ("validation", "val_"))
            if name != "beta" or prefix == ""
        }
        for title, name in (
            ("negative ELBO (nats)", "negative_elbo"),
            ("reconstruction (nats)", "reconstruction"),
            ("KL (nats)", "kl"),
            ("beta", "beta"),
        )
    }
    rows = [{"epoch": i + 1, **{k: v[i] for k, v in history.history.items()}} for i in range(3)]
    with open(tmp_path / "ours.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    forms = (history, history.history, rows, tmp_path / "ours.csv", str(tmp_path / "keras.csv"))
    for form in forms:
        assert curves(plotting.training_curves(form, tmp_path / "c.png")) == expected, form
    assert pixels(tmp_path / "c.png").std() > 10


def test_training_curves_of_one_epoch_and_of_a_resumed_run():
    assert curves(plotting.training_curves([{"kl": 3.0}])) == {"KL (nats)": {"training": [(1.0, 3.0)]}}
    rows = [{"epoch": 7, "kl": 3.0}, {"epoch": 8, "kl": 2.0, "val_kl": 1.0}]
    drawn = curves(plotting.training_curves(rows))["KL (nats)"]
    assert drawn["training"] == [(7.0, 3.0), (8.0, 2.0)]
    assert np.isnan(drawn["validation"][0][1])
    assert drawn["validation"][1] == (8.0, 1.0)


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ({"accuracy": [1.0]}, r"has none of negative_elbo, .*; it has \['accuracy'\]"),
        ([], "has none of negative_elbo"),
        ({"kl": []}, "has no epochs"),
        ({"kl": [1.0, 2.0], "val_kl": [1.0]}, "'kl': 2, 'val_kl': 1.*validation_freq"),
        ({"kl": ["much"]}, "has 'much' under kl"),
        (3, "history must be .*; got int"),
        ([3], "history must be .*; got list"),
    ],
)
def test_histories_that_cannot_be_drawn_are_refused(history, words):
    with pytest.raises(ValueError, match=words):
        plotting.training_curves(history)

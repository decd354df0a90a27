"""Pictures are written whole, show what they should, and cope with data that are not images."""

import numpy as np
import pytest
from PIL import Image

from keras_vae import VAE, networks, plotting


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


@pytest.mark.parametrize("shape", [(12,), (5, 4, 3), (6, 2, 2), (7, 3)])
def test_other_shapes(shape, tmp_path):
    vae = VAE(*networks.mlp(shape, 2, hidden=(3,)))
    x = np.random.default_rng(0).random((5, *shape)).astype("float32")
    plotting.reconstructions(vae, x, tmp_path / "r.png", columns=3)
    assert pixels(tmp_path / "r.png").std() > 1


def test_the_manifold_is_laid_out_by_quantiles(make_vae, monkeypatch):
    vae = make_vae(latent_dim=2)
    seen = []
    decode = vae.decode
    monkeypatch.setattr(vae, "decode", lambda z: seen.append(z) or decode(z))
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

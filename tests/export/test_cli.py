"""`keras-vae export`, and the export that ends `keras-vae quickstart`."""

import contextlib
import dataclasses
import io
import json
import math
import re
import runpy
import shutil
import sys
import textwrap

import keras
import numpy as np
import pytest

import keras_vae
from keras_vae import datasets, evaluation
from keras_vae_cli import card, commands
from keras_vae_export import converters
from keras_vae_serving import Manifest

pytestmark = pytest.mark.once


def run(*arguments):
    return commands.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """An output folder of `quickstart`, and what was printed."""
    folder = tmp_path_factory.mktemp("cli") / "out"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run("quickstart", "--epochs", 2, "--output", folder) == 0
    return folder, out.getvalue()


@pytest.fixture(scope="module")
def trained(quickstart):
    return quickstart[0]


@pytest.fixture
def converted(trained, monkeypatch):
    """Has an export of that model take the files that `quickstart` wrote for what was converted."""

    def run(archive, engine, folder):
        for graph in ("encoder", "decoder", "elbo"):
            shutil.copytree(trained / "bundle" / graph / "1", folder / graph / "1")

    monkeypatch.setattr(converters, "run", run)


def test_quickstart_ends_with_a_verified_bundle_and_says_so(quickstart):
    folder, out = quickstart
    assert f"Wrote encoder, decoder, elbo as ONNX to {folder}/bundle, verified, in" in out
    assert "at batch 1, 2, 7, 64 on ordinary, extreme, held-out inputs." in out
    manifest = Manifest.load(folder / "bundle")
    assert manifest.latent_dim == 2
    size = sum(file.stat().st_size for file in (folder / "bundle").rglob("*") if file.name != "manifest.json")
    described = f"<Manifest: encoder, decoder, elbo; latents (2,), data (8, 8, 1), {size / 1e6:.1f} MB>"
    assert repr(manifest) == described  # what a notebook shows of `export`
    kilobytes = math.ceil((folder / "bundle" / "elbo" / "1" / "model.onnx").stat().st_size / 1e3)
    assert f", elbo {kilobytes} kB. manifest.json" in out


def test_export_and_check(trained, tmp_path, capsys):
    settings = ("--precision", "float32,int8", "--max-batch-size", 9, "--simplify")
    assert run("export", trained, tmp_path / "b", *settings) == 0
    out = capsys.readouterr().out
    assert "Wrote encoder, decoder, elbo, encoder_int8, decoder_int8, elbo_int8 as ONNX to" in out
    assert "Largest difference from the model: encoder " in out
    assert "int8 changes the bound by" in out
    assert "max_batch_size: 9" in (tmp_path / "b" / "decoder" / "config.pbtxt").read_text()
    assert run("export", "--check", tmp_path / "b") == 0
    assert f"{tmp_path}/b is whole and runs on cpu. Largest difference" in capsys.readouterr().out
    assert run("export", "--check", tmp_path / "b", "--tolerance", "1e-30") == 1
    assert "where they may differ by 1e-30" in capsys.readouterr().err


def test_a_card_has_the_numbers_of_the_model(trained, tmp_path, capsys):
    bundle = tmp_path / "my_model"
    shutil.copytree(trained / "bundle", bundle)
    assert run("card", bundle) == 0
    text = (bundle / "README.md").read_text()
    scores = Manifest.load(bundle).reference["scores"]
    assert f"median {np.median(scores):.3f}" in text
    assert text.startswith("---\nlibrary_name: keras\n")
    assert "# my_model" in text
    assert run("card", bundle) == 1
    assert "README.md exists already: choose another output, or replace it with --overwrite." in capsys.readouterr().err
    assert run("card", bundle, "--data", "digits", "--binarize", "threshold", "--overwrite") == 0
    text = (bundle / "README.md").read_text()
    assert run("evaluate", trained, "--json") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    for words, name in (("negative ELBO", "negative_elbo"), ("reconstruction", "reconstruction"), ("KL", "kl")):
        (nats,) = re.findall(rf"\| {words}, nats \| ([\d.]+) ± [\d.]+ \(standard error\) \|", text)
        assert float(nats) == pytest.approx(found[name], abs=2e-3)
    assert f"| bits per dimension | {found['bits_per_dim']:.4f} |" in text


def test_a_card_of_what_has_no_bound(trained, tmp_path, capsys):
    """A pair of networks, and lists of nothing, as codes have them in their prior's moments."""
    manifest = Manifest.load(trained / "bundle")
    graphs = {name: graph for name, graph in manifest.graphs.items() if name != "elbo"}
    prior = {"name": "UniformCodes", "config": {"levels": [], "mean": [0.5, 0.5]}}
    pair = dataclasses.replace(manifest, graphs=graphs, likelihood=None, prior=prior, reference=None)
    text = card.card('a "pair"', pair, card._at_export(pair))
    assert '| p(z) | UniformCodes {"levels": [], "mean": 0.5} |' in text
    assert "export with data, or write the card with --data" in text
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    compile(block, "card", "exec")
    assert "score" not in block


def test_a_threshold_is_fitted_on_the_held_out_data(trained, converted, tmp_path, capsys):
    assert run("export", trained, tmp_path / "b", "--threshold", 0.98, "--seed", 4) == 0
    vae = keras.saving.load_model(trained / "model.keras")
    x = datasets.load("digits", binarize="threshold").test
    expected = evaluation.fit_threshold(vae, x, 0.98, seed=4)
    found = Manifest.load(tmp_path / "b").anomaly
    assert found.nats == pytest.approx(expected.nats, rel=1e-6)
    assert (found.quantile, found.num_samples, found.seed, found.examples) == (0.98, 16, 4, 300)
    assert (
        f"Threshold {found.nats:.3f} nats, the 0.98 quantile of 300 held-out examples: 2.00% of examples like the "
        "held-out ones, give or take 0.81%, will be called anomalous."
    ) in capsys.readouterr().out


def test_a_threshold_needs_data(trained, tmp_path, capsys):
    shutil.copy(trained / "model.keras", tmp_path)
    command = ("export", tmp_path / "model.keras", tmp_path / "b", "--threshold", "0.98")
    assert run(*command) == 1
    assert "--threshold is fitted on held-out data, of which there are none" in capsys.readouterr().err
    np.save(tmp_path / "x.npy", np.ones((40, 8, 8), "float32"))
    assert run(*command, "--data", tmp_path / "x.npy") == 1
    assert "The quantile 0.98 needs at least 51 examples" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(*command[:-1], "98")
    assert "argument --threshold: must be a number between 0 and 1; got '98'" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_data_can_be_named(trained, converted, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.ones((40, 8, 8), "float32"))
    shutil.copy(trained / "model.keras", tmp_path)
    assert run("export", tmp_path / "model.keras", tmp_path / "b") == 0
    assert "on ordinary, extreme inputs." in capsys.readouterr().out  # no summary beside the model, no data
    again = ("export", tmp_path / "model.keras", tmp_path / "b", "--data", tmp_path / "x.npy")
    assert run(*again) == 1
    assert "exists already" in capsys.readouterr().err
    assert run(*again, "--overwrite") == 0
    assert "on ordinary, extreme, held-out inputs." in capsys.readouterr().out


def test_data_that_have_moved_are_not_needed(trained, converted, tmp_path, capsys):
    moved = shutil.copytree(trained, tmp_path / "run")
    summary = json.loads((moved / "summary.json").read_text())
    summary["settings"]["data"] = str(tmp_path / "gone.npy")
    (moved / "summary.json").write_text(json.dumps(summary))
    assert run("export", moved, tmp_path / "b") == 0
    out = capsys.readouterr().out
    assert "Note: not compared on the data it was trained on: There is no file" in out
    assert "on ordinary, extreme inputs." in out


def test_custom_classes_are_imported_from_a_module_or_a_file(tmp_path, monkeypatch, capsys):
    source = """
        import keras
        @keras.saving.register_keras_serializable("mine")
        class Doubled(keras.layers.Layer):
            def call(self, x):
                return x * 2.0
    """
    (tmp_path / "own_layers.py").write_text(textwrap.dedent(source))
    namespace = runpy.run_path(str(tmp_path / "own_layers.py"))
    x, z = keras.Input((3,)), keras.Input((2,))
    heads = [keras.layers.Dense(2)(namespace["Doubled"]()(x)) for _ in range(2)]
    vae = keras_vae.VAE(keras.Model(x, heads), keras.Model(z, keras.layers.Dense(3)(z)), likelihood="mse")
    vae.save(tmp_path / "model.keras")
    del keras.saving.get_custom_objects()["mine>Doubled"]
    monkeypatch.chdir(tmp_path)
    command = ("sample", "model.keras", "--output", "x.npy", "--overwrite")
    assert run(*command) == 1
    assert "Could not locate class 'Doubled'" in (error := capsys.readouterr().err)
    assert "Name the module that registers it with --import." in error
    assert run(*command, "--import", "nowhere") == 1
    assert "--import nowhere: ModuleNotFoundError: No module named 'nowhere'" in capsys.readouterr().err
    assert run(*command, "--import", "own_layers.py") == 0
    del keras.saving.get_custom_objects()["mine>Doubled"]
    del sys.modules["own_layers"]
    assert run(*command, "--import", "own_layers") == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "{trained}"], "name a model and the folder to write"),
        (["export", "nowhere", "b"], "no model nowhere"),
        (["export", "--check", "{trained}"], "is not a bundle: it has no manifest.json"),
        (["export", "--check", "a", "b"], "--check takes one folder"),
        (["export", "{trained}", "{trained}"], "exists already"),
        (["export", "{trained}", "b", "--providers", "cuda"], "--providers says where --check runs"),
    ],
)
def test_mistakes_are_one_sentence(trained, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert run(*(argument.format(trained=trained) for argument in arguments)) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("keras-vae export: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

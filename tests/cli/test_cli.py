"""The command line: what it writes, its exit codes, and that a mistake is one sentence and leaves nothing."""

import csv
import errno
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from keras_vae import datasets, likelihoods
from keras_vae_cli import backends, commands, options, progress

pytestmark = pytest.mark.once

FILES = ["history.csv", "model.keras", "reconstructions.png", "samples.png", "summary.json"]
QUICK = ["--epochs", "2", "--latent-dim", "3", "--hidden", "12", "--batch-size", "500"]
COLLAPSE = ("--batch-size", "100", "--warm-up", "1", "--beta", "1e4", "--learning-rate", "0.03")


def run(*arguments):
    return commands.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An output folder of `train` on binarised digits."""
    folder = tmp_path_factory.mktemp("cli") / "out"
    assert run("train", "--binarize", "threshold", *QUICK, "--output", folder) == 0
    return folder


@pytest.fixture
def without_onnx(monkeypatch):
    """The exporter finds no onnx, and refuses to be imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "keras_vae_export"]:
        monkeypatch.delitem(sys.modules, name)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else find_spec(name))


@pytest.mark.every_backend
def test_train_writes_everything(trained):
    assert sorted(file.name for file in trained.iterdir()) == FILES
    summary = json.loads((trained / "summary.json").read_text())
    held_out = summary["held_out"]
    assert held_out["negative_elbo"] == pytest.approx(held_out["reconstruction"] + held_out["kl"])
    assert held_out["bits_per_dim"] == pytest.approx(held_out["negative_elbo"] / 64 / np.log(2))
    assert summary["backend"] == keras.backend.backend()
    assert (summary["epochs"], summary["kept_epoch"], summary["settings"]["patience"]) == (2, 2, 0)
    with open(trained / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["val_negative_elbo"]) == pytest.approx(held_out["negative_elbo"], rel=0.05)


@pytest.mark.every_backend
def test_evaluate_repeats_the_figures_of_the_summary(trained, capsys):
    assert run("evaluate", trained, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["backend"] == keras.backend.backend()
    held_out = json.loads((trained / "summary.json").read_text())["held_out"]
    assert {name: found[name] for name in held_out} == pytest.approx(held_out, rel=1e-5)
    assert (
        run("evaluate", trained / "model.keras", "--data", "digits", "--binarize", "threshold", "--split", "train") == 0
    )
    assert f"1,497 examples on {keras.backend.backend()}   negative ELBO" in capsys.readouterr().out


def test_evaluate_says_what_the_latents_hold_and_estimates_log_p(trained, capsys):
    assert run("evaluate", trained, "--json", "--log-likelihood", 20) == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(found["kl_per_unit"]) == pytest.approx(found["kl"], rel=1e-4)
    assert found["collapse"] is None
    assert found["mutual_information"] + found["marginal_kl"] == pytest.approx(found["kl"], rel=1e-4)
    assert 0 <= found["active_units"] <= 3
    assert -found["negative_elbo"] < found["log_likelihood"] < 0.0
    assert 1.0 <= found["effective_sample_size"] <= 20.0
    assert run("evaluate", trained, "--log-likelihood", 20) == 0
    out = capsys.readouterr().out
    assert f"log p(x)   {found['log_likelihood']:.3f} +-" in out
    assert "of 3 active" in out


@pytest.mark.parametrize(
    ("arguments", "likelihood"),
    [
        (("--likelihood", "gaussian", "--scale", "learned"), {"scale": "learned"}),
        (("--likelihood", "laplace", "--scale", "0.3"), {"scale": 0.3}),
        (("--likelihood", "discretized_logistic", "--levels", "17"), {"scale": "predicted", "levels": 17}),
        (("--likelihood", "continuous_bernoulli", "--objective", "iwae", "--num-samples", "3"), {}),
        (("--likelihood", "continuous_bernoulli", "--objective", "iwae"), {}),  # with one it would be the ELBO
        (("--likelihood", "mse", "--free-bits", "0.01", *COLLAPSE), {"scale": 1.0}),
    ],
)
def test_train_with_other_likelihoods_and_objectives(arguments, likelihood, tmp_path, capsys):
    assert run("train", *QUICK, *arguments, "--output", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "Note" not in out
    collapse = json.loads((tmp_path / "out" / "summary.json").read_text())["collapse"]
    assert (collapse is not None) == ("The posterior has collapsed: 0 of 3" in out) == ("--warm-up" in arguments)
    vae = keras.saving.load_model(tmp_path / "out" / "model.keras")
    assert likelihood.items() <= vae.likelihood.get_config().items()
    assert getattr(vae.objective, "free_bits", 0.0) == (0.01 if "--free-bits" in arguments else 0.0)
    assert vae.objective.num_samples == (3 if "3" in arguments else 5 if "iwae" in arguments else 1)
    if "--warm-up" in arguments:
        assert vae.objective.beta.get_config() == {"steps": 15, "start": 0.0, "end": 1e4}
        assert run("evaluate", tmp_path / "out") == 0
        assert collapse.partition("\n")[0] in capsys.readouterr().out


@pytest.mark.parametrize(("prior", "kind"), [("mixture", "GaussianMixture"), ("vamp", "VampPrior")])
def test_train_with_a_prior_that_learns(prior, kind, tmp_path, capsys):
    arguments = ("--prior", prior, "--components", "4")
    assert run("train", *QUICK, *arguments, "--output", tmp_path / "out") == 0
    assert f"To a {kind} the KL has no closed form" in capsys.readouterr().out
    vae = keras.saving.load_model(tmp_path / "out" / "model.keras")
    assert (type(vae.prior).__name__, vae.prior.components) == (kind, 4)
    assert run("evaluate", tmp_path / "out") == 0
    assert "tell examples apart" in capsys.readouterr().out
    assert run("train", *QUICK, "--components", "4", "--output", tmp_path / "other") == 1
    assert "has no meaning for the normal prior" in capsys.readouterr().err


def test_missing_values_are_taken_where_they_are_allowed(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    x[rng.random(x.shape) < 0.2] = np.nan
    np.save(tmp_path / "table.npy", x)
    arguments = ("train", "--data", tmp_path / "table.npy", "--likelihood", "mse", *QUICK, "--output", tmp_path / "out")
    assert run(*arguments) == 1
    assert "contains NaN" in capsys.readouterr().err
    assert run(*arguments, "--allow-missing") == 0
    assert run("evaluate", tmp_path / "out", "--log-likelihood", 5) == 0


def test_a_table_of_numbers_as_an_array(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3)) * [1.0, 1e-2, 1e3]

    def write(name, columns, rows):
        lines = [",".join(f"{row['abc'.index(column)]:g}" for column in columns) for row in rows]
        (tmp_path / name).write_text("\n".join([",".join(columns), *lines]).replace("nan", ""))
        return tmp_path / name

    arguments = ("--hidden", "8", "--latent-dim", "2", "--epochs", "1", "--output", tmp_path / "out")
    arguments += ("--likelihood", "gaussian")
    x[3, 1] = np.nan
    assert run("train", "--data", write("t.csv", "abc", x), *arguments) == 1
    assert "contains NaN, an empty cell, first in column 'b': remove" in capsys.readouterr().err
    assert run("train", "--data", tmp_path / "t.csv", *arguments, "--allow-missing") == 0
    said = "Columns: a, b, c. Likelihood: gaussian with scale learned, of the standardised columns."
    assert said in capsys.readouterr().out
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "history.csv",
        "model.keras",
        "samples.csv",
        "summary.json",
    ]
    vae = keras.saving.load_model(tmp_path / "out" / "model.keras")
    kept = vae.likelihood.get_config()
    np.testing.assert_allclose(kept["stddev"], np.nanstd(datasets.load(tmp_path / "t.csv").train, axis=0), rtol=1e-4)
    assert run("sample", tmp_path / "out", "--output", tmp_path / "s.csv", "--num", "500") == 0
    samples = datasets.load(tmp_path / "s.csv")
    assert samples.columns == ("a", "b", "c")
    z_scores = (samples.train - kept["mean"]) / kept["stddev"]  # samples are in the units of the data
    assert (np.abs(np.log(np.std(z_scores, axis=0))) < 1.0).all()
    capsys.readouterr()
    assert vae.likelihood.likelihood.per_column
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["columns"] == ["a", "b", "c"]
    found = []
    for name, columns in (("t.csv", "abc"), ("other.csv", "cab")):
        assert run("evaluate", tmp_path / "out", "--json", "--data", write(name, columns, x)) == 0
        found.append(json.loads(capsys.readouterr().out)["negative_elbo"])
    assert found == pytest.approx([summary["held_out"]["negative_elbo"]] * 2, rel=1e-6)
    assert run("evaluate", tmp_path / "out", "--data", write("short.csv", "ca", x)) == 1
    assert "short.csv: The table has no column 'b'" in capsys.readouterr().err
    again = (*arguments, "--overwrite", "--allow-missing", "--no-standardize")
    assert run("train", "--data", tmp_path / "t.csv", *again) == 0
    out = capsys.readouterr().out
    assert "train with --standardize" in out
    assert "of the columns as they are" in out
    assert run("train", "--data", tmp_path / "t.csv", *again, "--kinds", "a=none") == 1
    assert "--likelihood makes a table an array of numbers, whose columns have no --kinds" in capsys.readouterr().err


def test_images_are_resized_alike_in_every_verb(tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for i in range(12):
        pixels = rng.integers(0, 256, (7 + i % 2, 6), dtype="uint8")
        Image.fromarray(pixels).save(tmp_path / "in" / f"{i}.png")
    arguments = ("--hidden", "8", "--latent-dim", "2", "--epochs", "1", "--output", tmp_path / "out")
    assert run("train", "--data", tmp_path / "in", "--resize", "4,5", *arguments) == 0
    assert "examples of 4x5x1" in capsys.readouterr().out
    assert run("evaluate", tmp_path / "out", "--data", tmp_path / "in") == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--scale", "learned"), "--scale has no meaning for bce"),
        (("--kinds", "a=real"), "(--kinds) is for a table (.csv, .tsv, .parquet), and digits is none"),
        (("--standardize",), "Standardized needs a likelihood of real numbers"),
        (
            ("--likelihood", "continuous_bernoulli", "--levels", "17"),
            "--levels has no meaning for continuous_bernoulli",
        ),
        (("--objective", "iwae", "--beta", "2"), "--beta belongs to the ELBO"),
        (("--objective", "iwae", "--warm-up", "2"), "--warm-up belongs to the ELBO"),
        (("--likelihood", "discretized_logistic"), "one of 256 evenly spaced levels"),
        (("--likelihood", "poisson"), "needs counts"),
    ],
)
def test_what_does_not_go_together_is_said(arguments, words, tmp_path, capsys):
    assert run("train", *QUICK, *arguments, "--output", tmp_path / "out") == 1
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_sample_writes_a_picture_or_an_array(trained, tmp_path, capsys):
    assert run("sample", trained, "--num", 7, "--output", tmp_path / "s.npy", "--seed", 3) == 0
    assert run("sample", trained, "--num", 7, "--output", tmp_path / "s.png") == 0
    assert np.load(tmp_path / "s.npy").shape == (7, 8, 8, 1)
    assert (tmp_path / "s.png").stat().st_size > 1000
    assert "Wrote 7 samples" in capsys.readouterr().out
    before = (tmp_path / "s.npy").read_bytes()
    again = ("sample", trained, "--num", 3, "--output", tmp_path / "s.npy")
    assert run(*again) == 1
    words = "s.npy exists already: choose another output, or replace it with --overwrite."
    assert words in capsys.readouterr().err
    assert (tmp_path / "s.npy").read_bytes() == before
    assert run(*again, "--overwrite") == 0
    assert len(np.load(tmp_path / "s.npy")) == 3


@pytest.mark.usefixtures("without_onnx")  # test_cli.py of the exporter has the whole
def test_quickstart_draws_the_manifold_and_says_the_bound_and_what_is_missing(tmp_path, capsys):
    assert run("quickstart", "--epochs", 1, "--output", tmp_path / "q") == 0
    assert sorted(file.name for file in (tmp_path / "q").iterdir()) == sorted([*FILES, "manifold.png"])
    out = capsys.readouterr().out
    assert "1,497 examples of 8x8x1 to train on, 300 held out" in out
    assert "nats per example" in out
    assert "bits per dimension" in out
    missing = 'keras_vae_export needs onnx: pip install "keras-vae[export]".'
    assert f"No ONNX files: {missing}" in out
    assert run("export", tmp_path / "q", tmp_path / "bundle") == 1
    assert missing in capsys.readouterr().err


def test_a_full_disk_is_a_sentence(trained, tmp_path, capsys, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert run("sample", trained, "--num", 2, "--output", tmp_path / "s.npy") == 1
    assert capsys.readouterr().err == (
        "keras-vae sample: the disk is full: free some space, or choose another output\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_conv_and_mse_and_files(tmp_path):
    x = np.random.default_rng(0).random((30, 7, 6)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    settings = ["--network", "conv", "--hidden", "3", "--likelihood", "mse", "--latent-dim", "2", "--epochs", "1"]
    assert run("train", "--data", tmp_path / "x.npy", *settings, "--output", tmp_path / "out") == 0
    assert run("evaluate", tmp_path / "out") == 0  # the data get their channel axis here too


def test_grey_values_under_bce_get_a_word(tmp_path, capsys):
    assert run("train", "--epochs", 1, *QUICK[2:], "--output", tmp_path / "grey") == 0
    out = capsys.readouterr().out
    assert out.count("Note: ") == 1
    assert re.search("Note: .* for grey values the Bernoulli likelihood gives a cross-entropy, not a log-likeli", out)
    assert run("train", "--epochs", 1, *QUICK[2:], "--binarize", "sample", "--output", tmp_path / "binary") == 0
    assert "Note:" not in capsys.readouterr().out


def test_the_same_seed_gives_the_same_run(tmp_path):
    for name in ("a", "b"):
        assert run("train", *QUICK, "--binarize", "sample", "--seed", 4, "--output", tmp_path / name) == 0
    a, b = (json.loads((tmp_path / name / "summary.json").read_text())["held_out"] for name in ("a", "b"))
    assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--data", "nowhere"], "no file or folder nowhere"),
        (["train", "--data", "{tmp}/wrong.npy"], "the data ranges from 0 to 300.*or use likelihood="),
        (["train", "--data", "{tmp}/nan.npy"], "contains NaN"),
        (["train", "--data", "{tmp}/flat.npy", "--network", "conv"], "conv needs data of shape"),
        (["evaluate", "{tmp}"], "There is no model"),
        (["evaluate", "{tmp}/broken.keras"], "cannot be loaded"),
        (["evaluate", "{tmp}/run"], "does not hold the settings of a run: name the data"),
        (["evaluate", "{tmp}/other.keras"], "holds a Sequential, not a keras_vae.VAE"),
        (["evaluate", "{tmp}/alone/model.keras"], "No summary.json beside .*name data with --data"),
        (["evaluate", "{tmp}/nan.npy"], "There is no model .*nan.npy: name a .keras file"),
        (["sample", "{tmp}/alone/model.keras", "--output", "{tmp}/run.npy"], "Cannot write .*run.npy: it is a folder"),
        (["sample", "{tmp}/alone/model.keras", "--output", "{tmp}/no/x.png"], "no/x.png: .*no does not exist"),
        (["sample", "{tmp}/alone/model.keras", "--output", "/proc/x.npy"], "Cannot write /proc/x.npy: /proc: "),
        (["quickstart", "--output", "{tmp}/nan.npy/x/y"], "Cannot write .*nan.npy is a file, not a folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(arguments, words, trained, tmp_path, capsys):
    np.save(tmp_path / "wrong.npy", np.tile([[0.0, 300.0]], (9, 1)))
    np.save(tmp_path / "nan.npy", np.tile([[0.0, np.nan]], (9, 1)))
    np.save(tmp_path / "flat.npy", np.zeros((9, 4)))
    (tmp_path / "broken.keras").write_bytes(b"not a zip file")
    keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    for folder in ("run", "run.npy", "alone"):
        (tmp_path / folder).mkdir()
    shutil.copy(trained / "model.keras", tmp_path / "run")
    shutil.copy(trained / "model.keras", tmp_path / "alone")
    (tmp_path / "run" / "summary.json").write_text("{}")
    before = sorted(tmp_path.iterdir())
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    if arguments[0] == "train":
        arguments += ["--output", str(tmp_path / "out"), "--epochs", "1"]
    assert run(*arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"keras-vae {arguments[0]}: ")
    assert error.count("\n") == 1
    assert re.search(words, error)
    assert sorted(tmp_path.iterdir()) == before


def test_an_existing_folder_is_kept_unless_told(trained, tmp_path, capsys):
    assert run("train", *QUICK, "--output", trained) == 1
    words = f"{trained} exists already: choose another output, or replace it with --overwrite."
    assert words in capsys.readouterr().err
    assert sorted(file.name for file in trained.iterdir()) == FILES
    old = tmp_path / "old"
    old.mkdir()
    (old / "mine.txt").write_text("x")
    again = ("train", "--data", "digits", "--binarize", "threshold", *QUICK, "--output", old, "--overwrite")
    assert run(*again) == 1  # somebody else's files are never replaced
    assert "was not written by us" in capsys.readouterr().err
    assert (old / "mine.txt").exists()
    (old / "summary.json").write_text("{}")  # of some other program's
    assert run(*again) == 1
    shutil.copy(trained / "summary.json", old)
    assert run(*again) == 0
    assert sorted(file.name for file in old.iterdir()) == FILES
    assert sorted(file.name for file in tmp_path.iterdir()) == ["old"]
    assert run("train", *QUICK, "--output", ".", "--overwrite") == 1


def test_a_diverged_run_says_so_and_leaves_nothing(tmp_path, capsys):
    assert run("train", *QUICK, "--learning-rate", "1e30", "--output", tmp_path / "out") == 1
    assert "not finite" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_stops_after_the_epoch_and_writes_what_there_is(tmp_path, monkeypatch):
    import signal

    on_epoch_begin = progress._Progress.on_epoch_begin

    def interrupt_in_the_second_epoch(self, epoch, logs=None):
        on_epoch_begin(self, epoch, logs)
        if epoch == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(progress._Progress, "on_epoch_begin", interrupt_in_the_second_epoch)
    before = signal.getsignal(signal.SIGINT)  # a shell's background jobs ignore it
    assert run("train", "--epochs", 50, *QUICK[2:], "--binarize", "threshold", "--output", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["epochs"] == 2
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--epochs", "0"],
        ["train", "--beta", "-1"],
        ["train", "--hidden", "a"],
        ["train", "--seed", "-1"],
        ["train", "--kinds", "a"],
        ["train", "--kinds", "a=text,b=real"],
        ["impute", "run", "--data", "x.csv"],
        ["train", "--ep", "1"],  # abbreviations would change their meaning with the next option
        [],
    ],
)
def test_a_wrong_command_line_exits_with_2(arguments):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2


def test_kinds_are_read_by_names_that_may_have_commas():
    assert options.kinds("a, b=real,c=none,=none") == {"a, b": "real", "c": None, "": None}


def test_the_options_know_the_names_of_the_library():
    """They are written down a second time, so that --help need not import Keras."""
    assert (
        tuple(name for name in likelihoods.NAMES if name not in ("categorical", "multinomial")) == options.LIKELIHOODS
    )
    assert options.SCALES == likelihoods.SCALES


@pytest.mark.parametrize("arguments", ["train --help", "export --help", "--version", "train --epochs x"])
def test_help_and_a_wrong_command_line_import_nothing_slow(arguments):
    code = f"""
import sys
from keras_vae_cli import commands
try:
    commands.main({arguments.split()!r})
except SystemExit:
    print(sorted({{"keras", "numpy", "matplotlib", "keras_vae", "jax", "torch", "tensorflow"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def command(*arguments, **environment):
    """`keras-vae` as a shell would run it."""
    environment = {**{k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}, **environment}
    return subprocess.run(
        [sys.executable, "-m", "keras_vae_cli", *arguments], capture_output=True, text=True, env=environment
    )


@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("torch", marks=pytest.mark.slow)])
def test_the_command_chooses_the_backend_before_keras_is_imported(tmp_path, backend):
    done = command("train", "--backend", backend, *QUICK, "--output", str(tmp_path / "out"), KERAS_BACKEND="theano")
    assert done.returncode == 0, done.stderr
    assert f"on {backend}." in done.stdout
    assert done.stderr == ""


def test_a_run_is_not_served_but_exported_first(trained, tmp_path, monkeypatch):
    done = command("serve", f"mine={trained}")
    words = f"keras-vae serve: {trained} holds a model and no bundle: keras-vae export {trained} {trained}-onnx\n"
    assert (done.returncode, done.stderr) == (1, words)
    shutil.copy(trained / "model.keras", tmp_path)
    (tmp_path / "bundle").mkdir()  # as quickstart writes it
    assert command("serve", str(tmp_path)).stderr.endswith(f"no bundle: keras-vae serve {tmp_path}/bundle\n")
    monkeypatch.chdir(tmp_path)  # in which an option and its value are no run
    done = command("serve", "other", "--port", "0")
    assert "holds a model" not in done.stderr
    assert "other" in done.stderr


def test_a_backend_other_than_the_running_one_is_refused(capsys):
    other = {"jax": "torch", "torch": "tensorflow", "tensorflow": "jax"}[keras.backend.backend()]
    assert run("train", "--backend", other) == 2
    assert f"set KERAS_BACKEND={other} before" in capsys.readouterr().err


def test_an_unknown_backend_is_a_sentence():
    done = command("quickstart", KERAS_BACKEND="theano")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no backend 'theano': choose one of jax, torch, tensorflow" in done.stderr


@pytest.mark.parametrize(
    ("settings", "backend"),
    [
        (None, "jax"),
        ("{", "jax"),
        ("[]", "jax"),
        ('{"backend": "torch"}', "torch"),
        ('{"backend": "tensorflow", "floatx": "float16"}', "tensorflow"),
        ('{"backend": "theano"}', "jax"),
    ],
)
def test_the_backend_of_keras_settings_is_taken_where_somebody_chose_it(monkeypatch, tmp_path, settings, backend):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    if settings is not None:
        (tmp_path / "keras.json").write_text(settings)
    assert backends.choose(None) == backend
    (tmp_path / "summary.json").write_text('{"backend": "torch"}')  # the run's own, where nothing else is chosen
    own = "torch" if backend == "jax" else backend
    assert backends.choose(None, str(tmp_path)) == backends.choose(None, str(tmp_path / "model.keras")) == own
    assert backends.choose("tensorflow", str(tmp_path)) == "tensorflow"


@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="jax is not installed")
def test_tensorflow_may_be_there_for_the_exporter_only(tmp_path):
    """Who installs [jax,export] gets JAX, though TensorFlow comes along, and is in the settings that Keras writes."""
    done = command(
        "train", "--data", "digits", *QUICK, "--output", str(tmp_path / "out"), KERAS_HOME=str(tmp_path / "no_settings")
    )
    assert " on jax." in done.stdout, done.stderr
    assert done.stderr == ""
    assert json.loads((tmp_path / "no_settings" / "keras.json").read_text()) == backends.UNTOUCHED

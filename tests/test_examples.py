"""Every example, and every benchmark that trains or scores, runs from its command line on data of a few rows."""

import gzip
import os
import pathlib
import re
import runpy
import struct
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import keras_vae

ROOT = pathlib.Path(__file__).parent.parent
NUMBER = r"-?\d+\.\d+"

pytestmark = pytest.mark.slow


def run(script, *arguments, **environment):
    """What a script prints."""
    command = [sys.executable, str(ROOT / script), *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """A folder of idx files with 200 and 40 images of noise."""
    folder, rng = tmp_path_factory.mktemp("mnist"), np.random.default_rng(0)
    for name, rows in (("train", 200), ("t10k", 40)):
        header = struct.pack(">HBB3I", 0, 8, 3, rows, 28, 28)
        images = rng.integers(0, 256, (rows, 28, 28), dtype="uint8")
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
    return folder


def test_binarized_mnist(tmp_path):
    rng = np.random.default_rng(0)
    parts = {
        name: np.packbits(rng.integers(0, 2, (rows, 784)), axis=1) for name, rows in (("train", 256), ("test", 32))
    }
    np.savez(tmp_path / "data.npz", **parts)
    printed = run("examples/binarized_mnist.py", tmp_path / "data.npz", 1, "--log-likelihood", 10)
    assert re.search(rf"test negative ELBO {NUMBER} nats, of which KL {NUMBER}\n", printed)
    assert re.search(rf"test log p\(x\) {NUMBER} nats, .* \(10 draws for 32 random images\)\n", printed)


@pytest.mark.parametrize(("objective", "layers"), [("elbo", 1), ("iwae", 1), ("iwae", 2)])
def test_iwae_mnist(mnist, objective, layers):
    quick = ("--num-samples", 2, "--epochs", 1, "--test-images", 20, "--draws", 10)
    printed = run("examples/iwae_mnist.py", mnist, "--objective", objective, "--layers", layers, *quick)
    assert re.search(rf"test ELBO {NUMBER}, log p\(x\) {NUMBER} nats, .* \(10 draws, 20 images\)", printed)


def test_the_paper_s_schedule_goes_on_where_it_stopped(mnist, tmp_path):
    quick = ("--schedule", "paper", "--test-images", 20, "--draws", 10)
    whole = run("examples/iwae_mnist.py", mnist, *quick, "--stages", 2)
    part = (*quick, "--checkpoint", tmp_path / "iwae.keras")
    run("examples/iwae_mnist.py", mnist, *part, "--stages", 1)
    rest = run("examples/iwae_mnist.py", mnist, *part, "--stages", 2)
    assert "after 1 passes" in rest
    assert re.findall(r"Epoch \d/\d", rest) == ["Epoch 2/4", "Epoch 3/4", "Epoch 4/4"]
    assert rest.splitlines()[-1] == whole.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["iwae.keras"]


def test_frey_face(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (600, 28, 20), dtype="uint8")
    np.savez(tmp_path / "faces.npz", images=images)
    output = tmp_path / "faces.png"
    printed = run("examples/frey_face.py", tmp_path / "faces.npz", "--epochs", 1, "--latents", 2, "--output", output)
    assert re.search(rf" 2 latents, bound {NUMBER} nats .* probabilistic PCA {NUMBER}\n", printed)
    assert output.read_bytes().startswith(b"\x89PNG")


def test_two_stage(tmp_path):
    output = tmp_path / "samples.png"
    printed = run("examples/two_stage.py", "--epochs", 2, "--samples", 100, "--output", output)
    assert re.search(rf": KL {NUMBER} nats, {NUMBER} of them as the codes do not match the prior\n", printed)
    assert len(re.findall(rf"{NUMBER} from held out digits\n", printed)) == 4
    assert output.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("prior", ["normal", "conditional", "fitted"])
def test_conditional_fashion_mnist(tmp_path, prior):
    quick = ("--epochs", 2, "--samples", 5, "--prior", prior, "--output", tmp_path / "classes.png")
    printed = run("examples/conditional_fashion_mnist.py", "digits", *quick)
    assert re.search(
        rf"test ELBO {NUMBER} nats, of which KL {NUMBER}\n.* {NUMBER} % of test images, {NUMBER} % of samples\n",
        printed,
    )
    assert len(re.findall(r"class \d: real", printed)) == 10
    assert (tmp_path / "classes.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "classes.csv").read_text().splitlines()) == 12


def test_a_conditional_model_wants_labels(mnist):
    command = [sys.executable, str(ROOT / "examples/conditional_fashion_mnist.py"), str(mnist)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "has no labels" in done.stderr


@pytest.fixture(scope="module")
def binarized(tmp_path_factory):
    """A file as that of binarised MNIST, with 200 rows of noise to train on and 20 each to choose and to test."""
    path, rng = tmp_path_factory.mktemp("binarized") / "data.npz", np.random.default_rng(0)
    sizes = {"train": 200, "valid": 20, "test": 20}
    np.savez(path, **{n: np.packbits(rng.integers(0, 2, (rows, 784)), axis=1) for n, rows in sizes.items()})
    return path


def test_the_benchmark_of_priors(binarized, tmp_path):
    quick = ("--epochs", 1, "--components", 5, "--images", 10, "--draws", 10, "--output", tmp_path / "rows.csv")
    printed = run("benchmarks/priors.py", binarized, *quick)
    found = re.findall(rf"\n(\S+?)(?:\(\d\))? .*log p\(x\) {NUMBER} .* [+-]{NUMBER} \+- {NUMBER} to N\(0, I\)", printed)
    assert found == ["N(0,", "GaussianMixture", "VampPrior"]
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 4
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


def test_the_benchmark_of_posteriors(binarized, tmp_path):
    quick = ("--epochs", 1, "--images", 10, "--draws", 10, "--output", tmp_path / "rows.csv")
    printed = run("benchmarks/posteriors.py", binarized, *quick)
    found = re.findall(rf"\n(\w+)\(.* ELBO .*log p\(x\) {NUMBER} .* [+-]{NUMBER} \+- {NUMBER} to Normal", printed)
    assert found == ["Normal", "LowRankNormal", "FullNormal", "Flow"]
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 5


def test_the_benchmark_of_collapse(binarized, tmp_path):
    quick = ("--epochs", 1, "--images", 10, "--draws", 10, "--output", tmp_path / "rows.csv")
    printed = run("benchmarks/collapse.py", binarized, *quick)
    assert len(re.findall(rf"active of 50, .* KL {NUMBER}, ELBO {NUMBER} .* log p\(x\) {NUMBER}", printed)) == 5
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 6
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


def test_the_benchmark_of_gradients(tmp_path):
    quick = ("--samples", 4, "--draws", 50, "--epochs", 2, "--repeats", 1, "--output", tmp_path / "rows.csv")
    printed = run("benchmarks/gradients.py", *quick, KERAS_BACKEND="jax")
    found = re.findall(rf"SNR standard ({NUMBER}), dreg ({NUMBER}); means ({NUMBER}) standard errors", printed)
    assert len(found) == 2
    assert all(float(standard) < float(dreg) and float(apart) < 2.0 for standard, dreg, apart in found)
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


def test_continuous_bernoulli(mnist):
    printed = run("benchmarks/continuous_bernoulli.py", mnist, "--epochs", 1)
    assert len(re.findall(rf"trained as .* {NUMBER}   published \d+\n", printed)) == 3


def test_continuous_bernoulli_is_corrected_to_the_mean_that_training_aimed_at():
    layer = runpy.run_path(str(ROOT / "benchmarks" / "continuous_bernoulli.py"))["LogitsAtMean"]()
    logits = np.linspace(-2.0, 2.0, 9, dtype="float32")  # beyond, the parameter is at the end of its range
    mean = ops.convert_to_numpy(keras_vae.ContinuousBernoulli().mean(layer(logits)))
    np.testing.assert_allclose(mean, 1.0 / (1.0 + np.exp(-logits)), atol=1e-6)


def test_log_likelihood(tmp_path):
    quick = ("--images", 2, "--draws", 50, "--repeats", 1, "--output", tmp_path / "speed.csv")
    printed = run("benchmarks/log_likelihood.py", *quick)
    found = re.findall(
        rf"keras_vae (\w+) +{NUMBER} images/s, limit +{NUMBER}, cpu +{NUMBER} ms, log p\(x\) ({NUMBER})\n", printed
    )
    assert [backend for backend, _ in found] == ["jax", "tensorflow", "torch"]
    assert len({value for _, value in found}) == 1
    assert len((tmp_path / "speed.csv").read_text().splitlines()) == 4


def test_several_processes(tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *launcher, str(ROOT / "examples/several_processes.py")]
    environment = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Epoch 5/5") == 1
    assert keras.saving.load_model(tmp_path / "digits.keras").latent_dim == 8


def test_the_benchmark_of_training(tmp_path):
    quick = ("--models", "mlp", "--backends", "torch", "--steps", 20, "--rounds", 1, "--batches")
    printed = run("benchmarks/train_step.py", *quick, "--output", tmp_path / "rows.csv")
    assert re.search(rf"keras_vae, steps_per_execution=20 +{NUMBER} ms.* {NUMBER} x hand-written", printed)
    assert "failed" not in printed
    assert (tmp_path / "rows.csv").read_text().count("mlp,100,torch") >= 6


def test_the_benchmark_of_a_gpu_ends_without_one():
    assert "GPU" in run("benchmarks/gpu.py")


def test_words():
    printed = run("examples/words.py", "--epochs", 1, "--words", 80)
    assert len(re.findall(rf"test negative ELBO {NUMBER} nats a word", printed)) == 2
    assert re.search(r"con\.\.\.:( con\w*){8}\n", printed)

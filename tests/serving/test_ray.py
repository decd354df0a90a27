"""A bundle on Ray, where a worker and a replica are killed: `nox -- slow` makes the environment, which has no Keras.

What is run there is in `ray_programs.py`; the numbers are compared here with those of a plain `Pipeline`.
"""

import hashlib
import importlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

import keras_vae
from keras_vae_serving import Pipeline

PYTHON = os.environ.get("KERAS_VAE_RAY_PYTHON")
HERE = pathlib.Path(__file__).parent

pytestmark = pytest.mark.slow

needs_ray = pytest.mark.skipif(
    not PYTHON,
    reason="KERAS_VAE_RAY_PYTHON is not set: `nox -- slow` does it, or set it to the python of an environment made by "
    "`pip install 'ray[data,serve]' onnxruntime orjson prometheus-client`",
)


def run(program, bundle, folder, x):
    """What a program of `ray_programs.py` found, and its report."""
    np.savez(folder / "data.npz", x=x)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1] / "serving"), str(HERE.parent)]),
        "RAY_AUTH_MODE": "disabled",  # else Ray leaves a token in the home folder
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    }
    for variable in ("RAY_ADDRESS", "KERAS_VAE_TOKEN"):
        environment.pop(variable, None)
    # pytest's folders are too deep for the path of a socket, which may have about 100 characters: Ray takes 60.
    short = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    command = [PYTHON, HERE / "ray_programs.py", program, bundle, folder, short]
    with open(folder / "log", "w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait(timeout=400)  # not a measurement: only so that nothing hangs for ever
        except subprocess.TimeoutExpired:
            code = "none"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            shutil.rmtree(short, ignore_errors=True)
        log.seek(0)
        assert code == 0, log.read()
    report = json.loads((folder / "report.json").read_text())
    with np.load(folder / "found.npz") as arrays:
        return dict(arrays), report


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that has ended, and waits in the table of processes to be asked how, was not left behind.
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return not status.startswith("Z") and status.strip() != ""


def assert_nothing_is_left(report):
    assert len(report["started"]) > 2
    end = time.monotonic() + 60
    while any(alive(pid) for pid in report["started"]) and time.monotonic() < end:
        time.sleep(0.1)
    assert [pid for pid in report["started"] if alive(pid)] == []


def assert_said(report, **expected):
    assert set(report["errors"]) == set(expected)
    for what, (kind, sentence) in expected.items():
        assert report["errors"][what] is not None, what
        found_kind, found_sentence = report["errors"][what]
        assert kind in found_kind, (what, found_kind, found_sentence)
        assert sentence in found_sentence, (what, found_sentence)


def seed_of(seed, example):
    """As `example_seed` is documented, and not as it is written."""
    digest = hashlib.sha256(b"%d:" % seed + example.tobytes()).digest()
    return int.from_bytes(digest[:8], "little") // 2


@needs_ray
def test_map_gives_each_row_once_and_the_pipelines_numbers_though_a_worker_is_killed(bundle, tmp_path):
    x = keras_vae.datasets.load("digits", binarize="threshold").train[:320]
    judging = shutil.copytree(bundle, tmp_path / "judging")
    fields = json.loads((judging / "manifest.json").read_text())
    pipeline = Pipeline.load(bundle, providers="cpu")
    middle = float(np.median([pipeline.score(e[None], 3, seed_of(0, e))[0] for e in x[:20]]))
    anomaly = {"nats": middle, "quantile": 0.5, "num_samples": 3, "seed": 0, "examples": 20}
    (judging / "manifest.json").write_text(json.dumps({**fields, "anomaly": anomaly}))
    found, report = run("map", bundle, tmp_path, x)

    def in_order(run, key):
        rows = np.argsort([int(str(row).removeprefix("row ")) for row in found[f"{run}/{key}"]])
        return {name.removeprefix(f"{run}/"): array[rows] for name, array in found.items() if name.startswith(run)}

    killed, workers = report["killed"]
    assert len(workers) == 2
    assert killed in workers
    assert set(workers) <= set(report["workers"])
    for threads in report["workers"].values():  # of each batch it ran, the killed one in the middle of a block
        assert set(threads) == {1}
    assert len(report["workers"][killed]) == 3

    score = in_order("score", "name")
    assert set(score) == {"name", "image", "negative_elbo"}
    assert score["name"].tolist() == [f"row {i}" for i in range(320)]
    assert score["image"].dtype == x.dtype
    np.testing.assert_array_equal(score["image"], x)
    alone = [pipeline.score(e[None], num_samples=2, seed=seed_of(3, e))[0] for e in x]
    assert score["negative_elbo"].dtype == "float32"
    np.testing.assert_allclose(score["negative_elbo"], alone, rtol=1e-5)
    # The noise is there, and averages out over the rows.
    together = pipeline.score(x, num_samples=2, seed=0)
    difference = score["negative_elbo"] - together
    assert np.abs(difference).max() > 0.01
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(x))

    # A bundle with a threshold: scored as that was fitted, with the verdict as a column.
    judge = in_order("judge", "name")
    assert set(judge) == {"name", "image", "negative_elbo", "is_anomaly"}
    alone = [pipeline.score(e[None], 3, seed_of(0, e))[0] for e in judge["image"]]
    np.testing.assert_allclose(judge["negative_elbo"], alone, rtol=1e-5)
    assert judge["is_anomaly"].dtype == bool
    np.testing.assert_array_equal(judge["is_anomaly"], np.array(alone) > anomaly["nats"])
    assert judge["is_anomaly"].sum() == 10

    encode = in_order("encode", "id")
    assert encode["id"].tolist() == list(range(320))
    assert (encode["x"].dtype, encode["x"].shape) == (np.uint8, x.shape)
    posterior = pipeline.encode(x)
    np.testing.assert_allclose(encode["z_mean"], posterior.mean, atol=1e-5)
    np.testing.assert_allclose(encode["z_log_var"], posterior.log_var, atol=1e-5)

    reconstruct = in_order("reconstruct", "name")
    assert reconstruct["name"].tolist() == [f"row {i}" for i in range(320)]
    assert (reconstruct["x_mean"].dtype, reconstruct["x_mean"].shape) == (np.float32, x.shape)
    drawn = [pipeline.reconstruct(e[None], sample=True, seed=seed_of(3, e))[0] for e in x]
    np.testing.assert_allclose(reconstruct["x_mean"], drawn, atol=1e-5)
    assert np.abs(np.stack(drawn) - pipeline.reconstruct(x)).max() > 0.01

    z = found["decode/z"]
    assert sorted(z.tolist()) == [[0.5 * i, -1.0, 0.0] for i in range(5)]
    np.testing.assert_allclose(found["decode/x_mean"], pipeline.decode(z), atol=1e-5)

    assert_said(
        report,
        bundle=("BundleError", "is not a bundle: it has no manifest.json."),
        verb=(
            "ValueError",
            "There is no verb 'sample' for a dataset: choose from encode, decode, reconstruct, score, imp",
        ),
        argument=("TypeError", "There is no argument 'sample': encode takes standardized."),
        seed=("ValueError", "seed must be a whole number or None; got 0.5."),
        column=("UserCode", "The dataset has no column 'x'; it has name, image. Name the input with columns=."),
        taken=("UserCode", "The dataset has a column 'z_mean' already: rename or drop it, encode adds it."),
        ragged=("UserCode", "The examples in the column 'x' have different shapes, such as (8, 8, 1), (8, 9, 1)"),
        range=("UserCode", "x must lie in [0, 1], as the model's likelihood says; it ranges from 0 to 255. Divide it"),
    )
    assert_nothing_is_left(report)


@needs_ray
def test_deploy_answers_from_two_replicas_and_goes_on_when_one_is_killed(bundle, tmp_path):
    x = keras_vae.datasets.load("digits", binarize="threshold").test[:41]
    found, report = run("deploy", bundle, tmp_path, x)
    expected = Pipeline.load(bundle, providers="cpu").reconstruct(x)
    np.testing.assert_allclose(found["before"], expected, atol=1e-5)
    assert report["replicas"] == 2
    assert len(report["counts"]) == 2
    assert 0 not in report["counts"]
    assert sum(report["counts"]) == 41
    np.testing.assert_allclose(found["after"], expected, atol=1e-5)
    assert report["replaced"]
    assert_said(
        report,
        bundle=("BundleError", "is not a bundle: it has no manifest.json."),
        option=("TypeError", "unexpected keyword argument 'provider'"),
        token=("HTTPError", "401"),
        replica=(
            "RuntimeError",
            "other could not be deployed: keras_vae_serving.providers.ProviderError: onnxruntime has no",
        ),
    )
    assert_nothing_is_left(report)


def test_a_missing_ray_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "keras_vae_serving.on_ray", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r'needs Ray .* pip install "keras-vae\[ray\]"'):
        importlib.import_module("keras_vae_serving.on_ray")

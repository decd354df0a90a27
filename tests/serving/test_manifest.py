"""The bundle's schema: what is written is read back, and what is not a bundle is refused with a sentence."""

import dataclasses
import json

import numpy as np
import pytest

from keras_vae_serving import BundleError, GraphSpec, Manifest, PosteriorSpec, Tensor
from keras_vae_serving.manifest import AnomalyThreshold, file_hash

pytestmark = pytest.mark.once


THRESHOLD = AnomalyThreshold(nats=31.5, quantile=0.99, num_samples=16, seed=0, examples=300)


@pytest.fixture
def manifest():
    x = Tensor("x", "float32", ("batch", 4, "x_2"))
    z = tuple(Tensor(name, "float32", ("batch", 2)) for name in ("z_mean", "z_log_var"))
    return Manifest(
        graphs={"encoder": GraphSpec("encoder", "encoder/1/model.onnx", "float32", (x,), z, {"tolerance": 1e-4})},
        latent_shape=(2,),
        data_shape=(4, "x_2"),
        data_range=(0.0, 1.0),
        likelihood={"name": "Bernoulli", "config": {"from_logits": True}},
        posterior=PosteriorSpec("Normal", {}, {"z_mean": (2,), "z_log_var": (2,)}, (2,)),
        prior={"name": "DiagonalNormal", "config": {"mean": [0.0, 0.0], "log_var": [0.0, 0.0]}},
        export={"engine": "tensorflow"},
        files={"encoder/1/model.onnx": {"sha256": "0" * 64, "bytes": 3}},
    )


@pytest.fixture
def scored(manifest):
    """One with a threshold, and what it takes to have one."""
    elbo = dataclasses.replace(manifest.graphs["encoder"], name="elbo")
    return dataclasses.replace(manifest, graphs={**manifest.graphs, "elbo": elbo}, anomaly=THRESHOLD, missing=True)


def test_a_manifest_survives_the_way_through_json(manifest, scored):
    assert Manifest.from_json(manifest.to_json()) == manifest
    empty = dataclasses.replace(manifest, data_range=None, likelihood=None, prior=None)
    assert Manifest.from_json(empty.to_json()) == empty
    assert manifest.latent_dim == 2
    wide = PosteriorSpec("Normal", {}, {"z_mean": (None, 4), "z_log_var": (None, 4)}, (None, 4))
    prior = {"name": "DiagonalNormal", "config": {"mean": [[0.0] * 4], "log_var": [[0.0] * 4], "event_ndim": 2}}
    latents = {"mean": [0.5] * 4, "std": [2.0] * 4}
    z = tuple(Tensor(name, "float32", ("batch", "z_1", 4)) for name in wide.outputs)
    graphs = {"encoder": dataclasses.replace(manifest.graphs["encoder"], outputs=z)}
    free = dataclasses.replace(
        manifest, graphs=graphs, latent_shape=(None, 4), posterior=wide, prior=prior, latents=latents
    )
    assert Manifest.from_json(free.to_json()) == free
    assert free.latent_dim is None
    half_open = dataclasses.replace(manifest, data_range=(0.0, float("inf")))
    assert "Infinity" not in half_open.to_json()
    assert Manifest.from_json(half_open.to_json()) == half_open
    assert Manifest.from_json(scored.to_json()) == scored


def test_a_manifest_from_before_there_were_thresholds_is_read(manifest):
    def change(fields):
        del fields["anomaly"], fields["missing"]

    assert Manifest.from_json(changed(manifest, change)) == manifest
    assert (manifest.anomaly, manifest.missing) == (None, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields.update(anomaly=31.5), "is not a bundle's manifest"),
        (lambda fields: fields["anomaly"].pop("seed"), "is not a bundle's manifest .*seed"),
        (lambda fields: fields["anomaly"].update(mean=1.0), "is not a bundle's manifest .*mean"),
        (
            lambda fields: fields["anomaly"].update(nats="31"),
            "the nats of an anomaly threshold must be a finite number",
        ),
        (lambda fields: fields["anomaly"].update(nats=float("nan")), "nats .* must be a finite number; got nan"),
        (lambda fields: fields["anomaly"].update(nats=float("inf")), "nats .* must be a finite number; got inf"),
        (lambda fields: fields["anomaly"].update(quantile=1), "quantile .* must be a number between 0 and 1; got 1"),
        (lambda fields: fields["anomaly"].update(num_samples=0), "num_samples .* of at least 1; got 0"),
        (lambda fields: fields["anomaly"].update(num_samples=True), "num_samples .* of at least 1; got True"),
        (lambda fields: fields["anomaly"].update(seed=-1), r"seed .* from 0 to 2\*\*63 - 1; got -1"),
        (lambda fields: fields["anomaly"].update(seed=2**63), r"seed .* from 0 to 2\*\*63 - 1"),
        (lambda fields: fields["anomaly"].update(seed=None), "seed .* got None"),
        (lambda fields: fields["anomaly"].update(examples=0), "examples .* of at least 1; got 0"),
        (lambda fields: fields["graphs"].pop("elbo"), "has an anomaly threshold, but no elbo graph to score with"),
        (lambda fields: fields.update(missing="no"), "missing must be true or false; got 'no'"),
    ],
)
def test_a_broken_threshold_is_refused(scored, change, message):
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(changed(scored, change))


def changed(manifest, change):
    fields = json.loads(manifest.to_json())
    change(fields)
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields.update(schema_version=3), "version 3; this keras_vae_serving reads versions 1 and 2"),
        (
            lambda fields: fields.update(latent_shape=[0]),
            "latent_shape must be a list of sizes, null where one is free",
        ),
        (lambda fields: fields.update(latent_shape=[3]), r"the mean has shape \(2,\), and z \(3,\)"),
        (lambda fields: fields["prior"]["config"].update(mean=0.0), r"the mean of the prior is not of one z"),
        (lambda fields: fields["posterior"].update(outputs={"logits": [2]}), "no graph that makes z of logits"),
        (lambda fields: fields["posterior"].update(name=3), "name of the posterior must be a string; got 3"),
        (lambda fields: fields["posterior"].update(config=None), "config of the posterior must be an object; got None"),
        (lambda fields: fields["posterior"].update(outputs=["z_mean"]), "outputs of the posterior must be an object"),
        (
            lambda fields: fields["posterior"].update(is_discrete=1),
            "is_discrete of the posterior must be true or false",
        ),
        (lambda fields: fields["posterior"].update(noise_shape="2"), "noise_shape must be a list of sizes.* got '2'"),
        (
            lambda fields: fields["posterior"]["outputs"].update(z_log_var=[3]),
            r"the posterior has the outputs .*'z_log_var': \(3,\).*, and the encoder .*'z_log_var': \(2,\)",
        ),
        (
            lambda fields: fields.update(latent_shape=[None], prior=None),
            r"latent_shape is \(None,\), and z_mean has shape \(batch, 2\)",
        ),
        (lambda fields: fields["posterior"].pop("noise_shape"), "is not a bundle's manifest .*noise_shape"),
        (lambda fields: fields.update(latents={"mean": [0, 0, 0], "std": [1, 1]}), "mean has shape .3,., and z .2,."),
        (lambda fields: fields.update(latents={"mean": [0, 0], "std": [1, 0]}), "std must hold finite numbers above 0"),
        (lambda fields: fields.pop("schema_version"), "is not a bundle's manifest .*schema_version"),
        (lambda fields: fields.pop("prior"), "is not a bundle's manifest .*prior"),
        (lambda fields: fields.update(extra=1), "is not a bundle's manifest .*extra"),
        (lambda fields: fields["graphs"]["encoder"].pop("inputs"), "is not a bundle's manifest .*inputs"),
        (lambda fields: fields["graphs"]["encoder"]["inputs"][0].update(shape=[1, 4]), "starts with 'batch'"),
        (lambda fields: fields["files"].update({"../x": {}}), "'../x', which is outside the bundle"),
        (lambda fields: fields["graphs"]["encoder"].update(file="/etc/passwd"), "outside the bundle"),
        (lambda fields: fields["files"].clear(), "gives no hash of encoder/1/model.onnx"),
    ],
)
def test_a_changed_manifest_is_refused(manifest, change, message):
    with pytest.raises(BundleError, match=message):
        Manifest.from_json(changed(manifest, change))


def test_an_ensemble_of_triton_beside_the_graphs_is_left_alone_and_nothing_else(manifest, tmp_path):
    def write(name):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        return (tmp_path / name).write_bytes(b"abc")

    write("encoder/1/model.onnx")
    (tmp_path / "ensemble" / "1").mkdir(parents=True)
    write("ensemble/config.pbtxt")
    write("manifest.json")
    entry = {"sha256": file_hash(tmp_path / "ensemble/config.pbtxt"), "bytes": 3}
    manifest = dataclasses.replace(manifest, files={"encoder/1/model.onnx": entry})
    manifest.verify(tmp_path)
    for name in ("encoder/config.pbtxt", "ensemble/1/model.onnx", "ensemble/1/config.pbtxt", "encoder/2/model.onnx"):
        write(name)
        with pytest.raises(BundleError, match=f"{name} is not part of the bundle"):
            manifest.verify(tmp_path)
        (tmp_path / name).unlink()
    manifest.verify(tmp_path)
    (tmp_path / "ensemble" / "1").rmdir()
    for name in ("encoder/3", "ensemble/1"):
        (tmp_path / name).symlink_to(tmp_path / "encoder" / "1")
        with pytest.raises(BundleError, match=f"{name} is not part of the bundle"):
            manifest.verify(tmp_path)
        (tmp_path / name).unlink()
    linked = tmp_path.with_name(f"{tmp_path.name}-linked")
    linked.symlink_to(tmp_path)
    manifest.verify(linked)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3"])
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(BundleError, match="is not a bundle's manifest"):
        Manifest.from_json(text)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 4, 9), "float64"), "x must be float32; got float64"),
        (np.zeros((2, 5, 9), "float32"), r"x must have shape \(batch, 4, x_2\); got \(2, 5, 9\)"),
        (np.zeros((2, 4), "float32"), r"x must have shape \(batch, 4, x_2\); got \(2, 4\)"),
    ],
)
def test_an_array_is_held_to_its_tensor(array, message):
    tensor = Tensor("x", "float32", ("batch", 4, "x_2"))
    tensor.check(np.zeros((7, 4, 30), "float32"))
    with pytest.raises(ValueError, match=message):
        tensor.check(array)

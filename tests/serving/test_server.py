"""The server, over real sockets: the pipeline's numbers for whoever asks properly, and a sentence for the rest."""

import asyncio
import concurrent.futures
import contextlib
import gc
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest.mock

import httpx
import numpy as np
import openapi_spec_validator
import pytest

import keras_vae
import keras_vae_export
import oip
import server_process
from keras_vae_serving import BundleError, Pipeline, __main__
from keras_vae_serving.http import _uvicorn, create_app
from keras_vae_serving.repository import Repository

pytestmark = pytest.mark.once

ONE_Z = {"z": np.zeros((1, 3), "float32")}


@pytest.fixture(scope="module")
def x():
    return keras_vae.datasets.load("digits", binarize="threshold").test[:40]


@pytest.fixture(scope="module")
def pipeline(bundle):
    return Pipeline.load(bundle, providers="cpu")


@pytest.fixture(scope="module")
def server(bundle):
    with server_process.running(bundle, "--max-rows", 100, "--max-body", 1) as server:
        yield server
        assert not [line for line in server.lines if "Traceback" in line or "ERROR" in line]


@pytest.mark.parametrize("binary", [False, True])
def test_every_verb_answers_with_the_numbers_of_the_pipeline(server, pipeline, x, binary):
    def infer(model, inputs=None, **parameters):
        return server.infer(model, inputs or {}, binary=binary, binary_output=binary, parameters=parameters)

    def close(found, expected):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    posterior = pipeline.encode(x)
    found = infer("encode", {"x": x})
    assert list(found) == ["z_mean", "z_log_var"]
    close(found["z_mean"], posterior.mean)
    close(found["z_log_var"], posterior.log_var)
    close(infer("decode", {"z": posterior.mean})["x_mean"], pipeline.decode(posterior.mean))
    close(infer("reconstruct", {"x": x})["x_mean"], pipeline.reconstruct(x))
    close(infer("reconstruct", {"x": x}, sample=True, seed=4)["x_mean"], pipeline.reconstruct(x, True, 4))
    close(infer("sample", n=40, seed=5)["x_mean"], pipeline.sample(40, seed=5))
    found = infer("score", {"x": x}, num_samples=2, seed=6)
    close(found["negative_elbo"], pipeline.score(x, 2, seed=6))
    close(found["reconstruction"] + found["kl"], found["negative_elbo"])
    close(infer("score", {"x": x})["negative_elbo"], pipeline.score(x))


def test_without_a_seed_every_sample_is_another(server):
    draws = [server.infer("sample", {})["x_mean"] for _ in range(2)]
    assert draws[0].shape == draws[1].shape == (1, 8, 8, 1)
    assert not np.array_equal(*draws)


def test_verbs_take_what_the_pipeline_takes_and_graphs_what_triton_takes(server, pipeline, x):
    expected = pipeline.encode(x).mean
    for dtype in ("uint8", "int64", "float64", "bool"):
        np.testing.assert_allclose(server.infer("encode", {"x": x.astype(dtype)})["z_mean"], expected, atol=1e-6)
    assert server.error(400, "encoder", {"x": x.astype("float64")}) == "x must be float32; got float64."
    epsilon = np.random.default_rng(0).standard_normal((len(x), 1, 3), "float32")
    terms = server.infer("elbo", {"x": x, "epsilon": epsilon})
    # Triton knows no tensors of shape (batch,): there, too, these are (batch, 1).
    shapes = {"reconstruction": (40, 1), "kl": (40, 1), "log_prob_per_dimension": (40, 8, 8, 1)}
    assert {name: term.shape for name, term in terms.items()} == shapes
    np.testing.assert_allclose((terms["reconstruction"] + terms["kl"])[:, 0], pipeline.score(x), rtol=1e-5)


def test_only_the_outputs_asked_for_are_sent_each_in_its_form(server, x):
    wanted = [{"name": "z_log_var", "parameters": {"binary_data": True}}, {"name": "z_mean"}]
    done = server.post("encode", {"x": x}, outputs=wanted, id="abc")
    head = json.loads(done.content[: int(done.headers[oip.HEADER])])
    assert head["id"] == "abc"
    assert [sorted(tensor) for tensor in head["outputs"]] == [
        ["datatype", "name", "parameters", "shape"],
        ["data", "datatype", "name", "shape"],
    ]
    both = server.infer("encode", {"x": x})
    for name, array in oip.outputs(done.content, done.headers).items():
        np.testing.assert_allclose(array, both[name], rtol=1e-6)
    assert server.error(400, "encode", {"x": x}, outputs=[{"name": "y"}]) == (
        "encode has no output 'y'; it has z_mean, z_log_var."
    )


@pytest.fixture(scope="module")
def judging(bundle, pipeline, x, tmp_path_factory):
    """A server of the same graphs with a threshold between two scores, whose manifest says that numbers may miss."""
    folder = shutil.copytree(bundle, tmp_path_factory.mktemp("judging") / "bundle")
    nats = float(np.sort(pipeline.score(x, 3, seed=5))[29:31].mean())
    anomaly = {"nats": nats, "quantile": 0.75, "num_samples": 3, "seed": 5, "examples": 40}
    fields = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**fields, "anomaly": anomaly, "missing": True}))
    with server_process.running(folder) as server:
        yield server, anomaly


@pytest.fixture(scope="module")
def guarded(bundle):
    """A server that wants a token, has little patience, and lets pages of two other sites call it."""
    options = ("--allow-origin", "https://good.example/", "--allow-origin", "https://example.org", "--body-seconds", 3)
    with server_process.running(bundle, *options, environment={"KERAS_VAE_TOKEN": "s3cret"}) as server:
        yield server
        assert not any("s3cret" in line for line in server.lines)


@pytest.mark.parametrize("binary", [False, True])
def test_a_score_comes_with_the_verdict_of_the_threshold(judging, pipeline, x, binary):
    server, anomaly = judging
    found = server.infer("score", {"x": x}, binary=binary, binary_output=binary)
    assert list(found) == ["negative_elbo", "reconstruction", "kl", "is_anomaly"]
    scores = pipeline.score(x, 3, seed=5)
    np.testing.assert_allclose(found["negative_elbo"], scores, rtol=1e-5)
    assert found["is_anomaly"].dtype == bool
    np.testing.assert_array_equal(found["is_anomaly"], scores > anomaly["nats"])
    assert found["is_anomaly"].sum() == 10
    # Asked for otherwise, it is scored otherwise, and the verdict is that of the score which it comes with.
    found = server.infer("score", {"x": x}, binary=binary, parameters={"num_samples": 1, "seed": 0})
    np.testing.assert_allclose(found["negative_elbo"], pipeline.score(x), rtol=1e-5)
    np.testing.assert_array_equal(found["is_anomaly"], found["negative_elbo"] > np.float32(anomaly["nats"]))
    done = server.post("score", {"x": x[:1]}, outputs=[{"name": "is_anomaly"}]).json()
    assert done["outputs"] == [
        {"name": "is_anomaly", "datatype": "BOOL", "shape": [1], "data": [bool(scores[0] > anomaly["nats"])]}
    ]


def test_a_threshold_is_described(judging, server):
    judging, anomaly = judging
    model = judging.client.get("/v2/models/score").json()
    assert model["outputs"][-2] == {"name": "is_anomaly", "datatype": "BOOL", "shape": [-1]}
    words = (
        f"is_anomaly: whether it is above {anomaly['nats']:g} nats, as a share of 0.25 of normal data is (fitted on 40"
    )
    assert words in model["parameters"]["description"]
    assert model["parameters"]["num_samples"] == "Number of samples of z that each score is averaged over (3)."
    assert model["parameters"]["seed"] == "Seed for the samples (5)."
    document = judging.client.get("/openapi.json").json()
    openapi_spec_validator.validate(document)
    assert words in document["paths"]["/v2/models/{model}/infer"]["post"]["description"]
    (described,) = judging.client.get("/bundles").json()
    assert described["anomaly"] == anomaly
    # Without a threshold there is no word of one.
    assert "anomaly" not in server.client.get("/bundles").json()[0]
    assert "is_anomaly" not in server.client.get("/v2/models/score").text
    assert server.client.get("/v2/models/score").json()["parameters"]["num_samples"].endswith("(1).")


def test_missing_numbers_are_taken_where_the_bundle_says_so(judging, server, x):
    judging, _ = judging
    some = x[:2].copy()
    some[1, 3] = np.nan
    epsilon = np.zeros((2, 1, 3), "float32")
    asked = {
        "encode": {"x": some},
        "score": {"x": some},
        "encoder": {"x": some},
        "elbo": {"x": some, "epsilon": epsilon},
    }
    for model, inputs in asked.items():
        # These graphs know of no missing numbers, and give NaN for them: in that row, and no other.
        for array in judging.infer(model, inputs, binary=True, binary_output=True).values():
            if array.dtype != bool:
                assert [bool(np.isnan(row).any()) for row in array] == [False, True]
        assert "holds NaN or infinite" in judging.error(400, model, inputs, binary=True)  # in the answer, which is JSON
        assert "NaN or infinite values" in server.error(400, model, inputs, binary=True)
        infinite = {**inputs, "x": np.where(np.isnan(some), np.float32(np.inf), some)}
        refused = judging.error(400, model, infinite, binary=True)
        assert "x contains infinite values" in refused or "'x' holds infinite values" in refused
    assert "'epsilon' holds NaN" in judging.error(400, "elbo", {"x": x[:2], "epsilon": epsilon * np.nan}, binary=True)
    null = {"name": "x", "datatype": "FP32", "shape": [2, 8, 8, 1], "data": [None, *x[:2].reshape(-1).tolist()[1:]]}
    body = {"inputs": [null], "parameters": {"binary_data_output": True}}
    done = judging.client.post("/v2/models/encode/infer", json=body)
    means = oip.outputs(done.content, done.headers)["z_mean"]
    assert np.isnan(means).any(axis=1).tolist() == [True, False]
    done = server.client.post("/v2/models/encode/infer", json=body)
    assert (done.status_code, "x contains NaN or infinite values" in done.text) == (400, True)


def test_metadata_health_index_and_description(server, pipeline):
    get = server.client.get
    assert get("/v2/health/live").json() == {"live": True}
    assert get("/v2/health/ready").json() == {"ready": True}
    metadata = get("/v2").json()
    assert (metadata["name"], metadata["extensions"]) == ("keras_vae_serving", ["binary_tensor_data"])
    names = ["decode", "decoder", "elbo", "encode", "encoder", "reconstruct", "sample", "score"]
    assert [model["name"] for model in server.client.post("/v2/repository/index").json()] == names
    for name in names:
        for path in (f"/v2/models/{name}", f"/v2/models/{name}/versions/1"):
            model = get(path).json()
            assert (model["name"], model["versions"]) == (name, ["1"])
            assert model["platform"] == ("onnxruntime_onnx" if name in pipeline.sessions else "keras_vae")
            assert get(f"{path}/ready").status_code == 200
    score = get("/v2/models/score").json()
    assert score["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 8, 8, 1]}]
    assert [output["name"] for output in score["outputs"]] == ["negative_elbo", "reconstruction", "kl", "surprise"]
    (described,) = get("/bundles").json()
    assert described["latent_activity"] == pytest.approx(pipeline.latent_activity(), rel=1e-4)
    assert described["data_range"] == [0.0, 1.0]
    document = get("/openapi.json").json()
    openapi_spec_validator.validate(document)
    assert document["paths"]["/v2/models/{model}/infer"]["parameters"][0]["schema"]["enum"] == names


def test_the_documented_paths_are_the_paths(server):
    document = server.client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        path = path.replace("{model}", "decode").replace("{version}", "1")
        for method in {"get", "post"} & set(methods):
            assert server.client.request(method.upper(), path).status_code not in (404, 405), (method, path)


@pytest.mark.parametrize(
    ("status", "model", "inputs", "sentence"),
    [
        (404, "nope", ONE_Z, "there is no model 'nope'; there are decode, decoder, elbo, encode"),
        (400, "decode", {}, "The decoder takes ['z']; got []"),
        (400, "decode", {"y": ONE_Z["z"]}, "The decoder takes ['z']; got ['y']"),
        (400, "decode", {"z": np.zeros((1, 4), "float32")}, "z must have shape (batch, 3); got (1, 4)"),
        (400, "decode", {"z": np.zeros((3,), "float32")}, "which looks like one example: add the batch axis"),
        (400, "decode", {"z": np.zeros((0, 3), "float32")}, "z holds no examples"),
        (400, "decode", {"z": np.full((1, 3), np.nan, "float32")}, "z contains NaN or infinite values"),
        (400, "decode", {"z": np.full((1, 3), 1e300)}, "z contains NaN or infinite values"),
        (400, "decoder", {"z": np.full((1, 3), np.inf, "float32")}, "the input 'z' holds NaN or infinite values"),
        (400, "decoder", {"z": np.zeros((0, 3), "float32")}, "the input 'z' holds no numbers"),
        (400, "decoder", {"z": np.float32(0)}, "z must have shape (batch, 3); got ()"),
        (400, "encode", {"x": np.full((1, 8, 8, 1), 2.0)}, "x must lie in [0, 1]"),
        (400, "encode", {"x": np.full((1, 8, 8, 1), 255, "uint8")}, "Divide it by 255"),
        (400, "elbo", {"x": np.zeros((2, 8, 8, 1), "f4"), "epsilon": np.zeros((3, 1, 3), "f4")}, "one batch size"),
        (413, "decode", {"z": np.zeros((101, 3), "float32")}, "takes up to 100 in one request"),
        (413, "decoder", {"z": np.zeros((101, 3), "float32")}, "takes up to 100 in one request"),
        (413, "reconstruct", {"x": np.zeros((101, 8, 8, 1), "uint8")}, "takes up to 100 in one request"),
        (413, "score", {"x": np.zeros((101, 8, 8, 1), "uint8")}, "takes up to 100 in one request"),
        (400, "sample", ONE_Z, 'sample takes no inputs, but the parameters "n" and "seed"'),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(server, status, model, inputs, sentence):
    inputs = {name: np.asarray(array) for name, array in inputs.items()}
    assert sentence in server.error(status, model, inputs, binary=True)


@pytest.mark.parametrize(
    ("status", "model", "parameters", "sentence"),
    [
        (400, "sample", {"n": 0}, 'the parameter "n" must be a whole number of at least 1; got 0'),
        (400, "sample", {"n": "4"}, "got '4'"),
        (400, "sample", {"n": True}, "got True"),
        (413, "sample", {"n": 101}, 'the parameter "n" may be up to 100 here'),
        (400, "sample", {"seed": -1}, 'the parameter "seed" must be a whole number from 0 to 2**63 - 1; got -1'),
        (400, "sample", {"seed": 2**63}, 'the parameter "seed"'),
        (400, "sample", {"seed": 1.5}, 'the parameter "seed"'),
        (400, "sample", {"seeds": 1}, "there is no parameter 'seeds'; did you mean 'seed'? sample takes n, seed,"),
        (400, "score", {"samples": 1}, "there is no parameter 'samples'; did you mean 'num_samples'?"),
        (400, "score", {"n": 5}, "there is no parameter 'n'; did you mean 'num_samples'? score takes num_samples,"),
        (400, "sample", {"num_samples": 9}, "there is no parameter 'num_samples'; did you mean 'n'? sample takes n,"),
        (400, "score", {"random_seed": 5}, "there is no parameter 'random_seed'; did you mean 'seed'?"),
        (400, "sample", {"randomSeed": 5}, "there is no parameter 'randomSeed'; did you mean 'seed'?"),
        (400, "reconstruct", {"sample": 1}, 'the parameter "sample" must be true or false; got 1'),
        (400, "score", {"num_samples": 0}, 'the parameter "num_samples" must be a whole number'),
        (413, "score", {"num_samples": 101}, 'the parameter "num_samples" may be up to 100 here'),
    ],
)
def test_parameters_are_checked(server, x, status, model, parameters, sentence):
    inputs = {"decode": ONE_Z, "decoder": ONE_Z, "sample": {}}.get(model, {"x": x[:2]})
    assert sentence in server.error(status, model, inputs, parameters=parameters)


def test_parameters_that_an_endpoint_does_not_have_are_ignored_as_the_protocol_says(server, x):
    optional = {
        "timeout": 1000,
        "priority": 2,
        "sequence_id": "a",
        "sequence_start": True,
        "sequence_end": False,
        "content_type": "np",
        "headers": {"a": [1]},
        "p" * 10_000: None,
        **{f"p{i}": i for i in range(8)},
        "seeds": 4,  # the 17th: a request of many would block the server if all were compared
    }
    for model, inputs, own in (
        ("decoder", ONE_Z, {}),
        ("decode", ONE_Z, {}),
        ("score", {"x": x[:2]}, {"num_samples": 2, "seed": 4}),
        ("sample", {}, {"n": 2, "seed": 4}),
    ):
        expected = server.infer(model, inputs, parameters=own)
        # A seed means nothing to a graph, and is ignored there as anything else.
        found = server.infer(model, inputs, parameters={"seed": 4} | own | optional)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-6)


def test_a_client_of_version_1_is_told_what_to_send_instead(server):
    tensor = '{"name": "z", "datatype": "FP32", "shape": [1, 3], "data": [...]}'
    told = f'this server speaks version 2: POST {{"inputs": [{tensor}]}} to /v2/models/decode/infer.'
    for path, status in (
        ("/v2/models/decode/infer", 400),
        ("/v1/models/decode:predict", 404),
        ("/v1/models/nope", 404),  # of the first there is
        ("/v1/models", 404),
    ):
        done = server.client.post(path, json={"instances": [[0.0, 0.0, 0.0]]})
        assert (done.status_code, done.json()["error"].endswith(told)) == (status, True), done.text


def test_other_paths_methods_and_versions_are_refused_in_the_protocols_words(server):
    for method, path, status, sentence in [
        ("GET", "/nowhere", 404, "there is nothing here: the protocol is under /v2"),
        ("DELETE", "/v2", 405, "this path does not take DELETE: use GET"),
        ("GET", "/v2/models/decode/infer", 405, "this path does not take GET: use POST."),
        ("GET", "/v2/models/decode/versions/2", 404, "the model decode has no version 2; it has 1."),
        ("GET", "/v2/models/" + "a" * 3000, 404, "there is no model 'aaa"),
        ("POST", "/v2/models/decode/versions/9/infer", 404, "the model decode has no version 9"),
        ("POST", "/v2/repository/models/decode/load", 403, "send the server the signal SIGHUP instead"),
    ]:
        done = server.client.request(method, path)
        assert done.status_code == status
        assert sentence in done.json()["error"]
        assert len(done.text) < 500


def test_headers_that_lie_are_refused(server):
    body, _ = oip.request(ONE_Z, binary=True)
    for value, sentence in [
        ("-1", "must be a number of bytes"),
        ("x", "must be a number of bytes"),
        ("9" * 30, "must be a number of bytes"),
        ("9999999", "is said to have 9999999 bytes, but the body has"),
        ("3", "is not JSON"),
    ]:
        done = server.client.post("/v2/models/decode/infer", content=body, headers={oip.HEADER: value})
        assert (done.status_code, sentence in done.json()["error"]) == (400, True)
    done = server.client.post("/v2/models/decode/infer", content=b"", headers={"content-encoding": "gzip"})
    assert (done.status_code, "compressed requests are not read" in done.json()["error"]) == (415, True)


def test_a_body_too_large_is_refused_before_it_is_read(server):
    head = b"POST /v2/models/decode/infer HTTP/1.1\r\nhost: localhost\r\n"
    # Nothing of the body is sent: an answer can only come of the header.
    with server.connect() as connection:
        connection.sendall(head + b"content-length: 99999999999\r\n\r\n")
        answer = server_process.read_answer(connection)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"a request may have up to 1,048,576 bytes here" in answer
    # Without a length, it ends when the limit is passed.
    with server.connect() as connection:
        connection.sendall(head + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(17):
            connection.sendall(b"10000\r\n" + b" " * 2**16 + b"\r\n")
        assert server_process.read_answer(connection).startswith(b"HTTP/1.1 413 ")


def test_what_is_not_http_gets_an_answer_in_json(server):
    for garbage in (
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: -4\r\n\r\n",
    ):
        answer = server.raw(garbage)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert answer.endswith(
            b'{"error":"this is no request that the server understands: send HTTP/1.1, without TLS."}'
        )


def test_a_client_that_only_listens_gets_its_answer(server, pipeline):
    body, _ = oip.request(ONE_Z)
    head = f"POST /v2/models/decode/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    for _ in range(20):
        answer = server.raw(head + body)  # which ends its side of the connection at once
        assert answer.startswith(b"HTTP/1.1 200 ")


GET = b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n"


def test_heads_and_queues_of_any_size_are_not_kept(server):
    before = server.resident_mebibytes()
    for data in (
        GET + b"a:b\r\n" * 4_000_000,
        GET + b"a: " + b"b" * 20_000_000,
        b"POST /v2/models/decode/infer HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
        + b"a:b\r\n" * 4_000_000,
        (GET + b"\r\n") * 300_000,
    ):
        with server.connect() as connection:
            connection.settimeout(30)
            with contextlib.suppress(OSError):  # it hangs up before it has read all
                connection.sendall(data)
    assert server.client.get("/v2/health/live").status_code == 200
    assert server.resident_mebibytes() - before < 60
    # Just too long, so that all of it is read: what is not would take the answer with it when the connection ends.
    answer = server.raw(GET + b"a: " + b"b" * (2**16 + 1 - len(GET) - 3), close=False)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"the head of a request may have 65536 bytes" in answer


def test_an_answer_in_hand_comes_before_the_end(server):
    body, _ = oip.request(ONE_Z)
    head = b"POST /v2/models/decode/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
    answer = server.raw(head + body + b"garbage\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1") == 1


def test_a_request_for_a_newer_http_is_answered_or_refused_and_its_body_is_no_request(server):
    upgrade = b"connection: upgrade\r\nupgrade: h2c\r\n"
    assert server.raw(GET + upgrade + b"\r\n").startswith(b"HTTP/1.1 200 ")
    head = b"POST /v2/models/decode/infer HTTP/1.1\r\nhost: localhost\r\n" + upgrade
    smuggled = GET + b"\r\n"
    answer = server.raw(head + b"content-length: %d\r\n\r\n" % len(smuggled) + smuggled)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"leave out the header Upgrade" in answer


def test_pages_of_other_sites_are_refused_and_names_that_lead_here_too(server, guarded):
    body, _ = oip.request(ONE_Z)
    path = "/v2/models/decode/infer"

    def status(client=server.client, **headers):
        return client.post(path, content=body, headers={**headers, "content-type": "text/plain"}).status_code

    own = server.url.removeprefix("http://")
    assert status(origin=server.url) == 200
    assert status(origin="https://evil.example") == 403
    assert status(origin="null") == 403
    assert status(host="evil.example", origin="http://evil.example") == 403
    assert status(host="evil.example:80") == 403
    assert status(host=own.replace("127.0.0.1", "localhost")) == 200
    token = {"authorization": "Bearer s3cret"}
    assert status(guarded.client, origin="https://good.example", **token) == 200
    assert status(guarded.client, origin="https://evil.example", **token) == 403


def test_long_strings_cost_no_memory(server):
    before = server.resident_mebibytes()
    data = ["a" * 500_000, *["b"] * 20_000]
    tensor = {"name": "z", "datatype": "FP32", "shape": [len(data) // 3, 3], "data": data}
    done = server.client.post("/v2/models/decode/infer", json={"inputs": [tensor]})
    assert done.status_code in (400, 413)
    assert server.resident_mebibytes() - before < 60


@contextlib.contextmanager
def in_a_thread(bundle, **settings):
    """The server in this process, whose limits a test can set; yields its application and its address."""
    app, ready, thresholds = (
        create_app(bundle, token="", providers="cpu", **settings),
        threading.Event(),
        gc.get_threshold(),
    )
    server = _uvicorn.UvicornServer(app, ready.set, lambda: None, lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert ready.wait(30)
            yield app, listener.getsockname()
        finally:
            server.should_exit = True
            thread.join()
            gc.unfreeze()
            gc.set_threshold(*thresholds)


def test_a_client_that_does_not_read_is_left_and_a_crowd_is_kept_out(bundle, monkeypatch):
    monkeypatch.setattr(_uvicorn, "READ_SECONDS", 0.5)
    monkeypatch.setattr(_uvicorn, "MAX_CONNECTIONS", 3)
    with in_a_thread(bundle, max_rows=20_000) as (app, address):
        body, _ = oip.request({}, parameters={"n": 20_000})
        head = b"POST /v2/models/sample/infer HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % len(body)
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(address)
            reader.sendall(head + body)
            deadline = time.monotonic() + 30
            while app.state.server.memory < 10**6 and time.monotonic() < deadline:
                time.sleep(0.001)
            assert app.state.server.memory > 10**6  # the answer, which nobody reads
            while app.state.server.memory and time.monotonic() < deadline:
                time.sleep(0.01)
            assert app.state.server.memory == 0
        crowd = [socket.create_connection(address, timeout=30) for _ in range(5)]
        refused = crowd[-1].recv(65536)
        assert refused.startswith(b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n")
        assert refused.endswith(b'{"error":"too many connections: try again in a second."}')
        for connection in crowd:
            connection.close()


@pytest.mark.parametrize("closing", [False, True])
def test_a_connection_that_is_closing_keeps_its_limit_when_some_was_read(monkeypatch, closing):
    """What is left may be too little to pause the writing again, and would wait for its reader without a limit."""
    monkeypatch.setattr(_uvicorn, "READ_SECONDS", 0.05)

    async def read_some_and_stop():
        server = _uvicorn.UvicornServer(lambda: None, lambda: None, lambda: None, lambda: None)
        server.config.load()
        transport = unittest.mock.Mock(**{"is_closing.return_value": False, "get_extra_info.return_value": None})
        protocol = _uvicorn.Protocol(server.config, server.server_state, {})
        protocol.connection_made(transport)
        protocol.pause_writing()
        transport.is_closing.return_value = closing
        protocol.resume_writing()
        await asyncio.sleep(0.2)
        return transport.abort.called

    assert asyncio.run(read_some_and_stop()) is closing


@pytest.mark.parametrize(
    ("method", "headers", "fails", "writes"),
    [
        ("GET", "", False, ["HTTP/1.1 200 OK...ab", "c"]),
        ("HEAD", "", False, ["HTTP/1.1 200 OK..."]),
        ("POST", "expect: 100-continue\r\n", False, ["HTTP/1.1 100 Continue...", "HTTP/1.1 200 OK...ab", "c"]),
        ("GET", "", True, ["HTTP/1.1 200 OK..."]),
    ],
)
def test_the_head_of_an_answer_is_written_together_with_its_body(method, headers, fails, writes):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
        if fails:
            return
        await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        await send({"type": "http.response.body", "body": b"c"})

    async def ask():
        server = _uvicorn.UvicornServer(app, lambda: None, lambda: None, lambda: None)
        server.config.load()
        server.config.loaded_app = app
        transport = unittest.mock.Mock(**{"is_closing.return_value": False, "get_extra_info.return_value": None})
        protocol = _uvicorn.Protocol(server.config, server.server_state, {})
        protocol.connection_made(transport)
        protocol.data_received(f"{method} / HTTP/1.1\r\nhost: h\r\n{headers}\r\n".encode())
        await asyncio.gather(*protocol.tasks)
        protocol.connection_lost(None)
        return [call.args[0].decode() for call in transport.write.call_args_list], transport.close.called

    written, closed = asyncio.run(ask())
    assert [re.sub(r"\r\n.*\r\n", "...", text, flags=re.DOTALL) for text in written] == writes
    assert closed or not fails


def break_prior(manifest):
    manifest["prior"]["config"]["mean"] = [0.0] * 5


def break_range(manifest):
    manifest["data_range"] = ["a", 1]


def drop_decoder(manifest):
    del manifest["graphs"]["decoder"]


def drop_hash(manifest):
    manifest["files"]["decoder/1/model.onnx"] = {}


@pytest.mark.parametrize("damage", [break_prior, break_range, drop_decoder, drop_hash])
def test_a_damaged_manifest_is_refused_at_the_start_and_later(bundle, tmp_path, damage):
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    damage(manifest)
    repository = Repository(folder, providers="cpu")
    try:
        (folder / "manifest.json").write_text(json.dumps(manifest))
        threads = threading.active_count()
        with pytest.raises(BundleError):
            repository.load_again()
        assert threading.active_count() == threads
        with pytest.raises(BundleError):
            Repository(folder, providers="cpu")
    finally:
        repository.close()


def test_answers_do_not_go_to_others(server, pipeline):
    """Each request has latents of its own, and must get what these decode to, whoever it was run with."""
    z = np.random.default_rng(0).normal(size=(600, 3)).astype("float32")
    expected = pipeline.decode(z)

    def ask(part):
        with httpx.Client(base_url=server.url, timeout=60) as client:
            for i in range(part, len(z) - 2, 16):
                rows = 1 + i % 3
                binary = bool(i % 2)
                found = server.infer("decode", {"z": z[i : i + rows]}, client, binary=binary, binary_output=binary)
                np.testing.assert_allclose(found["x_mean"], expected[i : i + rows], atol=1e-6)
        return True

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(16)))
    batches = re.findall(
        r'keras_vae_batch_rows_(sum|count){graph="decoder"} ([\d.]+)', server.client.get("/metrics").text
    )
    runs = dict(batches)
    assert float(runs["count"]) < sum(1 for part in range(16) for _ in range(part, len(z) - 2, 16))  # some shared a run


def test_metrics_count_requests_by_model_and_status(server):
    def count(model, status):
        pattern = rf'keras_vae_requests_total{{model="{model}",status="{status}"}} ([\d.]+)'
        found = re.search(pattern, server.client.get("/metrics").text)
        return float(found[1]) if found else 0.0

    before = count("decode", 200), count("decode", 400), count("unknown", 404)
    server.infer("decode", ONE_Z)
    server.error(400, "decode", {})
    for name in ("nope", "nope2"):
        server.error(404, name, {})
    assert (count("decode", 200), count("decode", 400), count("unknown", 404)) == (
        before[0] + 1,
        before[1] + 1,
        before[2] + 2,
    )
    text = server.client.get("/metrics").text
    assert "nope" not in text  # a label for each name that somebody thinks of would fill the memory
    assert 'keras_vae_queue_rows{bundle="",graph="decoder",version="1"} 0.0' in text
    assert "process_resident_memory_bytes" in text


def test_the_page_is_one_file_that_may_ask_only_this_server(server):
    done = server.client.get("/")
    assert done.headers["content-type"].startswith("text/html")
    assert "connect-src 'self'" in done.headers["content-security-policy"]
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", done.text)


def test_a_token_is_asked_for_where_one_is_set(guarded):
    for path in ("/", "/v2/health/live", "/v2/health/ready"):
        assert guarded.client.get(path).status_code == 200
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "s3cret"},
        {"authorization": "Bearer é"},
    ):
        headers = {name: value.encode("latin-1") for name, value in headers.items()}
        for method, path in (
            ("GET", "/v2"),
            ("GET", "/bundles"),
            ("GET", "/metrics"),
            ("GET", "/v2/health/../"),
            ("POST", "/v2/models/decode/infer"),
        ):
            done = guarded.client.request(method, path, headers=headers)
            assert done.status_code == 401
            assert done.json() == {"error": "this server wants a token: send the header Authorization: Bearer TOKEN."}
    allowed = httpx.Client(base_url=guarded.url, headers={"authorization": "Bearer s3cret"})
    assert guarded.infer("decode", ONE_Z, allowed)["x_mean"].shape == (1, 8, 8, 1)
    assert "securitySchemes" in allowed.get("/openapi.json").json()["components"]
    assert allowed.post("/v2/repository/models/decode/load").json() == {}


def test_other_sites_may_not_call_the_server_unless_they_are_named(server, guarded):
    asked = {"origin": "https://example.org", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in server.client.get("/v2", headers=asked).headers
    allowed = guarded.client.options("/v2/models/decode/infer", headers=asked)
    assert allowed.headers["access-control-allow-origin"] == "https://example.org"
    other = guarded.client.options("/v2", headers={**asked, "origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


def test_a_full_server_says_when_to_come_back(bundle):
    # Bodies that lack their last byte fill the memory that is set aside: 128 of 1 MiB.
    with server_process.running(bundle, "--max-body", 1) as server:
        head = b"POST /v2/models/decode/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1048576\r\n\r\n"
        announced = [server.connect() for _ in range(300)]
        for connection in announced:
            connection.sendall(head)  # what is said to come takes no room yet
        assert server.post("decode", ONE_Z).status_code == 200
        holding = announced[:140]
        for connection in holding:
            connection.sendall(b" " * (2**20 - 1))
        deadline = time.monotonic() + 30
        while (done := server.post("decode", ONE_Z)).status_code == 200 and time.monotonic() < deadline:
            pass  # until the last of them has been read
        assert done.status_code == 503
        assert done.headers["retry-after"] == "1"
        assert "try again in a second" in done.json()["error"]
        assert server.resident_mebibytes() < 500
        for connection in announced:
            connection.close()
        while (done := server.post("decode", ONE_Z)).status_code == 503 and time.monotonic() < deadline:
            pass
        assert done.status_code == 200


def test_slow_clients_are_sent_away(bundle, guarded, monkeypatch):
    head = b"POST /v2/models/decode/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n"
    with guarded.connect() as stops_in_the_body:
        stops_in_the_body.sendall(head + b"authorization: Bearer s3cret\r\n\r\n{")
        assert stops_in_the_body.recv(65536).startswith(b"HTTP/1.1 408 ")
    monkeypatch.setattr(_uvicorn, "HEAD_SECONDS", 1)
    with in_a_thread(bundle) as (_, address), contextlib.ExitStack() as connections:
        says_nothing, stops_in_the_head, drips = (
            connections.enter_context(socket.create_connection(address, timeout=60)) for _ in range(3)
        )
        stops_in_the_head.sendall(head[:30])
        drips.settimeout(0.2)
        for byte in head:  # takes 16 s, were the clock set back at each byte
            drips.sendall(bytes([byte]))
            with contextlib.suppress(TimeoutError):
                assert drips.recv(65536).startswith(b"HTTP/1.1 408 ")
                break
        else:
            pytest.fail("a client that drips is not sent away")
        for connection in (says_nothing, stops_in_the_head):
            answer = server_process.read_all(connection)  # to the end: the server hangs up
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b'{"error":"the request did not arrive in time: send it again."}' in answer
        body, headers = oip.request(ONE_Z)
        url = f"http://127.0.0.1:{address[1]}/v2/models/decode/infer"
        assert httpx.post(url, content=body, headers=headers).status_code == 200


def test_a_client_that_leaves_in_the_middle_does_no_harm(server, x):
    body, headers = oip.request({"x": x}, binary=True)
    lengths = f"content-length: {len(body)}\r\n{oip.HEADER}: {headers[oip.HEADER]}"
    head = f"POST /v2/models/score/infer HTTP/1.1\r\nhost: localhost\r\n{lengths}\r\n\r\n"
    for cut in (len(body) // 2, len(body)):
        for _ in range(20):
            with server.connect() as connection:
                connection.sendall(head.encode() + body[:cut])
    assert server.infer("decode", ONE_Z)["x_mean"].shape == (1, 8, 8, 1)


def test_shutdown_answers_what_is_in_hand_and_refuses_what_is_new(bundle, pipeline):
    with server_process.running(bundle) as server, server.connect() as connection:
        body, _ = oip.request(ONE_Z)
        head = (
            f"POST /v2/models/decode/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        )
        connection.sendall(head + body[:20])
        assert server.infer("decode", ONE_Z)["x_mean"].shape == (1, 8, 8, 1)  # by now the other has been begun
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                server.connect().close()
            except ConnectionError:  # refused, or cut off on its way in
                break
        else:
            pytest.fail("it goes on accepting connections")
        assert server.process.poll() is None
        connection.sendall(body[20:])
        answer = server_process.read_all(connection)
        assert answer.startswith(b"HTTP/1.1 200 ")
        found = oip.outputs(answer.partition(b"\r\n\r\n")[2], {})["x_mean"]
        np.testing.assert_allclose(found, pipeline.decode(ONE_Z["z"]), atol=1e-6)
        assert server.process.wait(30) == -signal.SIGTERM  # as other programs end by it
        assert not [line for line in server.lines if "Traceback" in line]


def test_what_is_not_done_when_the_shutdowns_time_is_up_is_sent_elsewhere(bundle):
    with server_process.running(bundle, "--shutdown-seconds", 1) as server, server.connect() as connection:
        connection.sendall(b"POST /v2/models/decode/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
        assert server.infer("decode", ONE_Z)["x_mean"].shape == (1, 8, 8, 1)  # by now the other has been begun
        server.process.send_signal(signal.SIGTERM)
        answer = server_process.read_all(connection)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert answer.endswith(b'{"error":"the server is ending: send it again, to another."}')
        assert server.process.wait(30) == -signal.SIGTERM
        assert not [line for line in server.lines if "Traceback" in line]


def test_several_bundles_and_versions_are_served_side_by_side(bundle, two_versions):
    sources = [
        bundle,
        f"other:1={two_versions / '1'}",
        f"other:10={two_versions / '2'}",
        f"other:9={two_versions / '1'}",
    ]
    with server_process.running(*sources) as server:
        names = {model["name"] for model in server.client.post("/v2/repository/index").json()}
        assert {"digits.decode", "other.decode", "digits.elbo"} <= names
        assert "decode" not in names
        assert server.client.get("/v2/models/other.decode").json()["versions"] == ["1", "9", "10"]
        z = np.ones((2, 3), "float32")
        expected = {version: Pipeline.load(two_versions / version, providers="cpu").decode(z) for version in "12"}
        for version, folder in ((1, "1"), (9, "1"), (10, "2"), (None, "2")):
            found = server.infer("other.decode", {"z": z}, version=version)["x_mean"]
            np.testing.assert_allclose(found, expected[folder], atol=1e-6)
        done = server.post("other.decode", {"z": z}, version=9)
        assert (done.json()["model_name"], done.json()["model_version"]) == ("other.decode", "9")


def test_a_bundle_is_loaded_again_without_dropping_a_request(two_versions, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(two_versions / "1", folder)
    image = np.ones((1, 8, 8, 1), "float32")
    old, new = (Pipeline.load(two_versions / version, providers="cpu").reconstruct(image) for version in "12")
    with server_process.running(folder) as server:

        def ask_until(stop):
            """What was decoded: of the old bundle at first, then of the new one; an error would be raised."""
            seen = []
            with httpx.Client(base_url=server.url, timeout=60) as client:
                while not stop():
                    found = server.infer("reconstruct", {"x": image}, client)[
                        "x_mean"
                    ]  # two graphs, one after the other
                    distances = [np.abs(found - expected).max() for expected in (old, new)]
                    assert min(distances) < 1e-6
                    seen.append(int(np.argmin(distances)))
            return seen

        def loads(outcome):
            found = re.search(
                rf'keras_vae_loads_total{{outcome="{outcome}"}} ([\d.]+)', server.client.get("/metrics").text
            )
            return float(found[1]) if found else 0.0

        def wait_for(outcome):
            deadline = time.monotonic() + 60
            while not loads(outcome) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert loads(outcome) == 1.0

        # A broken one first: refused, with the reason in the log, while the old one goes on.
        (folder / "decoder/1/model.onnx").write_bytes(b"not a model")
        server.process.send_signal(signal.SIGHUP)
        wait_for("refused")
        np.testing.assert_allclose(server.infer("reconstruct", {"x": image})["x_mean"], old, atol=1e-6)
        assert any("the bundle in use goes on serving" in line and "truncated" in line for line in server.lines)

        shutil.rmtree(folder)
        shutil.copytree(two_versions / "2", folder)
        (folder / "ensemble" / "1").mkdir(parents=True)  # of Triton's: left alone
        (folder / "ensemble" / "config.pbtxt").write_text('platform: "ensemble"')
        keras_vae_export.check(folder)
        finished = []
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask_until, lambda: bool(finished)) for _ in range(4)]
            server.process.send_signal(signal.SIGHUP)
            try:
                wait_for("installed")
                server.infer("reconstruct", {"x": image})
            finally:
                finished.append(True)
            for seen in asking:
                assert seen.result() == sorted(seen.result())  # never the old one after the new one
        np.testing.assert_allclose(server.infer("reconstruct", {"x": image})["x_mean"], new, atol=1e-6)


def test_a_refused_bundle_says_so_over_http_without_the_folders_name(bundle, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    with server_process.running(folder, environment={"KERAS_VAE_TOKEN": "t"}) as server:
        shutil.rmtree(folder)
        done = server.client.post("/v2/repository/models/decode/load", headers={"authorization": "Bearer t"})
        assert done.status_code == 409
        assert "the new bundle was refused, and the one in use goes on serving" in done.json()["error"]
        assert str(tmp_path) not in done.text
        assert any(str(folder) in line for line in server.lines)


def start(*arguments, **environment):
    command = [sys.executable, "-m", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(server_process.SERVING), **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_what_cannot_be_served_is_one_sentence_and_exit_code_1(bundle, tmp_path, monkeypatch, capsys):
    done = start("keras_vae_serving", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"python -m keras_vae_serving: {tmp_path} is not a bundle: it has no manifest.json. Name the folder export() "
        "wrote.\n"
    )
    # The other reasons by the function that this process calls.
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)

    def refusal(*arguments):
        assert __main__.main([str(argument) for argument in arguments]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        return err

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = f"cannot listen on 127.0.0.1:{port} (Address already in use): choose another --port"
        assert words in refusal(bundle, "--port", port)
    assert "two bundles are called 'a', version 1: use NAME:VERSION=PATH" in refusal(f"a={bundle}", f"a={bundle}")
    for token in ("", "a b\n"):
        monkeypatch.setenv("KERAS_VAE_TOKEN", token)
        assert "KERAS_VAE_TOKEN is set, but empty" in refusal(bundle, "--port", "0")
    monkeypatch.delenv("KERAS_VAE_TOKEN")
    assert "cannot listen on nosuch.invalid" in refusal(bundle, "--host", "nosuch.invalid")
    assert "has no float16 graphs; it has float32, int8" in refusal(bundle, "--precision", "float16")
    with pytest.raises(SystemExit, match="2"):
        __main__.main([str(bundle), "--port", "http"])
    assert "must be a whole number from 0 to 65535; got 'http'" in capsys.readouterr().err


def test_the_command_serves_without_a_backend(bundle):
    done = start("keras_vae_cli", "serve", "--help", KERAS_BACKEND="none")
    assert done.returncode == 0
    assert "usage: keras-vae serve" in done.stdout
    done = start("keras_vae_cli", "serve", "nowhere")
    assert (done.returncode, done.stderr.startswith("keras-vae serve: nowhere is not a bundle")) == (1, True)
    assert " serve " in start("keras_vae_cli", "--help").stdout


def test_a_conditional_pair_is_served_without_what_it_lacks(conditional):
    pipeline = Pipeline.load(conditional, providers="cpu")
    image, label = np.random.default_rng(1).random((5, 6)).astype("float32"), np.array([[0], [1], [2], [3], [0]])
    given = {"image": image, "label": label.astype("int32")}
    with server_process.running(conditional) as server:
        names = [model["name"] for model in server.client.post("/v2/repository/index").json()]
        assert names == ["decode", "decoder", "encode", "encoder", "reconstruct"]
        found = server.infer("reconstruct", given, binary=True, parameters={"sample": True, "seed": 2})["x_mean"]
        np.testing.assert_allclose(found, pipeline.reconstruct(given, sample=True, seed=2), atol=1e-6)
        inputs = server.client.get("/v2/models/reconstruct").json()["inputs"]
        assert {tensor["name"]: tensor["datatype"] for tensor in inputs} == {"image": "FP32", "label": "INT32"}
        assert server.client.get("/bundles").json()[0]["latent_activity"] is None
        # Labels that the embedding does not have, of the graph as it is and of the verb.
        for name in ("decoder", "decode"):
            refused = server.error(400, name, {"z": np.zeros((1, 3), "float32"), "label": np.array([[9]], "int32")})
            assert refused == "label must hold labels from 0 to 3; it ranges from 9 to 9."
        assert server.error(404, "score", given).startswith("there is no model 'score'")


def test_a_conditional_vae_takes_its_label_everywhere(exported):
    folder = exported("conditional_vae")
    pipeline = Pipeline.load(folder, providers="cpu")
    x, label = np.random.default_rng(1).random((5, 4, 4, 1)).astype("float32"), np.arange(5, dtype="int32")
    given = {"x": x, "condition": label}
    with server_process.running(folder) as server:
        assert server.client.get("/bundles").json()[0]["labels"] == {"condition": 5}
        assert len(server.client.get("/bundles").json()[0]["latent_activity"]) == 3
        found = server.infer("score", given, parameters={"num_samples": 3, "seed": 1})["negative_elbo"]
        np.testing.assert_allclose(found.ravel(), pipeline.score(given, 3, 1), rtol=1e-5)
        for condition in (np.array([2], "int32"), np.array([0, 1, 2, 3], "int32")):
            parameters = {"n": 4, "seed": 7}
            found = server.infer("sample", {"condition": condition}, parameters=parameters)["x_mean"]
            np.testing.assert_allclose(found, pipeline.sample(4, 7, condition), atol=1e-6)
        assert len(server.infer("sample", {"condition": label})["x_mean"]) == 5
        assert "for each of 3 examples, or one for all" in server.error(
            400, "sample", {"condition": label}, parameters={"n": 3}
        )
        assert "one batch size; got x: 5, condition: 4" in server.error(400, "score", {**given, "condition": label[:4]})
        assert "labels from 0 to 4" in server.error(400, "sample", {"condition": np.array([5], "int32")})
        assert "has no shape" in server.error(400, "sample", {"condition": np.array(1, "int32")})


def test_samples_are_of_the_models_own_prior(exported):
    folder = exported("mixture_prior")
    pipeline = Pipeline.load(folder, providers="cpu")
    with server_process.running(folder) as server:
        found = server.infer("sample", {}, parameters={"n": 6, "seed": 3})["x_mean"]
        np.testing.assert_allclose(found, pipeline.sample(6, seed=3), atol=1e-6)
        (described,) = server.client.get("/bundles").json()
        assert described["prior"]["name"] == "GaussianMixture"
        assert len(described["prior"]["moments"]["mean"]) == 3
        assert server.infer("prior", {"noise": np.zeros((2, 4), "float32")})["z"].shape == (2, 3)
        assert server.client.get("/v2/models/prior").json()["platform"] == "onnxruntime_onnx"


def test_int8_graphs_are_served_where_they_are_asked_for(bundle, x):
    with server_process.running(bundle, "--precision", "int8") as server:
        expected = Pipeline.load(bundle, providers="cpu", precision="int8").encode(x[:8]).mean
        np.testing.assert_allclose(server.infer("encode", {"x": x[:8]})["z_mean"], expected, atol=1e-5)

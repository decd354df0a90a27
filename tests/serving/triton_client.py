"""NVIDIA's own client against the server; test_triton_client.py starts this where tritonclient is.

Arguments: URL, a file of inputs and expected outputs. Prints a JSON report; a difference is an exception.
"""

import inspect
import itertools
import json
import sys

import numpy as np
import tritonclient.http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype


def main(url, path):
    client = tritonclient.http.InferenceServerClient(url, concurrency=4)
    arrays = dict(np.load(path))
    report = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "server": client.get_server_metadata()["name"],
        "model_ready": [client.is_model_ready("decode"), client.is_model_ready("decode", "1")],
        "unknown_ready": client.is_model_ready("nope"),
        "metadata": client.get_model_metadata("score"),
        "index": len(client.get_model_repository_index()),
        "combinations": 0,
    }
    calls = [
        ("encoder", ["x"], ["z_mean", "z_log_var"], None),
        ("decoder", ["z"], ["x_mean"], None),
        ("elbo", ["x", "epsilon"], ["reconstruction", "kl"], None),
        ("encode", ["x"], ["z_mean", "z_log_var"], None),
        ("decode", ["z"], ["x_mean"], None),
        ("reconstruct", ["x"], ["x_mean"], {"sample": True, "seed": 5}),
        ("sample", [], ["x_mean"], {"n": 3, "seed": 5}),
        ("score", ["x"], ["negative_elbo", "reconstruction", "kl"], {"num_samples": 2, "seed": 5}),
    ]
    for (model, inputs, outputs, parameters), send_raw, answer_raw, named in itertools.product(
        calls, (True, False), (True, False), (True, False)
    ):
        if not named and not answer_raw:
            continue  # the client has no way to ask for JSON without naming the outputs
        done = client.infer(
            model,
            [tensor(name, arrays[f"{model}/{name}"], send_raw) for name in inputs],
            outputs=[tritonclient.http.InferRequestedOutput(name, binary_data=answer_raw) for name in outputs]
            if named
            else None,
            request_id="7",
            parameters=parameters,
        )
        assert done.get_response()["id"] == "7"
        for name in outputs:
            np.testing.assert_allclose(done.as_numpy(name), arrays[f"{model}/{name}"], rtol=1e-5, atol=1e-6)
        report["combinations"] += 1
    keywords = {
        "model_version": "1",
        "request_id": "9",
        "sequence_id": 7,
        "sequence_start": True,
        "sequence_end": True,
        "priority": 2,
        "timeout": 10**6,
        "headers": {"X-Anything": "1"},
        "query_params": {"anything": 1},
        "response_compression_algorithm": "gzip",
        "parameters": {"content_type": "np", "anything": "else", "more": 5, "flag": False},
    }
    every = set(inspect.signature(client.infer).parameters) - {"model_name", "inputs", "outputs"}
    report["keywords_not_tried"] = sorted(every - set(keywords))
    for named in (*({name: value} for name, value in keywords.items()), {"sequence_id": "a"}, keywords):
        for model, inputs, outputs in (("decoder", ["z"], ["x_mean"]), ("encode", ["x"], ["z_mean", "z_log_var"])):
            sent = [tensor(name, arrays[f"{model}/{name}"], True) for name in inputs]
            done = client.infer(model, sent, **named)
            for name in outputs:
                np.testing.assert_allclose(done.as_numpy(name), arrays[f"{model}/{name}"], rtol=1e-5, atol=1e-6)
            assert done.get_response().get("id") == named.get("request_id")
    waiting = [client.async_infer("decode", [tensor("z", arrays["decode/z"][:1] + i, True)]) for i in range(8)]
    report["asynchronous"] = [done.get_result().as_numpy("x_mean").shape for done in waiting]
    report["errors"] = [
        refused(client.infer, "nope", []),
        refused(client.infer, "decode", [tensor("z", np.zeros((1, 99), "float32"), True)]),
        refused(client.infer, "decode", [tensor("z", arrays["decode/z"], True)], request_compression_algorithm="gzip"),
        refused(client.infer, "decode", [shared("z", arrays["decode/z"])]),
        refused(
            client.infer,
            "decode",
            [tensor("z", arrays["decode/z"], True)],
            outputs=[tritonclient.http.InferRequestedOutput("x_mean", class_count=3)],
        ),
    ]
    print(json.dumps(report))


def tensor(name, array, raw):
    made = tritonclient.http.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, binary_data=raw)
    return made


def shared(name, array):
    made = tritonclient.http.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_shared_memory("region", array.nbytes)
    return made


def refused(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])

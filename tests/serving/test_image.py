"""What the Dockerfile makes, without Docker: `nox -- slow` runs its commands, and these tests its last lines."""

import json
import os
import pathlib
import re
import subprocess

import numpy as np
import pytest

import server_process
from keras_vae_serving import Pipeline

PYTHON = os.environ.get("KERAS_VAE_IMAGE_PYTHON")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="KERAS_VAE_IMAGE_PYTHON is not set: `nox -- slow` does it"),
]

DOCKERFILE = (server_process.SERVING / "Dockerfile").read_text(encoding="utf-8")


def arguments(instruction):
    """The list that an instruction of the Dockerfile ends with."""
    return json.loads(re.search(rf"^{instruction} .*?(\[.*\])$", DOCKERFILE, re.MULTILINE)[1])


def test_there_is_neither_keras_nor_a_framework_in_it():
    program = "import importlib.util, sys; print([n for n in sys.argv[1:] if importlib.util.find_spec(n)])"
    absent = ["keras", "tensorflow", "jax", "torch", "onnx", "matplotlib", "onnxscript"]
    present = ["keras_vae_serving", "onnxruntime", "numpy"]
    done = subprocess.run([PYTHON, "-c", program, *absent, *present], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(present)


def test_the_image_serves_a_bundle_and_knows_whether_it_is_healthy(bundle, tmp_path):
    assert arguments("ENTRYPOINT") == ["python", "-m", "keras_vae_serving"]
    folder, *options = arguments("CMD")
    assert folder == "/bundle"
    health = arguments("HEALTHCHECK")
    assert health[0] == "python"
    environment = {"PYTHONPATH": ""}
    with server_process.running(bundle, *options, python=PYTHON, environment=environment) as server:
        server.client.base_url = f"http://127.0.0.1:{server.port}"
        z = np.ones((2, 3), "float32")
        expected = Pipeline.load(bundle, providers="cpu").decode(z)
        np.testing.assert_allclose(server.infer("decode", {"z": z})["x_mean"], expected, atol=1e-6)
        assert re.fullmatch(r"\d+\.\d+\.\d+.*", server.client.get("/v2").json()["version"])
        assert server.client.get("/").text.lower().startswith("<!doctype html>")
        assert any("set KERAS_VAE_TOKEN to ask for a token" in line for line in server.lines)
        command = [PYTHON, *(part.replace(":8000", f":{server.port}") for part in health[1:])]
        assert f":{server.port}" in command[-1]
        assert subprocess.run(command, capture_output=True, cwd=tmp_path).returncode == 0
        server.process.kill()
        server.process.wait()
        assert subprocess.run(command, capture_output=True, cwd=tmp_path).returncode != 0


def test_what_the_image_is_built_from_is_sent_to_docker():
    root = server_process.SERVING.parent
    ignored = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from|\. )(\S+) ", DOCKERFILE, re.MULTILINE)
    assert copied
    assert {path.split("/")[0] for path in copied} <= sent
    project = (root / "pyproject.toml").read_text(encoding="utf-8")
    wheel = re.search(r"^packages = \[(.*)\]$", project, re.MULTILINE)[1]
    for path in re.findall(r'"([^"]+)"', wheel):
        assert pathlib.PurePosixPath(path).parts[0] in sent
    assert {"README.md", "LICENSE", "pyproject.toml"} <= sent  # without which hatchling makes no wheel

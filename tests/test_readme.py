"""Every command and every block of Python in the README and the guide runs, so that they cannot rot."""

import json
import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys
import time

import keras
import pytest

ROOT = pathlib.Path(__file__).parent.parent


def blocks(document, language):
    """The text of the code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)


def commands(document):
    """The command lines that are ours, without what installs the package."""
    shell = "\n".join(blocks(document, "bash"))
    lines = [line.split("&&")[-1].strip() for line in shell.splitlines()]
    return [line for line in lines if line.startswith(("keras-vae ", "curl "))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.once
@pytest.mark.parametrize(
    ("document", "written"),
    [
        ("README.md", ("quickstart/manifold.png", "quickstart/bundle/manifest.json")),
        pytest.param("docs/guide.md", ("samples.png", "digits-onnx/manifest.json"), marks=pytest.mark.slow),
    ],
)
def test_the_commands_run_in_order(document, written, folder):
    assert len(commands(document)) >= 3
    servers = []
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    try:
        for line in commands(document):
            program, *arguments = shlex.split(line.replace("--backend jax", "").replace(":8000", f":{port}"))
            command = [program] if program == "curl" else [sys.executable, "-m", "keras_vae_cli"]
            if arguments[0] == "serve":
                servers.append(subprocess.Popen([*command, *arguments, "--port", port]))
                wait_for(int(port))
                continue
            if program == "curl":
                arguments += ["--silent", "--show-error", "--fail-with-body"]
            done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=os.environ)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            if program == "curl":
                assert json.loads(done.stdout)["outputs"][0]["shape"] == [2, 8, 8, 1]
        assert all(server.poll() is None for server in servers)
    finally:
        for server in servers:
            server.kill()
            server.wait()
    assert [name for name in written if not (folder / name).exists()] == []


def wait_for(port):
    """Returns when somebody listens."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
    return pytest.fail("the server did not start")


@pytest.mark.parametrize(
    ("document", "at_least"), [("README.md", 2), pytest.param("docs/guide.md", 6, marks=pytest.mark.once)]
)
def test_the_python_blocks_run_in_order(document, at_least, folder):
    found = blocks(document, "python")
    assert len(found) >= at_least
    namespace, registered = {}, dict(keras.saving.get_custom_objects())
    for block in found:
        exec(compile(block, document, "exec"), namespace)
    keras.saving.get_custom_objects().update(registered)  # a class of the guide is another test's, too


@pytest.mark.once
def test_a_newcomer_can_read_the_readme_at_one_go():
    assert len((ROOT / "README.md").read_text().splitlines()) < 120


@pytest.mark.once
def test_the_checks_of_the_readme_are_what_ci_runs():
    """`.ci/run` runs the README's command of tests, word for word."""
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("not in this copy of the sources")
    command = next(line for text in blocks("README.md", "bash") for line in text.splitlines() if "nox" in line)
    assert command in script.read_text()


@pytest.mark.once
@pytest.mark.parametrize("document", ["README.md", "docs/guide.md", "docs/results.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(document):
    """To a file that exists, and to a heading in it if one is named."""
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text(), flags=re.DOTALL)
    links = re.findall(r'(?:\]\(|src=")(?!http)([^)#"]*)(?:#([^)"]+))?', text)
    assert links
    for target, heading in links:
        path = (ROOT / document).parent / target if target else ROOT / document
        assert path.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", text).lower().replace(" ", "-") for text in headings]
            assert heading in slugs, heading

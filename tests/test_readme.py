"""Every command and every block of Python in the README runs, so that it cannot rot."""

import json
import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys
import time

import pytest

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def commands():
    """The command lines in the README that are ours, without what installs the package."""
    shell = "\n".join(text for language, text in BLOCKS if language == "bash")
    lines = [line.split("&&")[-1].strip() for line in shell.splitlines()]
    return [line for line in lines if line.startswith(("keras-vae ", "curl "))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.once
def test_the_commands_run_in_order(folder):
    assert len(commands()) >= 3
    servers = []
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    try:
        for line in commands():
            program, *arguments = shlex.split(line.replace("--backend jax", "").replace(":8000", f":{port}"))
            command = [program] if program == "curl" else [sys.executable, "-m", "keras_vae_command"]
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
        assert [server.poll() for server in servers] == [None]
    finally:
        for server in servers:
            server.kill()
            server.wait()
    assert (folder / "quickstart" / "manifold.png").exists()
    assert (folder / "quickstart" / "bundle" / "manifest.json").exists()


def wait_for(port):
    """Returns when somebody listens."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
    return pytest.fail("the server did not start")


def test_the_python_blocks_run_in_order(folder):
    blocks = [text for language, text in BLOCKS if language == "python"]
    assert len(blocks) >= 3
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


@pytest.mark.once
def test_the_checks_of_the_readme_are_what_ci_runs():
    """`.ci/run` runs the README's second command, word for word."""
    script = pathlib.Path(__file__).parent.parent / ".ci" / "run"
    if not script.exists():
        pytest.skip("not in this copy of the sources")
    command = next(
        line for language, text in BLOCKS if language == "bash" for line in text.splitlines() if "nox" in line
    )
    assert command in script.read_text()


@pytest.mark.once
def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http|#)([^)#]+)", README):
        assert (pathlib.Path(__file__).parent.parent / target).exists(), target

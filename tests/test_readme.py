"""Every command and every block of Python in the README runs, so that it cannot rot."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def commands():
    """The `keras-vae` command lines in the README, without what installs the package."""
    shell = "\n".join(text for language, text in BLOCKS if language == "bash")
    return [line.split("&&")[-1].strip() for line in shell.splitlines() if "keras-vae " in line.split("&&")[-1]]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run_in_order(folder):
    assert len(commands()) >= 3
    for line in commands():
        program, *arguments = shlex.split(line.replace("--backend jax", ""), comments=True)
        assert program == "keras-vae"
        done = subprocess.run(
            [sys.executable, "-m", "keras_vae_command", *arguments], capture_output=True, text=True, env=os.environ
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert (folder / "quickstart" / "manifold.png").exists()
    assert (folder / "quickstart" / "bundle" / "manifest.json").exists()


def test_the_python_blocks_run_in_order(folder):
    blocks = [text for language, text in BLOCKS if language == "python"]
    assert len(blocks) >= 3
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


def test_the_checks_of_the_readme_are_what_ci_runs():
    """`.ci/run` runs the README's second command, word for word."""
    script = pathlib.Path(__file__).parent.parent / ".ci" / "run"
    if not script.exists():
        pytest.skip("not in this copy of the sources")
    command = next(
        line for language, text in BLOCKS if language == "bash" for line in text.splitlines() if "nox" in line
    )
    assert command in script.read_text()


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http|#)([^)#]+)", README):
        assert (pathlib.Path(__file__).parent.parent / target).exists(), target

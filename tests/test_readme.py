"""Every command and every block of Python in the READMEs and the documentation runs, so that they cannot rot.

A page stands alone: its blocks run in order, in a namespace of their own. What another library would run is fenced as
`py`, and only shown.
"""

import ast
import contextlib
import json
import os
import pathlib
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import keras_vae

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))


SLOW = {"docs/guide/export.md"}  # CI exports in the README
WRITTEN = {
    ("README.md", 0): ("quickstart/manifold.png", "quickstart/bundle/manifest.json"),
    ("README.md", 1): ("people-onnx/manifest.json",),
    ("docs/guide/shell.md", 0): ("samples.png",),
    ("docs/guide/shell.md", 1): ("scored.csv", "people-onnx/README.md"),
}


def blocks(document, language):
    """The text of the code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)


def prints(document):
    """Whether a page shows what its blocks print: test_learn.py runs those."""
    return bool(blocks(document, "python") and blocks(document, "text"))


def pictures(document):
    """The names of the pictures that a page's own blocks write."""
    return runpy.run_path(str(ROOT / "docs" / "pictures.py"))["shown"](ROOT / document)


def commands(document):
    """The command lines that are ours, without what installs the package."""
    shell = "\n".join(blocks(document, "bash"))
    lines = [line.split("&&")[-1].strip() for line in shell.splitlines()]
    return [line for line in lines if line.startswith(("keras-vae ", "curl "))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def chains(document):
    """Command lines that go together: each chain begins with a training, and may end with a server."""
    found = []
    for line in commands(document):
        if not found or line.startswith(("keras-vae train", "keras-vae quickstart")):
            found.append([])
        found[-1].append(line)
    return found


CHAINS = [(document, i) for document in ("README.md", *PAGES) for i in range(len(chains(document)))]


@pytest.mark.parametrize(
    ("document", "chain"),
    # That of a table is also tested in tests/cli, where it learns for a moment only.
    [pytest.param(*each, marks=pytest.mark.once if each == ("README.md", 0) else pytest.mark.slow) for each in CHAINS],
)
def test_the_commands_run_in_order(document, chain, folder):
    pathlib.Path("docs").mkdir()
    shutil.copy(ROOT / "docs" / "people.csv", "docs")  # as in a clone
    run_commands(chains(document)[chain])
    assert [name for name in WRITTEN.get((document, chain), ()) if not (folder / name).exists()] == []


def run_commands(lines):
    """Runs command lines in order in the current folder; what serves runs until the last of them has ended."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with contextlib.ExitStack() as servers:
        for line in lines:
            program, *arguments = shlex.split(line.replace("--backend jax", "").replace(":8000", f":{port}"))
            module = ["-m", "keras_vae_cli"] if program == "keras-vae" else []
            command = [program] if program == "curl" else [sys.executable, *module]
            if "serve" in arguments or "keras_vae_serving" in arguments:
                server = servers.enter_context(subprocess.Popen([*command, *arguments, "--port", port]))
                servers.callback(server.kill)
                wait_for(int(port))
                assert server.poll() is None, line
                continue
            if program == "curl":
                arguments += ["--silent", "--show-error", "--fail-with-body"]
            done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=os.environ)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            if program == "curl":
                answer = json.loads(done.stdout)
                assert answer.get("predictions") or answer["outputs"][0]["shape"] == [2, 8, 8, 1]


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
    "document",
    [
        "README.md",
        *(
            pytest.param(page, marks=pytest.mark.slow if page in SLOW else pytest.mark.once)
            for page in PAGES
            if blocks(page, "python") and not prints(page)
        ),
    ],
)
def test_the_python_blocks_run_in_order(document, folder):
    namespace = {}
    for block in blocks(document, "python"):
        exec(compile(block, document, "exec"), namespace)
    assert [name for name in pictures(document) if not (folder / name).exists()] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Running on the CPU:RuntimeWarning")
@pytest.mark.parametrize(
    ("document", "blocks_run", "commands_run"), [("export/README.md", 2, 4), ("serving/README.md", 1, 3)]
)
def test_the_readmes_of_the_packages_run_in_order(document, blocks_run, commands_run, folder):
    """Their blocks of Python, but those of clients that are not installed, and the commands in their sentences."""
    run_commands(["keras-vae quickstart --epochs 1"])
    for name in ("model.keras", "summary.json"):  # the summary says which data are held out
        shutil.copy(f"quickstart/{name}", ".")
    for name in "abc":
        shutil.copytree("quickstart/bundle", f"{name}/bundle")
    pathlib.Path("my_layers.py").touch()  # where a reader would have classes of the model
    held_out = keras_vae.datasets.load("digits", binarize="threshold").test
    namespace = {"np": np, "keras_vae": keras_vae, "held_out": held_out, "vae": keras.saving.load_model("model.keras")}
    found = [block for block in blocks(document, "python") if not {"tritonclient", "ray"} & imported(block)]
    assert len(found) == blocks_run
    for block in found:
        shutil.rmtree("bundle", ignore_errors=True)  # each of them writes it
        exec(compile(block, document, "exec"), namespace)
    lines = re.findall(r"`(keras-vae \w[^`]*|python -m keras_vae_serving [^`]*)`", (ROOT / document).read_text())
    lines += commands(document)
    assert len(lines) == commands_run
    for line in lines:
        if "--check" not in line:
            shutil.rmtree("bundle", ignore_errors=True)
        run_commands([line])


def imported(block):
    """The names of the packages that a block of Python imports."""
    nodes = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {(getattr(node, "module", None) or node.names[0].name).partition(".")[0] for node in nodes}


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
@pytest.mark.parametrize(
    "document", ["README.md", *PAGES, "CONTRIBUTING.md", "SECURITY.md", "export/README.md", "serving/README.md"]
)
def test_links_lead_somewhere(document):
    """To a file that exists, and to a heading in it if one is named."""
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text(), flags=re.DOTALL)
    links = re.findall(r'(?:\]\(|src=")(?!http)([^)#"]*)(?:#([^)"]+))?', text)
    for target, heading in links:
        path = (ROOT / document).parent / target if target else ROOT / document
        assert path.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", text).lower().replace(" ", "-") for text in headings]
            assert heading in slugs, heading

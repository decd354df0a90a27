"""What is installed is the wheel and not this folder, so the wheel is built, looked into, installed and run.

An editable install finds every file, also those that a wheel lacks: a package that pyproject.toml does not name, or the
page of the server. The wheel is built from the sdist, as a release is, so that the sdist is seen to be complete.
"""

import email
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent

pytestmark = pytest.mark.once


def build(source, target, folder):
    """The one file that hatchling writes to the folder; without a network and without an environment of its own."""
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl" if target == "wheel" else "*.tar.gz"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The unpacked sdist."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(ROOT, "sdist", folder)) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The path of the wheel."""
    return build(sdist, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def contents(wheel):
    """The bytes of each file of the wheel, by its name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(contents):
    """The fields of the wheel's METADATA."""
    return email.message_from_bytes(next(data for name, data in contents.items() if name.endswith("/METADATA")))


def test_the_wheel_has_every_file_of_every_package_and_nothing_else(sdist, contents):
    inits = [path for path in sdist.rglob("__init__.py") if not (path.parents[1] / "__init__.py").exists()]
    packages = {path.parent.name: path.parent for path in inits}
    assert set(packages) == {"keras_vae", "keras_vae_cli", "keras_vae_export", "keras_vae_serving"}
    expected = {
        path.relative_to(package.parent).as_posix()
        for package in packages.values()
        for path in package.rglob("*")
        if path.is_file()
    }
    assert {f"{name}/py.typed" for name in packages} | {"keras_vae_serving/http/static/explorer.html"} <= expected
    assert {name for name in contents if ".dist-info/" not in name} == expected


def test_the_sdist_has_what_the_checks_need_and_nothing_of_the_machine(sdist):
    assert not list(sdist.glob(".ci")) + list(sdist.glob(".github")) + list(sdist.rglob("__pycache__"))
    for name in (
        "tests/conftest.py",
        "docs/guide/training.md",
        "noxfile.py",
        "constraints.txt",
        "CHANGELOG.md",
        "LICENSE",
    ):
        assert (sdist / name).is_file(), name


def test_no_file_of_the_wheel_names_a_folder_of_this_machine(contents, sdist):
    folders = [str(folder).encode() for folder in (ROOT, sdist, pathlib.Path.home() / ".")]
    assert [name for name, data in contents.items() if any(folder + b"/" in data for folder in folders)] == []


def test_the_metadata_are_those_of_this_version(metadata, contents, sdist):
    version = re.search(r'^__version__ = "(.*)"$', (ROOT / "keras_vae" / "__init__.py").read_text(), re.MULTILINE)[1]
    assert metadata["Version"] == version
    assert re.search(
        rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", (sdist / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(name.endswith("/licenses/LICENSE") for name in contents)
    entry_points = next(data for name, data in contents.items() if name.endswith("/entry_points.txt"))
    assert b"keras-vae = keras_vae_cli.__main__:main" in entry_points


def test_serving_is_installed_without_the_training_stack(metadata):
    """The package itself depends on NumPy alone, and the extras of serving add neither Keras nor Matplotlib."""
    assert needed(metadata, "") == {"numpy"}
    server = {"httptools", "orjson", "prometheus-client", "starlette", "uvicorn", "uvloop"}
    assert needed(metadata, "serving-cpu") == server | {"onnxruntime"}
    assert needed(metadata, "serving") == server | {"onnxruntime", "onnxruntime-gpu"}  # by platform
    for backend in ("tensorflow", "jax", "torch"):
        assert needed(metadata, backend) == {backend, "keras", "matplotlib", "pillow"}


def needed(metadata, extra):
    """The names of the packages that an extra adds, with those of the extras that it names itself."""
    found = set()
    for line in metadata.get_all("Requires-Dist"):
        requirement, _, marker = line.partition(";")
        if re.findall(r"extra == '([^']*)'", marker) != ([extra] if extra else []):
            continue
        name, extras = re.match(r"([\w.-]+)(?:\[(.*?)\])?", requirement).groups()
        if name == "keras-vae":
            found |= set().union(*(needed(metadata, other.strip()) for other in extras.split(",")))
        else:
            found.add(name)
    return found


@pytest.mark.slow
def test_the_readmes_run_from_an_installed_wheel(sdist, wheel, tmp_path):
    """Without these sources on the path: in an environment that sees the packages of this one, but not this one's .pth.

    The tests of the READMEs train the quickstart, export, check and serve, with one request.
    """
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    packages = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    (pathlib.Path(packages.strip()) / "tests.pth").write_text(sysconfig.get_path("purelib"))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--ignore-installed",
    ]
    subprocess.run([*pip, wheel], check=True)
    sources = shutil.copytree(sdist, tmp_path / "sources")
    for package in ("keras_vae", "cli", "export/keras_vae_export", "serving/keras_vae_serving"):
        shutil.rmtree(sources / package)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = {"cwd": sources, "env": variables, "capture_output": True, "text": True}
    program = "import keras_vae, keras_vae_cli; print(keras_vae.__file__, keras_vae_cli.__file__)"
    found = subprocess.run([python, "-c", program], **run)
    assert found.stdout.count(str(environment)) == 2, found
    tests = ("tests/test_readme.py", "-k", "run_in_order", "-q", "-p", "no:cacheprovider")
    done = subprocess.run([python, "-m", "pytest", *tests], **run)
    assert done.returncode == 0, done.stdout + done.stderr

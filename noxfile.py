"""All checks in one environment: `nox`; some of the parts: `nox -- lint jax`.

    lint                      format, lint, types, import contracts
    jax, tensorflow           the tests that depend on the backend
    torch                     the same, and all that do not, on the backend that starts fastest
    slow                      the examples, and the runtimes that have environments of their own; only by name
    bounds                    the wheel with the lowest and the newest versions that it allows, on each Python that is
                              found; only by name
    mutation                  whether the tests of the mathematics notice small changes to it; hours, only by name

One environment for everything, because installing three frameworks takes longer than testing on one, and because the
tests that compare backends need all three side by side. Runtimes that cannot be installed beside them get environments
of their own, for the tests that name a variable KERAS_VAE_..._PYTHON.
"""

import pathlib
import shutil
import sys

import nox

# The marks are explained in pyproject.toml.
TESTS = {
    "jax": ("jax", "every_backend or not (once or slow)"),
    "tensorflow": ("tensorflow", "every_backend or not (once or slow)"),
    "torch": ("torch", "not slow"),
    "slow": ("jax", "slow"),
}

OLD_RUNTIME = ("onnxruntime==1.18.1", "numpy==1.26.4")
TRITON = ("tritonclient[grpc,http]==2.73.0", "protobuf==6.33.6")
RAY = ("ray[data,serve]==2.60.0", "numpy==2.4.6", "onnxruntime==1.31.1", "orjson==3.13.0")
WEB = "onnxruntime-web@1.30.0"
MUTMUT = "mutmut==3.8.1"
UV = "uv==0.13.9"  # pip cannot take the lowest versions

PYTHONS = ("3.11", "3.12", "3.13")
# What each dependency is used for: fit, save, pictures, tables, scikit-learn, export and its variants, serving.
BOUNDS = (
    "tests/test_readme.py::test_the_python_blocks_run_in_order[README.md]",
    "tests/test_readme.py::test_the_commands_run_in_order[README.md-0]",
    "tests/keras_vae/test_older_files.py",
    "tests/keras_vae/test_saving.py::test_training_continues_as_if_it_had_not_stopped",
    "tests/keras_vae/test_saving.py::test_a_convolutional_pair_with_a_data_mean_is_saved",
    "tests/keras_vae/test_plotting.py::test_pictures_of_images",
    "tests/keras_vae/test_datasets.py::test_parquet",
    "tests/keras_vae/test_datasets.py::test_a_folder_of_images",
    "tests/keras_vae/test_disentanglement.py::test_the_codes_of_a_model",
    "tests/export/test_bundle.py::test_the_layout",
    "tests/export/test_bundle.py::test_check_accepts_what_export_wrote",
    "tests/export/test_quantization.py::test_simplifying_leaves_the_names",
    "tests/serving/test_schema_1.py",
    "tests/serving/test_server.py::test_every_verb_answers_with_the_numbers_of_the_pipeline",
    "tests/serving/test_server.py::test_metrics_count_requests_by_model_and_status",
)

nox.options.reuse_existing_virtualenvs = True


@nox.session
def checks(session):
    """Format, lint, types and import contracts; the tests on each backend; the tests that compare backends."""
    parts = session.posargs or ("lint", "jax", "tensorflow", "torch")
    # Where the shell forbids compiled files, each process that a test starts would compile a framework again.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    if set(parts) != {"bounds"}:
        session.install("-q", "--no-compile", "-c", "constraints.txt", "-e", ".[all,dev]")
    for part in parts:
        if part == "lint":
            session.run("ruff", "format", "--check")
            session.run("ruff", "check")
            session.run("lint-imports")
            session.run("pyright")
        elif part in TESTS:
            if part == "slow":
                session.env.update(_other_runtimes(session))
            _pytest(session, part)
        elif part == "bounds":
            _bounds(session)
        elif part == "mutation":
            session.install("-q", MUTMUT)
            environment = {"KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1", "PYTHONPATH": "tests"}
            session.run("mutmut", "run", "--max-children", "2", env=environment)
            session.run("mutmut", "results")
        else:
            session.error(f"there is no part {part!r}: choose from lint, {', '.join(TESTS)}, bounds, mutation")


def _other_runtimes(session):
    """Environments of the runtimes that clash with the session's: the variables by which their tests find them."""
    folder = pathlib.Path(session.virtualenv.location) / "other_runtimes"
    found = {
        "KERAS_VAE_TRITON_PYTHON": _environment(session, folder / "triton", TRITON),
        "KERAS_VAE_RAY_PYTHON": _environment(session, folder / "ray", RAY),
        "KERAS_VAE_IMAGE_PYTHON": _image(session, folder / "image"),
    }
    if sys.version_info < (3, 13):
        found["KERAS_VAE_OLD_RUNTIME_PYTHON"] = _environment(session, folder / "old_runtime", OLD_RUNTIME)
    else:
        session.warn(f"{OLD_RUNTIME[0]} has no wheel for this Python: its test is skipped")
    if shutil.which("npm"):
        # No scripts: the only one is of a dependency and prints a message.
        npm = ("npm", "install", "--silent", "--ignore-scripts", "--prefer-offline", "--prefix", str(folder / "web"))
        session.run(*npm, WEB, external=True)
        found["KERAS_VAE_NODE_MODULES"] = str(folder / "web" / "node_modules")
    else:
        session.warn("npm is not on the PATH: the test in onnxruntime-web is skipped")
    return found


def _environment(session, folder, packages):
    """The Python of an environment that has these packages; made once, as pip finds them there the next time."""
    python = folder / "bin" / "python"
    if not python.exists():
        session.run("python", "-m", "venv", str(folder))
    session.run(str(python), "-m", "pip", "install", "-q", *packages, external=True)
    return str(python)


def _image(session, folder):
    """The Python of what `docker build` would make, without Docker: the commands of the first stage, in a folder."""
    dockerfile = pathlib.Path("serving/Dockerfile").read_text(encoding="utf-8")
    for line in dockerfile.split("\nFROM ")[1].splitlines():
        if line.startswith("RUN "):
            command = line.removeprefix("RUN ").replace("/venv", str(folder)).replace("${RUNTIME}", "onnxruntime")
            session.run("sh", "-e", "-c", command, external=True)
    return str(folder / "bin" / "python")


def _bounds(session):
    """Tests of the wheel, outside these sources, with the lowest and the newest versions that it allows.

    On TensorFlow and JAX: PyTorch's wheels on PyPI bring several GB of CUDA for each version and each Python.
    """
    session.install("-q", UV)
    folder = pathlib.Path(session.create_tmp()).resolve()
    shutil.rmtree(folder / "dist", ignore_errors=True)
    session.run("uv", "build", "-q", "--out-dir", str(folder / "dist"))
    (wheel,) = (folder / "dist").glob("*.whl")
    (archive,) = (folder / "dist").glob("*.tar.gz")
    shutil.unpack_archive(archive, folder / "dist", filter="data")
    sources = folder / "dist" / archive.name.removesuffix(".tar.gz")
    for package in ("keras_vae", "cli", "export/keras_vae_export", "serving/keras_vae_serving"):
        shutil.rmtree(sources / package)
    extras = ("tensorflow", "jax", "export-cpu", "serving-cpu", "evaluation", "tables")
    pins = pathlib.Path("constraints.txt").read_text(encoding="utf-8").splitlines()
    tools = [pin for pin in pins if pin.startswith(("pytest==", "httpx==", "openapi-spec-validator=="))]
    for version in PYTHONS:
        for resolution in ("lowest-direct", "highest"):
            environment = folder / f"{version}-{resolution}"
            python = environment / "bin" / "python"
            find = ("uv", "venv", "-q", "--clear", "--no-python-downloads", "--python", version, str(environment))
            session.run(*find, success_codes=(0, 1, 2))
            if not python.exists():
                session.warn(f"no Python {version} was found: its tests are left out")
                break
            # Only wheels: the lowest version is the lowest that has one for this Python.
            install = ("uv", "pip", "install", "-q", "--no-build", "--python", str(python))
            requirements = ("-r", "pyproject.toml", *(f"--extra={extra}" for extra in extras), *tools)
            session.run(*install, "--resolution", resolution, *requirements)
            session.run(*install, "--no-deps", str(wheel))
            for backend in ("tensorflow", "jax"):
                session.log(f"bounds: Python {version}, {resolution}, {backend}")
                variables = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
                # Not every version is free of warnings of the others.
                command = (str(python), "-m", "pytest", "-q", "-o", "filterwarnings=", *BOUNDS)
                with session.chdir(sources):
                    session.run(*command, env=variables, external=True)


def _pytest(session, part):
    backend, marks = TESTS[part]
    environment = {
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        **dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"),
        # Tests compile the same small models again and again; JAX finds them here, in this and the other processes.
        "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(session.create_tmp()).resolve() / "jax_cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        # And most programs run a few times only: compiled without optimisation they cost half as much.
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        " --xla_cpu_use_fusion_emitters=false",
    }
    session.log(f"{part}: pytest on {backend}")
    # Two processes: tracing and compiling, most of the time, use one core each, and more threads would wait for each
    # other. A file's tests stay together, so that what they share is made once.
    parallel = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
    session.run("pytest", "-q", *parallel, "-m", marks, env=environment)

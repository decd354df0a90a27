"""All checks in one environment: `nox`; a part of them: `nox -- lint`, `nox -- jax`, `nox -- all_backends`.

One environment for everything, because installing three frameworks takes longer than testing on one, and because the
tests that compare backends need all three side by side.
"""

import nox

BACKENDS = ("jax", "tensorflow", "torch")

nox.options.reuse_existing_virtualenvs = True


@nox.session
def checks(session):
    """Format, lint, types and import contracts; the tests on each backend; the tests that compare backends."""
    session.install("-q", "-c", "constraints.txt", "-e", ".[tensorflow,jax,torch,dev]")
    parts = session.posargs or ("lint", *BACKENDS, "all_backends")
    for part in parts:
        if part == "lint":
            session.run("ruff", "format", "--check")
            session.run("ruff", "check")
            session.run("lint-imports")
            session.run("pyright")
        elif part in BACKENDS:
            _pytest(session, part, "-m", "not all_backends")
        elif part == "all_backends":
            _pytest(session, "jax", "-m", "all_backends")
        else:
            session.error(f"there is no part {part!r}: choose from lint, {', '.join(BACKENDS)}, all_backends")


def _pytest(session, backend, *arguments):
    # Two processes: tracing and compiling, most of the time, use one core each.
    environment = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    session.log(f"pytest on {backend}")
    session.run("pytest", "-q", "-n", "2", *arguments, env=environment)

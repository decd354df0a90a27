"""Two devices give the loss curve of one with the same global batch, and draw different noise."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

WORKER = pathlib.Path(__file__).parents[1] / "several_devices.py"
pytestmark = pytest.mark.slow


def run(backend, devices, file, *noise):
    command = [sys.executable, str(WORKER), backend, devices, str(file), *noise]
    if backend == "torch" and devices == "two":
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command = [sys.executable, *launcher, *command[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(file) as results:
        return dict(results)


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_two_devices_train_as_one(backend, tmp_path):
    pytest.importorskip(backend)
    # On JAX one program is split over the devices: even the noise is that of one.
    noise = ["noise"] if backend == "jax" else []
    one = run(backend, "one", tmp_path / "one.npz", *noise)
    two = run(backend, "two", tmp_path / "two.npz", *noise)
    assert one.keys() == two.keys()
    for name in one.keys() - {"drawn"}:
        np.testing.assert_allclose(two[name], one[name], rtol=2e-4, atol=2e-5, err_msg=name)
    assert one["loss"][-1] < one["loss"][0]
    if backend != "jax":
        first, second = two["drawn"]
        assert np.abs(first - second).min() > 1e-6

"""Fixtures shared by all tests, which run on the backend of KERAS_BACKEND."""

import contextlib
import functools
import gc
import os
import pathlib
import shutil

# The command line turns oneDNN off where nothing is said, and TensorFlow reads this once in a process: some families
# have convolutions that its CPU has only with oneDNN.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import pytest

import families
import gradients
import keras_vae

gc.collect()
gc.freeze()  # what the imports have made stays: no later collection visits it


@pytest.fixture(autouse=True)
def _fresh_keras():
    """Same weights whatever ran before; no global policy, and no class under the name of another, left over."""
    keras.utils.set_random_seed(7)
    registered = dict(keras.saving.get_custom_objects())
    yield
    keras.saving.get_custom_objects().update(registered)
    keras.config.set_dtype_policy("float32")
    # Without a collection, which visits every object of the framework and takes longer than most tests.
    keras.backend.clear_session(free_memory=False)


@pytest.fixture(autouse=True, scope="module")
def _collect_garbage():
    """Models hold themselves in cycles: without a collection now and then they fill the memory."""
    yield
    gc.collect()


@pytest.fixture(scope="session", autouse=True)
def _warm_converter():
    """Conversions are made by a process that has imported everything, but for tests that ask for `fresh_converter`."""
    try:
        import warm_converter
    except ModuleNotFoundError:  # the export extra is not installed
        yield
        return
    with warm_converter.use():
        yield


@pytest.fixture(scope="module")
def trace_early():
    """PyTorch traces a step when it has seen its shapes eight times, and not only in a long training."""
    with pytest.MonkeyPatch.context() as patch:
        if keras.backend.backend() == "torch":
            patch.setattr("keras_vae._backend.fast.traced.CALLS_BEFORE_TRACING", 8)
        yield


@pytest.fixture
def digits():
    """256 real digits, 8x8, binary."""
    return keras_vae.datasets.load("digits", binarize="threshold").train[:256]


@pytest.fixture
def make_vae():
    """A small compiled model over 8x8x1 images; keyword arguments go to `VAE`, those of compile in `compile`."""

    def make(latent_dim=3, hidden=(16,), compile=None, network=None, likelihood="bce", seed=5, **kwargs):
        network = network or keras_vae.networks.mlp((8, 8, 1), latent_dim, hidden=hidden, likelihood=likelihood)
        vae = keras_vae.VAE(*network, likelihood=likelihood, seed=seed, **kwargs)
        vae.compile(**({"optimizer": "adam"} | (compile or {})))
        return vae

    return make


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """A folder of this run, for what any of its processes makes and all read."""
    folder = tmp_path_factory.getbasetemp()
    return (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "shared"


@contextlib.contextmanager
def _made_by_one(folder):
    """Several processes may export to one folder, of which one succeeds: the others find it there, or not empty."""
    try:
        yield
    except OSError:
        if not (folder / "manifest.json").is_file():
            raise


@pytest.fixture(scope="session")
def bundle(shared_folder):
    """A bundle, to read only: a small convolutional model of the digits, one epoch old, and its int8 variant."""
    keras_vae_export = pytest.importorskip("keras_vae_export", reason="the export extra is not installed")
    folder = shared_folder / "bundles" / "digits"
    if folder.exists():
        return folder
    keras.utils.set_random_seed(3)
    data = keras_vae.datasets.load("digits", binarize="threshold")
    vae = keras_vae.VAE(*keras_vae.networks.conv((8, 8, 1), 3, filters=(4,), hidden=(16,), activation="gelu"), seed=0)
    vae.compile("adam")
    vae.fit(data.train, batch_size=128, verbose=0)
    with _made_by_one(folder):
        keras_vae_export.export(vae, folder, data=data.test, precision="int8")
    return folder


@pytest.fixture(scope="session")
def two_versions(bundle, tmp_path_factory):
    """Two bundles, to read only, which differ in what they decode."""
    import keras_vae_export

    folder = tmp_path_factory.mktemp("versions")
    shutil.copytree(bundle, folder / "1")
    vae = keras_vae.VAE(*keras_vae.networks.mlp((8, 8, 1), 3, hidden=(16,)), seed=0)
    keras_vae_export.export(vae, folder / "2")
    return folder


def _exported(name, shared_folder):
    keras_vae_export = pytest.importorskip("keras_vae_export", reason="the export extra is not installed")
    folder = shared_folder / "families" / name
    if not folder.exists():
        with _made_by_one(folder):
            keras_vae_export.export(families.make(name), folder)
    return folder


@pytest.fixture(scope="session")
def exported(shared_folder):
    """Bundles, to read only, of the models in `families.py`, by their names."""
    return functools.partial(_exported, shared_folder=shared_folder)


@pytest.fixture(scope="session")
def conditional(shared_folder):
    """A bundle, to read only: a pair of networks with an image and a label, and so without ELBO and prior."""
    return _exported("conditional", shared_folder)


@pytest.fixture
def real_data():
    """The folder of real data sets, for tests that want more than the embedded digits."""
    folder = pathlib.Path(os.environ.get("KERAS_VAE_DATA", ""))
    if not os.environ.get("KERAS_VAE_DATA") or not folder.is_dir():
        pytest.skip("KERAS_VAE_DATA does not name a folder with mnist/, binarized_mnist/ and frey_face/")
    return folder


@pytest.fixture
def gradient():
    """The gradient of a scalar function of one array, by the backend, as NumPy."""
    return gradients.of

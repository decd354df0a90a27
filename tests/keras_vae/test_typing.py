"""What a user's editor says: the bases that type checkers see declare what Keras has, and mistakes are flagged."""

import ast
import inspect
import json
import pathlib
import shutil
import subprocess
import sys

import keras
import pytest

import keras_vae
from keras_vae import _typing

pytestmark = pytest.mark.once

# Not declared, as a model's takes other arguments than a layer's, which a type checker refuses.
UNDECLARED = {"Layer": {"quantize"}, "Model": set()}


def declared(name):
    """The members of the class that type checkers see: a dict from the name to the function, None of a value."""
    tree = ast.parse(inspect.getsource(_typing))
    (kind,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name]
    members = {}
    for node in kind.body:
        if isinstance(node, ast.FunctionDef):
            is_property = any(isinstance(mark, ast.Name) and mark.id == "property" for mark in node.decorator_list)
            members[node.name] = None if is_property else node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            members[node.target.id] = None
    return members


def names_of(function):
    arguments = function.args
    named = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    starred = [argument.arg for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
    return [name for name in named + starred if name not in ("self", "cls")]


@pytest.mark.parametrize("kind", [keras.Layer, keras.Model])
def test_every_declared_method_has_the_arguments_of_keras(kind):
    for name, function in declared(kind.__name__).items():
        if function is None or name == "__init__":
            continue
        method = inspect.unwrap(getattr(kind, name))
        if ".backend." in method.__module__:
            continue  # of one backend: `train_step` has other arguments on each
        real = list(inspect.signature(method).parameters.values())
        deprecated = name == "evaluate"  # Keras has a **kwargs that takes nothing
        expected = [
            p.name for p in real if p.name not in ("self", "cls") and not (deprecated and p.kind == p.VAR_KEYWORD)
        ]
        assert sorted(names_of(function)) == sorted(expected), name


@pytest.mark.parametrize("kind", [keras.Layer, keras.Model])
def test_every_public_member_of_keras_is_declared(kind):
    """Those that Keras's own classes have, and not only the class of one backend."""
    found = declared("Layer") | (declared("Model") if kind is keras.Model else {})
    of_keras = {
        name
        for base in kind.__mro__
        if base.__module__.startswith("keras.src.") and ".backend." not in base.__module__
        for name in vars(base)
        if not name.startswith("_")
    }
    assert not of_keras - set(found) - UNDECLARED[kind.__name__]


GOOD = """
import keras_vae
import numpy as np

x = np.zeros((4, 8, 8, 1), "float32")
encoder, decoder = keras_vae.networks.mlp((8, 8, 1), latent_dim=2)
vae = keras_vae.VAE(encoder, decoder, likelihood=keras_vae.Gaussian("learned"), seed=0, name="vae")
vae.compile("adam", steps_per_execution=4)
history = vae.fit(x, epochs=2, callbacks=[keras_vae.callbacks.LatentMonitor(x)], verbose=0).history
vae.evaluate(x, verbose=0)
vae.encode(x).mean
keras_vae.evaluation.active_units(vae, x).sum()
keras_vae.plotting.reconstructions(vae, x, "picture.png").savefig("other.png")
vae.save("model.keras")
vae.count_params()
vae.trainable = False
keras_vae.Mixed([("gaussian", 3), (keras_vae.Categorical(), 4)])
"""
# Each line with a mistake, and what must be said about it.
BAD = {
    "vae.encodee(x)": 'Cannot access attribute "encodee"',
    "keras_vae.VAE(encoder, decoder, likelyhood='mse')": 'No parameter named "likelyhood"',
    "vae.fit(x, epoch=3)": 'No parameter named "epoch"',
    "vae.evaluate(x, batchsize=3)": 'No parameter named "batchsize"',
    "vae.compile('adam', learning_rate=0.1)": 'No parameter named "learning_rate"',
    "keras_vae.Gaussian(sclae=1.0)": 'No parameter named "sclae"',
    "keras_vae.callbacks.LatentMonitor(x, tresh=0.1)": 'No parameter named "tresh"',
    "keras_vae.networks.mlp((8, 8, 1), latent=2)": 'No parameter named "latent"',
    "keras_vae.evaluation.kl_per_unit(vae)": 'Argument missing for parameter "x"',
}


@pytest.fixture(scope="module")
def diagnostics(tmp_path_factory):
    """What pyright with its defaults says of the lines above: a dict from the file and line to the messages."""
    pyright = shutil.which("pyright", path=str(pathlib.Path(sys.executable).parent)) or shutil.which("pyright")
    if pyright is None:
        pytest.skip("pyright is not installed")
    folder = tmp_path_factory.mktemp("user")
    (folder / "good.py").write_text(GOOD)
    (folder / "bad.py").write_text(GOOD + "\n".join(BAD))
    source = str(pathlib.Path(keras_vae.__file__).parents[1])
    (folder / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [source]}))
    command = [pyright, "--outputjson", "--pythonpath", sys.executable, "-p", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    found = {}
    for message in json.loads(done.stdout)["generalDiagnostics"]:
        place = pathlib.Path(message["file"]).name, message["range"]["start"]["line"]
        found.setdefault(place, []).append(message["message"])
    return found


def test_right_code_is_left_alone(diagnostics):
    assert not {place: words for place, words in diagnostics.items() if place[0] == "good.py"}


@pytest.mark.parametrize("line", BAD)
def test_a_mistake_is_flagged(diagnostics, line):
    place = "bad.py", GOOD.count("\n") + list(BAD).index(line)
    assert any(BAD[line] in message for message in diagnostics.get(place, [])), diagnostics


def test_at_run_time_the_bases_are_those_of_keras_and_fit_shows_its_arguments():
    assert _typing.Model is keras.Model
    assert _typing.Layer is keras.Layer
    for verb in ("fit", "evaluate", "predict", "train_on_batch"):
        assert inspect.signature(getattr(keras_vae.VAE, verb)) == inspect.signature(getattr(keras.Model, verb))

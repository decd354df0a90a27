"""The bundles that are being served, by name and version, and how one takes the place of another.

A bundle is loaded beside the one in use, and takes its place in one assignment, after it was verified and has run: a
request sees the one or the other, and a broken bundle is never seen.
"""

import inspect
import pathlib
import re
from dataclasses import dataclass

import numpy as np

from keras_vae_serving.manifest import BundleError
from keras_vae_serving.models import Model, Models
from keras_vae_serving.protocol import ProtocolError, shown
from keras_vae_serving.providers import ProviderError

_SOURCE = re.compile(r"(?:(?P<name>[A-Za-z0-9_-]+)(?::(?P<version>[0-9]{1,9}))?=)?(?P<path>.+)", re.DOTALL)


@dataclass(eq=False)
class Bundle:
    """A folder that is being served.

    Args:
        name: What its models' names begin with, followed by a dot; empty for the only bundle of a server.
        version: As in the URL.
        path: The folder.
        models: Its models and their threads.
        users: Requests that are with its models now.
    """

    name: str
    version: str
    path: pathlib.Path
    models: Models
    users: int = 0

    def full_name(self, model):
        """A model's name in the URL."""
        return f"{self.name}.{model}" if self.name else model


class Repository:
    """Bundles by name and version.

    Args:
        sources: A path, or a list of `PATH`, `NAME=PATH` or `NAME:VERSION=PATH`. One bundle without a name serves
            `decode`, a bundle of the name digits serves `digits.decode`. Among several, one without a name is called
            after its folder; one without a version has version 1.
        settings: For `Models`.

    Raises:
        BundleError, ProviderError: If a bundle cannot be served.
        TypeError: If there is no such setting.
    """

    def __init__(self, sources, **settings):
        sources = [sources] if isinstance(sources, str | pathlib.Path) else list(sources)
        inspect.signature(Models).bind(None, **settings)  # a misspelt one is no fault of the bundle
        self._settings = settings
        self._bundles: dict[tuple[str, str], Bundle] = {}
        self._models: dict[tuple[str, str | None], tuple[Bundle, Model]] = {}
        try:
            for name, version, path in _parsed(sources):
                if (name, version) in self._bundles:
                    raise BundleError(f"two bundles are called {name!r}, version {version}: use NAME:VERSION=PATH.")
                self._bundles[name, version] = self._load(name, version, path)
        except BaseException:
            self.close()
            raise
        self._index()

    @property
    def bundles(self):
        """All of them, by name and version."""
        return list(self._bundles.values())

    def find(self, name, version=None):
        """The bundle and the model of a name; of the highest version where none is given.

        Raises:
            ProtocolError: If there is none.
        """
        found = self._models.get((name, version))
        if found is None:
            names = self.names
            if name in names:
                raise ProtocolError(f"the model {name} has no version {version!s:.20}.", status=404)
            raise ProtocolError(f"there is no model {shown(name)}; there are {', '.join(names)}.", status=404)
        return found

    @property
    def names(self):
        """The names of all models."""
        return sorted({name for name, _ in self._models})

    def versions(self, name):
        """The versions of a model, the highest last."""
        return sorted((version for n, version in self._models if n == name and version is not None), key=int)

    def load_again(self, name=None):
        """Loads bundles again from their folders, which may take a while, for `install`.

        Args:
            name: Of the bundles; None loads all.

        Raises:
            BundleError, ProviderError: If one cannot be served; nothing has changed then.
        """
        loaded = []
        try:
            for bundle in self.bundles:
                if name in (None, bundle.name):
                    loaded.append(self._load(bundle.name, bundle.version, bundle.path))
        except BaseException:
            for bundle in loaded:
                bundle.models.close()
            raise
        return loaded

    def install(self, loaded):
        """Serves these bundles in place of those of the same names and versions, which are returned.

        To be called by the thread that finds models and counts their users: nobody is between the two then.
        """
        retired = [self._bundles[bundle.name, bundle.version] for bundle in loaded]
        self._bundles = {**self._bundles, **{(bundle.name, bundle.version): bundle for bundle in loaded}}
        self._index()
        return retired

    def close(self):
        """Runs what is waiting, then ends all threads."""
        for bundle in self.bundles:
            bundle.models.close()

    def _load(self, name, version, path):
        models = None
        try:
            models = Models(path, **self._settings)
            _try(models)
        except BaseException as error:
            if models is not None:
                models.close()
            if isinstance(error, BundleError | ProviderError | OSError) or not isinstance(error, Exception):
                raise
            what = f"{type(error).__name__}: {str(error).strip()}".split("\n")[0]
            raise BundleError(f"{path} does not run ({what}). Export the model again.") from error
        return Bundle(name, version, path, models)

    def _index(self):
        models = {}
        for bundle in sorted(self._bundles.values(), key=lambda bundle: int(bundle.version)):
            for model in bundle.models.by_name.values():
                full_name = bundle.full_name(model.name)
                models[full_name, bundle.version] = models[full_name, None] = bundle, model
        self._models = models


def _parsed(sources):
    if not sources:
        raise BundleError("there is no bundle to serve: name a folder that export() wrote.")
    for source in sources:
        parts = _SOURCE.fullmatch(str(source))
        # A folder whose own name has an equals sign in it is a folder all the same.
        if parts is None or pathlib.Path(str(source)).exists():
            name, version, path = None, None, str(source)
        else:
            name, version, path = parts["name"], parts["version"], parts["path"]
        path = pathlib.Path(path)
        if name is None:
            name = re.sub(r"[^A-Za-z0-9_-]", "_", path.resolve().name) if len(sources) > 1 else ""
        yield name, str(int(version or 1)), path


def _try(models):
    """Runs each graph once, where it says what sizes it takes: memory is taken and kernels are chosen now."""
    if "sample" in models.by_name:
        pipeline = models.pipeline
        pipeline.decode({pipeline.z: pipeline.draw(1, seed=0), **pipeline.made_up(1)})
    for session in models.pipeline.sessions.values():
        tensors = session.graph.inputs
        if all(isinstance(size, int) for tensor in tensors for size in tensor.shape[1:] if tensor.name != "epsilon"):
            sizes = {
                tensor.name: [1, *(size if isinstance(size, int) else 1 for size in tensor.shape[1:])]
                for tensor in tensors
            }
            session.run({tensor.name: np.zeros(sizes[tensor.name], tensor.dtype) for tensor in tensors})

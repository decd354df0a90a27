"""The bundles that are being served, by name and version, and how one takes the place of another.

A bundle is loaded beside the one in use, and takes its place in one assignment, after it was verified and has run: a
request sees the one or the other, and a broken bundle is never seen.
"""

import inspect
import os
import pathlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_vae_serving.endpoints import Endpoint, Endpoints
from keras_vae_serving.errors import RequestError, abbreviate
from keras_vae_serving.manifest import NUM_SAMPLES, BundleError
from keras_vae_serving.providers import ProviderError

_SOURCE = re.compile(r"(?:(?P<name>[A-Za-z0-9_-]+)(?::(?P<version>[0-9]{1,9}))?=)?(?P<path>.+)", re.DOTALL)


@dataclass(eq=False)
class Bundle:
    """A folder that is being served.

    Args:
        name: Prefix of its endpoints' names, which a dot follows; empty for the only bundle of a server.
        version: Version as in the URL.
        path: Folder of the bundle.
        endpoints: Its endpoints and their threads.
        users: Number of requests that its endpoints are working on.
    """

    name: str
    version: str
    path: pathlib.Path
    endpoints: Endpoints
    users: int = 0

    def full_name(self, endpoint: str) -> str:
        """Name of an endpoint in the URL, where the protocol calls it a model."""
        return f"{self.name}.{endpoint}" if self.name else endpoint


class Repository:
    """Bundles by name and version.

    Args:
        sources: Path, or list of `PATH`, `NAME=PATH` or `NAME:VERSION=PATH`. One bundle without a name serves
            `decode`, a bundle of the name digits serves `digits.decode`. Among several, one without a name is called
            after its folder; one without a version has version 1.
        **settings: Arguments of `Endpoints`.

    Raises:
        BundleError, ProviderError: If a bundle cannot be served.
        TypeError: If there is no such setting.
    """

    def __init__(self, sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], **settings: Any) -> None:
        sources = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
        inspect.signature(Endpoints).bind(None, **settings)  # before a bundle is blamed for a misspelt one
        self._settings = settings
        self._bundles: dict[tuple[str, str], Bundle] = {}
        self._endpoints: dict[tuple[str, str | None], tuple[Bundle, Endpoint]] = {}
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
    def bundles(self) -> list[Bundle]:
        """All bundles."""
        return list(self._bundles.values())

    def find(self, name: str, version: str | None = None) -> tuple[Bundle, Endpoint]:
        """The bundle and the endpoint of a name, of the highest version where none is given.

        Raises:
            RequestError: If there is none.
        """
        found = self._endpoints.get((name, version))
        if found is None:
            names = self.names
            if name in names:
                have = ", ".join(self.versions(name))
                raise RequestError(f"the model {name} has no version {version!s:.20}; it has {have}.", status=404)
            raise RequestError(f"there is no model {abbreviate(name)}; there are {', '.join(names)}.", status=404)
        return found

    @property
    def names(self) -> list[str]:
        """Names of all endpoints."""
        return sorted({name for name, _ in self._endpoints})

    def versions(self, name: str) -> list[str]:
        """Versions of an endpoint, the highest last."""
        return sorted((version for n, version in self._endpoints if n == name and version is not None), key=int)

    def load_again(self, name: str | None = None) -> list[Bundle]:
        """Loads bundles again from their folders, which may take a while, for `install`.

        Args:
            name: Name of the bundles; None loads all.

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
                bundle.endpoints.close()
            raise
        return loaded

    def install(self, loaded: list[Bundle]) -> list[Bundle]:
        """Serves these bundles in place of those of the same names and versions, which are returned.

        To be called by the thread that finds endpoints and counts users, so that no request is between the two.
        """
        retired = [self._bundles[bundle.name, bundle.version] for bundle in loaded]
        self._bundles = {**self._bundles, **{(bundle.name, bundle.version): bundle for bundle in loaded}}
        self._index()
        return retired

    def close(self) -> None:
        """Runs what is waiting, then ends all threads."""
        for bundle in self.bundles:
            bundle.endpoints.close()

    def _load(self, name, version, path):
        endpoints = None
        try:
            endpoints = Endpoints(path, **self._settings)
            _try(endpoints)
        except BaseException as error:
            if endpoints is not None:
                endpoints.close()
            if isinstance(error, BundleError | ProviderError | OSError) or not isinstance(error, Exception):
                raise
            what = f"{type(error).__name__}: {str(error).strip()}".split("\n")[0]
            raise BundleError(f"{path} does not run ({what}). Export the model again.") from error
        return Bundle(name, version, path, endpoints)

    def _index(self):
        endpoints = {}
        for bundle in sorted(self._bundles.values(), key=lambda bundle: int(bundle.version)):
            for endpoint in bundle.endpoints.by_name.values():
                full_name = bundle.full_name(endpoint.name)
                endpoints[full_name, bundle.version] = endpoints[full_name, None] = bundle, endpoint
        self._endpoints = endpoints


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


def _try(endpoints):
    """Runs each graph whose sizes are known once, so that memory is taken and kernels are chosen now."""
    pipeline = endpoints.pipeline
    if "sample" in endpoints.by_name and None not in pipeline.manifest.latent_shape:
        condition = {**pipeline.inputs.dummy_inputs(1), **pipeline.inputs.dummy_inputs(1, graph="prior")}.get(
            "condition"
        )
        pipeline.sample(1, seed=0, condition=condition)
    for session in pipeline.sessions.values():
        tensors = session.graph.inputs
        if all(isinstance(size, int) or size == NUM_SAMPLES for tensor in tensors for size in tensor.shape[1:]):
            sizes = {
                tensor.name: [1, *(size if isinstance(size, int) else 1 for size in tensor.shape[1:])]
                for tensor in tensors
            }
            session.run({tensor.name: np.zeros(sizes[tensor.name], tensor.dtype) for tensor in tensors})

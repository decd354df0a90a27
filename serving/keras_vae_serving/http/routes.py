"""The routes: metadata, health, loading of bundles, metrics and the page. `infer.py` has the one that runs graphs."""

import asyncio
import base64
import concurrent.futures
import contextlib
import hashlib
import importlib.metadata
import logging
import pathlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from keras_vae_serving.errors import RequestError
from keras_vae_serving.http import openapi, protocol
from keras_vae_serving.http.access import TOKEN_VARIABLE
from keras_vae_serving.http.budget import Limits
from keras_vae_serving.http.infer import Infer, InferRows, how
from keras_vae_serving.http.metrics import CONTENT_TYPE, Metrics
from keras_vae_serving.http.responses import json_response
from keras_vae_serving.manifest import BundleError, finite
from keras_vae_serving.providers import ProviderError
from keras_vae_serving.repository import Repository

_PAGE = pathlib.Path(__file__).parent / "static" / "explorer.html"
# The page is one file, calls only this server, and makes no HTML of what it reads: the browser enforces it.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'sha256-{}'; style-src 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_logger = logging.getLogger("keras_vae_serving")


class HttpServer:
    """State that the routes share, and the routes.

    Args:
        repository: Bundles that are served.
        metrics: Counters for Prometheus.
        limits: Limits on requests and memory.
        has_token: Whether clients must send a token.

    Attributes:
        memory: Number of bytes of all requests and responses in flight.
        stopping: Whether the server has begun to shut down.
    """

    def __init__(self, repository: Repository, metrics: Metrics, limits: Limits, has_token: bool) -> None:
        self.repository: Repository = repository
        self.metrics: Metrics = metrics
        self.limits: Limits = limits
        self.has_token: bool = has_token
        self.stopping: bool = False
        self.memory: int = 0
        self._loading = asyncio.Lock()
        # One thread, as malloc keeps what each thread has freed for that thread: the next bundle takes it again.
        self._loader = concurrent.futures.ThreadPoolExecutor(1, "load")

    def routes(self) -> list[Route]:
        """The paths of the server."""
        infer, infer_rows = Infer(self), InferRows(self)
        model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        return [
            Route(f"{model}/infer", infer, methods=["POST"]),
            Route(f"{version}/infer", infer, methods=["POST"]),
            Route("/v1/models/{model}:predict", infer_rows, methods=["POST"]),
            Route("/v1/models/{model}/versions/{version}:predict", infer_rows, methods=["POST"]),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/v2", self._metadata),
            Route(model, self._model_metadata),
            Route(version, self._model_metadata),
            Route(f"{model}/ready", self._model_ready),
            Route(f"{version}/ready", self._model_ready),
            Route("/v2/repository/index", self._index, methods=["POST"]),
            Route("/v2/repository/models/{model}/load", self._load, methods=["POST"]),
            Route("/bundles", self._bundles),
            Route("/metrics", self._prometheus),
            Route("/openapi.json", self._openapi),
            Route("/", self._page),
            Route("/v1/{path:path}", self._version_1, methods=["GET", "POST"]),
        ]

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Ends the threads of the bundles when the application ends."""
        yield
        self.stop()
        await asyncio.to_thread(self.repository.close)
        self._loader.shutdown(wait=False)

    def stop(self) -> None:
        """Reports from now on that the server is not ready."""
        self.stopping = True

    async def _live(self, request):
        return json_response({"live": True})

    async def _ready(self, request):
        return json_response({"ready": not self.stopping}, 503 if self.stopping else 200)

    async def _metadata(self, request):
        return json_response({"name": "keras_vae_serving", "version": version(), "extensions": ["binary_tensor_data"]})

    async def _model_metadata(self, request):
        name = request.path_params["model"]
        _, endpoint = self.repository.find(name, request.path_params.get("version"))
        return json_response(
            {
                "name": name,
                "versions": self.repository.versions(name),
                "platform": endpoint.platform,
                "inputs": [_tensor(tensor) for tensor in endpoint.inputs],
                "outputs": [_tensor(tensor) for tensor in endpoint.outputs],
                "parameters": {"description": endpoint.description, **endpoint.parameters},
            }
        )

    async def _version_1(self, request):
        """Tells a client of version 1 of the protocol what to ask for instead."""
        name = request.path_params["path"].removeprefix("models/").partition(":")[0]
        name = name if name in self.repository.names else self.repository.names[0]
        raise RequestError(how(name, *self.repository.find(name)), status=404)

    async def _model_ready(self, request):
        name = request.path_params["model"]
        self.repository.find(name, request.path_params.get("version"))
        return json_response({"name": name, "ready": not self.stopping}, 503 if self.stopping else 200)

    async def _index(self, request):
        return json_response(
            [
                {"name": name, "version": version, "state": "READY", "reason": ""}
                for name in self.repository.names
                for version in self.repository.versions(name)
            ]
        )

    async def _load(self, request):
        """Loads the bundle of a model again, from the folder that the server was started with."""
        if not self.has_token:
            raise RequestError(
                f"bundles are loaded again over HTTP only where a token is set (the environment variable "
                f"{TOKEN_VARIABLE}); send the server the signal SIGHUP instead.",
                status=403,
            )
        bundle, _ = self.repository.find(request.path_params["model"])
        await self.reload(bundle.name)
        return json_response({})

    async def reload(self, name: str | None = None) -> None:
        """Serves what is in the folders now.

        Args:
            name: Name of the bundle; None reloads all.

        Raises:
            RequestError: If a folder holds no bundle that runs; the bundles in use are then kept.
        """
        async with self._loading:
            try:
                run = asyncio.get_running_loop().run_in_executor
                loaded = await run(self._loader, self.repository.load_again, name)
            except Exception as error:  # whatever is wrong with a folder, the one in use is not
                self.metrics.loaded("refused")
                ours = isinstance(error, BundleError | ProviderError | OSError)
                _logger.error("not loaded, the bundle in use goes on serving: %s", error, exc_info=not ours)
                raise RequestError(
                    "the new bundle was refused, and the one in use goes on serving; the server's log says why.",
                    status=409,
                ) from None
            for bundle in self.repository.install(loaded):
                self.metrics.loaded("installed")
                _logger.info("loaded %s again", bundle.path)
                while bundle.users:
                    await asyncio.sleep(0.01)
                await run(self._loader, bundle.endpoints.close)

    async def _bundles(self, request):
        """What the page needs: the descriptions of the pipelines, and how active each latent is."""
        found = []
        for bundle in self.repository.bundles:
            endpoints, pipeline = bundle.endpoints, bundle.endpoints.pipeline
            found.append(
                {
                    "name": bundle.name,
                    "version": bundle.version,
                    "models": sorted(map(bundle.full_name, endpoints.by_name)),
                    **pipeline.describe(),
                    "data_range": pipeline.manifest.data_range and finite(pipeline.manifest.data_range),
                    "prior": pipeline.manifest.prior,
                    "labels": pipeline.manifest.labels,
                    "missing": pipeline.manifest.missing,
                    "draws": pipeline.manifest.draws is not None,
                    "table": pipeline.manifest.table,
                    "parts": pipeline.manifest.parts,
                    "latent_activity": await asyncio.to_thread(getattr, endpoints, "latent_activity"),
                    "max_rows": endpoints.max_rows,
                }
            )
        return json_response(found)

    async def _prometheus(self, request):
        return Response(self.metrics.text(self.repository.bundles), media_type=CONTENT_TYPE)

    async def _openapi(self, request):
        return json_response(openapi.document(self.repository, version(), self.has_token))

    async def _page(self, request):
        page = (await asyncio.to_thread(_PAGE.read_bytes)).replace(b"\r\n", b"\n")  # as a browser hashes it
        script = page.partition(b"<script>")[2].partition(b"</script>")[0]
        policy = _PAGE_POLICY.format(base64.b64encode(hashlib.sha256(script).digest()).decode())
        headers = {"content-security-policy": policy, "x-content-type-options": "nosniff", "cache-control": "no-cache"}
        return Response(page, media_type="text/html", headers=headers)


def version() -> str:
    """Version of the distribution; "unknown" where the package was copied and not installed."""
    try:
        return importlib.metadata.version("keras-vae")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _tensor(tensor):
    shape = [size if isinstance(size, int) else -1 for size in tensor.shape]
    return {"name": tensor.name, "datatype": protocol.datatype(tensor.dtype), "shape": shape}

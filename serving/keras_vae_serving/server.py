"""A bundle over HTTP: the Open Inference Protocol, health, metrics and a page. Routes, limits and one way to fail.

Whatever arrives is answered: with a result, or with the protocol's `{"error": "..."}` and a sentence that says what to
do. Nothing is read, kept or queued without a bound, and a bound is checked before what it bounds has been taken in.
"""

import asyncio
import contextlib
import hmac
import importlib.metadata
import logging
import os
import pathlib
import time
from dataclasses import dataclass

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route

from keras_vae_serving import openapi, protocol
from keras_vae_serving.batching import Overloaded
from keras_vae_serving.manifest import BundleError
from keras_vae_serving.metrics import CONTENT_TYPE, Metrics
from keras_vae_serving.protocol import ProtocolError
from keras_vae_serving.providers import ProviderError
from keras_vae_serving.repository import Repository

TOKEN_VARIABLE = "KERAS_VAE_TOKEN"
_PAGE = pathlib.Path(__file__).parent / "static" / "explorer.html"
_PAGE_HEADERS = {
    # The page is one file and asks nobody but this server: the browser is told to hold it to that.
    "content-security-policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}
_PIECE = 2**16  # bytes of an answer that are written at a time
_logger = logging.getLogger("keras_vae_serving")


@dataclass(frozen=True)
class Limits:
    """How much of this machine a client may use.

    Args:
        max_body: Bytes of one request.
        max_memory: Bytes of all requests and answers that are on their way.
        body_seconds: How long a client may take to send one.
    """

    max_body: int = 8 * 2**20
    max_memory: int = 128 * 2**20
    body_seconds: float = 30.0


def create_app(bundles, *, token=None, allow_origins=(), hosts=None, limits=None, **settings):
    """The ASGI application, for uvicorn, Ray Serve or any other server.

    Args:
        bundles: A path, or a list of `PATH`, `NAME=PATH` or `NAME:VERSION=PATH`; see `Repository`.
        token: What clients must send as `Authorization: Bearer TOKEN`, but for the page, its icon and the health of the
            server; by default that of the environment variable KERAS_VAE_TOKEN, if it is set. "" asks for none.
        allow_origins: Origins whose pages may use this server from a browser (CORS); none but its own by default.
        hosts: The names under which it may be asked, without a port; None is any. It keeps out pages whose owner has
            made their name lead to 127.0.0.1.
        limits: `Limits`.
        **settings: `max_rows`, `providers`, `precision`, `threads`, `max_batch` and `max_queue`; see `Models`.

    Raises:
        BundleError, ProviderError: If a bundle cannot be served.
        ValueError: If the environment variable is set to nothing, or to something that no header can hold.
    """
    if token is None:
        token = _token()
    origins = [origin.rstrip("/") for origin in allow_origins]
    metrics = Metrics()
    server = Server(Repository(bundles, on_batch=metrics.ran, **settings), metrics, limits or Limits(), bool(token))
    middleware = []
    if origins:  # outermost: a browser asks for permission without a token
        allowed = {"allow_origins": origins, "allow_methods": ["GET", "POST"], "allow_headers": ["*"]}
        middleware.append(Middleware(CORSMiddleware, expose_headers=["inference-header-content-length"], **allowed))
    middleware.append(Middleware(_Door, token=token or "", origins=origins, hosts=hosts))
    app = Starlette(
        routes=server.routes(),
        middleware=middleware,
        lifespan=server.lifespan,
        exception_handlers={
            ProtocolError: _on_protocol_error,
            HTTPException: _on_http_error,
            Exception: _on_bug,
        },
    )
    app.router.redirect_slashes = False  # to a host that the client names, at that
    app.state.server = server
    return app


def _token():
    token = os.environ.get(TOKEN_VARIABLE)
    if token is not None and not (token and token.isascii() and token.isprintable() and token == token.strip()):
        raise ValueError(
            f"the environment variable {TOKEN_VARIABLE} is set, but empty, or has spaces around it or signs in it that "
            "no header can hold: unset it to ask for no token, or set another."
        )
    return token


class Server:
    """What the routes share."""

    def __init__(self, repository, metrics, limits, has_token):
        self.repository, self.metrics, self.limits = repository, metrics, limits
        self.has_token = has_token
        self.stopping = False
        self.memory = 0  # bytes of requests and answers
        self._loading = asyncio.Lock()

    def routes(self):
        infer = _Infer(self)
        model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        return [
            Route(f"{model}/infer", infer, methods=["POST"]),
            Route(f"{version}/infer", infer, methods=["POST"]),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/v2", self.metadata),
            Route(model, self.model_metadata),
            Route(version, self.model_metadata),
            Route(f"{model}/ready", self.model_ready),
            Route(f"{version}/ready", self.model_ready),
            Route("/v2/repository/index", self.index, methods=["POST"]),
            Route("/v2/repository/models/{model}/load", self.load, methods=["POST"]),
            Route("/bundles", self.bundles),
            Route("/metrics", self.prometheus),
            Route("/openapi.json", self.openapi),
            Route("/", self.page),
        ]

    @contextlib.asynccontextmanager
    async def lifespan(self, app):
        yield
        self.stop()
        await asyncio.to_thread(self.repository.close)

    def stop(self):
        """Says from now on that it is not ready."""
        self.stopping = True

    async def live(self, request):
        return _json({"live": True})

    async def ready(self, request):
        return _json({"ready": not self.stopping}, 503 if self.stopping else 200)

    async def metadata(self, request):
        return _json({"name": "keras_vae_serving", "version": version(), "extensions": ["binary_tensor_data"]})

    async def model_metadata(self, request):
        name = request.path_params["model"]
        _, model = self.repository.find(name, request.path_params.get("version"))
        return _json(
            {
                "name": name,
                "versions": self.repository.versions(name),
                "platform": "onnxruntime_onnx" if model.name in ("encoder", "decoder", "elbo") else "keras_vae",
                "inputs": [_tensor(tensor) for tensor in model.inputs],
                "outputs": [_tensor(tensor) for tensor in model.outputs],
                "parameters": {"description": model.description, **model.parameters},
            }
        )

    async def model_ready(self, request):
        name = request.path_params["model"]
        self.repository.find(name, request.path_params.get("version"))
        return _json({"name": name, "ready": not self.stopping}, 503 if self.stopping else 200)

    async def index(self, request):
        return _json(
            [
                {"name": name, "version": version, "state": "READY", "reason": ""}
                for name in self.repository.names
                for version in self.repository.versions(name)
            ]
        )

    async def load(self, request):
        """Loads the bundle of a model again, from the folder that the server was started with."""
        if not self.has_token:
            raise ProtocolError(
                f"bundles are loaded again over HTTP only where a token is set (the environment variable "
                f"{TOKEN_VARIABLE}); send the server the signal SIGHUP instead.",
                status=403,
            )
        bundle, _ = self.repository.find(request.path_params["model"])
        await self.reload(bundle.name)
        return _json({})

    async def reload(self, name=None):
        """Serves what is in the folders now.

        Args:
            name: Of the bundle; None reloads all.

        Raises:
            ProtocolError: If a folder holds no bundle that runs; what was served before goes on being served.
        """
        async with self._loading:
            try:
                loaded = await asyncio.to_thread(self.repository.load_again, name)
            except Exception as error:  # whatever is wrong with a folder, the one in use is not
                self.metrics.loaded("refused")
                ours = isinstance(error, BundleError | ProviderError | OSError)
                _logger.error("not loaded, the bundle in use goes on serving: %s", error, exc_info=not ours)
                raise ProtocolError(
                    "the new bundle was refused, and the one in use goes on serving; the server's log says why.",
                    status=409,
                ) from None
            for bundle in self.repository.install(loaded):
                self.metrics.loaded("installed")
                _logger.info("loaded %s again", bundle.path)
                while bundle.users:
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(bundle.models.close)

    async def bundles(self, request):
        """What the page needs to know: the pipelines' own descriptions, and which latents matter."""
        found = []
        for bundle in self.repository.bundles:
            models, pipeline = bundle.models, bundle.models.pipeline
            found.append(
                {
                    "name": bundle.name,
                    "version": bundle.version,
                    "models": sorted(bundle.full_name(model) for model in models.by_name),
                    **pipeline.describe(),
                    "data_range": _finite(pipeline.manifest.data_range),
                    "prior": pipeline.manifest.prior,
                    "labels": pipeline.manifest.labels,
                    "latent_activity": await asyncio.to_thread(getattr, models, "latent_activity"),
                    "max_rows": models.max_rows,
                }
            )
        return _json(found)

    async def prometheus(self, request):
        return Response(self.metrics.text(self.repository.bundles), media_type=CONTENT_TYPE)

    async def openapi(self, request):
        return _json(openapi.document(self.repository, version(), self.has_token))

    async def page(self, request):
        return Response(await asyncio.to_thread(_PAGE.read_bytes), media_type="text/html", headers=_PAGE_HEADERS)


class _Infer:
    """The one route that must be fast: an ASGI application of its own, without the objects a route usually gets."""

    def __init__(self, server):
        self.server = server

    async def __call__(self, scope, receive, send):
        with _Held(self.server) as held:
            answer = await self._attempt(scope, receive, held)
            if answer is not None:
                await self._send(send, *answer)

    async def _attempt(self, scope, receive, held):
        """Status, headers and content of the answer; None if nobody waits for it any more."""
        started = time.perf_counter()
        server, path = self.server, scope["path_params"]
        name, status, headers, label = path["model"], 500, [], "unknown"
        try:
            server.repository.find(name, path.get("version"))  # before the body is read
            label = name
            length, json_length = _lengths(scope["headers"])
            self._check_length(length or 0)
            body = bytearray()
            async with asyncio.timeout(server.limits.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        status = 499  # as nginx calls a client that did not wait
                        return None
                    self._check_length(len(body) + len(message["body"]))
                    held.more(len(message["body"]))
                    body += message["body"]
                    more = message.get("more_body", False)
            content, headers = await self._answer(name, path.get("version"), body, json_length, held)
            status = 200
        except TimeoutError:
            status, content = 408, _error("the request did not arrive in time: send it again.")
        except asyncio.CancelledError:  # by a shutdown whose time is up
            status, content = 503, _error("the server is ending: send it again, to another.")
        except ProtocolError as error:
            status, content = error.status, _error(error)
        finally:
            server.metrics.answered(label, status, time.perf_counter() - started)
        if status == 503:
            headers = [(b"retry-after", b"1")]
        return status, headers, content

    async def _send(self, send, status, headers, content):
        headers.append((b"content-length", str(len(content)).encode()))
        if len(headers) == 1 or status != 200:
            headers.append((b"content-type", b"application/json"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        # In pieces: the server waits for a client that reads slowly before each, and not after the last.
        for start in range(0, len(content), _PIECE):
            piece = content if len(content) <= _PIECE else content[start : start + _PIECE]
            more = start + _PIECE < len(content)
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    async def _answer(self, name, version, body, json_length, held):
        bundle, model = self.server.repository.find(name, version)
        request = protocol.parse(body, json_length, model.numbers * bundle.models.max_rows)
        if request.outputs is not None:
            names = [tensor.name for tensor in model.outputs]
            unknown = [output for output in request.outputs if output not in names]
            if unknown:
                raise ProtocolError(f"{name} has no output {unknown[0][:50]!r}; it has {', '.join(names)}.")
        # No await from `find` to here: `reload` cannot end the bundle's threads in between.
        bundle.users += 1
        try:
            outputs = await bundle.models.run(model, request.inputs, request.parameters)
        finally:
            bundle.users -= 1
        if request.outputs is not None:
            outputs = {output: outputs[output] for output in request.outputs}
        held.more(sum(array.nbytes for array in outputs.values()))
        content, json_length = protocol.respond(request, name, bundle.version, outputs)
        held.more(len(content), refuse=False)  # in JSON it is larger
        if json_length is None:
            return content, []
        return content, [
            (b"content-type", b"application/octet-stream"),
            (b"inference-header-content-length", str(json_length).encode()),
        ]

    def _check_length(self, length):
        limit = self.server.limits.max_body
        if length > limit:
            raise ProtocolError(
                f"a request may have up to {limit:,} bytes here: send fewer examples, or in binary.", status=413
            )


class _Held:
    """The memory that one request and its answer take of what the server has set aside for all, until the end."""

    def __init__(self, server):
        self.server, self.size = server, 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.server.memory -= self.size

    def more(self, size, refuse=True):
        """Takes more; raises `Overloaded` where there is none."""
        if refuse and self.server.memory + size > self.server.limits.max_memory:
            raise Overloaded("other requests fill the memory set aside for them: try again in a second.")
        self.server.memory += size
        self.size += size


class _Door:
    """Lets in who says the word, and no page of another site.

    A browser sends a page's POST before it asks whether it may, and says in `Origin` whose page it was.
    """

    def __init__(self, app, token, origins, hosts):
        self.app, self.token, self.origins, self.hosts = app, token.encode(), origins, hosts

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and (refused := self._refused(scope)):
            return await refused(scope, receive, send)
        return await self.app(scope, receive, send)

    def _refused(self, scope):
        authorization, origin, host = b"", None, ""
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value
            elif name == b"origin":
                origin = value.decode("latin-1")
            elif name == b"host":
                host = value.decode("latin-1")
        if self.hosts is not None and host.rpartition(":")[0] not in self.hosts and host not in self.hosts:
            return _json({"error": f"this server answers to {', '.join(self.hosts)} only."}, 403)
        foreign = origin is not None and origin not in self.origins and origin.partition("://")[2] != host
        if foreign and scope["method"] == "POST":
            return _json({"error": "pages of other sites may not call this server: see --allow-origin."}, 403)
        # The page holds no secret and asks for the token; a load balancer looks at a server's health without one.
        if self.token and scope["path"] not in ("/", "/v2/health/live", "/v2/health/ready"):
            scheme, _, given = authorization.partition(b" ")
            if not hmac.compare_digest(given.strip(), self.token) or scheme.lower() != b"bearer":
                return _json(
                    {"error": "this server wants a token: send the header Authorization: Bearer TOKEN."},
                    401,
                    {"www-authenticate": "Bearer"},
                )
        return None


def version():
    """Of the distribution; "unknown" where the package was copied and not installed."""
    try:
        return importlib.metadata.version("keras-vae")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _lengths(headers):
    """How long the body, and its JSON part, are said to be."""
    length = json_length = None
    for name, value in headers:
        if name == b"content-length":
            length = int(value)  # of digits only: the HTTP parser saw to that
        elif name == b"inference-header-content-length":
            if not value.isdigit() or len(value) > 15:
                raise ProtocolError("the header Inference-Header-Content-Length must be a number of bytes.")
            json_length = int(value)
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise ProtocolError("compressed requests are not read: send the tensors in binary as they are.", status=415)
    return length, json_length


def _tensor(tensor):
    shape = [size if isinstance(size, int) else -1 for size in tensor.shape]
    return {"name": tensor.name, "datatype": protocol.datatype(tensor.dtype), "shape": shape}


def _finite(limits):
    return limits and [None if abs(end) == float("inf") else end for end in limits]


def _error(error):
    return orjson.dumps({"error": str(error)})


def _json(value, status=200, headers=None):
    content = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, status, headers, media_type="application/json")


def _on_protocol_error(request, error):
    return _json({"error": str(error)}, error.status)


def _on_http_error(request, error):
    sentences = {
        404: "there is nothing here: the protocol is under /v2, a page at /, and /openapi.json lists all paths.",
        405: f"this path does not take {request.method}.",
    }
    return _json({"error": sentences.get(error.status_code, error.detail)}, error.status_code, error.headers)


def _on_bug(request, error):  # Starlette raises it again, so that it is logged
    return _json({"error": "the server made a mistake, which is in its log: please report it."}, 500)

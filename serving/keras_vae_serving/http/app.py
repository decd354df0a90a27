"""The ASGI application, put together."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from keras_vae_serving.errors import RequestError
from keras_vae_serving.http.access import AccessControl, token_of_environment
from keras_vae_serving.http.budget import Limits
from keras_vae_serving.http.infer import Infer, Shortcut
from keras_vae_serving.http.metrics import Metrics
from keras_vae_serving.http.responses import on_bug, on_http_error, on_request_error
from keras_vae_serving.http.routes import HttpServer
from keras_vae_serving.repository import Repository


def create_app(
    bundles: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    token: str | None = None,
    allow_origins: Sequence[str] = (),
    hosts: Sequence[str] | None = None,
    limits: Limits | None = None,
    **settings: Any,
) -> Starlette:
    """The ASGI application, for uvicorn, Ray Serve or any other server.

    Args:
        bundles: Path, or list of `PATH`, `NAME=PATH` or `NAME:VERSION=PATH`; see `Repository`.
        token: Token that clients must send as `Authorization: Bearer TOKEN`, except for the page and the health of the
            server; by default that of the environment variable KERAS_VAE_TOKEN, if it is set. "" asks for none.
        allow_origins: Origins whose pages may use this server from a browser (CORS); by default only its own.
        hosts: Names that the server answers to, without a port; None for any. This keeps out pages whose owner has
            pointed their name at 127.0.0.1.
        limits: Limits on requests and memory.
        **settings: `max_rows`, `providers`, `precision`, `threads`, `max_batch` and `max_queue`; see `Endpoints`.

    Raises:
        BundleError, ProviderError: If a bundle cannot be served.
        ValueError: If the environment variable is set to nothing, or to something that no header can hold.
    """
    if token is None:
        token = token_of_environment()
    origins = [origin.rstrip("/") for origin in allow_origins]
    metrics = Metrics()
    server = HttpServer(Repository(bundles, on_batch=metrics.ran, **settings), metrics, limits or Limits(), bool(token))
    middleware = []
    if origins:  # outermost: a browser asks for permission without a token
        allowed: dict[str, Any] = {"allow_origins": origins, "allow_methods": ["GET", "POST"], "allow_headers": ["*"]}
        middleware.append(Middleware(CORSMiddleware, expose_headers=["inference-header-content-length"], **allowed))
    middleware.append(Middleware(AccessControl, token=token or "", origins=origins, hosts=hosts))
    routes = server.routes()
    infer = [route for route in routes if isinstance(route.endpoint, Infer)]
    middleware.append(Middleware(Shortcut, routes=infer))
    app = Starlette(
        routes=routes,
        middleware=middleware,
        lifespan=server.lifespan,
        exception_handlers={
            RequestError: on_request_error,
            HTTPException: on_http_error,
            Exception: on_bug,
        },
    )
    app.router.redirect_slashes = False  # to a host that the client names, at that
    app.state.server = server
    return app

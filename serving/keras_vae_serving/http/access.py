"""Who may ask: a token, the names that the server answers to, and the sites whose pages may call it."""

import hmac
import os
from collections.abc import Sequence
from typing import Any

from keras_vae_serving.http.responses import json_response

TOKEN_VARIABLE: str = "KERAS_VAE_TOKEN"


def token_of_environment() -> str | None:
    """The token in KERAS_VAE_TOKEN, or None; raises a ValueError if it cannot be a token."""
    token = os.environ.get(TOKEN_VARIABLE)
    if token is not None and not (token and token.isascii() and token.isprintable() and token == token.strip()):
        raise ValueError(
            f"the environment variable {TOKEN_VARIABLE} is set, but empty, or has spaces around it or signs in it that "
            "no header can hold: unset it to ask for no token, or set another."
        )
    return token


class AccessControl:
    """Bearer-token check, Host allow-list and Origin check for POST, as ASGI middleware.

    A browser sends the POST of a page before it asks whether it may, and names the page's site in `Origin`.

    Args:
        app: ASGI application behind it.
        token: Token that clients must send; empty for none.
        origins: Other sites whose pages may send a POST.
        hosts: Names that the server answers to, without a port; None for any.
    """

    def __init__(self, app: Any, token: str, origins: Sequence[str], hosts: Sequence[str] | None) -> None:
        self._app, self._token, self._origins, self._hosts = app, token.encode(), origins, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (refused := self._refused(scope)):
            return await refused(scope, receive, send)
        return await self._app(scope, receive, send)

    def _refused(self, scope):
        authorization, origin, host = b"", None, ""
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value
            elif name == b"origin":
                origin = value.decode("latin-1")
            elif name == b"host":
                host = value.decode("latin-1")
        if self._hosts is not None and host.rpartition(":")[0] not in self._hosts and host not in self._hosts:
            return json_response({"error": f"ask this server by one of its names: {', '.join(self._hosts)}."}, 403)
        foreign = origin is not None and origin not in self._origins and origin.partition("://")[2] != host
        if foreign and scope["method"] == "POST":
            return json_response({"error": "pages of other sites may not call this server: see --allow-origin."}, 403)
        # The page holds no secret and asks for the token; a load balancer looks at a server's health without one.
        if self._token and scope["path"] not in ("/", "/v2/health/live", "/v2/health/ready"):
            scheme, _, given = authorization.partition(b" ")
            if not hmac.compare_digest(given.strip(), self._token) or scheme.lower() != b"bearer":
                return json_response(
                    {"error": "this server wants a token: send the header Authorization: Bearer TOKEN."},
                    401,
                    {"www-authenticate": "Bearer"},
                )
        return None

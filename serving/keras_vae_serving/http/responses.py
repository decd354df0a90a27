"""Responses in JSON, and the one way to fail: `{"error": "..."}` with a sentence that says what to do."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from keras_vae_serving.errors import RequestError


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value, which may hold NumPy arrays, as a response."""
    content = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, status, headers, media_type="application/json")


def error_content(error: RequestError | str) -> bytes:
    """The body of an error."""
    return orjson.dumps({"error": str(error)})


def on_request_error(request: Request, error: Any) -> Response:
    """Handler of `RequestError`."""
    return json_response({"error": str(error)}, error.status)


def on_http_error(request: Request, error: Any) -> Response:
    """Handler of Starlette's own errors."""
    allowed = ", ".join(sorted((error.headers or {}).get("Allow", "another method").split(", ")))
    sentences = {
        404: "there is nothing here: the protocol is under /v2, a page at /, and /openapi.json lists all paths.",
        405: f"this path does not take {request.method}: use {allowed}.",
    }
    return json_response({"error": sentences.get(error.status_code, error.detail)}, error.status_code, error.headers)


def on_bug(request: Request, error: Exception) -> Response:
    """Handler of everything else; Starlette raises the error again, so that it is logged."""
    return json_response({"error": "the server made a mistake, which is in its log: please report it."}, 500)

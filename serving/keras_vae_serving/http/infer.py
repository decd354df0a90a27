"""The one route that must be fast: an ASGI application of its own, without the objects a route usually gets."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

from starlette.routing import Route

from keras_vae_serving.errors import RequestError
from keras_vae_serving.http import protocol, rows
from keras_vae_serving.http.budget import MemoryLease
from keras_vae_serving.http.responses import error_content

_PIECE = 2**16  # bytes of an answer that are written at a time
_MANY = 20_000  # cells of rows that are read or written in some milliseconds


class Shortcut:
    """Middleware that leads to `Infer`, past Starlette's routes and handlers, which take an eighth of a small request.

    Args:
        app: ASGI application that gets all other requests.
        routes: Those of the server whose endpoint is an `Infer`.
    """

    def __init__(self, app: Any, routes: Sequence[Route]) -> None:
        self._app, self._routes = app, [(route.path_regex, route.endpoint) for route in routes]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes one request on."""
        if scope["type"] == "http" and scope["method"] == "POST":
            for pattern, infer in self._routes:
                if path := pattern.match(scope["path"]):
                    scope["path_params"] = path.groupdict()
                    return await infer(scope, receive, send)
        return await self._app(scope, receive, send)


class Infer:
    """The ASGI application of the route.

    Args:
        server: `HttpServer`, for its repository, limits and metrics.
    """

    def __init__(self, server: Any) -> None:
        self._server = server

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers one request."""
        with MemoryLease(self._server) as lease:
            answer = await self._attempt(scope, receive, lease)
            if answer is not None:
                await self._send(send, *answer)

    async def _attempt(self, scope, receive, lease):
        """Status, headers and content of the answer; None if the client has gone."""
        started = time.perf_counter()
        server, path = self._server, scope["path_params"]
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
                    lease.reserve(len(message["body"]))
                    body += message["body"]
                    more = message.get("more_body", False)
            content, headers = await self._answer(name, path.get("version"), body, json_length, lease)
            status = 200
        except TimeoutError:
            status, content = 408, error_content("the request did not arrive in time: send it again.")
        except asyncio.CancelledError:  # by a shutdown whose time is up
            status, content = 503, error_content("the server is ending: send it again, to another.")
        except RequestError as error:
            status, content = error.status, error_content(error)
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

    async def _answer(self, name, version, body, json_length, lease):
        bundle, endpoint = self._server.repository.find(name, version)
        max_numbers = endpoint.numbers_per_example * bundle.endpoints.max_rows
        request = protocol.parse(body, json_length, max_numbers, lambda: how(name, bundle, endpoint))
        if request.outputs is not None:
            names = [tensor.name for tensor in endpoint.outputs]
            unknown = [output for output in request.outputs if output not in names]
            if unknown:
                raise RequestError(f"{name} has no output {unknown[0][:50]!r}; it has {', '.join(names)}.")
        with _in_use(bundle):
            outputs = await bundle.endpoints.run(endpoint, request.inputs, request.parameters)
        if request.outputs is not None:
            absent = next((output for output in request.outputs if output not in outputs), None)
            if absent is not None:
                raise RequestError(
                    f"{name} gives {absent!r} only where a parameter asks for it: it takes "
                    f"{', '.join(endpoint.parameters)}; this request gives {', '.join(outputs)}."
                )
            outputs = {output: outputs[output] for output in request.outputs}
        lease.reserve(sum(array.nbytes for array in outputs.values()))
        content, json_length = protocol.respond(request, name, bundle.version, outputs)
        lease.reserve(len(content), refuse=False)  # in JSON it is larger
        if json_length is None:
            return content, []
        return content, [
            (b"content-type", b"application/octet-stream"),
            (b"inference-header-content-length", str(json_length).encode()),
        ]

    def _check_length(self, length):
        limit = self._server.limits.max_body
        if length > limit:
            raise RequestError(
                f"a request may have up to {limit:,} bytes here: send fewer examples, or in binary.", status=413
            )


class InferRows(Infer):
    """The same for rows of a table by the names of their columns, see `rows.py`."""

    async def _answer(self, name, version, body, json_length, lease):
        bundle, endpoint = self._server.repository.find(name, version)
        if not takes_rows(bundle, endpoint):
            raise RequestError(how(name, bundle, endpoint), status=404)
        verbs, verb = bundle.endpoints.pipeline.verbs, endpoint.name
        table = verbs.inputs.table
        instances, parameters = rows.parse(body, verb, bundle.endpoints.max_rows)
        if parameters.get("per_dimension"):
            raise RequestError('the surprise of a row is that of its columns: ask for more "top_columns".')
        parameters = rows.defaults(verb, verbs.can_tell_where, verbs.inputs.manifest.draws is not None) | parameters
        cells = len(instances or ()) * len(table.columns)
        with _in_use(bundle):
            inputs = {"x": await _aside(cells, table.to_array, instances)} if instances else {}
            outputs = await bundle.endpoints.run(endpoint, inputs, parameters)
        size = sum(array.nbytes for array in outputs.values())
        lease.reserve(size)
        content = await _aside(size // 4, rows.respond, table, outputs, instances)
        lease.reserve(len(content), refuse=False)
        return content, []


@contextlib.contextmanager
def _in_use(bundle):
    """Keeps the threads of a bundle from being ended by `reload`; no await from `find` to here."""
    bundle.users += 1
    try:
        yield
    finally:
        bundle.users -= 1


async def _aside(numbers, function, *arguments):
    """A function's result; of many numbers it runs in a thread, so that others are answered meanwhile."""
    return await asyncio.to_thread(function, *arguments) if numbers > _MANY else function(*arguments)


def takes_rows(bundle: Any, endpoint: Any) -> bool:
    """Whether an endpoint of a bundle takes rows, or gives them: without a condition, for which a row has no place."""
    inputs = bundle.endpoints.pipeline.inputs
    return inputs.table is not None and not inputs.is_conditional and endpoint.name in rows.VERBS


def how(name: str, bundle: Any, endpoint: Any) -> str:
    """What to send to an endpoint instead of a request of version 1."""
    if takes_rows(bundle, endpoint):
        return rows.how(name, endpoint.name)
    return protocol.version_2(name, endpoint.inputs)


def _lengths(headers):
    """Stated number of bytes of the body and of its JSON part."""
    length = json_length = None
    for name, value in headers:
        if name == b"content-length":
            length = int(value)  # of digits only: the HTTP parser saw to that
        elif name == b"inference-header-content-length":
            if not value.isdigit() or len(value) > 15:
                raise RequestError("the header Inference-Header-Content-Length must be a number of bytes.")
            json_length = int(value)
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise RequestError("compressed requests are not read: send the tensors in binary as they are.", status=415)
    return length, json_length

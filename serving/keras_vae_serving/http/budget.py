"""How much of this machine clients may use."""

from dataclasses import dataclass
from typing import Any

from keras_vae_serving.errors import Overloaded


@dataclass(frozen=True)
class Limits:
    """Limits of one server.

    Args:
        max_body: Number of bytes of one request.
        max_memory: Number of bytes of all requests and responses in flight.
        body_seconds: Seconds that a client may take to send one request.
    """

    max_body: int = 8 * 2**20
    max_memory: int = 128 * 2**20
    body_seconds: float = 30.0


class MemoryLease:
    """Memory reserved by one request and its response, released at exit.

    Args:
        server: `HttpServer`, whose `memory` counts all leases.
    """

    def __init__(self, server: Any) -> None:
        self._server, self._size = server, 0

    def __enter__(self) -> "MemoryLease":
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.memory -= self._size

    def reserve(self, size: int, refuse: bool = True) -> None:
        """Reserves more bytes; raises `Overloaded` if there is no room and `refuse` is set."""
        if refuse and self._server.memory + size > self._server.limits.max_memory:
            raise Overloaded("other requests fill the memory set aside for them: try again in a second.")
        self._server.memory += size
        self._size += size

"""uvicorn, with what it leaves open closed: clients that never finish a sentence, never listen, or come in crowds.

uvicorn drops a connection that is idle after an answer, but waits for ever for a first request, for the end of a
request's head, and for a client that does not read; and it answers what is not HTTP in plain text. The time for a
request's body is limited by the application.
"""

import asyncio
import gc
import signal
import socket
import threading

import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10  # for the head of a request to arrive
READ_SECONDS = 60  # for a client to read an answer
MAX_CONNECTIONS = 1000


class Protocol(HttpToolsProtocol):
    """One connection."""

    _head = _reading = None  # timers

    def connection_made(self, transport):
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(b"503 Service Unavailable\r\nretry-after: 1", "too many connections: try again in a second.")
        else:
            self._head = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def data_received(self, data):
        if self.transport.is_closing():
            return
        super().data_received(data)
        waiting = self.cycle is None or self.cycle.response_complete
        if waiting and self._head is None and self.timeout_keep_alive_task is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def on_headers_complete(self):
        self._head = _cancelled(self._head)
        super().on_headers_complete()

    def pause_writing(self):
        super().pause_writing()
        self._reading = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self):
        self._reading = _cancelled(self._reading)
        super().resume_writing()

    def timeout_keep_alive_handler(self):
        super().timeout_keep_alive_handler()
        self.loop.call_later(READ_SECONDS, self.transport.abort)  # closing waits for the client to read

    def eof_received(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        # A client that has said all it wanted and now only listens gets its answer; uvicorn would hang up.
        if self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            return True
        return None

    def connection_lost(self, exc):
        self._head, self._reading = _cancelled(self._head), _cancelled(self._reading)
        super().connection_lost(exc)

    def send_400_response(self, msg):
        self._refuse(b"400 Bad Request", "this is not HTTP that the server understands.")

    def _give_up(self):
        self._head = None
        self._refuse(b"408 Request Timeout", "the request did not arrive in time: send it again.")

    def _refuse(self, status, sentence):
        content = orjson.dumps({"error": sentence})
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, len(content)) + content)
        self.transport.close()


class Server(uvicorn.Server):
    """Ends on SIGTERM and Ctrl-C when all requests in hand are answered; calls back when ready, and on SIGHUP."""

    def __init__(self, config, on_ready, on_hangup):
        super().__init__(config)
        self._on_ready, self._on_hangup = on_ready, on_hangup

    async def startup(self, sockets=None):
        await super().startup(sockets)
        if self.started:
            if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_hangup)
            self._on_ready()


def run(app, listener: socket.socket, on_ready, on_hangup, access_log=False, shutdown_seconds=30):
    """Serves until told to stop.

    Args:
        app: The ASGI application.
        listener: A bound socket.
        on_ready: Called when requests are accepted.
        on_hangup: Called, in the event loop, on SIGHUP.
        access_log: Whether each request is a line on standard error; it costs about a third of the throughput.
        shutdown_seconds: How long requests in hand may take after SIGTERM.
    """
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        access_log=access_log,
        log_level="info" if access_log else "warning",
        server_header=False,
        timeout_graceful_shutdown=shutdown_seconds,
        timeout_keep_alive=75,
    )
    # Python looks for cycles each time that 700 objects are new, of which a request in JSON has thousands and no cycle:
    # measured, it tripled the time to read 15 MB of brackets. What has been loaded by now stays, and is not looked at.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    Server(config, on_ready, on_hangup).run(sockets=[listener])


def _cancelled(timer):
    if timer is not None:
        timer.cancel()

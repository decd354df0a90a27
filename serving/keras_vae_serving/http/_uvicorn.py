"""uvicorn with limits on header time, header size, pipelining, read time and connections.

uvicorn drops a connection that is idle after an answer, but waits for ever for a first request, for the end of a
request's head, and for a client that does not read. It takes heads and queues of any size (measured: 60 MB of headers
took 1.4 GB, 40 MB of requests in a row 4.3 GB), and answers in plain text if the request is not HTTP. The application
limits the time for a request's body.
"""

import asyncio
import gc
import signal
import threading
from typing import Any

import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10  # for the head of a request to arrive
READ_SECONDS = 60  # for a client to read what was written
MAX_CONNECTIONS = 1000
MAX_HEAD = 2**16  # bytes of a request that are not its body
MAX_PIPELINED = 16  # requests that wait, on one connection, for the one before


class Protocol(HttpToolsProtocol):
    """One connection."""

    _head = _leaving = None  # timers
    _begun = False  # whether the head of a request is under way
    _beside = 0  # bytes of a request that are not its body
    _deaf = False  # whether further input is ignored: the answers in hand are the last
    _refusal = (b"400 Bad Request", "this is no request that the server understands: send HTTP/1.1, without TLS.")

    def connection_made(self, transport):
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(b"503 Service Unavailable\r\nretry-after: 1", "too many connections: try again in a second.")
        else:
            self._head = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def data_received(self, data):
        if self._deaf or self.transport.is_closing():
            return
        self._beside += len(data)
        super().data_received(data)
        if self._beside > MAX_HEAD and not self.transport.is_closing():
            self._refuse(
                b"431 Request Header Fields Too Large", f"the head of a request may have {MAX_HEAD} bytes: send fewer."
            )
            return
        waiting = self.cycle is None or self.cycle.response_complete
        if waiting and self._head is None and self.timeout_keep_alive_task is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def on_message_begin(self):
        self._begun = True
        super().on_message_begin()

    def on_headers_complete(self):
        self._head, self._beside, self._begun = _cancelled(self._head), 0, False
        parser: Any = self.parser
        if parser.should_upgrade() and not {b"content-length", b"transfer-encoding"}.isdisjoint(
            name for name, _ in self.headers
        ):
            # httptools skips the body of such a request, and would read it as the next one.
            self._refusal = (b"400 Bad Request", "this server speaks HTTP/1.1: leave out the header Upgrade.")
            raise ValueError
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refusal = (b"503 Service Unavailable\r\nretry-after: 1", "wait for answers before you ask for more.")
            raise ValueError
        super().on_headers_complete()
        if self.scope["method"] != "HEAD":  # which has no body to wait for
            self.cycle.transport = _Answer(self.transport, self.cycle)  # pyright: ignore[reportAttributeAccessIssue]
        self.headers = []  # what follows the body is not kept

    def on_body(self, body):
        self._beside -= 2 * len(body)  # around small chunks there may be as much again
        super().on_body(body)

    def on_message_complete(self):
        self._beside = 0
        super().on_message_complete()

    def on_response_complete(self):
        super().on_response_complete()
        if self.transport.is_closing():
            self._leave()

    def pause_writing(self):
        super().pause_writing()
        self._leave()

    def resume_writing(self):
        if not self.transport.is_closing():  # or what is left, which may be little, waits without a limit
            self._leaving = _cancelled(self._leaving)
        super().resume_writing()

    def timeout_keep_alive_handler(self):
        super().timeout_keep_alive_handler()
        self._leave()

    def eof_received(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        # A client that has said all it wanted and now only listens gets its answer; uvicorn would hang up.
        if self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            return True
        self._leave()
        return None

    def connection_lost(self, exc):
        self._head, self._leaving = _cancelled(self._head), _cancelled(self._leaving)
        super().connection_lost(exc)

    def send_400_response(self, msg):
        if self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body:
            self._deaf, self.cycle.keep_alive = True, False  # a refusal would be taken for that request's answer
        else:
            self._refuse(*self._refusal)

    def _unsupported_upgrade_warning(self):
        """No warning: a client that asks for a newer HTTP is answered in this one."""

    def _give_up(self):
        self._head = None
        if self._begun or self.cycle is None:
            self._refuse(b"408 Request Timeout", "the request did not arrive in time: send it again.")
        else:  # the rest of a body that was refused unread: there is nothing to answer
            self._close()

    def _close(self):
        self.transport.close()
        self._leave()

    def _leave(self):
        """Limits the time in which a client reads what was written; closing alone would wait for ever."""
        if self._leaving is None:
            self._leaving = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def _refuse(self, status, sentence):
        content = orjson.dumps({"error": sentence})
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, len(content)) + content)
        self._close()


class _Answer:
    """The transport of one answer, which writes the head together with the first piece of the body.

    uvicorn writes them one by one: two system calls, and a client that is woken up twice.
    """

    def __init__(self, transport, cycle):
        self._transport, self._cycle = transport, cycle
        self._head = None  # then, its bytes; then, once it is written, none
        self.is_closing = transport.is_closing

    def write(self, data):
        if self._cycle.response_started and self._head is None:
            self._head = data
        else:  # or it is 100 Continue
            self._transport.write(self._head + data if self._head else data)
            self._head = self._head and b""

    def close(self):
        if self._head:  # the application failed after it
            self._transport.write(self._head)
        self._transport.close()


class UvicornServer(uvicorn.Server):
    """Ends on SIGTERM and Ctrl-C when the requests in hand are answered.

    Args:
        app: ASGI application.
        on_ready: Called when requests are accepted.
        on_stopping: Called when requests are no longer accepted.
        on_hangup: Called, in the event loop, on SIGHUP.
        access_log: Whether each request is a line on standard error; it costs about a third of the throughput.
        shutdown_seconds: Seconds that requests in hand may take then.
    """

    def __init__(self, app, on_ready, on_stopping, on_hangup, access_log=False, shutdown_seconds=30):
        super().__init__(
            uvicorn.Config(
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
        )
        self._on_ready, self._on_stopping, self._on_hangup = on_ready, on_stopping, on_hangup

    async def startup(self, sockets=None):
        await super().startup(sockets)
        if self.started:
            if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_hangup)
            self._on_ready()

    async def shutdown(self, sockets=None):
        self._on_stopping()
        await super().shutdown(sockets)

    def run(self, sockets=None):
        # Python looks for cycles each time that 700 objects are new, of which a request in JSON has thousands and no
        # cycle: measured, it tripled the time to read 15 MB of brackets. What has been loaded by now stays.
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)
        super().run(sockets)


def _cancelled(timer):
    if timer is not None:
        timer.cancel()

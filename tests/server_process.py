"""The server as its users start it: a process of its own, and requests over sockets."""

import contextlib
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading

import httpx

import oip

SERVING = pathlib.Path(__file__).parents[1] / "serving"


class Running:
    """A server that is ready.

    Attributes:
        url, port: Where it is.
        process: Its `subprocess.Popen`.
        lines: What it has printed so far.
    """

    def __init__(self, process, lines, url):
        self.process, self.lines, self.url = process, lines, url
        self.port = int(url.rpartition(":")[2])
        self.client = httpx.Client(base_url=url, timeout=60)

    def infer(self, model, inputs, client=None, version=None, **request):
        """The outputs of a model, by name; raises an `httpx.HTTPStatusError` where it fails."""
        done = self.post(model, inputs, client, version, **request)
        if done.is_error:
            raise httpx.HTTPStatusError(f"{done.status_code} {done.text}", request=done.request, response=done)
        return oip.outputs(done.content, done.headers)

    def post(self, model, inputs, client=None, version=None, **request):
        """The answer to a request for a model, whatever it is."""
        body, headers = oip.request(inputs, **request)
        path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"
        return (client or self.client).post(path, content=body, headers=headers)

    def error(self, status, model, inputs, **request):
        """The sentence with which a request is refused."""
        done = self.post(model, inputs, **request)
        assert done.status_code == status, done.text
        assert done.headers["content-type"] == "application/json"
        assert list(done.json()) == ["error"]
        return done.json()["error"]

    def connect(self):
        """A bare socket."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def raw(self, data, close=True):
        """What the server sends back for these bytes until it ends the connection, or `close` ends it."""
        with self.connect() as connection:
            with contextlib.suppress(OSError):  # it may hang up before it has heard all
                connection.sendall(data)
                if close:
                    connection.shutdown(socket.SHUT_WR)
            return read_all(connection)

    def resident_mebibytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


def read_answer(connection):
    """One answer, which may come in pieces."""
    answer = b""
    while (found := re.search(rb"content-length: (\d+)\r\n", answer)) is None or len(
        answer.partition(b"\r\n\r\n")[2]
    ) < int(found[1]):
        part = connection.recv(65536)
        assert part, f"the connection ended after {answer!r}"
        answer += part
    return answer


def read_all(connection):
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


@contextlib.contextmanager
def running(*arguments, python=sys.executable, environment=None, port=0):
    """Starts a server on a free port, or this one, and ends it; yields a `Running`."""
    command = [python, "-m", "keras_vae_serving", *map(str, arguments), "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(SERVING), "PYTHONUNBUFFERED": "1", **(environment or {})}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    lines, ready, url = [], threading.Event(), []

    def read():
        for line in process.stdout:
            lines.append(line.rstrip())
            if found := re.match(r"Page: (http\S+)/ ", line):
                url.append(found[1])
                ready.set()
        ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert ready.wait(120), "the server did not start"
        assert url, "\n".join(lines)
        yield Running(process, lines, url[0])
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()

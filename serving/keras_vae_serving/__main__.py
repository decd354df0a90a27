"""`python -m keras_vae_serving BUNDLE`, which is also `keras-vae serve BUNDLE`: a bundle over HTTP, and a page."""

import argparse
import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Sequence

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")
MISSING: str = 'the server needs {}: pip install "keras-vae[serving]".'


def main(arguments: Sequence[str] | None = None, prog: str = "python -m keras_vae_serving") -> int:
    """Runs the command line and returns its exit code."""
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    missing = [name for name in ("starlette", "uvicorn", "orjson", "httptools", "prometheus_client") if _lacks(name)]
    if missing:
        return _failed(prog, MISSING.format(", ".join(missing)))
    # Imported here, so that --help works without these packages.
    from keras_vae_serving import http
    from keras_vae_serving.http import _uvicorn
    from keras_vae_serving.manifest import BundleError
    from keras_vae_serving.providers import ProviderError

    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server listens to it
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RuntimeWarning)
            app = http.create_app(
                options.bundles,
                allow_origins=options.allow_origin,
                # Without a token, others are kept out because only this machine can ask.
                hosts=_LOOPBACK if options.host in _LOOPBACK and not os.environ.get(http.TOKEN_VARIABLE) else None,
                limits=http.Limits(
                    max_body=options.max_body * 2**20,
                    max_memory=max(8 * options.max_body, 128) * 2**20,
                    body_seconds=options.body_seconds,
                ),
                max_rows=options.max_rows,
                providers=options.providers,
                precision=options.precision,
                threads=options.threads,
                max_batch=options.max_batch,
                max_queue=options.max_queue,
            )
        listener = _listen(options.host, options.port)
    except (BundleError, ProviderError, OSError, ValueError) as error:
        return _failed(prog, " ".join(str(error).split()))
    for warning in caught:
        print(f"Note: {warning.message}")
    serving = app.state.server
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def ready():
        print(f"Serving {', '.join(serving.repository.names)}", flush=True)
        print(f"Page: {address}/   Protocol: {address}/v2   Documentation: {address}/openapi.json", flush=True)
        if not serving.has_token and host not in ("127.0.0.1", "::1"):
            print(f"Note: anybody who reaches {host} can use it; set {http.TOKEN_VARIABLE} to ask for a token.")
        print("Ctrl-C ends it when the requests in hand are answered.", flush=True)

    def hangup():
        task = asyncio.get_running_loop().create_task(serving.reload())
        task.add_done_callback(lambda done: done.exception())  # was logged

    # uvicorn raises the signal again when it has ended in order.
    with contextlib.suppress(KeyboardInterrupt):
        _uvicorn.UvicornServer(app, ready, serving.stop, hangup, options.access_log, options.shutdown_seconds).run(
            sockets=[listener]
        )
    return 0


def _parser(prog):
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Serve exported bundles over HTTP (Open Inference Protocol, version 2), with a page. "
        "Clients must send a token if the environment variable KERAS_VAE_TOKEN is set. SIGHUP loads the bundles again.",
        allow_abbrev=False,
    )
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="a folder, or NAME=FOLDER, or NAME:VERSION=FOLDER")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default 127.0.0.1: this machine only)")
    parser.add_argument("--port", type=_port, default=8000, help="default 8000; 0 takes a free one")
    parser.add_argument("--providers", choices=("auto", "cpu", "cuda"), default="auto", help="where graphs run")
    parser.add_argument("--precision", choices=("float32", "float16", "int8"), default="float32", help="of the graphs")
    parser.add_argument("--threads", type=_count, default=1, help="inside an operator (default 1)")
    parser.add_argument("--max-batch", type=_count, default=64, help="examples that are run at once (default 64)")
    parser.add_argument("--max-rows", type=_count, default=1024, help="examples in one request (default 1024)")
    parser.add_argument("--max-queue", type=_count, default=4096, help="examples that wait, per graph (default 4096)")
    parser.add_argument("--max-body", type=_count, default=8, metavar="MIB", help="of one request (default 8)")
    parser.add_argument("--body-seconds", type=_count, default=30, help="for a request to arrive (default 30)")
    parser.add_argument("--shutdown-seconds", type=_count, default=30, help="for requests in hand (default 30)")
    parser.add_argument(
        "--allow-origin", action="append", default=[], metavar="URL", help="a site whose pages may call this server"
    )
    parser.add_argument("--access-log", action="store_true", help="a line for each request; costs throughput")
    return parser


def _listen(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        known = (error.errno or 0) > 0  # the error numbers of unknown names are of another kind
        reason = os.strerror(error.errno or 0) if known else error.strerror or error
        raise OSError(f"cannot listen on {host}:{port} ({reason}): choose another --port or --host.") from None


def _lacks(name):
    return importlib.util.find_spec(name) is None


def _count(text):
    return _whole_number(text, 1, 2**31)


def _port(text):
    return _whole_number(text, 0, 2**16 - 1)


def _whole_number(text, least, most):
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}; got {text!r}")
    return int(text)


def _failed(prog, sentence):
    print(f"{prog}: {sentence}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

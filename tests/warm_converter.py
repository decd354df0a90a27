"""Conversions for the tests without the eight seconds of imports that each process of an engine begins with.

A process for each engine has imported everything and done nothing. It forks for each conversion, so that the child
starts as a fresh process does: no counter in a name has moved and no class of an earlier model is registered. That the
files are the same to the last byte is tested in `export/test_bundle.py` and `export/test_converters.py`.

    with warm_converter.use():
        keras_vae_export.export(...)
"""

import contextlib
import importlib
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import traceback

import keras_vae_export.converters as converters


@contextlib.contextmanager
def use():
    """Until the end of the block, every conversion is made by a fork of a process that is started on first use."""
    processes, before = {}, converters.start_process

    def start(archive, engine, folder):
        if engine not in processes:
            processes[engine] = _start_server(engine)
        return _convert(processes[engine], archive, engine, folder)

    converters.start_process = start if hasattr(os, "fork") else before
    try:
        yield
    finally:
        converters.start_process = before
        for process in processes.values():
            process.stdin.close()
            process.wait()
            process.stdout.close()


def _start_server(engine):
    command = [sys.executable, "-P", __file__, engine]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=converters.environment(engine), stdin=pipe, stdout=pipe, text=True)


def _convert(server, archive, engine, folder):
    """Has the server convert a model; returns what a finished process of its own would."""
    with tempfile.TemporaryDirectory() as log:
        request = {
            "arguments": [str(archive), engine, str(folder)],
            "environment": converters.environment(engine),
            "path": [entry or os.getcwd() for entry in sys.path if isinstance(entry, str)],
            "cwd": os.getcwd(),
            "stderr": f"{log}/stderr",
        }
        print(json.dumps(request), file=server.stdin, flush=True)
        answer = server.stdout.readline()
        if not answer:
            raise RuntimeError(f"The warm process of the {engine} engine ended with code {server.wait()}.")
        stderr = pathlib.Path(request["stderr"]).read_text(errors="replace")
        return subprocess.CompletedProcess(request["arguments"], int(answer), "", stderr)


def _serve(engine):
    """Answers each request, a line of JSON, with the exit code of the child that converted."""
    main = importlib.import_module("keras_vae_export.converters.__main__").main
    importlib.import_module(f"keras_vae_export.converters.{engine}")
    own_path = list(sys.path)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an import or a child prints is no answer
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _convert_and_exit(main, json.loads(line), own_path)
        print(_exit_code(child), file=answers, flush=True)
    os._exit(0)  # without taking a framework apart, which takes seconds


def _exit_code(child, seconds=180):
    """The exit code of a process, which is killed after a time: one that waits for a thread would wait for ever."""
    deadline = time.monotonic() + seconds
    while True:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            deadline = math.inf
        time.sleep(0.01)


def _convert_and_exit(main, request, own_path):
    code = 1
    try:
        log = os.open(request["stderr"], os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["cwd"])
        sys.path[:] = dict.fromkeys([*request["path"], *own_path])
        main(*request["arguments"])
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1])

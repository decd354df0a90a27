"""How many requests a second the server answers, beside onnxruntime without a server and two other servers.

    python benchmarks/serving.py

wrk asks for the decoder's answer to one z, in JSON and in binary, over 1, 16 and 64 connections that it keeps busy. It
asks `python -m keras_vae_serving`, MLServer and the KServe SDK: the same file, onnxruntime on the CPU with one thread,
in one process, without a log of requests. `session.run` in a loop is what no server exceeds at batch 1. A server whose
answer is not that of `session.run` is not loaded, and a figure with one error in it does not count.

The load and the server share the machine. In each repeat everything is measured anew, server after server, so that a
minute in which the machine is slow is slow for all; the figures are medians. Also measured: the time from the start of
the server's process until it is ready, its memory, its CPU time for a request (which depends least on what else the
machine does), what its environment takes on disk, and what the checks of `Pipeline` add to a bare `session.run`.

Environments with pinned versions are made on demand, below --environments; once they are there, it takes less than six
minutes. Writes benchmarks/serving.csv, all
quantities with the lowest and the highest value, and the tables of serving/README.md; with --quick, with --only or
where a part could not be measured, it only prints.
"""

import argparse
import collections
import contextlib
import functools
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib

import numpy as np
from serving_parts import report

ROOT = pathlib.Path(__file__).resolve().parent.parent
PARTS = ROOT / "benchmarks" / "serving_parts"
README = ROOT / "serving" / "README.md"
ENVIRONMENTS = {"serving": [], "mlserver": ["mlserver==1.7.1"], "kserve": ["kserve==0.21.0"]}
TOLERANCE = 1e-5
LUA = """
wrk.method, wrk.body = "POST", "{body}"
{headers}
done = function(summary, latency, requests)
  local e = summary.errors
  print(string.format("\\n%d %d %f %f %d %d", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), e.status, e.connect + e.read + e.write + e.timeout))
end
"""


class Skipped(Exception):
    """Why something could not be measured, in a sentence."""


def main():
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended by a signal."))  # so that `finally` ends the servers
    seconds, repeats = (1, 1) if options.quick else (options.seconds, options.repeats)
    loaded = shutil.which("wrk") is not None
    complete = loaded and not options.quick and set(options.only) == set(SUBJECTS)
    if not loaded:
        print("wrk is not on the PATH (apt install wrk): the servers are started and asked once, but not loaded.")
    samples = collections.defaultdict(list)  # by (network, subject, condition, quantity)
    pythons, versions = {}, {}
    for name in dict.fromkeys(SUBJECTS[subject][0] for subject in options.only):
        try:
            python = _environment(name, getattr(options, f"{name}_python"), options.environments)
            versions[name], pythons[name] = _installed(name, python, samples), pathlib.Path(python)
        except Skipped as reason:
            print(f"There is no environment for {name}: {reason}")
            complete = False
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        environment = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
        _call([sys.executable, PARTS / "export.py", folder], environment, [ROOT, ROOT / "export", ROOT / "serving"])
        for _, network in ((repeat, network) for repeat in range(repeats) for network in report.NETWORKS):
            bare = [pythons.get("serving", sys.executable), PARTS / "bare.py", folder / network / "bundle"]
            for *key, value in json.loads(_call(bare, os.environ, [ROOT / "serving"])):
                samples[network, *key].append(value)
            for subject in options.only:
                name, command = SUBJECTS[subject]
                if name in pythons:
                    try:
                        command = functools.partial(command, pythons[name], folder / network)
                        _measure(network, subject, command, folder, seconds if loaded else 0, samples)
                    except Skipped as reason:
                        print(f"{network}, {subject}: {reason}")
                        complete = False
    environments = {subject: name for subject, (name, _) in SUBJECTS.items()}
    table = report.tables(samples, environments, versions, f"Medians of {repeats} x {seconds} s for each figure")
    print(table)
    if complete:
        report.write(table, samples, README, pathlib.Path(__file__).with_suffix(".csv"))
    else:
        print(f"Not everything was measured, so that {README.relative_to(ROOT)} is left as it is.")
    bad = [", ".join(key) for key, values in samples.items() if key[-1] in report.ERRORS and any(values)]
    return f"There were errors under load: {'; '.join(bad)}." if bad else 0


def _options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=2, help="of load for each figure (default 2)")
    parser.add_argument("--repeats", type=int, default=3, help="of everything, of which medians are taken (default 3)")
    parser.add_argument("--quick", action="store_true", help="one repeat of one second, to see that it works")
    parser.add_argument("--only", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS), help="these servers")
    parser.add_argument("--environments", type=pathlib.Path, default=ROOT / ".nox" / "serving_benchmark")
    for name in ENVIRONMENTS:
        parser.add_argument(f"--{name}-python", metavar="PATH", help="of an environment that is there already")
    return parser.parse_args()


# The servers: the environment of each, and the command that starts it.


def _ours(python, folder, port):
    return [python, "-m", "keras_vae_serving", folder / "bundle", "--port", port, "--providers", "cpu"]


def _mlserver(python, folder, port, batching=None):
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": _free_port(), "metrics_port": _free_port()}
    # The default, one worker beside the server, ends with an error under uvloop 0.23.
    settings |= {"parallel_workers": 0, "debug": False}
    model = {"name": "decoder", "implementation": "mlserver_runtime.Decoder", "parameters": {"uri": _decoder(folder)}}
    repository = pathlib.Path(tempfile.mkdtemp(dir=folder))
    (repository / "settings.json").write_text(json.dumps(settings))
    (repository / "model-settings.json").write_text(json.dumps(model | (batching or {})))
    return [python.parent / "mlserver", "start", repository]


def _kserve(python, folder, port):
    quiet = ["--configure_logging", "false", "--enable_latency_logging", "false", "--enable_grpc", "false"]
    return [python, PARTS / "kserve_server.py", "--model", _decoder(folder), "--http_port", port, *quiet]


def _decoder(folder):
    return json.loads((folder / "decoder.json").read_text())


BATCHING = {"max_batch_size": 64, "max_batch_time": 0.002}
SUBJECTS = {
    "keras_vae_serving": ("serving", _ours),
    "MLServer": ("mlserver", _mlserver),
    "MLServer, batching": ("mlserver", functools.partial(_mlserver, batching=BATCHING)),
    "KServe SDK": ("kserve", _kserve),
}


def _measure(network, subject, command, folder, seconds, samples):
    port = _free_port()
    with _running(command(port), port, folder / "log.txt") as (session, ready):
        samples[network, subject, "", "s to ready"].append(ready)
        samples[network, subject, "idle", "resident MB"].append(_usage(session)[0])
        for encoding in report.ENCODINGS:
            headers, body = _request(np.load(folder / network / "z.npy"), encoding)
            status = _check(port, headers, body, np.load(folder / network / "x_mean.npy"))
            if status != 200 and encoding == "binary":  # an extension of the protocol: a server may lack it
                samples[network, subject, encoding, "refused"].append(f"refused: HTTP {status}")
            elif status != 200:
                raise Skipped(f"it answers with HTTP {status}.")
            elif seconds:
                lines = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items())
                script = LUA.format(body="".join(f"\\{byte:03d}" for byte in body), headers=lines)
                (folder / "request.lua").write_text(script)
                _load(port, folder / "request.lua", 16, 1)  # to warm up
                for connections in report.CONNECTIONS:
                    before = _usage(session)[1]
                    requests, found = _load(port, folder / "request.lua", connections, seconds)
                    found["CPU us a request"] = 1e6 * (_usage(session)[1] - before) / max(requests, 1)
                    for quantity, value in found.items():
                        samples[network, subject, f"{encoding}, {connections}", quantity].append(value)
                    figures = ", ".join(f"{quantity} {value:,.5g}" for quantity, value in found.items())
                    print(f"{network}, {subject}, {encoding}, {connections}: {figures}", flush=True)
        samples[network, subject, "after load", "resident MB"].append(_usage(session)[0])


@contextlib.contextmanager
def _running(command, port, log):
    """Starts a server; gives its session and the seconds until it was ready, and ends all that it started."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'serving'}{os.pathsep}{PARTS}", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("KERAS_VAE_TOKEN", None)
    command, started = [str(part) for part in command], time.perf_counter()
    with open(log, "wb") as output:
        try:
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, start_new_session=True, cwd=log.parent
            )
        except OSError as error:
            raise Skipped(f"it cannot be started: {error}.") from None
    try:
        while _ask(port, "GET", "/v2/health/ready")[0] != 200:
            if process.poll() is not None or time.perf_counter() - started > 120:
                last = log.read_text(errors="replace").strip().split("\n")[-1]
                raise Skipped(f"it did not become ready; the last it said is: {last}")
            time.sleep(0.01)
        yield process.pid, time.perf_counter() - started
    finally:
        _signal(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        _signal(process.pid, signal.SIGKILL)
        process.wait()


def _signal(group, number):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _load(port, script, connections, seconds):
    # By default wrk counts an answer after two seconds as an error; it is only slow.
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", script]
    output = _call([*command, f"http://127.0.0.1:{port}/v2/models/decoder/infer"])
    requests, microseconds, p50, p99, status, sockets = map(float, output.strip().split("\n")[-1].split())
    found = {"requests/s": 1e6 * requests / microseconds, "p50 ms": p50 / 1e3, "p99 ms": p99 / 1e3}
    return requests, found | dict(zip(report.ERRORS, (status, sockets), strict=True))


def _request(z, encoding):
    tensor = {"name": "z", "datatype": "FP32", "shape": z.shape}
    if encoding == "JSON":
        tensor["data"] = z.astype("float64").round(4).ravel().tolist()  # as short as a person would print it
        return {"Content-Type": "application/json"}, json.dumps({"inputs": [tensor]}).encode()
    tensor["parameters"] = {"binary_data_size": z.nbytes}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return headers, head + z.astype("<f4").tobytes()


def _check(port, headers, body, expected):
    """The status of the answer, which is found to be onnxruntime's if it is 200."""
    status, length, content = _ask(port, "POST", "/v2/models/decoder/infer", body, headers)
    if status == 200:
        output = json.loads(content[:length])["outputs"][0]
        data = output["data"] if length is None else np.frombuffer(content[length:], "<f4")
        if (length is None) != (headers["Content-Type"] == "application/json") or output["shape"] != [*expected.shape]:
            raise Skipped("its answer has another encoding or shape than was asked for.")
        difference = np.abs(np.reshape(data, expected.shape) - expected).max()
        if not difference <= TOLERANCE:
            raise Skipped(f"its answer differs from that of session.run by {difference:.1g}.")
    return status


def _ask(port, method, path, body=None, headers=None):
    """The status of the answer, the length of its JSON part if tensors follow it, and its bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        length = answer.getheader("Inference-Header-Content-Length")
        return answer.status, None if length is None else int(length), answer.read()
    except (OSError, http.client.HTTPException):
        return None, None, b""
    finally:
        connection.close()


def _usage(session):
    """The resident MB and the CPU seconds of all processes of a session, from Linux's /proc; NaN elsewhere."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                ticks, pages = int(fields[11]) + int(fields[12]), int(fields[21])
                found.append((pages * os.sysconf("SC_PAGE_SIZE") / 1e6, ticks / os.sysconf("SC_CLK_TCK")))
    return [sum(values) for values in zip(*found, strict=True)] or [float("nan")] * 2


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# The environments.


def _environment(name, given, folder):
    """The Python of an environment that has the packages; made once, as pip finds them there the next time."""
    if given:
        return given
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras, pins = project["optional-dependencies"], (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [*extras["server"], *extras["gpu-runtime"], *project["dependencies"]]
    if name != "serving":  # the same onnxruntime; the rest is as they ask for
        requirements, pins = (
            [line for line in lines if line.startswith(("numpy", "onnxruntime"))] for lines in (requirements, pins)
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text("\n".join(pins))
    python = folder / name / "bin" / "python"
    if not python.exists():
        _call([sys.executable, "-m", "venv", "--without-pip", folder / name])
    requirements = [*ENVIRONMENTS[name], *requirements, "-c", folder / f"{name}.txt"]
    _call([sys.executable, "-m", "pip", "--python", python, "install", "-q", *requirements])
    return python


def _installed(name, python, samples):
    """The versions of the packages; counts them, and what they take on disk."""
    listed = json.loads(_call([sys.executable, "-m", "pip", "--python", python, "list", "--format", "json"]))
    folder = pathlib.Path(_call([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
    sizes = collections.Counter()
    for path in folder.rglob("*"):
        if path.is_file():
            sizes[path.relative_to(folder).parts[0]] += path.stat().st_size / 1e6
    samples["", name, "installed", "packages"].append(sum(package["name"] != "pip" for package in listed))
    samples["", name, "installed", "MB"].append(sum(sizes.values()))
    samples["", name, "installed", "MB of onnxruntime"].append(sizes["onnxruntime"])
    return {package["name"]: package["version"] for package in listed}


def _call(command, environment=None, path=()):
    """What a command prints on its standard output."""
    command = [str(part) for part in command]
    if path:
        environment = {**environment, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(map(str, path))}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    except OSError as error:
        raise Skipped(f"{command[0]} cannot be run: {error}.") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().split("\n")
        reason = next((line for line in reversed(said) if line.startswith("ERROR")), said[-1])
        raise Skipped(f"`{' '.join(command[:4])} ...` failed: {reason}")
    return done.stdout


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Skipped as error:
        sys.exit(f"Nothing was measured: {error}")

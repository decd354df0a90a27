"""A server that is killed and reloaded while clients ask: nothing is lost, mixed, left half on disk or kept in memory.

Each request has latents and an identifier of its own. Its answer must be what one of the two bundles decodes of these
latents, whole, and of the bundle that was in the folder; without an answer, the connection must have been ended by the
death of the server. KERAS_VAE_KILLS is how often the server is killed, and how often it is reloaded.
"""

import collections
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import threading
import time

import numpy as np
import pytest

import oip
import server_process
from keras_vae_serving import Manifest, Pipeline

pytestmark = [pytest.mark.slow, pytest.mark.once]

TIMES = int(os.environ.get("KERAS_VAE_KILLS", "100"))
CLIENTS = 4


class Load:
    """Clients that ask without a pause until the block ends, and what became of their requests.

    Attributes:
        allowed: Versions whose answer is right for a request that is sent now.
        counts: Number of requests by what became of them: "right", "ending" (the server said so), "unanswered" (the
            connection was closed), "cut" (in the middle of an answer).
        wrong: Sentences about answers that should not be.
        signals: Signals that ended servers so far, the last of them before it was sent.
        up: Whether a server is there to answer.
    """

    def __init__(self, port, z, expected):
        self._port, self._z, self._expected = port, z, expected
        self.allowed, self.signals, self.up = set(expected), [], True
        self.counts, self.wrong = collections.Counter(), []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=[i], daemon=True) for i in range(CLIENTS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a client waits for an answer that never comes"

    def _ask(self, client):
        drawn, connection, number = random.Random(client), None, 0
        while not self._stop.is_set():
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
                try:
                    connection.connect()
                except OSError:  # there is no server now
                    connection = None
                    time.sleep(0.01)
                    continue
            number += 1
            # The last signal may still be on its way to the server that is asked here.
            allowed, seen = self.allowed, len(self.signals) - (not self.up)
            outcome = self._exchange(connection, drawn, f"{client}/{number}", allowed)
            excuses = {"unanswered": {signal.SIGTERM, signal.SIGKILL}, "cut": {signal.SIGKILL}}
            if outcome in excuses and excuses[outcome].isdisjoint(self.signals[seen:]):
                self.wrong.append(f"request {client}/{number} is {outcome}; signals were {self.signals[seen:]}")
            if outcome != "right":
                connection.close()
                connection = None
            self.counts[outcome] += 1

    def _exchange(self, connection, drawn, name, allowed):
        start, rows = drawn.randrange(len(self._z) - 3), drawn.choice([1, 1, 2, 3])
        binary, model = drawn.random() < 0.5, drawn.choice(["decode", "decoder"])
        body, headers = oip.request({"z": self._z[start : start + rows]}, binary, binary, id=name)
        try:
            connection.request("POST", f"/v2/models/{model}/infer", body, headers)
            answer = connection.getresponse()
            content = answer.read()
        except TimeoutError:
            self.wrong.append(f"request {name} waited for a minute")
            return "late"
        except http.client.IncompleteRead:
            return "cut"
        except (OSError, http.client.HTTPException):
            return "unanswered"
        if answer.status == 503 and b"the server is ending" in content:
            return "ending"
        length = answer.getheader(oip.HEADER)
        head = json.loads(content if length is None else content[: int(length)])
        if answer.status != 200 or head["id"] != name:
            self.wrong.append(f"request {name} got {answer.status} {content[:200]}")
            return "wrong"
        found = oip.outputs(content, {} if length is None else {oip.HEADER: length})["x_mean"]
        for version in allowed | self.allowed:
            expected = self._expected[version][start : start + rows]
            if found.shape == expected.shape and np.abs(found - expected).max() < 1e-5:
                return "right"
        self.wrong.append(f"request {name} got an answer that is not its own, or of another bundle than {allowed}")
        return "wrong"


@pytest.fixture(scope="module")
def versions(two_versions):
    """The folders of two bundles, latents, and what each decodes of them."""
    folders = [two_versions / "1", two_versions / "2"]
    z = np.random.default_rng(0).normal(size=(200, 3)).astype("float32")
    return folders, z, [Pipeline.load(folder, providers="cpu").decode(z) for folder in folders]


def put(source, target):
    """Replaces a folder as a deployment does: copied beside it first, so that the name never leads to a part of it."""
    new, old = target.with_name("new"), target.with_name("old")
    shutil.copytree(source, new)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def files(folder):
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*")}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_killed(versions, tmp_path):
    folders, z, expected = versions
    target, port, drawn = tmp_path / "bundle", free_port(), random.Random(0)
    put(folders[0], target)
    ended = collections.Counter()
    with Load(port, z, dict(enumerate(expected))) as load:
        for time_ in range(TIMES):
            number = drawn.choice([signal.SIGKILL, signal.SIGTERM])
            with server_process.running(target, port=port) as server:
                load.up = True
                served = load.counts["right"]
                while load.counts["right"] < served + 20 and not load.wrong:
                    time.sleep(0.01)
                put(folders[time_ % 2], target)
                if drawn.random() < 0.2:
                    (target / "decoder/1/model.onnx").write_bytes(b"half a file")
                before = files(tmp_path)
                server.process.send_signal(signal.SIGHUP)
                time.sleep(drawn.choice([0.0, 0.02, 0.1, 0.3]))  # before, while and after it is loaded
                load.signals.append(number)
                load.up = False
                server.process.send_signal(number)
                assert server.process.wait(60) == -number
                assert not [line for line in server.lines if "Traceback" in line]
            ended[number.name] += 1
            assert not load.wrong, load.wrong[:5]
            assert files(tmp_path) == before  # the server writes nothing
            put(folders[time_ % 2], target)
            Manifest.load(target)
    assert not load.wrong, load.wrong[:5]
    print(f"{dict(ended)}: requests {dict(load.counts)}")


def test_reloaded(versions, tmp_path):
    folders, z, expected = versions
    target, port, resident = tmp_path / "bundle", free_port(), []
    put(folders[0], target)

    def loads(outcome):
        found = re.search(rf'keras_vae_loads_total{{outcome="{outcome}"}} ([\d.]+)', server.client.get("/metrics").text)
        return float(found[1]) if found else 0.0

    def reload(outcome):
        done = loads(outcome)
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 60
        while loads(outcome) == done and time.monotonic() < deadline:
            time.sleep(0.01)
        assert loads(outcome) == done + 1

    with server_process.running(target, port=port) as server, Load(port, z, dict(enumerate(expected))) as load:
        load.allowed, current = {0}, 0
        for time_ in range(TIMES):
            if time_ % 10 == 5:
                (target / "decoder/1/model.onnx").write_bytes(b"half a file")
                reload("refused")
            put(folders[1 - current], target)
            load.allowed = {0, 1}
            reload("installed")
            current = 1 - current
            load.allowed = {current}
            served = load.counts["right"]
            while load.counts["right"] < served + 20 and not load.wrong:
                time.sleep(0.01)
            assert not load.wrong, load.wrong[:5]
            resident.append(server.resident_mebibytes())
        assert server.process.poll() is None
        threads = len(os.listdir(f"/proc/{server.process.pid}/task"))
        descriptors = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    assert not load.wrong, load.wrong[:5]
    assert set(load.counts) == {"right"}
    half = resident[len(resident) // 2]  # by then malloc has the memory that it will use
    print(
        f"{TIMES} reloads: requests {dict(load.counts)}; MiB {resident[0]:.0f}, after half of them {half:.0f}, at the "
        f"end {resident[-1]:.0f}; {threads} threads, {descriptors} descriptors"
    )
    assert resident[-1] - half < 15

"""Requests that somebody broke on purpose: each is answered, none with a 500, and the server is as it was afterwards.

The cases are drawn from a seed, and so are the same each time. KERAS_VAE_FUZZ_CASES asks for more than the default, and
KERAS_VAE_FUZZ_SEED for others.
"""

import json
import os
import random
import re
import socket

import numpy as np
import pytest

import oip
import served
import server_process

pytestmark = pytest.mark.once

CASES = int(os.environ.get("KERAS_VAE_FUZZ_CASES", "600"))
SEED = int(os.environ.get("KERAS_VAE_FUZZ_SEED", "0"))

MODELS = ("encode", "decode", "reconstruct", "sample", "score", "encoder", "decoder", "elbo")
# What programs trip over: limits of integers, of floats, of lengths, of encodings, of nesting.
NASTY = [
    *(0, -1, 1.5, True, None, "", "x", "\0", "\ud800", "é" * 3, "../../etc/passwd", "%s%n", [], {}, [[]], [{}]),
    *(2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 1e308, 5e-324, 10**18, [10**9] * 3, [0, 10**12]),
    "a" * 200_000,
    ["a" * 50_000, *"b" * 2_000],
    *([1] * 40, [None], [["a"]], {"binary_data_size": 10**15}, {"binary_data": "yes"}, "FP32", "BYTES", "BF16"),
]
ANSWERED = {200, 400, 401, 404, 405, 408, 413, 415, 431, 503}


ROW_VERBS = ("encode", "reconstruct", "sample", "score", "impute")
# Of columns that the table has or nearly has, what a cell may hold and what it may not.
NAMES = [*(column["name"] for column in served.COLUMNS), "Kind", "c9", "", "\0", "x", "é" * 200]
CELLS = [None, "a", "b", "A", 0, 1, 2.5, True, "1", 1e39, -1e39, 2**70, "1e400", [], {}, ["a"], {"a": 1}, "a" * 10_000]


def valid(random):
    """A request that is answered with 200: path, body and headers."""
    if random.random() < 0.3:
        return valid_rows(random)
    rng = np.random.default_rng(random.getrandbits(32))
    model, rows = random.choice(MODELS), random.choice([1, 1, 2, 5])
    x = (rng.random((rows, 8, 8, 1)) < 0.5).astype("float32")
    z = rng.normal(size=(rows, 3)).astype("float32")
    inputs = {"decode": {"z": z}, "decoder": {"z": z}, "sample": {}}.get(model, {"x": x})
    if model == "elbo":
        inputs["epsilon"] = rng.normal(size=(rows, 2, 3)).astype("float32")
    fields = {}
    if model in ("sample", "score"):
        asked = "draw" if model == "sample" else "per_dimension"
        fields["parameters"] = {"seed": random.randrange(9), asked: random.random() < 0.5}
    if random.random() < 0.3:
        fields["id"] = "a"
    binary = random.random() < 0.5
    body, headers = oip.request(inputs, binary, random.random() < 0.5, **fields)
    return f"/v2/models/digits.{model}", "/infer", body, headers


def valid_rows(random):
    """The same for rows by name."""
    verb, rng = random.choice(ROW_VERBS), np.random.default_rng(random.getrandbits(32))
    some = [c for c in served.COLUMNS if random.random() < 0.8]
    cell = {"category": lambda: random.choice("abc"), "integer": lambda: random.randrange(3), "real": rng.random}
    rows = [
        {c["name"]: None if random.random() < 0.1 else cell[c["kind"]]() for c in some}
        for _ in range(random.choice([1, 2, 5]))
    ]
    fields = {"parameters": {"seed": random.randrange(9)}} if verb in ("sample", "score", "impute") else {}
    fields |= {} if verb == "sample" else {"instances": rows}
    return f"/v1/models/table.{verb}", ":predict", json.dumps(fields).encode(), {}


def changed_somewhere(random, value):
    """A JSON value with one of its parts replaced, dropped or doubled."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(list(value))
        if random.random() < 0.15:
            return {name: part for name, part in value.items() if name != key}
        return {**value, key: changed_somewhere(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.85:
        i = random.randrange(min(len(value), 8))
        how = random.random()
        middle = [] if how < 0.1 else [value[i]] * 2 if how < 0.2 else [changed_somewhere(random, value[i])]
        return [*value[:i], *middle, *value[i + 1 :]]
    return random.choice(NASTY)


def break_rows(random, path, action, body, headers):
    """Another cell in a row, or another column, as a person or a program may get it wrong."""
    path, action, body, headers = valid_rows(random)
    fields = json.loads(body)
    for row in random.sample(rows := fields.get("instances", []), len(rows) and 1):
        row[random.choice(NAMES)] = random.choice(CELLS)
    if random.random() < 0.3:
        fields.setdefault("parameters", {})[random.choice(["draws", "top_columns", "num_samples", "n"])] = (
            random.choice(NASTY)
        )
    return path + action, json.dumps(fields).encode(), headers


def break_json(random, path, action, body, headers):
    length = int(headers.get(oip.HEADER, len(body)))
    fields = changed_somewhere(random, json.loads(body[:length]))
    text = json.dumps(fields).encode()
    if oip.HEADER in headers and random.random() < 0.8:
        headers = {oip.HEADER: str(len(text))}
    return path + action, text + body[length:], headers


def break_bytes(random, path, action, body, headers):
    body = bytearray(body)
    for _ in range(random.choice([1, 1, 3, 20])):
        how, at = random.randrange(4), random.randrange(len(body) + 1)
        if how == 0:
            body[at : at + 1] = bytes([random.randrange(256)])
        elif how == 1:
            del body[at : at + random.choice([1, 4, 1000])]
        elif how == 2:
            body[at:at] = random.randbytes(random.choice([1, 4, 1000]))
        else:
            body[at:at] = random.choice([b"[" * 5000, b'{"a":' * 2000, b"\xff\xfe", b"NaN", b"1e999", b"\0"])
    return path + action, bytes(body), headers


def break_head(random, path, action, body, headers):
    headers = dict(headers)
    for _ in range(random.choice([1, 2])):
        value = random.choice(["", "-1", "0", "1", "abc", "1e3", "0x10", "9" * 20, "9" * 400, "5, 5", " 7", "\t", "é"])
        name = random.choice(
            [oip.HEADER, "Content-Length", "Transfer-Encoding", "Content-Encoding", "Expect", "X" * 50]
        )
        headers[name] = random.choice([value, "chunked", "gzip", "identity", "100-continue"])
    return path + action, body, headers


def break_path(random, path, action, body, headers):
    version = random.choice(["1", "2", "-1", "latest", "%00", "%2e%2e", "9" * 99, "é", ""])
    path = random.choice(
        [
            f"{path}/versions/{version}{action}",
            f"{path[:11]}{version}{action}",
            f"{path}%2F{action[1:]}",
            f"{path[:11]}/{path[11:]}{action}",
            f"{path}{action}/",
            f"{path}{action}?{version}=1#x",
            "//", "/../..", "/%", "*", "/v2/" + "a" * 9000,
        ]
    )  # fmt: skip
    return path, body, headers


def message(random, path, body, headers):
    """The bytes of a request, and whether its end was kept back."""
    method = random.choice(["POST"] * 12 + ["GET", "PUT", "HEAD", "OPTIONS", "POSTPOST", "p"])
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
    chunked = random.random() < 0.2
    if chunked:
        lines.append("Transfer-Encoding: chunked")
        half = len(body) // 2
        parts = [part for part in (body[:half], body[half:]) if part]
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    elif "Content-Length" not in headers:
        lines.append(f"Content-Length: {len(body)}")
    data = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body
    if random.random() < 0.1:
        return data[: random.randrange(len(data))]
    return data


def exchange(random, server, data):
    """What comes back when this is sent, in one piece or several, and nothing more follows."""
    with server.connect() as connection:
        try:
            for piece in (data,) if random.random() < 0.7 else (data[:40], data[40:90], data[90:]):
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has hung up on us already
        return server_process.read_all(connection)


def test_broken_requests_are_answered_and_change_nothing(bundle, exported, tmp_path):
    breaks = (break_json, break_json, break_rows, break_bytes, break_head, break_path)
    seen = {}
    served.with_columns(exported("table_with_missing_values"), tmp_path / "table")
    bundles = (f"digits={bundle}", f"table={tmp_path / 'table'}")
    with server_process.running(*bundles, "--max-rows", 64, "--max-body", 1, "--body-seconds", 5) as server:
        z = np.random.default_rng(0).normal(size=(3, 3)).astype("float32")
        before = server.infer("digits.decode", {"z": z}, binary=True, binary_output=True)["x_mean"]
        resident = None
        for case in range(CASES):
            drawn = random.Random(f"{SEED}/{case}")
            data = message(drawn, *drawn.choice(breaks)(drawn, *valid(drawn)))
            answer = exchange(drawn, server, data)
            answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
            # No answer is one, too, to a request that never came to its end.
            for status in re.findall(rb"^HTTP/1\.1 (\d+) ", answer[:20]):
                seen[int(status)] = seen.get(int(status), 0) + 1
                assert int(status) in ANSWERED, f"case {SEED}/{case} {data[:300]}: {answer[:300]}"
                if int(status) >= 400 and not data.startswith(b"HEAD"):
                    error = json.loads(answer.partition(b"\r\n\r\n")[2])
                    assert list(error) == ["error"], f"case {SEED}/{case}"
                    assert len(error["error"]) < 700
                    assert not re.search(r"Traceback|\.py|site-packages|/home|/root|/tmp|0x", error["error"])
            if case == 100:
                resident = server.resident_mebibytes()
        after = server.infer("digits.decode", {"z": z}, binary=True, binary_output=True)["x_mean"]
        np.testing.assert_array_equal(after, before)
        assert server.process.poll() is None
        assert not [line for line in server.lines if "Traceback" in line or "Exception" in line]
        grown = server.resident_mebibytes() - resident
        counts = ", ".join(f"{status}: {seen[status]}" for status in sorted(seen))
        print(f"{CASES} cases of seed {SEED}: {counts}; {resident:.0f} MiB and {grown:+.1f} since case 100")
        assert grown < 40
    assert {200, 400, 404} <= set(seen), seen  # the cases do reach beyond the first check

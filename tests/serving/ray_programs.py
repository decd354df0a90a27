"""Two programs for an environment with Ray and without Keras.

    python ray_programs.py PROGRAM BUNDLE FOLDER SHORT_FOLDER

Each starts a Ray of its own, with two CPUs and its files in SHORT_FOLDER, takes FOLDER/data.npz, and leaves what it
found in FOLDER/found.npz and FOLDER/report.json. `test_ray.py` starts them, and judges.
"""

import contextlib
import functools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import ray
from ray import serve

import oip
from keras_vae_serving import Session, on_ray

PATIENCE = 60  # seconds, for what takes a few on a machine that has nothing else to do
TOKEN = "sesame"


def map(bundle, folder, x):
    """Scores with two workers, of which one is killed; then the other verbs, and what goes wrong."""
    rows = ray.data.range(len(x), override_num_blocks=8)

    def images(batch):
        return {"name": np.array([f"row {i}" for i in batch["id"]]), "image": x[batch["id"]]}

    def pixels(batch):
        return {"id": batch["id"], "x": x[batch["id"]].astype("uint8")}

    def run(dataset, verb, num_cpus=0.5, **arguments):
        # Half a CPU: two workers have room beside what makes the rows.
        return on_ray.map_batches(dataset, bundle, verb, num_cpus=num_cpus, batch_size=10, **arguments)

    images, pixels = rows.map_batches(images), rows.map_batches(pixels)
    found = {
        "score": run(images, "score", columns="image", seed=3, num_samples=2),
        "encode": run(pixels, "encode", num_cpus=1),  # for both they have not, and must not wait for it
        "reconstruct": run(images, "reconstruct", columns={"x": "image"}, sample=True, workers=1, seed=3),
        "judge": on_ray.map_batches(
            images.limit(20), folder / "judging", "score", columns="image", workers=1, num_cpus=0.5
        ),
        "decode": run(ray.data.from_items([{"z": [0.5 * i, -1.0, 0.0]} for i in range(5)]), "decode"),
    }
    arrays = {f"{run}/{name}": array for run, dataset in found.items() for name, array in gathered(dataset).items()}
    np.savez(folder / "found.npz", **arrays)
    ragged = ray.data.from_items([{"x": np.zeros((8, 8 + i, 1))} for i in range(2)])
    return {
        "killed": json.loads((folder / "killed").read_text()),
        "workers": {path.name: json.loads(path.read_text()) for path in folder.glob("worker *")},
        "errors": {
            "bundle": said(lambda: on_ray.map_batches(rows, folder, "score")),
            "verb": said(lambda: run(images, "sample")),
            "argument": said(lambda: run(images, "encode", sample=True)),
            "seed": said(lambda: run(images, "score", seed=0.5)),
            "column": said(lambda: run(images, "encode").take_all()),
            "taken": said(lambda: run(pixels.rename_columns({"id": "z_mean"}), "encode").take_all()),
            "ragged": said(lambda: run(ragged, "encode").take_all()),
            "range": said(lambda: run(pixels.map_batches(brighter), "encode").take_all()),
        },
    }


def mortal(folder):
    """What each process of Ray does when it starts: see to it that two of them run graphs, and that one dies of it."""

    def workers():
        return sorted(path.name for path in folder.glob("worker *"))

    def start():
        run, done = Session.run, []

        def run_and_tell(self, inputs, outputs=None):
            mine = folder / f"worker {os.getpid()}"
            mine.touch()
            patiently(lambda: len(workers()) > 1)
            result = run(self, inputs, outputs)
            done.append(self.threads)
            mine.write_text(json.dumps(done))
            if len(done) == 3:  # of the four batches of a block
                with contextlib.suppress(FileExistsError), open(folder / "killed", "x") as file:
                    json.dump([mine.name, workers()], file)
                    file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
            return result

        Session.run = run_and_tell

    return start


def brighter(batch):
    return {**batch, "x": 255 * batch["x"]}


def gathered(dataset):
    batches = list(dataset.iter_batches(batch_size=None))
    arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return {name: array.astype(str) if array.dtype == object else array for name, array in arrays.items()}


def said(function):
    try:
        function()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return None


def deploy(bundle, folder, x):
    """Serves with two replicas, kills one, and asks on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    url = f"http://127.0.0.1:{port}"
    errors = {
        "bundle": said(lambda: on_ray.deploy(folder)),
        "option": said(lambda: on_ray.deploy(bundle, provider="cpu")),
        "replica": said(lambda: on_ray.deploy(bundle, name="other", route_prefix="/other", providers=["Nonesuch"])),
    }
    serve.delete("other")
    os.environ["KERAS_VAE_TOKEN"] = TOKEN  # after Ray has started: the replicas do not inherit it
    on_ray.deploy(bundle, num_replicas=2)
    errors["token"] = said(lambda: ask(f"{url}/v2", token="another"))

    def reconstruct(example):
        body, headers = oip.request({"x": example[None]}, binary=True, binary_output=True)
        return oip.outputs(*ask(f"{url}/v2/models/reconstruct/infer", body, headers))["x_mean"][0]

    def answered():
        """How many examples the replica has answered that says so: one of the two."""
        text, _ = ask(f"{url}/metrics")
        found = re.search(rb'^keras_vae_requests_total\{model="reconstruct",status="200"\} (.*)$', text, re.MULTILINE)
        return int(float(found[1])) if found else 0

    before = [reconstruct(example) for example in x]
    counts = set()  # of an odd number of requests the two have not answered equally many
    patiently(lambda: counts.add(answered()) or len(counts) == 2)
    replicas = processes("ServeReplica")
    os.kill(replicas[0], signal.SIGKILL)
    after = [patiently(functools.partial(attempt, reconstruct, example)) for example in x]
    np.savez(folder / "found.npz", before=np.stack(before), after=np.stack(after))
    return {
        "errors": errors,
        "counts": sorted(counts),
        "replicas": len(replicas),
        # The one that is left has answered all of `after`, unless the new one has answered some.
        "replaced": patiently(lambda: attempt(reconstruct, x[0]) is not None and 0 < (attempt(answered) or 0) < len(x)),
    }


def ask(url, body=None, headers=None, token=TOKEN):
    request = urllib.request.Request(url, body, {**(headers or {}), "Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.read(), answer.headers


def attempt(function, *arguments):
    """None where a request failed that was with a replica when it died."""
    try:
        return function(*arguments)
    except OSError:  # of which urllib's are
        return None


def patiently(function):
    """Calls it until it gives something, which is returned."""
    end = time.monotonic() + PATIENCE
    while ((given := function()) is None or given is False) and time.monotonic() < end:
        time.sleep(0.05)
    return given


def processes(kind=""):
    """The numbers of this program's descendants, or of those that Ray gave such a title."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,command="], capture_output=True, text=True, check=True)
    rows = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    family = {str(os.getpid())}
    while more := {pid for pid, parent, *_ in rows if parent in family} - family:
        family |= more
    return [int(pid) for pid, _, *title in rows if pid in family and kind in "".join(title) and int(pid) != os.getpid()]


def main(program, bundle, folder, short_folder):
    folder = pathlib.Path(folder)
    with np.load(folder / "data.npz") as file:
        x = file["x"]
    options = {"runtime_env": {"worker_process_setup_hook": mortal(folder)}} if program == "map" else {}
    try:
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=100 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=short_folder,
            **options,
        )
        # A relative path, which means nothing to a process that was started elsewhere.
        os.chdir(pathlib.Path(bundle).parent)
        report = {"map": map, "deploy": deploy}[program](pathlib.Path(bundle).name, folder, x)
        report["started"] = processes()
    finally:
        ray.shutdown()
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])

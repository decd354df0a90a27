"""A bundle in runtimes that cannot be installed beside this package: an old onnxruntime, Triton's schema, a browser's.

`nox -- slow` makes the three environments and names them in the variables that are read here.
"""

import functools
import http.server
import json
import os
import pathlib
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest

triton = pytest.importorskip("keras_vae_export.triton", reason="the export extra is not installed")
serving = pytest.importorskip("keras_vae_serving", reason="the serving extra is not installed")

pytestmark = pytest.mark.slow

HERE = pathlib.Path(__file__).parent
SERVING = HERE.parents[1] / "serving"

OLD_PYTHON = os.environ.get("KERAS_VAE_OLD_RUNTIME_PYTHON")
TRITON_PYTHON = os.environ.get("KERAS_VAE_TRITON_PYTHON")
NODE_MODULES = os.environ.get("KERAS_VAE_NODE_MODULES")

BATCHES = (1, 7)
# int8 rounds: in another runtime a value may fall on the other side of a step.
TOLERANCES = {"float32": 1e-4, "int8": 2e-2}


def needs(value, variable, what):
    return pytest.mark.skipif(not value, reason=f"{variable} is not set: `nox -- slow` does it, or set it to {what}")


def run(*command, pythonpath=""):
    """The standard output of a program that must not find the packages of this process."""
    environment = {**os.environ, "PYTHONPATH": str(pythonpath)}
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cases(bundle):
    """Every graph at every batch size, with inputs and the outputs to expect: of the model, or of int8 as run here."""
    with np.load(bundle / "probe.npz") as probe:
        arrays = {tuple(key.split("/", 2)): array for key, array in probe.items()}
    graphs = serving.Manifest.load(bundle).graphs.values()
    assert {graph.precision for graph in graphs} == set(TOLERANCES)
    for graph in graphs:
        recorded = graph.name.removesuffix(f"_{graph.precision}")
        for batch in BATCHES:
            inputs = {tensor.name: arrays[recorded, "inputs", tensor.name][:batch] for tensor in graph.inputs}
            outputs = {tensor.name: arrays[recorded, "outputs", tensor.name][:batch] for tensor in graph.outputs}
            assert {len(array) for array in (*inputs.values(), *outputs.values())} == {batch}
            if graph.precision != "float32":
                outputs = serving.Session(bundle, graph, providers="cpu").run(inputs)
            yield graph, batch, inputs, outputs


def assert_close(found, expected, graph, batch):
    """Differences are absolute up to 1, and relative to the largest value of the example beyond, as at export."""
    assert set(found) == set(expected)
    for name, array in expected.items():
        where = f"{graph.name}: {name} at batch {batch}"
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), where
        rows = array.reshape(batch, -1)
        allowed = TOLERANCES[graph.precision] * np.maximum(1.0, np.abs(rows).max(axis=1, keepdims=True))
        difference = np.abs(found[name].reshape(batch, -1) - rows)
        assert (difference <= allowed).all(), f"{where} differs by {difference.max():.3g}"


@needs(
    OLD_PYTHON,
    "KERAS_VAE_OLD_RUNTIME_PYTHON",
    "the python of an environment made by `pip install onnxruntime==1.18.1 'numpy<2'`",
)
def test_the_oldest_onnxruntime_serves_every_graph_with_numpy_1_and_no_framework(bundle, tmp_path):
    report = json.loads(run(OLD_PYTHON, HERE / "old_runtime.py", bundle, tmp_path / "found.npz", pythonpath=SERVING))
    assert report["onnxruntime"].startswith("1.18.")
    assert report["numpy"].startswith("1.")
    imported = set(report["imported"])
    assert {"keras_vae_serving", "onnxruntime"} <= imported
    assert not imported & {"keras", "tensorflow", "jax", "torch", "onnx", "keras_vae", "keras_vae_export"}
    with np.load(tmp_path / "found.npz") as arrays:
        for graph, batch, _, expected in cases(bundle):
            found = {name: arrays[f"{graph.name}/{batch}/{name}"] for name in expected}
            assert_close(found, expected, graph, batch)


needs_triton = needs(
    TRITON_PYTHON,
    "KERAS_VAE_TRITON_PYTHON",
    "the python of an environment made by `pip install 'tritonclient[grpc]'`",
)

TRITON_TYPES = {
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "bool": "TYPE_BOOL",
}


def triton_reads(*paths):
    return json.loads(run(TRITON_PYTHON, HERE / "triton_config.py", *paths))


def expected_config(graph, max_batch_size):
    def tensor(described):
        dims = [-1 if isinstance(size, str) else size for size in described.shape[1:]]
        # Triton wants a dimension besides the batch: a tensor of shape (batch,) has one of 1, reshaped away.
        return [described.name, TRITON_TYPES[described.dtype], dims or [1], None if dims else []]

    return {
        "name": graph.name,
        "backend": "onnxruntime",
        "max_batch_size": max_batch_size,
        "dynamic_batching": graph.precision != "int8",
        "inputs": [tensor(each) for each in graph.inputs],
        "outputs": [tensor(each) for each in graph.outputs],
    }


@needs_triton
def test_triton_reads_what_the_manifest_says(bundle):
    graphs = serving.Manifest.load(bundle).graphs
    configs = triton_reads(*(bundle / name / "config.pbtxt" for name in graphs))
    assert configs == [expected_config(graph, 64) for graph in graphs.values()]
    # The two cases that need care are in the bundle.
    elbo = expected_config(graphs["elbo"], 64)
    assert ["epsilon", "TYPE_FP32", [-1, 3], None] in elbo["inputs"]
    assert ["kl", "TYPE_FP32", [1], []] in elbo["outputs"]


@needs_triton
def test_triton_knows_every_data_type(tmp_path):
    tensors = tuple(serving.Tensor(f"of_{dtype}", dtype, ("batch", "length", 2)) for dtype in TRITON_TYPES)
    graph = serving.GraphSpec("types", "types/1/model.onnx", "float32", tensors, tensors[::-1], {})
    path = tmp_path / "config.pbtxt"
    path.write_text(triton.config(graph, 8), encoding="utf-8")
    assert triton_reads(path) == [expected_config(graph, 8)]


@needs_triton
@pytest.mark.parametrize(
    ("right", "wrong"),
    [("dynamic_batching", "dynamic_batchin"), ("data_type", "datatype"), ("TYPE_FP32", "TYPE_FLOAT32")],
)
def test_triton_refuses_a_misspelt_config(bundle, tmp_path, right, wrong):
    text = (bundle / "encoder" / "config.pbtxt").read_text(encoding="utf-8")
    assert right in text
    path = tmp_path / "config.pbtxt"
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    [refused] = triton_reads(path)
    assert wrong in refused["error"]


@needs(NODE_MODULES, "KERAS_VAE_NODE_MODULES", "the folder node_modules that `npm install onnxruntime-web` makes")
@pytest.mark.skipif(not shutil.which("node"), reason="node is not on the PATH")
def test_onnxruntime_web_runs_every_graph(bundle, tmp_path):
    tried = list(cases(bundle))
    jobs = [
        {
            "file": str(bundle / graph.file),
            "inputs": {name: {"dims": array.shape, "data": array.ravel().tolist()} for name, array in inputs.items()},
        }
        for graph, _, inputs, _ in tried
    ]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    run("node", HERE / "web_runtime.mjs", NODE_MODULES, tmp_path / "jobs.json", tmp_path / "found.json")
    results = json.loads((tmp_path / "found.json").read_text())
    for (graph, batch, _, expected), outputs in zip(tried, results, strict=True):
        found = {name: np.array(each["data"], each["type"]).reshape(each["dims"]) for name, each in outputs.items()}
        assert_close(found, expected, graph, batch)


@needs(NODE_MODULES, "KERAS_VAE_NODE_MODULES", "the folder node_modules that `npm install onnxruntime-web` makes")
def test_the_web_page_of_the_guide_draws_what_the_decoder_gives(bundle, tmp_path):
    browser = pytest.importorskip("browser", reason="the dev extra is not installed")
    if browser.missing():
        pytest.skip(browser.missing())
    guide = HERE.parents[1] / "docs" / "guide" / "browser.md"
    (page,) = re.findall(r"```html\n(.*?)```", guide.read_text(encoding="utf-8"), flags=re.DOTALL)
    copy, found = re.subn(r"https://cdn.jsdelivr.net/npm/onnxruntime-web@[\d.]+", "./onnxruntime-web", page)
    assert found == 1
    (tmp_path / "digits.html").write_text(copy, encoding="utf-8")
    (tmp_path / "digits-onnx").symlink_to(bundle)
    (tmp_path / "onnxruntime-web").symlink_to(pathlib.Path(NODE_MODULES) / "onnxruntime-web")
    pipeline, z = serving.Pipeline.load(bundle, providers="cpu"), np.zeros((1, 3), "float32")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, browser.browsing() as page:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.open(f"http://127.0.0.1:{server.server_port}/digits.html")
        for value in (0.0, 2.5):
            z[0, 2] = value
            page.script(
                "for (const slider of [...document.querySelectorAll('input')].slice(2)) {"
                "    slider.value = arguments[0]; slider.oninput(); }",
                value,
            )
            expected = 255 * pipeline.decode(z)[0, ..., 0]
            page.wait(lambda expected=expected: np.abs(page.pixels("body")[0] - expected).max() < 1.0, "the picture")
        assert page.errors() == []
        server.shutdown()

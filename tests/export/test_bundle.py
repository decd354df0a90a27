"""The folder: whole or absent, as the manifest says, the same each time; and every planted fault is caught by name."""

import dataclasses
import importlib.util
import json
import pathlib
import shutil

import keras
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import families
import keras_vae
import keras_vae_export
from keras_vae.tables import Column, Table
from keras_vae_export import ConversionError, ExportError, ParityError, StructureError, bundle, converters, graphs
from keras_vae_serving import BundleError, Manifest, Session

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def vae():
    keras.utils.set_random_seed(11)
    network = keras_vae.networks.mlp((4, 3), 2, hidden=(6,), activation="tanh")
    return keras_vae.VAE(*network, seed=0)


@pytest.fixture(scope="module")
def exported(vae, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "bundle"
    return folder, keras_vae_export.export(vae, folder)


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported[0], tmp_path / "copy")


@pytest.fixture
def tampered(exported, monkeypatch):
    """Puts the files of a finished export in place of a conversion, with a change."""

    def plant(change):
        def run(archive, engine, folder):
            for graph in ("encoder", "decoder", "elbo"):
                shutil.copytree(exported[0] / graph / "1", folder / graph / "1")
            change(folder)

        monkeypatch.setattr(converters, "run", run)

    return plant


def edit(path, change):
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


# What is written


def test_the_layout(exported):
    folder, manifest = exported
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    graphs = ("decoder", "elbo", "encoder")
    expected = [f"{name}/{file}" for name in graphs for file in ("1/model.onnx", "config.pbtxt")]
    assert files == [*expected, "manifest.json", "probe.npz"]
    assert sorted(manifest.files) == [*expected, "probe.npz"]
    assert Manifest.load(folder) == manifest


def test_the_graphs_are_as_promised(exported):
    folder, _ = exported
    signatures = {
        "encoder": (["x"], ["z_mean", "z_log_var"]),
        "decoder": (["z"], ["x_mean"]),
        "elbo": (["x", "epsilon"], ["reconstruction", "kl", "log_prob_per_dimension"]),
    }
    for name, (inputs, outputs) in signatures.items():
        model = onnx.load(folder / name / "1" / "model.onnx")
        assert [value.name for value in model.graph.input] == inputs
        assert [value.name for value in model.graph.output] == outputs
        assert model.ir_version == 8
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
        for value in (*model.graph.input, *model.graph.output):
            assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
            assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_the_manifest_tells_what_a_client_needs(exported, vae):
    _, manifest = exported
    assert manifest.latent_dim == 2
    assert manifest.data_shape == (4, 3)
    assert manifest.data_range == (0.0, 1.0)
    assert manifest.likelihood == {"name": "Bernoulli", "config": {"from_logits": True}}
    assert manifest.prior == {"name": "DiagonalNormal", "config": {"mean": [0.0, 0.0], "log_var": [0.0, 0.0]}}
    assert manifest.export["backend"] == keras.backend.backend()
    assert manifest.export["versions"]["keras"] == keras.__version__
    assert manifest.graphs["elbo"].parity["batches"] == [1, 2, 7, 64]
    assert manifest.graphs["elbo"].parity["inputs"] == ["ordinary", "extreme"]


def test_a_model_of_a_dataframe_stands_in_the_manifest(tmp_path):
    table = Table((Column("country", "category", ("Chad", "France")), Column("age", "integer", mean=40.0, stddev=9.0)))
    likelihood = table.likelihood()
    network = keras_vae.networks.mlp(table.width, 2, hidden=(3,), likelihood=likelihood)
    keras_vae_export.export(keras_vae.VAE(*network, likelihood, seed=0, allow_missing=True), tmp_path / "bundle")
    manifest = Manifest.load(tmp_path / "bundle")
    for config in (manifest.likelihood["config"]["table"], manifest.table):
        assert Table.from_config(config).columns == table.columns
    assert manifest.draws == likelihood.drawn_as()


def test_a_threshold_stands_in_the_manifest(exported, vae, tmp_path, tampered):
    tampered(lambda folder: None)
    threshold = keras_vae.evaluation.fit_threshold(vae, np.ones((20, 4, 3), "float32"), 0.9, num_samples=2, seed=3)
    keras_vae_export.export(vae, tmp_path / "bundle", threshold=threshold)
    fields = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert fields["anomaly"] == {
        "nats": threshold.nats,
        "quantile": 0.9,
        "num_samples": 2,
        "seed": 3,
        "examples": 20,
        "low": getattr(threshold, "low", None),
        "usual": fields["anomaly"]["usual"],
    }
    assert fields["missing"] is False
    assert Manifest.load(tmp_path / "bundle").anomaly.nats == threshold.nats
    assert exported[1].anomaly is None


def test_nothing_of_this_machine_is_in_the_files(exported):
    for path in exported[0].rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(pathlib.Path.home()).encode() not in content
            assert str(pathlib.Path(__file__).parent.parent).encode() not in content
            assert b"site-packages" not in content


def test_a_fresh_process_gives_the_same_bytes_as_the_warm_one(exported, vae, tmp_path, fresh_converter):
    keras_vae_export.export(vae, tmp_path / "again")
    for graph in ("encoder", "decoder", "elbo"):
        file = f"{graph}/1/model.onnx"
        assert (tmp_path / "again" / file).read_bytes() == (exported[0] / file).read_bytes()


def test_exporting_leaves_the_model_as_it_was(vae, tmp_path, tampered):
    tampered(lambda folder: None)  # another process converts
    x = np.ones((3, 4, 3), "float32")
    weights, elbo = vae.get_weights(), vae.elbo(x, seed=1)
    keras_vae_export.export(vae, tmp_path / "bundle", data=x)
    assert all(np.array_equal(a, b) for a, b in zip(weights, vae.get_weights(), strict=True))
    np.testing.assert_array_equal(vae.elbo(x, seed=1), elbo)


def test_held_out_data_are_compared_on(exported, vae, tmp_path, tampered):
    tampered(lambda folder: None)
    manifest = keras_vae_export.export(vae, tmp_path / "bundle", data=np.ones((70, 4, 3), "float32"))
    assert [graph.parity["inputs"][-1] for graph in manifest.graphs.values()] == ["held-out"] * 3
    assert keras_vae_export.check(tmp_path / "bundle")["encoder"]["z_mean"] < 1e-5


def test_an_existing_folder_is_replaced_only_on_request(exported, vae, tmp_path, tampered):
    tampered(lambda folder: None)
    target = tmp_path / "bundle"
    keras_vae_export.export(vae, target, max_batch_size=3)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        keras_vae_export.export(vae, target)
    assert "max_batch_size: 3" in (target / "encoder/config.pbtxt").read_text()
    keras_vae_export.export(vae, target, max_batch_size=5, overwrite=True)
    assert "max_batch_size: 5" in (target / "encoder/config.pbtxt").read_text()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    (tmp_path / "photos" / "manifest.json").write_text('{"name": "a web page has one too"}')
    with pytest.raises(FileExistsError, match="left alone"):
        keras_vae_export.export(vae, tmp_path / "photos", overwrite=True)
    assert (tmp_path / "photos" / "cat.jpg").exists()


def test_a_folder_that_appears_meanwhile_is_not_replaced(vae, tmp_path, tampered):
    def somebody_else(folder):
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle" / "precious").touch()

    tampered(somebody_else)
    with pytest.raises(FileExistsError, match="exists already"):
        keras_vae_export.export(vae, tmp_path / "bundle")
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", "precious"]


def test_no_data_of_the_users_are_stored(vae, tmp_path, tampered):
    tampered(lambda folder: None)
    data = np.random.default_rng(1234).random((9, 4, 3)).astype("float32")
    keras_vae_export.export(vae, tmp_path / "bundle", data=data)
    for path in (tmp_path / "bundle").rglob("*.npz"):
        with np.load(path) as arrays:
            for array in arrays.values():
                assert not any(np.array_equal(row, example) for row in array for example in data)


# The model


@pytest.fixture
def trained():
    """A Gaussian model that was fitted and evaluated, and data: whatever Keras compiles for it is compiled."""
    x = np.random.default_rng(0).normal(size=(32, 5)).astype("float32")
    network = keras_vae.networks.mlp((5,), 2, hidden=(4,), likelihood="mse")
    model = keras_vae.VAE(*network, likelihood=keras_vae.Gaussian(1.0), seed=0)
    model.compile("adam")
    model.fit(x, batch_size=8, verbose=0)
    model.evaluate(x, verbose=0)
    model.elbo(x)
    return model, x


def replace_the_likelihood(model):
    model.likelihood = keras_vae.Gaussian(0.1)


def load_other_weights(model):
    model.set_weights([weights + 0.1 for weights in model.get_weights()])


def freeze_the_encoder(model):
    model.encoder.trainable = False


@pytest.mark.parametrize("change", [replace_the_likelihood, load_other_weights, freeze_the_encoder])
def test_a_model_that_changed_since_it_was_compiled_is_exported_as_it_is_now(change, trained, tmp_path):
    model, x = trained
    change(model)
    keras_vae_export.export(model, tmp_path / "bundle", data=x)
    fresh = keras_vae.VAE(
        *keras_vae.networks.mlp((5,), 2, hidden=(4,), likelihood="mse"),
        likelihood=keras_vae.Gaussian(0.1 if change is replace_the_likelihood else 1.0),
    )
    fresh.encoder.set_weights(model.encoder.get_weights())
    fresh.decoder.set_weights(model.decoder.get_weights())
    # `elbo` draws its noise as (examples, samples, latents) from NumPy: the same noise for the graph.
    epsilon = np.random.default_rng(4).standard_normal((32, 3, 2), dtype="float32")
    manifest = Manifest.load(tmp_path / "bundle")
    terms = Session(tmp_path / "bundle", manifest.graphs["elbo"], providers="cpu").run({"x": x, "epsilon": epsilon})
    found = -(terms["reconstruction"] + terms["kl"])
    np.testing.assert_allclose(found, fresh.elbo(x, 3, seed=4), rtol=1e-5, atol=1e-4)


def test_networks_that_were_assigned_a_moment_ago_are_exported_in_their_shape():
    vae = keras_vae.VAE(*keras_vae.networks.mlp((4,), 2, hidden=()))
    vae.encoder, vae.decoder = keras_vae.networks.mlp((4,), 3, hidden=())
    for graph in graphs.from_model(vae):
        assert {tensor.shape[-1] for tensor in (*graph.inputs, *graph.outputs) if tensor.name[0] in "ze"} <= {3}


def test_a_quantised_model_is_refused(tmp_path):
    model = keras_vae.VAE(*keras_vae.networks.mlp((5,), 2, hidden=(4,)), seed=0)
    model.quantize("int8")
    with pytest.raises(ExportError, match="is quantised; export the model before quantising it"):
        keras_vae_export.export(model, tmp_path / "bundle")


def test_a_model_of_nan_is_refused(vae, tmp_path, tampered):
    tampered(lambda folder: None)
    broken = keras.models.clone_model(vae.encoder)
    broken.set_weights([np.full_like(weights, np.nan) for weights in vae.encoder.get_weights()])
    with pytest.raises(ExportError, match="The model's z_mean is not finite on ordinary inputs"):
        keras_vae_export.export(keras_vae.VAE(broken, vae.decoder), tmp_path / "bundle")


class Lossy(keras.layers.Layer):
    """Its config forgets the factor."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return self.factor * x

    def get_config(self):
        return {"name": self.name}


@keras.saving.register_keras_serializable("tests")
class Counting(keras.layers.Layer):
    """What it makes of an example depends on how many there are."""

    def call(self, x):
        return x * keras.ops.cast(keras.ops.shape(x)[0], "float32")


def test_a_layer_that_looks_at_the_batch_is_found(tmp_path):
    encoder, decoder = keras_vae.networks.mlp((5,), 2, hidden=(4,))
    decoder = keras.Model(decoder.inputs, Counting()(decoder.output))
    with pytest.raises(ParityError, match=r"depend on the batch that it is in: decoder: x_mean.* first axis"):
        keras_vae_export.export((encoder, decoder), tmp_path / "bundle")


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_layer_that_loses_an_argument_is_found(policy, tmp_path):
    encoder, decoder = keras_vae.networks.mlp((5,), 2, hidden=(4,))
    for network in (encoder, decoder):
        for layer in network._flatten_layers():
            layer.dtype_policy = policy
    decoder = keras.Model(decoder.inputs, Lossy(7.0)(decoder.output))
    with pytest.raises(ParityError, match=r"changes when Keras saves and loads it.*get_config"):
        keras_vae_export.export(keras_vae.VAE(encoder, decoder), tmp_path / "bundle")


def test_an_integer_of_unknown_values_needs_examples(tmp_path):
    x, z = keras.Input((3,), dtype="int32"), keras.Input((2,))
    h = keras.layers.Dense(2)(keras.ops.cast(x, "float32") / 9.0)
    pair = keras.Model(x, [h, h]), keras.Model(z, keras.layers.Dense(3)(z))
    with pytest.raises(ExportError, match="x of the encoder holds int32.*give examples with data="):
        keras_vae_export.export(pair, tmp_path / "bundle")


def test_every_label_is_tried(conditional, tmp_path, monkeypatch):
    """A row of an embedding that no made input asks for could be wrong unseen."""

    def change_a_row(model):
        table = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [4, 2])
        values = numpy_helper.to_array(table).copy()
        values[3] += 0.5
        table.CopyFrom(numpy_helper.from_array(values, table.name))

    def tamper(archive, engine, folder):
        for graph in ("encoder", "decoder"):
            shutil.copytree(conditional / graph / "1", folder / graph / "1")
        edit(folder / "decoder/1/model.onnx", change_a_row)

    monkeypatch.setattr(converters, "run", tamper)
    with pytest.raises(ParityError, match="decoder: x_mean"):
        keras_vae_export.export(families.make("conditional"), tmp_path / "bundle", engine="tensorflow")


class TwoParameters(keras_vae.likelihoods.Likelihood):
    num_parameters = 2
    has_stddev = True
    data_range = (0.0, float("inf"))

    def mean(self, parameters):
        return keras.ops.split(parameters, 2, axis=-1)[0]

    def stddev(self, parameters):
        return keras.ops.exp(keras.ops.split(parameters, 2, axis=-1)[1])


def test_a_likelihood_with_two_parameters_and_an_open_range(tmp_path):
    pair = keras_vae.networks.mlp((3,), 2, hidden=(4,), likelihood=TwoParameters())
    manifest = keras_vae_export.export(pair, tmp_path / "bundle", likelihood=TwoParameters())
    decoder = manifest.graphs["decoder"]
    assert [(tensor.name, tensor.shape) for tensor in decoder.outputs] == [
        ("x_mean", ("batch", 3)),
        ("x_scale", ("batch", 3)),
    ]
    assert Manifest.load(tmp_path / "bundle").data_range == (0.0, float("inf"))


def test_the_latents_are_found_among_the_decoders_inputs():
    x, label = keras.Input((4,), name="x"), keras.Input((3,), name="label")
    h = keras.layers.Concatenate()([x, label])
    encoder = keras.Model([x, label], [keras.layers.Dense(2)(h), keras.layers.Dense(2)(h)])

    def pair(name):
        z, label = keras.Input((2,), name="code"), keras.Input((3 if name == "label" else 2,), name=name)
        return graphs.Pair(encoder, keras.Model([label, z], keras.layers.Concatenate()([label, z])))

    assert graphs.from_model(pair("label"))[1].latents == "code"
    with pytest.raises(ExportError, match="which of the decoder's inputs .* holds the latents"):
        graphs.from_model(pair("other"))


# Planted faults: in the conversion


def perturb_a_weight(folder):
    def change(model):
        weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = numpy_helper.to_array(weights).copy()
        values.flat[0] += 0.01
        weights.CopyFrom(numpy_helper.from_array(values, weights.name))

    edit(folder / "decoder/1/model.onnx", change)


def swap_the_outputs(folder):
    def change(model):
        for node in model.graph.node:
            for i, name in enumerate(node.output):
                node.output[i] = {"z_mean": "z_log_var", "z_log_var": "z_mean"}.get(name, name)

    edit(folder / "encoder/1/model.onnx", change)


def order_the_outputs_otherwise(folder):
    def change(model):
        outputs = list(model.graph.output)[::-1]
        del model.graph.output[:]
        model.graph.output.extend(outputs)

    edit(folder / "encoder/1/model.onnx", change)


def declare_a_fixed_batch(folder):
    def change(model):
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 64

    edit(folder / "encoder/1/model.onnx", change)


def bake_in_the_batch(folder):
    """What an exporter writes that traced a reshape at batch 64: the signature says "batch", the graph says 64."""

    def change(model):
        shape = numpy_helper.from_array(np.array([64, 2]), "baked")
        model.graph.initializer.append(shape)
        for node in model.graph.node:
            for i, name in enumerate(node.input):
                if name == "z":
                    node.input[i] = "reshaped"
        model.graph.node.insert(0, onnx.helper.make_node("Reshape", ["z", "baked"], ["reshaped"]))

    edit(folder / "decoder/1/model.onnx", change)


def bake_in_the_batch_unseen(folder):
    """The same, computed from the input, so that no shape inference can tell."""

    def change(model):
        for name, value in (("zero", 0.0), ("sizes", [64.0, 2.0])):
            model.graph.initializer.append(numpy_helper.from_array(np.array(value, "float32"), name))
        for node in model.graph.node:
            node.input[:] = ["reshaped" if name == "z" else name for name in node.input]
        make = onnx.helper.make_node
        nodes = [
            make("ReduceSum", ["z"], ["sum"], keepdims=0),
            make("Mul", ["sum", "zero"], ["nothing"]),
            make("Add", ["nothing", "sizes"], ["floats"]),
            make("Cast", ["floats"], ["baked"], to=onnx.TensorProto.INT64),
            make("Reshape", ["z", "baked"], ["reshaped"]),
        ]
        rest = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*nodes, *rest])

    edit(folder / "decoder/1/model.onnx", change)


def draw_at_random(folder):
    def change(model):
        node = next(node for node in model.graph.node if "x_mean" in node.output)
        node.output[0] = "exact"
        noise = onnx.helper.make_node("RandomNormalLike", ["exact"], ["noise"], scale=1e-6)
        model.graph.node.extend([noise, onnx.helper.make_node("Add", ["exact", "noise"], ["x_mean"])])

    edit(folder / "decoder/1/model.onnx", change)


def truncate(folder):
    path = folder / "elbo/1/model.onnx"
    path.write_bytes(path.read_bytes()[:-100])


def use_an_unknown_operator(folder):
    def change(model):
        model.graph.node[-1].op_type = "Erfc"

    edit(folder / "decoder/1/model.onnx", change)


FAULTS = {
    perturb_a_weight: (ParityError, r"decoder: x_mean\[\d+, \d, \d\] is .* in the file and .* in the model on"),
    swap_the_outputs: (ParityError, "encoder: z_mean.* holds the values of z_log_var: the outputs are swapped"),
    order_the_outputs_otherwise: (StructureError, "outputs of encoder are .*'z_log_var'.* must be .*'z_mean'"),
    declare_a_fixed_batch: (StructureError, "inputs of encoder are .*64.* must be .*'batch'"),
    bake_in_the_batch: (StructureError, "decoder: .* outputs .*64.*, but the manifest says .*'batch'"),
    bake_in_the_batch_unseen: (ParityError, "decoder does not run at batch 1 on ordinary inputs; a size is fixed"),
    draw_at_random: (StructureError, "decoder draws random numbers: RandomNormalLike"),
    truncate: (StructureError, "elbo/1/model.onnx is not valid ONNX"),
    use_an_unknown_operator: (StructureError, "decoder/1/model.onnx is not valid ONNX: .*Erfc"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named_and_leaves_nothing(fault, vae, tmp_path, tampered):
    tampered(fault)
    error, message = FAULTS[fault]
    with pytest.raises(error, match=message):
        keras_vae_export.export(vae, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_parity_error_carries_the_values(vae, tmp_path, tampered):
    tampered(perturb_a_weight)
    with pytest.raises(ParityError) as caught:
        keras_vae_export.export(vae, tmp_path / "bundle")
    error = caught.value
    assert (error.graph, error.tensor, len(error.index)) == ("decoder", "x_mean", 3)
    assert abs(error.expected - error.found) > 1e-4


def test_a_tolerance_can_be_chosen(vae, tmp_path, tampered):
    tampered(perturb_a_weight)
    manifest = keras_vae_export.export(vae, tmp_path / "bundle", tolerance=0.5)
    assert manifest.graphs["decoder"].parity["tolerance"] == 0.5
    assert 1e-4 < manifest.graphs["decoder"].parity["max_abs_diff"]["x_mean"] < 0.5


# Two engines


def refuse(error):
    def change(folder):
        raise error

    return change


@pytest.fixture
def engines(exported, monkeypatch):
    """Has each engine change the right files, or raise, in place of a conversion; gives the names of those that ran."""

    def plant(**changes):
        ran = []

        def run(archive, engine, folder):
            ran.append(engine)
            for graph in ("encoder", "decoder", "elbo"):
                shutil.copytree(exported[0] / graph / "1", folder / graph / "1")
            changes.get(engine, lambda folder: None)(folder)

        monkeypatch.setattr(converters, "run", run)
        return ran

    return plant


@pytest.mark.parametrize("change", [refuse(ConversionError("no such operator")), perturb_a_weight, draw_at_random])
def test_where_one_engine_fails_the_other_one_is_tried(change, vae, tmp_path, engines):
    ran = engines(tensorflow=change)
    words = "The torch engine wrote the files, because the tensorflow engine could not: .*(operator|x_mean|random)"
    with pytest.warns(UserWarning, match=words) as caught:
        manifest = keras_vae_export.export(vae, tmp_path / "bundle")
    assert (manifest.export["engine"], ran) == ("torch", ["tensorflow", "torch"])
    assert sum("engine" in str(warning.message) for warning in caught) == 1
    with pytest.raises(ExportError, match='Or try engine="torch"'):
        keras_vae_export.export(vae, tmp_path / "again", engine="tensorflow")


def test_a_model_too_large_for_tensorflow_takes_the_torch_engine(vae, tmp_path, engines, monkeypatch):
    ran = engines()
    monkeypatch.setattr(bundle, "_TENSORFLOW_LIMIT", 100)
    with pytest.warns(UserWarning, match="too much for TensorFlow's converter"):
        manifest = keras_vae_export.export(vae, tmp_path / "bundle")
    assert (manifest.export["engine"], ran) == ("torch", ["torch"])


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_where_both_engines_fail_the_true_reason_is_given(backend, tmp_path, monkeypatch):
    """On torch that of torch: for a layer written in torch, the reason of the other engine would be a wrong one."""

    def attempt(engine):
        raise ConversionError(f"not of {engine}")

    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    with pytest.raises(ConversionError, match="not of torch$" if backend == "torch" else "not of tensorflow$"):
        bundle._with_first_engine(["tensorflow", "torch"], attempt, tmp_path, tmp_path)


def test_what_no_engine_can_mend_is_refused_at_once(vae, tmp_path, engines, monkeypatch):
    ran = engines(tensorflow=refuse(converters.RandomnessError("draws random numbers")))
    with pytest.raises(ConversionError, match="draws random numbers$"):
        keras_vae_export.export(vae, tmp_path / "bundle")
    ran += engines(tensorflow=refuse(converters.LoadError("cannot be loaded")))
    monkeypatch.setattr(bundle.archive, "load", lambda folder: 1 / 0)
    with pytest.raises(ConversionError, match="cannot be loaded$"):
        keras_vae_export.export(vae, tmp_path / "bundle")
    assert ran == ["tensorflow"]


# Planted faults: in a bundle that has travelled


def add_a_version(folder):
    """What Triton would serve in place of the version that was verified."""
    shutil.copytree(folder / "encoder" / "1", folder / "decoder" / "2")


def test_check_accepts_what_export_wrote(exported):
    differences = keras_vae_export.check(exported[0])
    assert set(differences) == {"encoder", "decoder", "elbo"}
    assert max(max(graph.values()) for graph in differences.values()) < 1e-4


@pytest.mark.parametrize("name", ["binary", "conditional"])
def test_check_accepts_what_an_earlier_version_wrote(name):
    folder = pathlib.Path(__file__).parents[1] / "data" / "schema_1" / name
    differences = keras_vae_export.check(folder)
    assert {"encoder", "decoder", "elbo"} <= set(differences)
    assert max(max(graph.values()) for graph in differences.values()) < 1e-4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: truncate(folder), "elbo/1/model.onnx is truncated: it has .* bytes, not"),
        (
            lambda folder: flip_a_byte(folder / "decoder/1/model.onnx"),
            "decoder/1/model.onnx has been changed",
        ),
        (lambda folder: (folder / "encoder/config.pbtxt").unlink(), "encoder/config.pbtxt is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "is not a bundle: it has no manifest.json"),
        (add_a_version, "decoder/2/model.onnx is not part of the bundle"),
    ],
    ids=["truncated", "changed", "missing", "no manifest", "another version"],
)
def test_check_names_the_damaged_file(copy, damage, message):
    damage(copy)
    with pytest.raises(BundleError, match=message):
        keras_vae_export.check(copy)


def test_check_compares_numbers_not_only_hashes(copy):
    """A file and its hash changed together: only running it can tell."""
    perturb_a_weight(copy)
    path = copy / "decoder/1/model.onnx"
    fields = json.loads((copy / "manifest.json").read_text())
    from keras_vae_serving.manifest import file_hash

    fields["files"]["decoder/1/model.onnx"] = {"sha256": file_hash(path), "bytes": path.stat().st_size}
    (copy / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(ParityError, match="decoder: x_mean"):
        keras_vae_export.check(copy)


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# Bad input


def test_what_is_no_model_is_refused(vae, tmp_path):
    with pytest.raises(TypeError, match=r"a keras_vae.VAE or a pair .* got a Functional"):
        keras_vae_export.export(vae.encoder, tmp_path / "bundle")
    with pytest.raises(ValueError, match="not built yet"):
        keras_vae_export.export(keras_vae.VAE(keras.Sequential(), keras.Sequential()), tmp_path / "bundle")
    with pytest.raises(ValueError, match="likelihood is for a pair"):
        keras_vae_export.export(vae, tmp_path / "bundle", likelihood="mse")
    threshold = keras_vae.evaluation.Threshold(1.0, 0.9, 1, 0, 10)
    with pytest.raises(ValueError, match="threshold is for a VAE: a pair .* has no elbo graph"):
        keras_vae_export.export((vae.encoder, vae.decoder), tmp_path / "bundle", threshold=threshold)
    with pytest.raises(TypeError, match="threshold must be what .*fit_threshold returns; got 31.5"):
        keras_vae_export.export(vae, tmp_path / "bundle", threshold=31.5)
    threshold = dataclasses.replace(threshold, nats=np.nan)
    with pytest.raises(ValueError, match="nats of an anomaly threshold must be a finite number; got nan"):
        keras_vae_export.export(vae, tmp_path / "bundle", threshold=threshold)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "jax"}, 'engine must be "auto", "tensorflow" or "torch"'),
        ({"tolerance": 0}, "tolerance must be a positive number"),
        ({"max_batch_size": 0}, "max_batch_size must be a whole number"),
        ({"precision": "float8"}, 'precision must be "float32", "float16", "int8"'),
        ({"precision": "int8"}, "give held-out ones with data="),
        ({"data": np.ones((2, 5, 3), "float32")}, r"x must have shape \(batch, 4, 3\); got \(2, 5, 3\)"),
        ({"data": np.ones((0, 4, 3), "float32")}, "data holds no examples"),
        ({"data": np.full((2, 4, 3), 255, "uint8")}, "data ranges from 255 to 255: divide data by 255"),
        ({"data": np.full((2, 4, 3), np.nan, "float32")}, "data contains NaN"),
        ({"data": {"image": np.ones((2, 4, 3))}}, r"the names \['x'\]; got \['image'\]"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(vae, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        keras_vae_export.export(vae, tmp_path / "bundle", **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_its_extra(vae, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(bundle.importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else found(name))
    with pytest.raises(ModuleNotFoundError, match=r'needs tf2onnx: pip install "keras-vae\[export\]"'):
        keras_vae_export.export(vae, tmp_path / "bundle")


def test_a_converter_that_dies_is_reported(vae, tmp_path, fresh_converter, monkeypatch):
    monkeypatch.setattr(converters.sys, "executable", "/bin/false")
    with pytest.raises(ConversionError, match="ended with code 1 and no result"):
        keras_vae_export.export(vae, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_decoder_of_a_pair_gives_one_tensor(tmp_path):
    encoder, decoder = keras_vae.networks.mlp((6,), 2, hidden=(4,))
    decoder = keras.Model(decoder.inputs, {"x_mean": decoder.output})
    with pytest.raises(ExportError, match="must return one tensor; it returns a dict of 1"):
        keras_vae_export.export((encoder, decoder), tmp_path / "bundle")

"""Requests and answers of the protocol: what is written is read again, and nothing else is read."""

import json

import hypothesis
import hypothesis.extra.numpy as numpy_strategies
import hypothesis.strategies as st
import numpy as np
import pytest

import oip
from keras_vae_serving.errors import RequestError
from keras_vae_serving.http import protocol
from keras_vae_serving.inputs import all_finite

pytestmark = pytest.mark.once

hypothesis.settings.register_profile("protocol", deadline=None, derandomize=True, max_examples=200)
hypothesis.settings.load_profile("protocol")

# In a range that every JSON parser keeps: whole numbers exactly, floats to the last bit as Python prints them.
ARRAYS = st.sampled_from(sorted(oip.DATATYPES)).flatmap(
    lambda dtype: numpy_strategies.arrays(
        dtype,
        numpy_strategies.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
        elements=numpy_strategies.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False),
    )
)
TENSORS = st.dictionaries(st.text(min_size=1, max_size=8), ARRAYS, min_size=0, max_size=4)


def read(body, headers):
    length = headers.get(oip.HEADER)
    return protocol.parse(body, None if length is None else int(length))


@hypothesis.given(TENSORS, st.data())
def test_every_dtype_and_shape_is_read_as_it_was_sent(tensors, data):
    binary = data.draw(st.sets(st.sampled_from(sorted(tensors)))) if tensors else set()
    nested = data.draw(st.booleans())
    if any(array.size == 0 or array.ndim == 0 for array in tensors.values()):
        nested = False  # a nested list cannot say the shape of nothing, and a scalar is no list
    request = read(*oip.request(tensors, binary, nested=nested, id="7", parameters={"seed": 3}))
    assert (request.id, request.parameters, request.outputs, request.binary) == ("7", {"seed": 3}, None, False)
    assert list(request.inputs) == list(tensors)
    for name, array in tensors.items():
        assert request.inputs[name].dtype == array.dtype
        np.testing.assert_array_equal(request.inputs[name], array, strict=True)
        assert request.inputs[name].flags.aligned


@hypothesis.given(TENSORS, st.data())
def test_every_dtype_and_shape_is_answered_as_it_was_computed(tensors, data):
    binary = {name: data.draw(st.booleans()) for name in tensors}
    request = protocol.Request({}, outputs=binary, id="x")
    content, length = protocol.respond(request, "m", "2", tensors)
    assert (length is None) == (not any(binary.values()))
    found = oip.outputs(content, {} if length is None else {oip.HEADER: str(length)})
    assert list(found) == list(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    head = json.loads(content if length is None else content[:length])
    assert (head["model_name"], head["model_version"], head["id"]) == ("m", "2", "x")


def test_an_answer_may_be_a_view_or_of_another_byte_order():
    array = np.arange(24, dtype=">f4").reshape(2, 3, 4)[:, ::2, ::-1]
    for binary in (False, True):
        content, length = protocol.respond(protocol.Request({}, binary=binary), "m", "1", {"y": array.astype("f4")[:]})
        np.testing.assert_array_equal(oip.outputs(content, {oip.HEADER: length} if binary else {})["y"], array)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_answered_in_binary_and_refused_in_json(value):
    outputs = {"y": np.array([[1.0, value]], "float32")}
    with pytest.raises(RequestError, match="output 'y' holds NaN or infinite values.*\"binary_data\": true"):
        protocol.respond(protocol.Request({}), "m", "1", outputs)
    content, length = protocol.respond(protocol.Request({}, binary=True), "m", "1", outputs)
    np.testing.assert_array_equal(oip.outputs(content, {oip.HEADER: length})["y"], outputs["y"])


def test_null_is_nan_where_numbers_have_one():
    (array,) = protocol.parse(json.dumps(tensor(data=[None, 1])).encode()).inputs.values()
    np.testing.assert_array_equal(array, np.array([np.nan, 1.0], "float32"), strict=True)


def test_large_finite_numbers_are_finite():
    assert all_finite(np.full(9, 1e308))
    assert all_finite(np.full(9, 3e38, "float32"))
    assert not all_finite(np.array([1e308, np.inf]))
    assert not all_finite(np.array([np.inf, -np.inf]))


def test_parameters_that_change_no_bytes_are_let_through():
    optional = {"content_type": "np", "timeout": 5, "anything": [{}]}
    body = tensor(parameters=optional) | {"parameters": optional | {"binary_data_output": True}}
    body["outputs"] = [{"name": "y", "parameters": optional}]
    request = protocol.parse(json.dumps(body).encode())
    np.testing.assert_array_equal(request.inputs["x"], np.array([1, 2], "float32"), strict=True)
    assert (request.outputs, request.binary, request.parameters) == ({"y": True}, True, optional)


def tensor(**fields):
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2], **fields}]}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ([], r"the request must be a JSON object; got \[\]"),
        ({}, r'"inputs" must be a list; got nothing'),
        ({"inputs": {}}, r'"inputs" must be a list; got {}'),
        ({"inputs": [1]}, r"inputs\[0\] must be a JSON object; got 1"),
        ({"inputs": [{}]}, r'inputs\[0\]\["name"\] must be a string; got nothing'),
        (tensor(datatype="FLOAT"), r"the input 'x' has the datatype 'FLOAT'; use one of BOOL, "),
        (tensor(datatype=["FP32"]), r"has the datatype \['FP32'\]"),
        (tensor(datatype="BYTES"), r"has the datatype 'BYTES'"),
        (tensor(shape=None), r'has the "shape" nothing; it must be a list of whole numbers'),
        (tensor(shape=[-1, -2]), r'has the "shape" \[-1, -2\]'),
        (tensor(shape=[2.0]), r'has the "shape" \[2.0\]'),
        (tensor(shape=[True, 2]), r'has the "shape" \[True, 2\]'),
        (tensor(shape=[1] * 33), r'has the "shape" a list of 33'),
        (tensor(shape=[10**12, 10**12]), r"takes 1000000000000000000000000 numbers, but its \"data\" are 2"),
        (tensor(shape=[3]), r"of shape \[3\] takes 3 numbers, but its \"data\" are 2"),
        (tensor(data=None), r"has no \"data\""),
        (tensor(data="12"), r"has no \"data\""),
        (tensor(data=[[1], [2, 3]]), r"must be numbers"),
        (tensor(shape=[2, 1], data=[[1], [2, 3]]), r"are nested otherwise"),
        (tensor(shape=[1, 2], data=[[1], [2]]), r"are nested otherwise"),
        (tensor(data=[1, [2]]), r"must be numbers"),
        (tensor(shape=[2, 1], data=[[1], 2]), r"are nested otherwise"),
        (tensor(shape=[1, 1], data=[[[]]]), r"are nested otherwise|must be numbers"),
        (tensor(shape=[1, 1], data=[[[2]]]), r"must be numbers"),
        (tensor(data=[1, True]), r"must be numbers"),
        (tensor(data=["a" * 10**6, 1]), r"must be numbers"),
        (tensor(shape=[[[]]]), r'has the "shape" a list of 1;'),
        ({"inputs": [{"name": "x" * 101}]}, r'inputs\[0\]\["name"\] may have up to 100 characters; got 101'),
        ({"inputs": [{}] * 17}, r'"inputs" may be up to 16; got 17'),
        ({"inputs": [], "id": {"a": 1}}, r'"id" must be a string; got an object'),
        (tensor(data=[[1], [2]]), r"must be numbers"),
        (tensor(data=["1", "2"]), r"must be numbers, as its datatype is FP32"),
        (tensor(datatype="INT32", data=[None, 1]), r"must be whole numbers"),
        (tensor(data=[{}, 1]), r"must be numbers"),
        (tensor(data=[True, False]), r"must be numbers"),
        (tensor(datatype="BOOL"), r"must be true and false"),
        (tensor(datatype="INT8", data=[1, 1.5]), r"must be whole numbers"),
        (tensor(datatype="INT8", data=[1, 128]), r"is INT8: its numbers must lie in \[-128, 127\]"),
        (tensor(datatype="UINT64", data=[-1, 1]), r"is UINT64: its numbers must lie in \[0, 18446744073709551615\]"),
        (tensor(datatype="INT64", data=[2**63, 1]), r"is INT64"),
        (tensor(datatype="UINT64", data=[2**64, 1]), r"must be whole numbers"),
        (tensor(parameters=[]), r"the \"parameters\" of the input 'x' must be a JSON object"),
        (tensor(parameters={"binary_data_size": 8}), r"\"data\" and \"binary_data_size\""),
        ({"inputs": [], "parameters": 1}, r"the \"parameters\" of the request must be a JSON object; got 1"),
        (
            {"inputs": [], "parameters": {"binary_data_output": 1}},
            r"\"binary_data_output\" must be true or false; got 1",
        ),
        ({"inputs": [], "id": 5}, r'"id" must be a string; got 5'),
        ({"inputs": [], "outputs": {}}, r'"outputs" must be a list'),
        ({"inputs": [], "outputs": [{}]}, r'outputs\[0\]\["name"\] must be a string'),
        ({"inputs": [], "outputs": [{"name": "y"}, {"name": "y"}]}, r"the output 'y' is asked for twice"),
        ({"inputs": [], "outputs": [{"name": "y", "parameters": {"classification": 3}}]}, r"no set of classes"),
        ({"inputs": [], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, r"must be true or false; got 1"),
        ({"inputs": tensor()["inputs"] * 2}, r"two inputs of the name 'x'"),
        (tensor(parameters={"shared_memory_region": "a"}), r"the input 'x' is to be in shared memory, which this"),
        (
            {"inputs": [], "outputs": [{"name": "y", "parameters": {"shared_memory_region": "a"}}]},
            r"the output 'y' is to be in shared memory",
        ),
        ({"instances": [[1, 2]]}, r"a request of version 1 .* version 2: POST {\"inputs\": \[\]} to /v2/models/MODEL"),
    ],
)
def test_what_is_no_request_is_refused_with_a_sentence(fields, sentence):
    with pytest.raises(RequestError, match=sentence) as caught:
        protocol.parse(json.dumps(fields).encode())
    assert caught.value.status == 400
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("size", "raw", "sentence"),
    [
        (8, b"", r"should have 8 bytes of data, but only 0 are left"),
        (8, b"1234567", r"only 7 are left"),
        (8, b"123456789", r"1 bytes of the body belong to no input"),
        (4, b"1234", r"takes 8 bytes, but its \"binary_data_size\" is 4"),
        (-8, b"", r"\"binary_data_size\" is -8"),
        ("8", b"12345678", r"\"binary_data_size\" is '8'"),
        (True, b"1", r"\"binary_data_size\" is True"),
        (10**18, b"", r"\"binary_data_size\" is 1000000000000000000"),
    ],
)
def test_raw_tensors_must_be_as_long_as_they_say(size, raw, sentence):
    fields = {"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": size}}
    text = json.dumps({"inputs": [fields]}).encode()
    with pytest.raises(RequestError, match=sentence):
        protocol.parse(text + raw, len(text))


def test_raw_tensors_need_the_header_and_booleans_are_0_or_1():
    fields = {"name": "x", "datatype": "BOOL", "shape": [2], "parameters": {"binary_data_size": 2}}
    text = json.dumps({"inputs": [fields]}).encode()
    assert protocol.parse(text + b"\0\1", len(text)).inputs["x"].tolist() == [False, True]
    with pytest.raises(RequestError, match="bytes other than 0 and 1"):
        protocol.parse(text + b"\0\2", len(text))
    with pytest.raises(RequestError, match="the header Inference-Header-Content-Length.*is missing"):
        protocol.parse(text)
    for length in (-1, len(text) + 3):
        with pytest.raises(RequestError, match=f"said to have {length} bytes, but the body has"):
            protocol.parse(text + b"\0\1", length)


def test_what_is_nested_as_deep_as_json_may_be_is_refused_in_few_words():
    deep = "[" * 990 + "]" * 990
    for text in (
        f'{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": {deep}, "data": [1]}}]}}',
        f'{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": [1], "data": {deep}}}]}}',
        f'{{"inputs": [], "id": {deep}}}',
        deep,
    ):
        with pytest.raises(RequestError) as caught:
            protocol.parse(text.encode())
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"inputs": NaN}', b"[" * 10**6, b'{"inputs":[1e999]}'])
def test_what_is_no_json_is_refused(body):
    with pytest.raises(RequestError, match="the request is not JSON: "):
        protocol.parse(body)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=4), children, max_size=4),
    max_leaves=8,
)
ANY_TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "z"]) | JSON,
        "datatype": st.sampled_from(sorted(protocol.DATATYPES)) | JSON,
        "shape": st.lists(st.integers(-2, 5), max_size=4) | JSON,
        "data": st.lists(st.integers(-300, 300) | st.floats(width=32) | st.booleans(), max_size=6) | JSON,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-9, 60) | JSON}) | JSON,
    },
)
ANY_REQUEST = st.fixed_dictionaries(
    {},
    optional={
        "inputs": st.lists(ANY_TENSOR, max_size=3) | JSON,
        "outputs": st.lists(st.fixed_dictionaries({}, optional={"name": JSON, "parameters": JSON}), max_size=3) | JSON,
        "parameters": JSON,
        "id": JSON,
    },
)


@hypothesis.given(ANY_REQUEST | JSON, st.binary(max_size=40), st.integers(-3, 60) | st.none())
@hypothesis.settings(max_examples=1000)
def test_anything_is_read_or_refused_in_few_words(fields, raw, shift):
    text = json.dumps(fields).encode()
    length = None if shift is None else max(0, len(text) + min(shift, 3) * (shift % 2))
    try:
        request = protocol.parse(text if length is None else text + raw, length)
    except RequestError as error:
        status, sentence = error.status, str(error)
    else:
        status, sentence = 400, ""
        assert all(isinstance(array, np.ndarray) for array in request.inputs.values())
    assert status == 400
    assert len(sentence) < 400

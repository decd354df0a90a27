"""The Open Inference Protocol, version 2: requests to NumPy arrays, NumPy arrays to responses. No HTTP in here.

A request is a JSON object, or a JSON object and raw tensors behind it (the binary tensor extension: little-endian, row
after row, in the order of the inputs), which saves printing and parsing every number. Every byte comes from a client
and is checked before it is used: a request that cannot be served is a `RequestError` that says why.

Reference: https://github.com/kserve/open-inference-protocol, and "Binary Tensor Data Extension" of Triton's
documentation.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from keras_vae_serving.errors import RequestError, abbreviate
from keras_vae_serving.inputs import all_finite
from keras_vae_serving.manifest import Tensor

DATATYPES: dict[str, str] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
_NAMES = {np.dtype(dtype): name for name, dtype in DATATYPES.items()}
_LITTLE_ENDIAN = {name: np.dtype(dtype).newbyteorder("<") for name, dtype in DATATYPES.items()}
_MAX_RANK = 32  # NumPy refuses more than 64 with an error of its own
_MAX_TENSORS, _MAX_NAME = 16, 100  # no model needs more, and more would make long errors


@dataclass(slots=True)
class Request:
    """A request that has been read.

    Args:
        inputs: Arrays by name, with the dtypes and shapes that the request states.
        parameters: Parameters of the whole request.
        outputs: Whether to answer in binary, by the name of each output wanted; None is all of them.
        binary: Whether to answer in binary where an output does not say.
        id: Identifier to be sent back.
    """

    inputs: dict[str, np.ndarray]
    parameters: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, bool] | None = None
    binary: bool = False
    id: str | None = None


def parse(
    body: bytes | bytearray,
    json_length: int | None = None,
    max_numbers: float = math.inf,
    instead: Callable[[], str] = lambda: version_2("MODEL", ()),
) -> Request:
    """Reads a request.

    Args:
        body: Bytes of the request.
        json_length: Number of bytes that are JSON, where raw tensors follow; None if all are.
        max_numbers: Number of numbers allowed in one tensor in JSON, checked before they are converted, which takes
            time. 0 means no limit.
        instead: Gives what a client of version 1 should send, for an error.

    Raises:
        RequestError: If it is not a request of the protocol; says what is wrong with which part.
    """
    if json_length is not None and not 0 <= json_length <= len(body):
        raise RequestError(
            f"the JSON part is said to have {json_length} bytes, but the body has {len(body)}: let the header "
            "Inference-Header-Content-Length say where the JSON ends."
        )
    view = memoryview(body)
    fields = read_object(view if json_length is None else view[:json_length])
    if "inputs" not in fields and ("instances" in fields or "signature_name" in fields):
        raise RequestError(f"this is a request of version 1 of the protocol; {instead()}")
    raw = _Raw(None if json_length is None else view[json_length:])
    inputs = {}
    for i, tensor in enumerate(_tensors('"inputs"', fields.get("inputs"))):
        tensor = _expect(dict, f"inputs[{i}]", tensor)
        name = _name(f'inputs[{i}]["name"]', tensor.get("name"))
        if name in inputs:
            raise RequestError(f"there are two inputs of the name {name!r}: send one.")
        inputs[name] = _tensor(f"the input {name!r}", tensor, raw, max_numbers)
    raw.check_empty()
    parameters = _parameters("the request", fields)
    binary = _expect(bool, '"binary_data_output"', parameters.pop("binary_data_output", False))
    request_id = fields.get("id")
    return Request(
        inputs,
        parameters,
        _outputs(fields["outputs"], binary) if fields.get("outputs") is not None else None,
        binary,
        None if request_id is None else _expect(str, '"id"', request_id),
    )


def read_object(body: Any) -> dict[str, Any]:
    """The JSON object that bytes are; raises a RequestError if they are something else."""
    try:
        return _expect(dict, "the request", orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the request is not JSON: {error}.") from None


def respond(request: Request, model: str, version: str, outputs: dict[str, np.ndarray]) -> tuple[bytes, int | None]:
    """Writes a response.

    Args:
        request: Request to answer.
        model, version: Name and version of the endpoint that answers.
        outputs: Arrays by name.

    Returns:
        `(body, json_length)`; the second is None where all of it is JSON.

    Raises:
        RequestError: If a NaN or an infinite value was asked for in JSON, which has neither.
    """
    tensors, raw = [], []
    for name, array in outputs.items():
        tensor = {"name": name, "datatype": datatype(array.dtype), "shape": array.shape}
        if request.outputs[name] if request.outputs is not None else request.binary:
            data = _text(array) if array.dtype.kind == "U" else _numbers(array)
            tensor["parameters"] = {"binary_data_size": len(data)}
            raw.append(data)
        else:
            if not all_finite(array):
                raise RequestError(
                    f"the output {name!r} holds NaN or infinite values, which JSON cannot: ask for it with "
                    '"parameters": {"binary_data": true}.'
                )
            flat = np.ascontiguousarray(array).reshape(-1)
            tensor["data"] = flat.tolist() if array.dtype.kind == "U" else flat
        tensors.append(tensor)
    fields = {"model_name": model, "model_version": version, "outputs": tensors}
    if request.id is not None:
        fields["id"] = request.id
    text = orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((text, *raw)), len(text)) if raw else (text, None)


def version_2(model: str, tensors: Iterable[Tensor]) -> str:
    """What a client of version 1 should send to an endpoint that takes these tensors, as part of an error."""
    inputs = (
        f'{{"name": "{tensor.name}", "datatype": "{datatype(tensor.dtype)}", "shape": '
        f'[{", ".join(str(size) if isinstance(size, int) else "1" for size in tensor.shape)}], "data": [...]}}'
        for tensor in tensors
    )
    return f'this server speaks version 2: POST {{"inputs": [{", ".join(inputs)}]}} to /v2/models/{model}/infer.'


def datatype(dtype: Any) -> str:
    """Name of a NumPy dtype in the protocol, in which text is bytes."""
    return "BYTES" if np.dtype(dtype).kind == "U" else _NAMES[np.dtype(dtype)]


def _numbers(array):
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _text(array):
    """Each text after the number of its bytes, as Triton has them."""
    encoded = [text.encode() for text in array.reshape(-1).tolist()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in encoded)


class _Raw:
    """The bytes behind the JSON, handed out from the front."""

    def __init__(self, view):
        self.view, self.offset = view, 0

    def take(self, what, size, dtype):
        if self.view is None:
            raise RequestError(
                f"{what} says that its data are binary, but the header Inference-Header-Content-Length, which tells "
                "where they begin, is missing."
            )
        if self.offset + size > len(self.view):
            raise RequestError(
                f"{what} should have {size} bytes of data, but only {len(self.view) - self.offset} are left: "
                "send all of them, behind the JSON."
            )
        array = np.frombuffer(self.view, dtype, size // dtype.itemsize, self.offset)
        self.offset += size
        return array

    def check_empty(self):
        if self.view is not None and self.offset != len(self.view):
            raise RequestError(
                f"{len(self.view) - self.offset} bytes of the body belong to no input: say how many each has in its "
                '"parameters": {"binary_data_size": ...}.'
            )


def _tensor(what, tensor, raw, max_numbers):
    kind = tensor.get("datatype")
    if not isinstance(kind, str) or kind not in DATATYPES:
        raise RequestError(f"{what} has the datatype {abbreviate(kind)}; use one of {', '.join(DATATYPES)}.")
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_RANK
        or any(isinstance(size, bool) or not isinstance(size, int) or size < 0 for size in shape)
    ):
        raise RequestError(f'{what} has the "shape" {abbreviate(shape)}; it must be a list of whole numbers.')
    count = math.prod(shape)
    parameters = _parameters(what, tensor)
    _refuse_shared_memory(what, parameters)
    size = parameters.get("binary_data_size")
    if size is None:
        if 0 < max_numbers < count:
            raise RequestError(
                f"{what} of shape {abbreviate(shape)} has more than {max_numbers} numbers: "
                "send fewer examples at a time.",
                status=413,
            )
        return _from_json(what, kind, shape, count, tensor.get("data"))
    dtype = _LITTLE_ENDIAN[kind]
    if isinstance(size, bool) or not isinstance(size, int) or size != count * dtype.itemsize:
        raise RequestError(
            f"{what} of shape {abbreviate(shape)} and datatype {kind} takes {abbreviate(count * dtype.itemsize)} "
            f'bytes, but its "binary_data_size" is {abbreviate(size)}.'
        )
    if "data" in tensor:
        raise RequestError(f'{what} has both "data" and "binary_data_size": send one of them.')
    if kind == "BOOL":
        array = raw.take(what, size, np.dtype("uint8"))
        if size and array.max() > 1:
            raise RequestError(f"{what} is BOOL, but has bytes other than 0 and 1.")
        return array.view("bool").reshape(shape)
    array = raw.take(what, size, dtype).astype(dtype.newbyteorder("="), copy=False).reshape(shape)
    # The JSON before it may have any length; onnxruntime may not be given a tensor at an odd address.
    return array if array.flags.aligned else array.copy()


def _from_json(what, kind, shape, count, data):
    if not isinstance(data, list):
        raise RequestError(f'{what} has no "data": send a list of numbers, flat or nested, or "binary_data_size".')
    # All of this before NumPy sees the lists: it takes 3 s to find that 15 MB of brackets are no matrix, and for a list
    # with one long string in it as much memory as if all were as long.
    nested = bool(data) and isinstance(data[0], list)
    flat: Any = _flattened(data, shape) if nested else data
    if flat is None:
        raise RequestError(f'{what} has the shape {abbreviate(shape)}, but its "data" are nested otherwise.')
    if len(flat) != count:
        raise RequestError(
            f'{what} of shape {abbreviate(shape)} takes {abbreviate(count)} numbers, but its "data" are {len(flat)}.'
        )
    dtype = np.dtype(DATATYPES[kind])
    # null becomes NaN, which JSON lacks: whether that is a missing number or a mistake is for the model to say.
    allowed, wanted = {"b": ({bool}, "true and false"), "f": ({int, float, type(None)}, "numbers")}.get(
        dtype.kind, ({int}, "whole numbers in its range")
    )
    if not set(map(type, flat)) <= allowed:
        raise RequestError(f'the "data" of {what} must be {wanted}, as its datatype is {kind}.')
    if dtype.kind in "iu" and flat:
        limits = np.iinfo(dtype)
        if min(flat) < limits.min or max(flat) > limits.max:
            raise RequestError(f"{what} is {kind}: its numbers must lie in [{limits.min}, {limits.max}].")
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
        return np.array(flat, dtype).reshape(shape)


def _flattened(data, shape):
    """Lists of lists as one list, or None if they do not have these lengths at each depth."""
    level = [data]
    for size in shape:
        if any(type(row) is not list or len(row) != size for row in level):
            return None
        level = list(itertools.chain.from_iterable(level))
    return level


def _outputs(value, binary):
    outputs = {}
    for i, output in enumerate(_tensors('"outputs"', value)):
        output = _expect(dict, f"outputs[{i}]", output)
        name = _name(f'outputs[{i}]["name"]', output.get("name"))
        if name in outputs:
            raise RequestError(f"the output {name!r} is asked for twice: name it once.")
        parameters = _parameters(f"the output {name!r}", output)
        _refuse_shared_memory(f"the output {name!r}", parameters)
        if parameters.get("classification"):
            raise RequestError(f"the output {name!r} is no set of classes: leave out the parameter classification.")
        outputs[name] = _expect(bool, f'"binary_data" of the output {name!r}', parameters.get("binary_data", binary))
    return outputs or None


def _refuse_shared_memory(what, parameters):
    if "shared_memory_region" in parameters:
        raise RequestError(f"{what} is to be in shared memory, which this server does not use: send the numbers.")


def _parameters(what, fields):
    value = fields.get("parameters")
    return {} if value is None else _expect(dict, f'the "parameters" of {what}', value)


def _tensors(what, value) -> list:
    if len(_expect(list, what, value)) > _MAX_TENSORS:
        raise RequestError(f"{what} may be up to {_MAX_TENSORS}; got {len(value)}.")
    return value


def _name(what, value):
    if len(_expect(str, what, value)) > _MAX_NAME:
        raise RequestError(f"{what} may have up to {_MAX_NAME} characters; got {len(value)}.")
    return value


_WORDS = {dict: "a JSON object", list: "a list", str: "a string", bool: "true or false"}


def _expect(kind, what, value):
    if not isinstance(value, kind):
        raise RequestError(f"{what} must be {_WORDS[kind]}; got {abbreviate(value)}.")
    return value

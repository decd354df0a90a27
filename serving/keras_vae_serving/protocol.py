"""The Open Inference Protocol, version 2: requests to NumPy arrays, NumPy arrays to responses. No HTTP in here.

A request is a JSON object, or a JSON object and raw tensors behind it (the binary tensor extension: little-endian, row
after row, in the order of the inputs), which saves printing and parsing every number. Either way each byte of it comes
from somebody else, and is believed only after it was checked: what cannot be served is a `ProtocolError` that says why.

Reference: https://github.com/kserve/open-inference-protocol, and "Binary Tensor Data Extension" of Triton's
documentation.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

DATATYPES = {
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


class ProtocolError(ValueError):
    """A request that cannot be served as it is.

    Args:
        message: One or two sentences for whoever sent it; they are sent back.
        status: The HTTP status that fits.
    """

    def __init__(self, message, status=400):
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Request:
    """What was asked for.

    Args:
        inputs: Arrays by name, with the dtypes and shapes that the request states.
        parameters: Of the whole request.
        outputs: Whether to answer in binary, by the name of each output wanted; None is all of them.
        binary: Whether to answer in binary where an output does not say.
        id: To be sent back.
    """

    inputs: dict[str, np.ndarray]
    parameters: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, bool] | None = None
    binary: bool = False
    id: str | None = None


def parse(body, json_length=None, max_numbers=math.inf):
    """Reads a request.

    Args:
        body: Its bytes.
        json_length: How many of them are JSON, where raw tensors follow; None if all are.
        max_numbers: In JSON, of one tensor; it is checked before they are converted, which takes time.

    Raises:
        ProtocolError: If it is not a request of the protocol; says what is wrong with which part.
    """
    if json_length is not None and not 0 <= json_length <= len(body):
        raise ProtocolError(f"the JSON part is said to have {json_length} bytes, but the body has {len(body)}.")
    view = memoryview(body)
    try:
        fields = orjson.loads(view if json_length is None else view[:json_length])
    except orjson.JSONDecodeError as error:
        raise ProtocolError(f"the request is not JSON: {error}.") from None
    fields = _object("the request", fields)
    raw = _Raw(None if json_length is None else view[json_length:])
    inputs = {}
    for i, tensor in enumerate(_list('"inputs"', fields.get("inputs"))):
        tensor = _object(f"inputs[{i}]", tensor)
        name = _string(f'inputs[{i}]["name"]', tensor.get("name"))
        if name in inputs:
            raise ProtocolError(f"there are two inputs of the name {name!r}.")
        inputs[name] = _tensor(f"the input {name!r}", tensor, raw, max_numbers)
    raw.check_empty()
    parameters = _parameters("the request", fields)
    binary = _boolean('"binary_data_output"', parameters.pop("binary_data_output", False))
    request_id = fields.get("id")
    return Request(
        inputs,
        parameters,
        _outputs(fields["outputs"], binary) if fields.get("outputs") is not None else None,
        binary,
        None if request_id is None else _string('"id"', request_id),
    )


def respond(request, model, version, outputs):
    """Writes a response.

    Args:
        request: The `Request`.
        model, version: Who answers.
        outputs: Arrays by name.

    Returns:
        `(body, json_length)`; the second is None where all of it is JSON.

    Raises:
        ProtocolError: If a NaN or an infinite value was asked for in JSON, which has neither.
    """
    tensors, raw = [], []
    for name, array in outputs.items():
        tensor = {"name": name, "datatype": _NAMES[array.dtype], "shape": array.shape}
        if request.outputs[name] if request.outputs is not None else request.binary:
            data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
            tensor["parameters"] = {"binary_data_size": len(data)}
            raw.append(data)
        else:
            if not all_finite(array):
                raise ProtocolError(
                    f"the output {name!r} holds NaN or infinite values, which JSON cannot: ask for it with "
                    '"parameters": {"binary_data": true}.'
                )
            tensor["data"] = np.ascontiguousarray(array).reshape(-1)
        tensors.append(tensor)
    fields = {"model_name": model, "model_version": version, "outputs": tensors}
    if request.id is not None:
        fields["id"] = request.id
    text = orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((text, *raw)), len(text)) if raw else (text, None)


def datatype(dtype):
    """The protocol's name of a NumPy dtype."""
    return _NAMES[np.dtype(dtype)]


def all_finite(array):
    """Whether there is neither a NaN nor an infinity; one pass in the usual case, and no temporary array."""
    return (
        array.dtype.kind != "f"
        or math.isfinite(array.sum(dtype="float64"))  # of float64, finite values may add up to infinity
        or bool(np.isfinite(array).all())
    )


class _Raw:
    """The bytes behind the JSON, handed out from the front."""

    def __init__(self, view):
        self.view, self.offset = view, 0

    def take(self, what, size, dtype):
        if self.view is None:
            raise ProtocolError(
                f"{what} says that its data are binary, but the header Inference-Header-Content-Length, which tells "
                "where they begin, is missing."
            )
        if self.offset + size > len(self.view):
            raise ProtocolError(
                f"{what} should have {size} bytes of data, but only {len(self.view) - self.offset} are left."
            )
        array = np.frombuffer(self.view, dtype, size // dtype.itemsize, self.offset)
        self.offset += size
        return array

    def check_empty(self):
        if self.view is not None and self.offset != len(self.view):
            raise ProtocolError(f"{len(self.view) - self.offset} bytes of the body belong to no input.")


def _tensor(what, tensor, raw, max_numbers):
    kind = tensor.get("datatype")
    if not isinstance(kind, str) or kind not in DATATYPES:
        raise ProtocolError(f"{what} has the datatype {_shown(kind)}; use one of {', '.join(DATATYPES)}.")
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_RANK
        or any(isinstance(size, bool) or not isinstance(size, int) or size < 0 for size in shape)
    ):
        raise ProtocolError(f'{what} has the "shape" {_shown(shape)}; it must be a list of whole numbers.')
    count = math.prod(shape)
    size = _parameters(what, tensor).get("binary_data_size")
    if size is None:
        if count > max_numbers:
            raise ProtocolError(
                f"{what} of shape {_shown(shape)} has more than {max_numbers} numbers: send fewer examples at a time.",
                status=413,
            )
        return _from_json(what, kind, shape, count, tensor.get("data"))
    dtype = _LITTLE_ENDIAN[kind]
    if isinstance(size, bool) or not isinstance(size, int) or size != count * dtype.itemsize:
        raise ProtocolError(
            f"{what} of shape {_shown(shape)} and datatype {kind} takes {_shown(count * dtype.itemsize)} bytes, but "
            f'its "binary_data_size" is {_shown(size)}.'
        )
    if "data" in tensor:
        raise ProtocolError(f'{what} has both "data" and "binary_data_size": send one of them.')
    if kind == "BOOL":
        array = raw.take(what, size, np.dtype("uint8"))
        if size and array.max() > 1:
            raise ProtocolError(f"{what} is BOOL, but has bytes other than 0 and 1.")
        return array.view("bool").reshape(shape)
    array = raw.take(what, size, dtype).astype(dtype.newbyteorder("="), copy=False).reshape(shape)
    # The JSON before it may have any length; onnxruntime may not be given a tensor at an odd address.
    return array if array.flags.aligned else array.copy()


def _from_json(what, kind, shape, count, data):
    if not isinstance(data, list):
        raise ProtocolError(f'{what} has no "data": send a list of numbers, flat or nested, or "binary_data_size".')
    # Measured: NumPy takes 3 s to find out by itself that 15 MB of brackets are no matrix.
    nested = bool(data) and isinstance(data[0], list)
    if not nested and len(data) != count:
        raise ProtocolError(
            f'{what} of shape {_shown(shape)} takes {_shown(count)} numbers, but its "data" are {len(data)}.'
        )
    if nested and not _is_nested_as(data, shape):
        raise _nested_otherwise(what, shape)
    try:
        array = np.array(data) if data else np.empty(0, DATATYPES[kind])
    except ValueError:  # a list where a number should be
        raise _nested_otherwise(what, shape) from None
    dtype = np.dtype(DATATYPES[kind])
    allowed = {"b": "b", "f": "fiu", "i": "iu", "u": "iu"}[dtype.kind]
    if array.size and array.dtype.kind not in allowed:
        wanted = {"b": "true and false", "f": "numbers"}.get(dtype.kind, "whole numbers in its range")
        raise ProtocolError(f'the "data" of {what} must be {wanted}, as its datatype is {kind}.')
    if array.shape != (tuple(shape) if nested else (count,)):
        raise _nested_otherwise(what, shape)
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            raise ProtocolError(f"{what} is {kind}: its numbers must lie in [{limits.min}, {limits.max}].")
    with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
        return array.astype(dtype).reshape(shape)


def _is_nested_as(data, shape):
    """Whether lists of lists have these lengths at each depth; looks at no number."""
    if not shape or len(data) != shape[0]:
        return False
    return len(shape) == 1 or all(isinstance(row, list) and _is_nested_as(row, shape[1:]) for row in data)


def _nested_otherwise(what, shape):
    return ProtocolError(f'{what} has the shape {_shown(shape)}, but its "data" are nested otherwise.')


def _outputs(value, binary):
    outputs = {}
    for i, output in enumerate(_list('"outputs"', value)):
        output = _object(f"outputs[{i}]", output)
        name = _string(f'outputs[{i}]["name"]', output.get("name"))
        if name in outputs:
            raise ProtocolError(f"the output {name!r} is asked for twice.")
        parameters = _parameters(f"the output {name!r}", output)
        if parameters.get("classification"):
            raise ProtocolError(f"the output {name!r} is no set of classes: leave out the parameter classification.")
        outputs[name] = _boolean(f'"binary_data" of the output {name!r}', parameters.get("binary_data", binary))
    return outputs or None


def _parameters(what, fields):
    value = fields.get("parameters")
    return {} if value is None else _object(f'the "parameters" of {what}', value)


def _object(what, value):
    if not isinstance(value, dict):
        raise ProtocolError(f"{what} must be a JSON object; got {_shown(value)}.")
    return value


def _list(what, value):
    if not isinstance(value, list):
        raise ProtocolError(f"{what} must be a list; got {_shown(value)}.")
    return value


def _string(what, value):
    if not isinstance(value, str):
        raise ProtocolError(f"{what} must be a string; got {_shown(value)}.")
    return value


def _boolean(what, value):
    if not isinstance(value, bool):
        raise ProtocolError(f"{what} must be true or false; got {_shown(value)}.")
    return value


def _shown(value):
    """A value in an error: no longer than a line, whatever was sent."""
    text = "nothing" if value is None else "a list of that rank" if _deep(value) else repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _deep(value):
    return isinstance(value, list) and len(value) > _MAX_RANK

"""A client of the Open Inference Protocol, written from its specification and not from the server's code."""

import json

import numpy as np

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
HEADER = "Inference-Header-Content-Length"


def request(inputs, binary=False, binary_output=False, nested=False, **fields):
    """The body and the headers of a request.

    Args:
        inputs: Arrays by name.
        binary: Whether tensors are sent raw; or a set of the names of those that are.
        binary_output: Whether the answer should be raw.
        nested: Whether JSON data are nested lists and not a flat one.
        **fields: More of the request: id, outputs, parameters.
    """
    tensors, raw = [], b""
    for name, array in inputs.items():
        tensor = {"name": name, "datatype": DATATYPES[str(array.dtype)], "shape": list(array.shape)}
        if binary is True or (binary and name in binary):
            data = np.ascontiguousarray(array).tobytes()
            tensor["parameters"] = {"binary_data_size": len(data)}
            raw += data
        else:
            tensor["data"] = array.tolist() if nested else array.reshape(-1).tolist()
        tensors.append(tensor)
    body = {"inputs": tensors, **fields}
    if binary_output:
        body["parameters"] = {**fields.get("parameters", {}), "binary_data_output": True}
    text = json.dumps(body).encode()
    return text + raw, ({HEADER: str(len(text))} if binary else {})


def outputs(content, headers):
    """The arrays of an answer, by name."""
    length = headers.get(HEADER)
    head = content if length is None else content[: int(length)]
    raw, offset, arrays = content[len(head) :], 0, {}
    names = {name: dtype for dtype, name in DATATYPES.items()}
    for tensor in json.loads(head)["outputs"]:
        dtype = np.dtype(names.get(tensor["datatype"], "str"))
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            array = np.array(tensor["data"], dtype)
        elif tensor["datatype"] == "BYTES":
            array = np.array(texts(raw[offset : offset + size]))
            offset += size
        else:
            array = np.frombuffer(raw[offset : offset + size], dtype)
            offset += size
        arrays[tensor["name"]] = array.reshape(tensor["shape"])
    assert offset == len(raw), "bytes of the answer that belong to no output"
    return arrays


def texts(data):
    """Texts of which each stands after the number of its bytes."""
    found = []
    while data:
        end = 4 + int.from_bytes(data[:4], "little")
        found, data = [*found, data[4:end].decode()], data[end:]
    return found

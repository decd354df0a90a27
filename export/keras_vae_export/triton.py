"""What makes a bundle a Triton model repository as it stands: a `config.pbtxt` beside each graph.

Without one, Triton sets the batch size of a graph with a free first dimension to 4.
"""


def config(graph, max_batch_size):
    """The text of Triton's config.pbtxt for a graph of the manifest."""
    # A tensor of shape (batch,) has no dimensions left for Triton, which wants one: 1, reshaped away.
    lines = [f'name: "{graph.name}"', 'backend: "onnxruntime"', f"max_batch_size: {max_batch_size}"]
    for what, tensors in (("input", graph.inputs), ("output", graph.outputs)):
        for tensor in tensors:
            dims = [size if isinstance(size, int) else -1 for size in tensor.shape[1:]]
            reshape = "" if dims else " reshape { shape: [ ] }"
            dtype = _DTYPES[tensor.dtype]
            lines.append(f'{what} [ {{ name: "{tensor.name}" data_type: {dtype} dims: {dims or [1]}{reshape} }} ]')
    if graph.precision != "int8":  # whose scale is that of the batch: a request would change its neighbours' numbers
        # No waiting for more requests: whatever queued while a batch ran forms the next.
        lines.append("dynamic_batching { }")
    lines.append("instance_group [ { count: 1 kind: KIND_AUTO } ]")
    return "\n".join(lines) + "\n"


_DTYPES = {
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

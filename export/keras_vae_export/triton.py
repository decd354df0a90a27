"""A `config.pbtxt` beside each graph, with which a bundle is a Triton model repository as it is.

Without one, Triton sets the batch size of a graph with a free first dimension to 4.
"""

from keras_vae_export._internals import GraphSpec


def config(graph: GraphSpec, max_batch_size: int) -> str:
    """The text of Triton's config.pbtxt for a graph of the manifest."""
    # A tensor of shape (batch,) has no dimensions left for Triton, which requires one: size 1, reshaped away.
    lines = [f'name: "{graph.name}"', 'backend: "onnxruntime"', f"max_batch_size: {max_batch_size}"]
    for what, tensors in (("input", graph.inputs), ("output", graph.outputs)):
        for tensor in tensors:
            dims = [size if isinstance(size, int) else -1 for size in tensor.shape[1:]]
            reshape = "" if dims else " reshape { shape: [ ] }"
            dtype = _DTYPES[tensor.dtype]
            lines.append(f'{what} [ {{ name: "{tensor.name}" data_type: {dtype} dims: {dims or [1]}{reshape} }} ]')
    if graph.precision != "int8":  # scaled by batch: a request would change the numbers of others in its batch
        # Without a delay: the requests that arrive while a batch runs form the next one.
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

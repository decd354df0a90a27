"""Reads files as Triton reads its config.pbtxt; test_other_runtimes.py starts this where tritonclient is.

Prints, for each file, what Triton's schema makes of it, or the error with which the parser refuses it.
"""

import json
import pathlib
import sys

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig


def read(path):
    try:
        config = text_format.Parse(pathlib.Path(path).read_text(encoding="utf-8"), ModelConfig())
    except text_format.ParseError as error:
        return {"error": str(error)}
    return {
        "name": config.name,
        "backend": config.backend,
        "max_batch_size": config.max_batch_size,
        "dynamic_batching": config.HasField("dynamic_batching"),
        "inputs": [tensor(each) for each in config.input],
        "outputs": [tensor(each) for each in config.output],
    }


def tensor(described):
    reshape = list(described.reshape.shape) if described.HasField("reshape") else None
    return [described.name, DataType.Name(described.data_type), list(described.dims), reshape]


print(json.dumps([read(path) for path in sys.argv[1:]]))

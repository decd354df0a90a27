"""Version 1 of the protocol, for tables: rows as JSON objects by the names of their columns. No HTTP in here.

    {"instances": [{"age": 31, "country": null}], "parameters": {"seed": 0}}    ->    {"predictions": [{...}]}

"instances" and "predictions" are those of TensorFlow Serving and KServe, "parameters" those of Vertex AI. What is like
the data is a row; what else a verb gives, an object of its outputs.

Reference: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from keras_vae_serving.errors import RequestError, abbreviate
from keras_vae_serving.http import protocol
from keras_vae_serving.inputs import all_finite
from keras_vae_serving.tables import Table

VERBS: tuple[str, ...] = ("encode", "reconstruct", "sample", "score", "impute")
_FIELDS = ("instances", "parameters", "signature_name")  # the last is TensorFlow Serving's, and means nothing here
_TOP_COLUMNS = 3  # named in a score, if nothing else is asked for


def parse(body: bytes | bytearray, verb: str, max_rows: int) -> tuple[list[Any], dict[str, Any]]:
    """The rows and the parameters of a request.

    Args:
        body: Bytes of the request.
        verb: Name of the verb.
        max_rows: Number of rows allowed.

    Raises:
        RequestError: If it is not a request of this kind; `Table.to_array` looks into the rows.
    """
    fields = protocol.read_object(body)
    unknown = next((name for name in fields if name not in _FIELDS), None)
    if unknown is not None:
        raise RequestError(
            f"there is no field {abbreviate(unknown)}: a request has "
            '"instances" and "parameters", such as {"instances": [...], "parameters": {"seed": 0}}.'
        )
    parameters = fields.get("parameters")
    if not isinstance(parameters, dict | None):
        raise RequestError(f'"parameters" must be a JSON object; got {abbreviate(parameters)}.')
    rows = fields.get("instances")
    if verb == "sample":
        if rows:
            raise RequestError('sample takes no rows, but the parameters "n" and "seed": leave out "instances".')
        return [], parameters or {}
    if not isinstance(rows, list) or not rows:
        raise RequestError(
            f'"instances" must be a list of rows, each a JSON object by the names of columns; got {abbreviate(rows)}.'
        )
    if len(rows) > max_rows:
        raise RequestError(
            f"there are {len(rows)} rows; this server takes up to {max_rows} in one request: send them in parts.", 413
        )
    return rows, parameters or {}


def defaults(verb: str, can_tell_where: bool, can_draw: bool) -> dict[str, Any]:
    """Parameters whose defaults are others than in version 2: a score names columns, and a sampled row is drawn."""
    if verb == "score" and can_tell_where:
        return {"top_columns": _TOP_COLUMNS}
    return {"draw": True} if verb == "sample" and can_draw else {}


def respond(table: Table, outputs: Mapping[str, np.ndarray], rows: Sequence[Any]) -> bytes:
    """Writes a response.

    Args:
        table: Columns of the rows.
        outputs: What the verb gave, by name.
        rows: Rows of the request.

    Raises:
        RequestError: If an output is NaN or infinite, which JSON has not.
    """
    for name, array in outputs.items():
        if not all_finite(array):
            raise RequestError(f"the output {name!r} holds NaN or infinite values, which JSON cannot.")
    like_x = next((name for name in ("x_filled", "x_draws", "x_drawn", "x_mean") if name in outputs), None)
    if like_x is not None:
        found = table.to_rows(outputs[like_x], rows if like_x in ("x_filled", "x_draws") else None)
    else:
        lists = {name: array.tolist() for name, array in outputs.items()}
        named = [lists.pop(name) for name in ("top_columns", "top_surprise") if name in lists]
        found = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
        if named:
            for row, prediction, columns, nats in zip(rows, found, *named, strict=True):
                pairs = zip(columns, nats, strict=True)
                prediction["surprise"] = {name: value for name, value in pairs if row.get(name) is not None}
    try:
        return orjson.dumps({"predictions": found})
    except TypeError:  # a whole number of more than 64 bits
        return json.dumps({"predictions": found}).encode()


def how(model: str, verb: str) -> str:
    """What a client should send, as part of an error."""
    asked = '"parameters": {"n": 1}' if verb == "sample" else '"instances": [{"COLUMN": VALUE, ...}]'
    return f"rows by the names of columns: POST {{{asked}}} to /v1/models/{model}:predict."

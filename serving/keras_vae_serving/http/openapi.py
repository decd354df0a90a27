"""The OpenAPI document of a server: the protocol's paths, with the names of the models that this server has."""

from typing import Any

from keras_vae_serving.http.infer import takes_rows
from keras_vae_serving.repository import Repository

_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string", "example": "FP32"},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}, "description": "Row after row, flat or nested."},
    },
}
_SCHEMAS = {
    "Tensor": _TENSOR,
    "Request": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
                },
            },
        },
    },
    "Answer": {
        "type": "object",
        "required": ["model_name", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
    },
    "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
}
_ERRORS = {
    "400": "The request is not one of the protocol, or does not fit the model.",
    "401": "A token is asked for.",
    "403": "A page of another site asked, or a name was used that this server does not answer to.",
    "404": "There is no such model or version.",
    "408": "The request did not arrive in time.",
    "413": "Too many bytes, or too many examples, at a time.",
    "415": "The request is compressed.",
    "503": "The server is full, or ending: try again after the seconds in the header Retry-After.",
}


def document(repository: Repository, version: str, has_token: bool) -> dict[str, Any]:
    """The document.

    Args:
        repository: Bundles that are served.
        version: Version of this software.
        has_token: Whether clients must send a token.
    """
    names = repository.names
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "enum": names}}
    versions = sorted({version for name in names for version in repository.versions(name)}, key=int)
    number = {"name": "version", "in": "path", "required": True, "schema": {"type": "string", "enum": versions}}
    paths = {
        "/v2": {"get": _get("Server metadata")},
        "/v2/health/live": {"get": _get("Whether the server runs", secured=False)},
        "/v2/health/ready": {"get": _get("Whether the server answers requests", secured=False)},
        "/v2/repository/index": {"post": _get("All models and versions")},
        "/v2/repository/models/{model}/load": {
            "post": _get("Load a bundle again"),
            "parameters": [model],
        },
        "/bundles": {"get": _get("What is served: likelihood, latents, threshold, graphs, providers")},
        "/metrics": {"get": _get("Numbers for Prometheus", content="text/plain")},
        "/openapi.json": {"get": _get("This document")},
        "/": {"get": _get("A page to look at the model", content="text/html", secured=False)},
    }
    for path, parameters in (
        ("/v2/models/{model}", [model]),
        ("/v2/models/{model}/versions/{version}", [model, number]),
    ):
        paths[path] = {"get": _get("Model metadata: inputs, outputs, parameters"), "parameters": parameters}
        paths[f"{path}/ready"] = {"get": _get("Whether a model answers requests"), "parameters": parameters}
        paths[f"{path}/infer"] = {"post": _infer(repository), "parameters": parameters}
    components: dict[str, Any] = {"schemas": _SCHEMAS}
    found = {name: repository.find(name) for name in names}
    of_rows = {name: bundle for name, (bundle, endpoint) in found.items() if takes_rows(bundle, endpoint)}
    if of_rows:
        tables = {bundle.name: _row(bundle.endpoints.pipeline.inputs.table) for bundle in of_rows.values()}
        rows = {"type": "array", "items": {"anyOf": list(tables.values())}}
        components = {"schemas": _SCHEMAS | {"Rows": _object(instances=rows, parameters={"type": "object"})}}
        model = {**model, "schema": {"type": "string", "enum": list(of_rows)}}
        paths["/v1/models/{model}:predict"] = {"post": _predict(of_rows), "parameters": [model]}
        paths["/v1/models/{model}/versions/{version}:predict"] = {
            "post": _predict(of_rows),
            "parameters": [model, number],
        }
    if has_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "keras_vae_serving",
            "version": version,
            "description": "A variational autoencoder over the Open Inference Protocol, version 2, with its binary "
            "tensor extension. All terms of the bound are in nats per example.",
        },
        "paths": paths,
        "components": components,
        **({"security": [{"token": []}]} if has_token else {}),
    }


def _get(summary, content="application/json", secured=True):
    schema = {"type": "string"} if content.startswith("text/") else {}
    return {
        "summary": summary,
        "responses": {
            "200": {"description": "As asked.", "content": {content: {"schema": schema}}},
            "default": _failed("Why not."),
        },
        **({} if secured else {"security": []}),
    }


def _infer(repository):
    lines = {}
    for name in repository.names:
        _, endpoint = repository.find(name)
        takes = ", ".join(f"{tensor.name} {tensor.shape_text}" for tensor in endpoint.inputs) or "no inputs"
        gives = ", ".join(f"{tensor.name} {tensor.shape_text}" for tensor in endpoint.outputs)
        lines[name] = f"- `{name}`: {endpoint.description} Takes {takes}; gives {gives}." + "".join(
            f" Parameter `{parameter}`: {meaning}" for parameter, meaning in endpoint.parameters.items()
        )
    binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    header = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "schema": {"type": "integer"},
        "description": "Number of bytes of the body that are JSON, where raw tensors follow.",
    }
    return {
        "summary": "Run a model",
        "description": "\n".join(lines.values()),
        "parameters": [header],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Request"}}, **binary},
        },
        "responses": {
            "200": {
                "description": "The outputs.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Answer"}}, **binary},
            },
            **{status: _failed(description) for status, description in _ERRORS.items()},
        },
    }


def _predict(names):
    """The path of rows, in version 1 of the protocol."""
    answer = _object(predictions={"type": "array", "items": {}})
    return {
        "summary": "Run a model of a table on rows by the names of columns",
        "description": "Predictions of `impute`, `reconstruct` and `sample` are rows; with `draws`, lists of rows. "
        "Those of `score` and `encode` have the outputs of the model, and of `score` also the `surprise`, in nats, of "
        f"the `top_columns` (3) that surprise most. The parameters are those of {', '.join(names)}.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Rows"}}},
        },
        "responses": {
            "200": {"description": "The predictions.", "content": {"application/json": {"schema": answer}}},
            **{status: _failed(description) for status, description in _ERRORS.items()},
        },
    }


def _row(table: Any):
    """A row of a table; a missing value is null, or absent."""
    null = [None] if table.missing else []
    columns = {
        column.name: {"enum": [*column.categories, *null]}
        if column.categories
        else {"type": ["number", *(["null"] if table.missing else [])]}
        for column in table.columns
    }
    required = {} if table.missing else {"required": list(columns)}
    return {**_object(**columns), "additionalProperties": False, **required}


def _object(**properties):
    return {"type": "object", "properties": properties}


def _failed(description):
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }

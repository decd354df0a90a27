"""The server of a bundle without a socket: its application, in an event loop of the test."""

import asyncio
import contextlib
import json
import shutil

import httpx

import oip
from keras_vae_serving.http import create_app


class Client:
    """A client of a bundle in this process."""

    def __init__(self, folder, **settings):
        self.app, self.loop = create_app(folder, token="", providers="cpu", **settings), asyncio.new_event_loop()
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://localhost")

    def infer(self, verb, parameters=None, binary=True, outputs=None, **arrays):
        """The outputs of a verb by name, or the sentence with which it is refused."""
        fields = {"parameters": parameters or {}} | ({} if outputs is None else {"outputs": outputs})
        body, headers = oip.request(arrays, binary, binary, **fields)
        post = self.http.post(f"/v2/models/{verb}/infer", content=body, headers=headers)
        answer = self.loop.run_until_complete(post)
        return oip.outputs(answer.content, answer.headers) if answer.is_success else answer.json()["error"]

    def predict(self, verb, rows=None, **parameters):
        """The predictions of a verb for rows by name, or the sentence with which they are refused."""
        fields = {"parameters": parameters} | ({} if rows is None else {"instances": rows})
        post = self.http.post(f"/v1/models/{verb}:predict", content=json.dumps(fields))
        answer = self.loop.run_until_complete(post)
        assert answer.headers["content-type"] == "application/json"
        return answer.json()["predictions" if answer.is_success else "error"]

    def described(self):
        """What the page is told of the bundle."""
        (found,) = self.loop.run_until_complete(self.http.get("/bundles")).json()
        return found


# Names for the columns of `families.table_with_missing_values`: not the first in its array, as categories come last.
COLUMNS = [
    {"name": "kind", "kind": "category", "categories": ["a", "b", "c"]},
    *({"name": f"c{i}", "kind": "integer" if i else "real"} for i in range(9)),
]


def with_columns(bundle, folder):
    """A copy of the bundle of that model, whose manifest has these names, and the fields of its manifest."""
    shutil.copytree(bundle, folder)
    fields = json.loads((folder / "manifest.json").read_text()) | {"table": COLUMNS}
    (folder / "manifest.json").write_text(json.dumps(fields))
    return fields


@contextlib.contextmanager
def serving(folder, **settings):
    client = Client(folder, **settings)
    try:
        yield client
    finally:
        client.app.state.server.repository.close()
        client.loop.close()

"""The server of a bundle without a socket: its application, in an event loop of the test."""

import asyncio
import contextlib

import httpx

import oip
from keras_vae_serving.http import create_app


class Client:
    """A client of a bundle in this process."""

    def __init__(self, folder):
        self.app, self.loop = create_app(folder, token="", providers="cpu"), asyncio.new_event_loop()
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://localhost")

    def infer(self, verb, parameters=None, binary=True, outputs=None, **arrays):
        """The outputs of a verb by name, or the sentence with which it is refused."""
        fields = {"parameters": parameters or {}} | ({} if outputs is None else {"outputs": outputs})
        body, headers = oip.request(arrays, binary, binary, **fields)
        post = self.http.post(f"/v2/models/{verb}/infer", content=body, headers=headers)
        answer = self.loop.run_until_complete(post)
        return oip.outputs(answer.content, answer.headers) if answer.is_success else answer.json()["error"]

    def described(self):
        """What the page is told of the bundle."""
        (found,) = self.loop.run_until_complete(self.http.get("/bundles")).json()
        return found


@contextlib.contextmanager
def serving(folder):
    client = Client(folder)
    try:
        yield client
    finally:
        client.app.state.server.repository.close()
        client.loop.close()

"""Requests that wait are run together, and nobody notices: each has its own numbers and its own errors."""

import asyncio
import math
import threading
import types

import numpy as np
import pytest

from keras_vae_serving import batching
from keras_vae_serving.batching import Batcher
from keras_vae_serving.errors import Overloaded, RequestError
from keras_vae_serving.manifest import BATCH, NUM_SAMPLES, Tensor

pytestmark = pytest.mark.once


class Doubling:
    """A session that doubles x, records what it was given, and waits until it may go on."""

    def __init__(self, precision="float32", sampled=False):
        inputs = [Tensor("x", "float32", (BATCH, 1))]
        inputs += [Tensor("epsilon", "float32", (BATCH, NUM_SAMPLES, 2))] if sampled else []
        self.graph = types.SimpleNamespace(name="doubling", precision=precision, inputs=inputs)
        self.runs, self.started, self.may_run = [], threading.Event(), threading.Event()

    def example(self):
        sampled = {tensor.name: np.ones((1, 1, 2), "float32") for tensor in self.graph.inputs[1:]}
        return {**rows(0), **sampled}

    def check(self, inputs):
        assert set(inputs) == {tensor.name for tensor in self.graph.inputs}
        if inputs["x"].ndim != 2:
            raise RequestError("x must be a matrix.")
        return len(inputs["x"])

    def run(self, inputs, outputs=None, check=True):
        self.started.set()
        assert self.may_run.wait(20)
        self.runs.append(inputs["x"].copy())
        if (inputs["x"] == 13).any():
            raise RuntimeError("/home/somebody/onnxruntime/kernel.cc:13 bad luck")
        if (inputs["x"] == 15).any():
            raise RuntimeError("Failed to allocate memory for requested buffer")
        return dict.fromkeys(outputs or ["y", "more"], inputs["x"] * 2)


@pytest.fixture
def session():
    return Doubling()


def rows(*values, dtype="float32"):
    return {"x": np.array(values, dtype)[:, None]}


async def together(session, *requests, outputs=None, **settings):
    """The results, or exceptions, of requests which are all there while a first one is running."""
    batcher = Batcher(session, **settings)
    try:
        first = asyncio.create_task(batcher.run(session.example()))
        assert await asyncio.to_thread(session.started.wait, 20)
        tasks = [asyncio.create_task(batcher.run(request, outputs)) for request in requests]
        await asyncio.sleep(0)
        session.may_run.set()
        await first
        return await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        session.may_run.set()
        await asyncio.to_thread(batcher.close)


def sizes(session):
    return [len(run) for run in session.runs]


def test_what_waits_is_run_together_and_told_apart(session):
    results = asyncio.run(together(session, rows(1), rows(2, 3), rows(4)))
    assert sizes(session) == [1, 4]
    assert [result["y"][:, 0].tolist() for result in results] == [[2], [4, 6], [8]]
    assert [set(result) for result in results] == [{"y", "more"}] * 3


def test_a_quiet_server_runs_each_request_at_once(session):
    session.may_run.set()

    async def one_by_one():
        batcher = Batcher(session)
        for value in range(3):
            await batcher.run(rows(value))
        batcher.close()

    asyncio.run(one_by_one())
    assert sizes(session) == [1, 1, 1]


def test_a_quick_graph_is_run_in_the_event_loop_and_a_slow_one_is_not(session, monkeypatch):
    session.may_run.set()
    threads, here = [], threading.main_thread()

    def run(inputs, *others, **named):
        threads.append(threading.current_thread())
        session.started.set()
        assert threads[-1] is here or session.may_run.wait(20)
        return {"y": inputs["x"]}

    monkeypatch.setattr(session, "run", run)

    async def ask():
        batcher = Batcher(session, max_batch=4)
        await batcher.run(rows(0))  # nothing is known of the graph yet
        monkeypatch.setattr(batching, "INLINE_SECONDS", math.inf)
        results = await asyncio.gather(*(batcher.run(rows(value)) for value in range(6)), return_exceptions=True)
        await batcher.run({"x": np.ones((1, 2), "float32")})  # nor of inputs of this size
        monkeypatch.setattr(batching, "INLINE_SECONDS", 0.0)
        await batcher.run({"x": np.ones((1, 2), "float32")})
        session.may_run.clear()
        session.started.clear()
        gone = asyncio.create_task(batcher.run({"x": np.ones((1, 2), "float32")}))
        assert await asyncio.to_thread(session.started.wait, 20)
        gone.cancel()  # the thread is busy all the same
        monkeypatch.setattr(batching, "INLINE_SECONDS", math.inf)
        stays = asyncio.create_task(batcher.run({"x": np.ones((1, 2), "float32")}))
        for _ in range(3):
            await asyncio.sleep(0)
        session.may_run.set()
        await stays
        batcher.close()
        return results

    results = asyncio.run(ask())
    assert [result["y"].tolist() for result in results] == [[[value]] for value in range(6)]
    # 6 rows, 4 at a time
    assert [thread is here for thread in threads] == [False, True, True, False, False, False, False]


def test_shapes_dtypes_and_outputs_are_not_mixed(session):
    wide = {"x": np.ones((1, 2), "float32")}
    results = asyncio.run(together(session, rows(1), wide, rows(2, dtype="float64"), rows(3)))
    assert sorted((run.shape, str(run.dtype)) for run in session.runs[1:]) == [
        ((1, 1), "float64"),
        ((1, 2), "float32"),
        ((2, 1), "float32"),
    ]
    assert [result["y"].ravel().tolist() for result in results] == [[2], [2, 2], [4], [6]]

    async def two_outputs():
        return await asyncio.gather(
            together(Doubling(), rows(1), outputs=["y"]), together(Doubling(), rows(1), outputs=["more"])
        )

    (first,), (second,) = asyncio.run(two_outputs())
    assert (set(first), set(second)) == ({"y"}, {"more"})


def test_a_batch_has_a_largest_size_and_a_large_request_is_run_in_parts(session):
    results = asyncio.run(together(session, *(rows(i, i) for i in range(5)), rows(*range(100, 110)), max_batch=4))
    assert max(sizes(session)) == 4
    assert sum(sizes(session)) == 1 + 10 + 10
    assert results[4]["y"][:, 0].tolist() == [8, 8]
    assert results[5]["y"][:, 0].tolist() == [2 * i for i in range(100, 110)]


def test_samples_of_z_count_as_examples():
    session = Doubling(sampled=True)

    def request(rows, samples):
        return {"x": np.ones((rows, 1), "float32"), "epsilon": np.ones((rows, samples, 2), "float32")}

    results = asyncio.run(together(session, request(5, 4), request(1, 100), request(2, 4), max_batch=8, max_queue=200))
    assert [len(result["y"]) for result in results] == [5, 1, 2]
    assert sorted(sizes(session)[1:]) == [1, 1, 2, 2, 2]  # 2 rows of 4 samples at a time, 1 of 100
    _, full = asyncio.run(together(Doubling(sampled=True), request(1, 150), request(1, 100), max_queue=200))
    assert isinstance(full, Overloaded)


def test_large_examples_count_as_several(session):
    results = asyncio.run(
        together(
            session,
            *(rows(i, i) for i in range(4)),
            {"x": np.ones((3, 5), "float32")},
            max_batch=8,
            max_queue=20,
            row_cost=lambda inputs: 4 * inputs["x"].shape[1],
        )
    )
    # 4 for the one that runs, 8 each for the first two; those that no longer fit are told so
    assert sizes(session) == [1, 2, 2]
    assert [isinstance(result, Overloaded) for result in results] == [False, False, True, True, True]


def test_each_request_has_its_own_error(session):
    good, bad, memory, fine = asyncio.run(together(session, rows(1), rows(13), rows(15), rows(5, 6)))
    assert good["y"].tolist() == [[2]]
    assert fine["y"].tolist() == [[10], [12]]
    assert isinstance(bad, RequestError)
    assert bad.status == 400
    assert str(bad) == "the graph doubling cannot run on inputs of these sizes or values."
    assert (memory.status, "did not get the memory" in str(memory)) == (503, True)


def test_what_no_run_could_take_is_refused_before_it_waits(session):
    async def wrong():
        batcher = Batcher(session)
        with pytest.raises(RequestError, match="x must be a matrix"):
            await batcher.run({"x": np.float32(1)})
        assert batcher.waiting == 0
        batcher.close()

    asyncio.run(wrong())
    assert session.runs == []


def test_int8_is_not_mixed_as_its_scale_is_that_of_the_batch():
    session = Doubling("int8")
    results = asyncio.run(together(session, rows(1), rows(2, 3)))
    assert sizes(session) == [1, 1, 2]
    assert [result["y"][:, 0].tolist() for result in results] == [[2], [4, 6]]


def test_the_queue_is_bounded_but_takes_a_large_request_when_it_is_empty(session):
    first, second, third = asyncio.run(together(session, rows(*range(7)), rows(1, 2), rows(3), max_queue=9))
    assert len(first["y"]) == 7  # with the one that runs, 8
    assert isinstance(second, Overloaded)
    assert str(second) == "8 examples are waiting already: try again in a second."
    assert third["y"].tolist() == [[6]]

    async def alone():
        batcher = Batcher(session, max_queue=2)
        result = await batcher.run(rows(1, 2, 3))
        assert batcher.waiting == 0
        batcher.close()
        return result

    assert len(asyncio.run(alone())["y"]) == 3


def test_who_has_gone_is_not_waited_for_and_takes_no_room(session):
    async def leave():
        batcher = Batcher(session)
        first = asyncio.create_task(batcher.run(rows(0)))
        gone = asyncio.create_task(batcher.run(rows(1)))
        stays = asyncio.create_task(batcher.run(rows(2)))
        await asyncio.sleep(0)
        gone.cancel()
        session.may_run.set()
        results = await asyncio.gather(first, gone, stays, return_exceptions=True)
        assert batcher.waiting == 0
        await asyncio.to_thread(batcher.close)
        return results

    first, gone, stays = asyncio.run(leave())
    assert (first["y"].tolist(), stays["y"].tolist()) == ([[0]], [[4]])
    assert isinstance(gone, asyncio.CancelledError)


def test_closing_answers_what_waits(session):
    async def close_while_three_wait():
        batcher = Batcher(session)
        tasks = [asyncio.create_task(batcher.run(rows(value))) for value in range(3)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await asyncio.sleep(0.01)
        session.may_run.set()
        await closing
        return await asyncio.gather(*tasks)

    assert [result["y"].tolist() for result in asyncio.run(close_while_three_wait())] == [[[0]], [[2]], [[4]]]

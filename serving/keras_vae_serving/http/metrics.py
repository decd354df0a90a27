"""Metrics for Prometheus: requests, their time and outcome, batch sizes, queues, and the process itself."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from keras_vae_serving.repository import Bundle

CONTENT_TYPE: str = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The numbers of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry: CollectorRegistry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = Counter(
            "keras_vae_requests", "Requests answered.", ("model", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "keras_vae_request_seconds",
            "From the head of a request to its answer.",
            ("model",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batches = Histogram(
            "keras_vae_batch_rows", "Examples in one run of a graph.", ("graph",), buckets=_ROWS, registry=self.registry
        )
        self._loads = Counter("keras_vae_loads", "Bundles loaded again.", ("outcome",), registry=self.registry)
        self._queue = Gauge(
            "keras_vae_queue_rows", "Examples that wait or run.", ("bundle", "version", "graph"), registry=self.registry
        )
        self._drift = Gauge(
            "keras_vae_drift",
            "Distance of the last scores (Kolmogorov-Smirnov) and codes (standard deviations) from those at export.",
            ("bundle", "version", "of"),
            registry=self.registry,
        )
        self._compared = Gauge(
            "keras_vae_drift_examples",
            "Examples that are compared.",
            ("bundle", "version", "of"),
            registry=self.registry,
        )
        self._bound = {}

    def answered(self, model: str, status: int, seconds: float) -> None:
        """Counts a request; `model` must be the name of a model, or "unknown", as labels are kept for ever."""
        bound = self._bound.get((model, status))
        if bound is None:
            bound = self._bound[model, status] = self._requests.labels(model, status), self._seconds.labels(model)
        bound[0].inc()
        bound[1].observe(seconds)

    def ran(self, graph: str, rows: int) -> None:
        """Counts a run of a graph."""
        bound = self._bound.get(graph)
        if bound is None:
            bound = self._bound[graph] = self._batches.labels(graph)
        bound.observe(rows)

    def loaded(self, outcome: str) -> None:
        """Counts a bundle loaded again: "installed" or "refused"."""
        self._loads.labels(outcome).inc()

    def text(self, bundles: Iterable[Bundle]) -> bytes:
        """The numbers in Prometheus's format."""
        for bundle in bundles:
            for graph, batcher in bundle.endpoints.batchers.items():
                self._queue.labels(bundle.name, bundle.version, graph).set(batcher.waiting)
            found = {} if bundle.endpoints.drift is None else bundle.endpoints.drift.measured()
            for what, (distance, examples) in found.items():
                self._drift.labels(bundle.name, bundle.version, what).set(distance)
                self._compared.labels(bundle.name, bundle.version, what).set(examples)
        return generate_latest(self.registry)

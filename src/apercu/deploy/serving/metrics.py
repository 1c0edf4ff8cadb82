"""What is counted, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Requests by address and status, latencies, the queue, batch sizes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("path", "status")
        self.requests = Counter(
            "apercu_requests", "Requests that were answered.", labels, registry=self.registry
        )
        self.seconds = Histogram(
            "apercu_request_seconds",
            "From a request to its answer.",
            ("path",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batches = Histogram(
            "apercu_batch_images",
            "Images that a worker took together.",
            buckets=BATCHES,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)

    def watch(self, waiting: Callable[[], int], taken: Callable[[], int]) -> None:
        """Says where to look how many images wait, and how many wait or are in work."""
        queue = Gauge("apercu_queue_images", "Images that wait.", registry=self.registry)
        queue.set_function(waiting)
        held = Gauge("apercu_images", "Images that wait or are in work.", registry=self.registry)
        held.set_function(taken)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """One request."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)

"""A worker process: it loads the explainer, and explains images in batches."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from socket import socket
from typing import TYPE_CHECKING, Any, cast, final

from apercu.deploy.serving.channel import Message, MessageKind, read_message
from apercu.deploy.serving.requests import ExplainRequest
from apercu.deploy.serving.responses import ExplainResponse, describe_error, silence_libraries
from apercu.deploy.serving.settings import CaseFolders
from apercu.errors import ApercuError, NotFiniteError

if TYPE_CHECKING:
    from apercu.deploy.serving.batch_explainer import BatchExplainer, Explained
    from apercu.deploy.serving.prepared_image import PreparedImage

HELPERS = 2
"""Threads that decode images and encode responses while the network computes."""
SWITCH_INTERVAL = 0.0005
"""Seconds after which a Python thread lets another one run: the network must not wait for long."""


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker loads, and how it computes.

    Args:
        run: folder of a trained explainer, or of its export.
        classifier: SPEC of the explained classifier.
        max_pixels: pixels that a picture may have.
        batch: images that are explained together, at most.
        threads: threads that PyTorch uses on the CPU.
        device: device that PyTorch uses.
        trust: whether the folder or a card may name a factory, whose code is run.
        cases: where similar cases are found; None for none.
        guard: folder of a guard, `none`, or None for the one that the classifier's card names.
    """

    run: Path
    classifier: str | None = None
    max_pixels: int = 50_000_000
    batch: int = 8
    threads: int = 1
    device: str = "cpu"
    trust: bool = False
    cases: CaseFolders | None = None
    guard: str | None = None


def open_explainer(setup: WorkerSetup) -> BatchExplainer:
    """Open the explainer, and the classifier if one is given.

    Raises:
        RunError: the run or export cannot be opened, or was trained for another classifier; or the
            guard does not belong to it.
        ClassifierError: the classifier cannot be opened.
        ConfigError: an export is given a classifier or a guard, which it holds, or a GPU.
    """
    from apercu.deploy.inference import is_export, open_engine
    from apercu.deploy.serving.batch_explainer import MaskBatchExplainer
    from apercu.learning.case_features import is_classifier, is_explainer_run

    if is_export(setup.run):
        engine = open_engine(
            setup.run, setup.classifier, setup.device, spin=False, guard=setup.guard
        )
        return MaskBatchExplainer(_name_run(setup.run), engine)
    if not is_explainer_run(setup.run) and is_classifier(setup.run):
        return _open_classifier(setup)
    return _open_run(setup)


def _open_classifier(setup: WorkerSetup) -> BatchExplainer:
    """Open a classifier, which is explained by methods that need no training."""
    from apercu.deploy.serving.cases import CaseSearch
    from apercu.deploy.serving.method_explainer import MethodBatchExplainer, name_classifier
    from apercu.guard.use import choose_guard
    from apercu.learning.case_features import open_case_encoder

    encoder = open_case_encoder(
        setup.run, classifier=setup.classifier, device=setup.device, trust=setup.trust
    )
    batch_explainer = MethodBatchExplainer(name_classifier(setup.run), encoder)
    batch_explainer.guard = choose_guard(setup.guard, encoder.classifier)
    if setup.cases is not None:
        batch_explainer.search_in(CaseSearch.open(encoder, setup.cases))
    return batch_explainer


def _open_run(setup: WorkerSetup) -> BatchExplainer:
    """Open the run folder of a trained explainer of any kind."""
    from apercu.classifiers import open_classifier
    from apercu.deploy.inference import Predictor, open_engine
    from apercu.deploy.serving.batch_explainer import CounterpartBatchExplainer, MaskBatchExplainer
    from apercu.deploy.serving.cases import CaseSearch
    from apercu.explainers.base import MaskingExplainer
    from apercu.explainers.counterfactual import CounterfactualExplainer
    from apercu.explainers.run_folder import load_explainer
    from apercu.guard.use import choose_guard
    from apercu.learning.case_features import open_case_encoder

    name, device = _name_run(setup.run), setup.device
    classifier = None
    if setup.classifier is not None:
        classifier = open_classifier(setup.classifier, device=device, trust=setup.trust)
    explainer = load_explainer(setup.run, trust=setup.trust).to(device)
    batch_explainer: BatchExplainer
    if isinstance(explainer, CounterfactualExplainer):
        predictor = Predictor(explainer, classifier).to(device)
        batch_explainer = CounterpartBatchExplainer(name, predictor, explainer)
        batch_explainer.guard = choose_guard(setup.guard, predictor.classifier, explainer)
    else:
        masks = cast(MaskingExplainer[Any, Any], explainer)
        engine = open_engine(masks, classifier, device, guard=setup.guard)
        batch_explainer = MaskBatchExplainer(name, engine)
    if setup.cases is not None:
        encoder = open_case_encoder(explainer, classifier=classifier, device=device)
        batch_explainer.search_in(CaseSearch.open(encoder, setup.cases))
    return batch_explainer


def _name_run(run: Path) -> str:
    """Return the name of a run folder, as clients see it."""
    return run.resolve().name or "explainer"


@final
class ImageWorker:
    """The steps from a request to its response: decode the image, explain it, write JSON.

    Args:
        explainer: explains batches.
        max_pixels: pixels that a picture may have.
    """

    def __init__(self, explainer: BatchExplainer, max_pixels: int) -> None:
        self.explainer = explainer
        self.max_pixels = max_pixels

    def prepare(self, request: ExplainRequest) -> PreparedImage | ExplainResponse:
        """Decode an image, or return the problem with it: one must not spoil a batch."""
        from apercu.deploy.serving.prepared_image import prepare_request

        return prepare_request(request, self.explainer.served.input, self.max_pixels)

    def explain(
        self, batch: Sequence[PreparedImage | ExplainResponse]
    ) -> list[Explained | ExplainResponse]:
        """Explain the images of a batch; responses among them stay as they are."""
        images = [one for one in batch if not isinstance(one, ExplainResponse)]
        try:
            results = iter(self._explain_images(images) if images else [])
        except Exception as error:
            problem = describe_error(error)
            return [one if isinstance(one, ExplainResponse) else problem for one in batch]
        explained: list[Explained | ExplainResponse] = []
        for one in batch:
            result = one if isinstance(one, ExplainResponse) else next(results)
            explained.append(describe_error(result) if isinstance(result, ApercuError) else result)
        return explained

    def _explain_images(self, images: Sequence[PreparedImage]) -> list[Explained | ApercuError]:
        """Explain images; one without finite numbers gets its error, and the others go on."""
        import torch

        from apercu.classifiers.outputs import check_finite_rows

        try:
            results = self.explainer(images)
            rows = [each for each in results if not isinstance(each, ApercuError)]
            if rows:
                check_finite_rows(
                    "the prediction", torch.stack([each.probabilities for each in rows])
                )
            return results
        except NotFiniteError as error:
            if len(images) == 1:
                return [error.name_row("the image")]
            return [each for image in images for each in self._explain_images([image])]

    def write(self, explained: Explained | ExplainResponse) -> ExplainResponse:
        """Write the response to an image."""
        if isinstance(explained, ExplainResponse):
            return explained
        try:
            record = self.explainer.write(explained)
            return ExplainResponse(200, json.dumps(record, allow_nan=False).encode())
        except Exception as error:  # NaN in a map
            return describe_error(error)


@dataclass(frozen=True, eq=False)
class Arrival:
    """An image that has arrived, and is being decoded."""

    number: int
    prepared: Future[PreparedImage | ExplainResponse]


@final
class BatchingLoop:
    """Explains images as they arrive: waits for the first, and takes all that are there with it.

    Images are decoded, and responses are encoded, in threads while the network computes.

    Args:
        connection: socket to the web process.
        setup: what the worker loads, and how it computes.
        on_closed: is called when the web process has closed the connection.
    """

    worker: ImageWorker

    def __init__(
        self, connection: socket, setup: WorkerSetup, on_closed: Callable[[], None]
    ) -> None:
        self.setup = setup
        self._on_closed = on_closed
        self._connection = connection
        self._sending = threading.Lock()
        self._arrivals: SimpleQueue[Arrival] = SimpleQueue()
        self._cancelled: set[int] = set()
        self._last = 0
        self._helpers = ThreadPoolExecutor(HELPERS, "helper", _compute_alone)

    def load(self) -> None:
        """Open everything, and tell the web process.

        Raises:
            ApercuError: something cannot be opened; the web process gets the error, too.
        """
        threading.Thread(target=self.receive, daemon=True).start()
        try:
            explainer = open_explainer(self.setup)
            explainer.warm_up()
        except ApercuError as error:
            self._send(Message(MessageKind.FAILED, content=pickle.dumps(error)))
            raise
        self.worker = ImageWorker(explainer, self.setup.max_pixels)
        self._send(Message(MessageKind.READY, content=pickle.dumps(explainer.served)))

    def run(self) -> None:
        """Explain batches until the process ends."""
        while True:
            self.answer(self.take())

    def count_waiting(self) -> int:
        """Return the number of images that have arrived and are not yet taken."""
        return self._arrivals.qsize()

    def take(self) -> list[Arrival]:
        """Wait for an image, and return it with all others that are there."""
        taken: list[Arrival] = []
        while not taken:
            arrivals = [self._arrivals.get()]
            with suppress(Empty):
                while len(arrivals) < self.setup.batch:
                    arrivals.append(self._arrivals.get_nowait())
            messages = []
            for arrival in arrivals:
                self._last = arrival.number
                is_cancelled = arrival.number in self._cancelled
                kind = MessageKind.DROPPED if is_cancelled else MessageKind.BEGUN
                messages.append(Message(kind, arrival.number))
                if is_cancelled:
                    self._cancelled.discard(arrival.number)
                else:
                    taken.append(arrival)
            self._send(*messages)
        return taken

    def answer(self, batch: Sequence[Arrival]) -> None:
        """Explain a batch; helpers write and send the responses if there is more to do."""
        results = self.worker.explain([arrival.prepared.result() for arrival in batch])
        if len(batch) == 1 and self._arrivals.empty():
            self._respond(batch[0].number, results[0], 1)
            return
        size = len(batch)
        for arrival, explained in zip(batch, results, strict=True):
            self._helpers.submit(self._respond, arrival.number, explained, size)
            size = 0

    def receive(self) -> None:
        """Take in messages until the web process closes the connection."""
        with self._connection.makefile("rb") as stream:
            while (message := read_message(stream)) is not None:
                if message.kind == MessageKind.EXPLAIN:
                    prepared = self._helpers.submit(self._prepare, message)
                    self._arrivals.put(Arrival(message.number, prepared))
                elif message.number > self._last:
                    self._cancelled.add(message.number)
        self._on_closed()

    def _prepare(self, message: Message) -> PreparedImage | ExplainResponse:
        if message.number in self._cancelled:
            return ExplainResponse(499, b"")
        request = ExplainRequest(message.content, pickle.loads(message.options))
        return self.worker.prepare(request)

    def _respond(self, number: int, explained: Explained | ExplainResponse, batch: int) -> None:
        response = self.worker.write(explained)
        self._send(
            Message(
                MessageKind.RESPONSE, number, response.body, status=response.status, batch=batch
            )
        )

    def _send(self, *messages: Message) -> None:
        content = b"".join(message.pack() for message in messages)
        try:
            with self._sending:
                self._connection.sendall(content)
        except OSError:  # the web process is gone
            os._exit(1)


def run_worker(connection: socket, setup: WorkerSetup) -> None:
    """Work until the web process closes the connection. This is the whole worker process."""
    import torch

    silence_libraries()
    _use_thread_locks()
    sys.setswitchinterval(SWITCH_INTERVAL)
    torch.set_num_threads(setup.threads)
    loop = BatchingLoop(connection, setup, lambda: os._exit(0))
    try:
        loop.load()
    except ApercuError:
        return
    loop.run()


def _use_thread_locks() -> None:
    """Let tqdm, which libraries use for bars that nobody sees, lock threads only.

    Its lock of processes is a semaphore. A worker that ends at once would leave it behind, and
    Python would warn of it whenever a server ends.
    """
    with suppress(ImportError):
        importlib.import_module("tqdm").tqdm.set_lock(threading.RLock())


def _compute_alone() -> None:
    """Let PyTorch compute in this thread without further ones: those belong to the network."""
    import torch

    torch.set_num_threads(1)

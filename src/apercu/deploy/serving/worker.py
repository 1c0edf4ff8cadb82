"""A worker: a process with the whole explainer, which LitServe hands batches of orders."""

# no `from __future__ import annotations`: LitServe looks at the types themselves

import ctypes
import json
import logging
import os
import signal
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import final

from litserve import LitAPI

from apercu.deploy.serving.answering import Answering, Record
from apercu.deploy.serving.gathering import Gathering
from apercu.deploy.serving.orders import Made, Order
from apercu.deploy.serving.problems import problem
from apercu.deploy.serving.seen import Seen, see
from apercu.deploy.serving.slips import Slips
from apercu.errors import ApercuError

ADDRESS = "/v1/explain"


@dataclass(frozen=True)
class Work:
    """What a worker opens, and what it may read.

    Args:
        run: folder of a trained explainer, or of its export.
        classifier: SPEC of the explained classifier.
        pixels: of one picture.
        threads: that PyTorch computes with on the CPU.
    """

    run: Path
    classifier: str | None
    pixels: int
    threads: int


@final
class Worker(LitAPI):
    """Reads images, explains them together, writes JSON.

    Args:
        work: what it opens.
        batch: images that it takes together, at most.
    """

    def __init__(self, work: Work, batch: int) -> None:
        self.gathering = Gathering()
        super().__init__(max_batch_size=batch, api_path=ADDRESS, loop=self.gathering)
        self.work = work
        self.pids: ctypes.Array[ctypes.c_int] = RawArray("i", 1)
        """Of the workers by their number, for the web process to see which of them live."""
        self.slips = self.gathering.slips = Slips(1)

    def hire(self, workers: int, orders: int) -> None:
        """Says how many there will be, and how many orders at a time, before the first starts."""
        self.pids = RawArray("i", workers)
        self.slips = self.gathering.slips = Slips(orders)

    def setup(self, device: str) -> None:
        """Opens everything, in the worker's own process."""
        import torch

        for one in (signal.SIGINT, signal.SIGTERM):  # it serves as long as the web process does
            signal.signal(one, signal.SIG_IGN)
        _keep_quiet()
        torch.set_num_threads(self.work.threads)
        self.answering = open_answering(self.work, device)
        self.answering.warm_up()
        self.pids[int(os.environ["LITSERVE_WORKER_ID"])] = os.getpid()

    def decode_request(self, request: Order) -> Seen | Made:
        """An image ready to be explained, or the problem with it; one must not spoil a batch."""
        try:
            return see(request, self.answering.facts.input, self.work.pixels)
        except Exception as error:
            return problem(error)

    def predict(self, x: Sequence[Seen | Made]) -> list[Made]:
        """An answer for each."""
        seen = [one for one in x if isinstance(one, Seen)]
        records = iter(self.answering(seen) if seen else [])
        made = [one if isinstance(one, Made) else answer(next(records)) for one in x]
        return [
            Made(one.status, one.body, 0 if place else len(x)) for place, one in enumerate(made)
        ]

    def encode_response(self, output: Made) -> Made:
        """As it is."""
        return output


def answer(record: Record | ApercuError) -> Made:
    """A record, or the problem in its place, as JSON."""
    if isinstance(record, ApercuError):
        return problem(record)
    try:
        return Made(200, json.dumps(record, allow_nan=False).encode())
    except ValueError as error:  # NaN in a map
        return problem(error)


def open_answering(work: Work, device: str = "cpu") -> Answering:
    """Opens the explainer, and the classifier where one is given.

    Raises:
        RunError: the run or export cannot be opened, or was trained for another classifier.
        ClassifierError: the classifier cannot be opened.
        ConfigError: an export is given a classifier, which it holds, or a GPU.
    """
    from apercu.classifiers import open_classifier
    from apercu.deploy.inference import Predictor, is_export, open_engine
    from apercu.deploy.inference.torch_engine import TorchEngine
    from apercu.deploy.serving.masks import MaskAnswering
    from apercu.deploy.serving.pairs import PairAnswering
    from apercu.explainers.mask.explainer import MaskExplainer
    from apercu.explainers.run_folder import open_run

    if is_export(work.run):
        return MaskAnswering(open_engine(work.run, work.classifier, device, spin=False))
    explainer = open_run(work.run).to(device)
    opened = None if work.classifier is None else open_classifier(work.classifier, device=device)
    if isinstance(explainer, MaskExplainer):
        return MaskAnswering(TorchEngine.from_explainer(explainer, opened))
    return PairAnswering(Predictor(explainer, opened).to(device), explainer)


def _keep_quiet() -> None:
    """Keeps remarks about callers' images out of the log."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    logging.getLogger("pydicom").disabled = True

"""What a filter in front costs in an exported graph, beside the classifier behind it.

    python benchmarks/halftone_graph.py CARD [--filters floyd_steinberg,bit_depth] [--repeats 15]

The classifier of a card is written as an ONNX graph, bare and behind each filter, and ONNX Runtime
runs all of them in turns on one thread, with 1 and with 8 images. Printed is the median of each
ratio to the bare graph. Nothing is promised.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from timing import compute_ratio, time_in_turns

from apercu.classifiers import Classifier, open_classifier
from apercu.deploy.export.tracing import Traceable, open_session, run_session, write_onnx
from apercu.option_strings import split_names

BARE = "bare"


class ClassifierGraph(torch.nn.Module):
    """The logits of a classifier; targets are used as an explainer uses them."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = [classifier]
        self.module = classifier.module

    def forward(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor]:
        classifier = self.classifier[0]
        raw = classifier.network.forward(classifier.normalise(images))
        return (classifier.network.read_logits_unchecked(raw) + 0 * targets[:, None],)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("card")
    parser.add_argument("--filters", default="floyd_steinberg,bit_depth")
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    bare = open_classifier(given.card).without_filter()
    sessions = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in [BARE, *split_names(given.filters, "filters", ())]:
            filter = None if name == BARE else name
            classifier = Classifier(replace(bare.network, filter=filter))
            graph = Traceable.for_images(
                ClassifierGraph(classifier), ("logits",), classifier.network.input
            )
            path = write_onnx(graph, Path(folder) / "classifier.onnx")
            sessions[name] = open_session(path, threads=1)
    for count in (1, 8):
        images = torch.rand(count, bare.channels, *bare.size)
        targets = torch.zeros(count, dtype=torch.long)
        calls = {
            name: partial(run_session, session, images, targets)
            for name, session in sessions.items()
        }
        rounds = time_in_turns(calls, given.repeats, images.device)
        for name in sessions:
            if name != BARE:
                print(f"{count} images: {name} ÷ bare = {compute_ratio(rounds, name, BARE):.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

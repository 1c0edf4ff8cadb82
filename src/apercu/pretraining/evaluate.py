"""Networks × heads × shares of the labels → rows and pictures; what is finished is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from apercu.classifiers import Classifier
from apercu.errors import RunError
from apercu.images import ImageSource, open_images
from apercu.io import write_json
from apercu.pretraining.few_labels import (
    FewLabelsProtocol,
    LearningCurveRow,
    Progress,
    extract_labelled_features,
    measure_curve,
    reinitialise,
)
from apercu.pretraining.heads import LabelledFeatures, Learner
from apercu.pretraining.inputs import find_readable
from apercu.pretraining.pca_plot import draw_pca_plot
from apercu.render import SERIES_COLOURS

CURVES = "curves"


@dataclass(frozen=True)
class FeatureEvaluation:
    """What is evaluated, and on what.

    Args:
        networks: by name.
        images: specification of those to learn from.
        test: of those to measure on.
        labels: gives a source its classes.
        protocol: heads, shares, draws.
        anew: whether each network is also tried with its weights drawn anew.
        say: receives one line of news at a time.
    """

    networks: Mapping[str, Classifier]
    images: str
    test: str
    labels: Callable[[ImageSource], ImageSource]
    protocol: FewLabelsProtocol
    anew: bool
    say: Callable[[str], None] = field(repr=False)

    def run(
        self, folder: Path, report: Progress
    ) -> tuple[list[LearningCurveRow], dict[str, Image.Image], tuple[str, ...]]:
        """Rows, a picture of each network's features, and the names of the classes.

        Args:
            folder: where finished curves are kept.
            report: told how much is done.

        Raises:
            ImagesError: images have no labels, or most cannot be read.
            ClassifierError: a network does not show its layers.
        """
        if self.images == self.test:
            self.say("warning: measured on the images that are learnt from; say another --test")
        rows: list[LearningCurveRow] = []
        planes: dict[str, Image.Image] = {}
        names: tuple[str, ...] = ()
        for name, classifier in self.networks.items():
            sources = [
                self._open_images(spec, classifier, report) for spec in (self.images, self.test)
            ]
            names = sources[0].class_names or tuple(
                dict.fromkeys(str(item.label) for item in sources[0])
            )
            starts = {name: classifier}
            if self.anew:
                drawn = reinitialise(classifier, sources[0], self.protocol.seed)
                starts[f"{name}, anew"] = drawn
            for start, one in starts.items():
                learn, shown = (
                    extract_labelled_features(one, source, names, report) for source in sources
                )
                for head, learner in self.protocol.heads.items():
                    made = self._measure_or_load(
                        folder, (start, one), (head, learner), (learn, shown), report
                    )
                    rows += made
                planes[start] = draw_pca_plot(shown, SERIES_COLOURS)
        return rows, planes, names

    def _open_images(self, spec: str, classifier: Classifier, report: Progress) -> ImageSource:
        """The labelled images that can be read."""
        source = open_images(spec, channels=classifier.channels, bands=classifier.bands)
        every = self.labels(source)
        usable, wrong = find_readable(every, classifier, lambda *done: report(spec, *done))
        for error in wrong:
            self.say(f"left out: {error}")
        self.say(f"{spec}: {len(usable)} of {len(source)} images have a class and can be read")
        return usable

    def _measure_or_load(
        self,
        folder: Path,
        start: tuple[str, Classifier],
        head: tuple[str, Learner],
        sets: tuple[LabelledFeatures, LabelledFeatures],
        report: Progress,
    ) -> list[LearningCurveRow]:
        """One head's curve on one network, from the folder where it is finished."""
        asked = replace(self.protocol, heads={head[0]: head[1]})
        draws = (asked.fractions, asked.draws, asked.seed)
        parts = [start[1].fingerprint, head[1].cache_key, repr(draws), *map(_digest_set, sets)]
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
        path = folder / CURVES / f"{key}.json"
        if path.is_file():
            found = _read_rows(path)
            return [row._replace(start=start[0], head=head[0]) for row in found]
        rows = measure_curve(start[0], *sets, asked, report)
        write_json(path, {"rows": [row._asdict() for row in rows]})
        return rows


def _digest_set(known: LabelledFeatures) -> str:
    """Of the features and classes of a set, which change with its images."""
    sha = hashlib.sha256(known.labels.numpy().tobytes())
    sha.update(known.features.double().mul(1e4).round().long().numpy().tobytes())
    return sha.hexdigest()


def _read_rows(path: Path) -> list[LearningCurveRow]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return [LearningCurveRow(**{**row, "ci95": tuple(row["ci95"])}) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read; delete it") from error

"""The evaluation of features where labels are few: networks, heads and fractions of the labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from pydantic import TypeAdapter

from apercu.classifiers import Classifier, open_classifier
from apercu.devices import enable_gradients
from apercu.errors import ConfigError, RunError, describe_interrupt, suggest_nearest
from apercu.evaluation.cost import describe_environment
from apercu.images import ImageSource, check_images
from apercu.images.folder import find_files
from apercu.images.stream import describe_left_out
from apercu.io import check_writable, parse_json, write_json
from apercu.log import warn
from apercu.option_strings import check_seed
from apercu.pretraining.few_labels import (
    FewLabelsProtocol,
    LearningCurveRow,
    check_labelled,
    extract_labelled_features,
    measure_curve,
    parse_fractions,
    reinitialise,
)
from apercu.pretraining.heads import LabelledFeatures, Learner, parse_heads
from apercu.pretraining.heads.base import join_features
from apercu.pretraining.inputs import find_readable, parse_labels
from apercu.pretraining.report import RANDOM_WEIGHTS, draw_pca_plot, write_report
from apercu.progress import ProgressCallback, ProgressOption, open_progress
from apercu.render import SERIES_COLOURS
from apercu.run_record import lock_folder

RESULTS = "features.json"
DEFAULT_HEADS = "linear,dense,nearest"
DEFAULT_FRACTIONS = "0.01,0.05,0.1,0.25,0.5,1"
CURVES = "curves"
"""Folder in which finished curves are kept."""


class EvaluatedFeatures(NamedTuple):
    """The results of an evaluation.

    Attributes:
        rows: points of the learning curves.
        plots: picture of each network's features, by the name of the network.
        class_names: names of the classes, in the order of their indices.
        left_out: names of the images that cannot be read, by the name of their source.
    """

    rows: list[LearningCurveRow]
    plots: dict[str, Image.Image]
    class_names: tuple[str, ...]
    left_out: dict[str, list[str]]


@dataclass(frozen=True)
class FeatureEvaluation:
    """The networks, images and protocol of an evaluation of features.

    Args:
        networks: networks by name.
        images: SPEC of the images to learn from.
        test: SPEC of the images to measure on.
        add_labels: gives the images of a source their classes.
        protocol: heads, fractions and draws.
        reinitialised: whether each network is also evaluated with new weights.
        say: receives one line of news at a time.
        joined: names of networks whose features are also evaluated side by side, by a new name.
    """

    networks: Mapping[str, Classifier]
    images: str
    test: str
    add_labels: Callable[[ImageSource], ImageSource]
    protocol: FewLabelsProtocol
    reinitialised: bool
    say: Callable[[str], None] = field(repr=False)
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.networks:
            raise ConfigError("network: expected at least one network, got none")
        for name, parts in self.joined.items():
            if name in self.networks:
                raise ConfigError(f"join: expected a new name, got {name}, which is a network's")
            for part in parts:
                if part not in self.networks:
                    raise ConfigError(
                        f"join: {name}: expected names of networks, got {part!r}"
                        f"{suggest_nearest(part, self.networks)}"
                    )

    def run(self, folder: Path, progress: ProgressCallback) -> EvaluatedFeatures:
        """Measure all learning curves that are not in a folder yet.

        Args:
            folder: folder in which finished curves are kept.
            progress: receives how much is finished.

        Returns:
            Rows, a picture of each network's features, the names of the classes, and those of the
            images that were left out.

        Raises:
            ImagesError: images have no labels, or most cannot be read.
            ClassifierError: a network does not show its layers.
        """
        rows: list[LearningCurveRow] = []
        plots: dict[str, Image.Image] = {}
        class_names: tuple[str, ...] = ()
        left_out: dict[str, list[str]] = {}
        kept: dict[str, _FeatureSets] = {}
        for name, classifier in self.networks.items():
            images = self._open_images(self.images, classifier, left_out, progress)
            test = self._open_images(self.test, classifier, left_out, progress)
            if name == next(iter(self.networks)):
                self._warn_of_shared(images, test)
            class_names = images.class_names or tuple(
                dict.fromkeys(str(item.label) for item in images)
            )
            starts = {name: classifier}
            if self.reinitialised:
                fresh = reinitialise(classifier, images, self.protocol.seed)
                starts[f"{name}{RANDOM_WEIGHTS}"] = fresh
            for start, network in starts.items():
                sets = _FeatureSets(
                    network.fingerprint,
                    extract_labelled_features(network, images, class_names, progress),
                    extract_labelled_features(network, test, class_names, progress),
                )
                if any(start in parts for parts in self.joined.values()):
                    kept[start] = sets
                rows += self._measure_heads(folder, start, sets, progress)
                plots[start] = draw_pca_plot(sets.test, SERIES_COLOURS)
        for name, names in self.joined.items():
            sets = _join_sets([kept[part] for part in names])
            rows += self._measure_heads(folder, name, sets, progress)
            plots[name] = draw_pca_plot(sets.test, SERIES_COLOURS)
        return EvaluatedFeatures(rows, plots, class_names, left_out)

    def _open_images(
        self,
        spec: str,
        classifier: Classifier,
        left_out: dict[str, list[str]],
        progress: ProgressCallback,
    ) -> ImageSource:
        """Open the labelled images that can be read; the names of the others are added."""
        source = classifier.open_images(spec)
        labelled = self.add_labels(source)
        check_labelled(labelled)
        usable, errors, names = find_readable(
            labelled, classifier, lambda count, total: progress(spec, count, total)
        )
        if errors and list(names) != left_out.get(spec):  # of several networks said once
            left_out[spec] = list(names)
            warn(describe_left_out(labelled.name, errors, len(labelled)))
        self.say(f"{spec}: {len(usable)} of {len(source)} images have a class and can be read")
        return usable

    def _warn_of_shared(self, images: ImageSource, test: ImageSource) -> None:
        """Warn of test images that are also images to learn from."""
        shared = len(find_files(images) & find_files(test))
        if self.images == self.test:
            shared = len(test)
        if shared:
            self.say(
                f"warning: {shared} of {len(test)} test images are also images to learn from; give "
                "other images as --test"
            )

    def _measure_heads(
        self, folder: Path, start: str, sets: _FeatureSets, progress: ProgressCallback
    ) -> list[LearningCurveRow]:
        """Measure the curves of all heads on the features of one start."""
        rows = []
        for head_name, head in self.protocol.heads.items():
            rows += self._measure_or_load(folder, _Cell(start, head_name, head, *sets), progress)
        return rows

    def _measure_or_load(
        self, folder: Path, cell: _Cell, progress: ProgressCallback
    ) -> list[LearningCurveRow]:
        """Measure one head's curve on one network, or load it where it is finished."""
        protocol = replace(self.protocol, heads={cell.head_name: cell.head})
        draws = (protocol.fractions, protocol.draws, protocol.seed)
        digests = _digest_set(cell.training), _digest_set(cell.test)
        parts = [cell.fingerprint, cell.head.cache_key, repr(draws), *digests]
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
        path = folder / CURVES / f"{key}.json"
        if path.is_file():
            rows = _read_rows(path)
            return [row._replace(start=cell.start, head=cell.head_name) for row in rows]
        rows = measure_curve(cell.start, cell.training, cell.test, protocol, progress)
        write_json(path, {"rows": [row._asdict() for row in rows]})
        return rows


class _FeatureSets(NamedTuple):
    """The features of both sets of images, and the fingerprint of what computed them."""

    fingerprint: str
    training: LabelledFeatures
    test: LabelledFeatures


def _join_sets(parts: Sequence[_FeatureSets]) -> _FeatureSets:
    """Join the features of several networks."""
    return _FeatureSets(
        "+".join(part.fingerprint for part in parts),
        join_features([part.training for part in parts]),
        join_features([part.test for part in parts]),
    )


class _Cell(NamedTuple):
    """One network and one head, with the features that the head learns from and is tested on."""

    start: str
    head_name: str
    head: Learner
    fingerprint: str
    training: LabelledFeatures
    test: LabelledFeatures


def _digest_set(labelled: LabelledFeatures) -> str:
    """Digest the features and classes of a set, which change with its images."""
    sha = hashlib.sha256(labelled.labels.numpy().tobytes())
    sha.update(labelled.features.double().mul(1e4).round().long().numpy().tobytes())
    return sha.hexdigest()


def _read_rows(path: Path) -> list[LearningCurveRow]:
    try:
        rows = parse_json(path.read_text(encoding="utf-8"))["rows"]
        return TypeAdapter(list[LearningCurveRow]).validate_python(rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read; delete it") from error


@enable_gradients()
def evaluate_features(
    networks: Mapping[str, Classifier | str | Path],
    images: str | Path,
    test: str | Path,
    out: str | Path,
    *,
    catalogue: str | Path | None = None,
    label: str | None = None,
    id: str | None = None,
    heads: Mapping[str, Learner] | str = DEFAULT_HEADS,
    fractions: Sequence[float] | str = DEFAULT_FRACTIONS,
    draws: int = 5,
    reinitialised: bool = False,
    joined: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    progress: ProgressOption = None,
    command: str = "",
    say: Callable[[str], None] = print,
) -> list[LearningCurveRow]:
    """Measure learning curves where labels are few, and write a report.

    >>> import apercu
    >>> rows = apercu.evaluate_features(  # doctest: +SKIP
    ...     {"films": "runs/films", "imagenet": "timm/resnet18"}, "train/", "test/", "features"
    ... )

    Writes `features.json`, `table.md` and `report.html`. Curves that are in the folder already are
    not measured again. The results are about this call; a line says which earlier curves they
    leave out.

    Args:
        networks: networks with accessible layers, or their SPECs, by the names of the report.
        images: SPEC of the labelled images to learn from.
        test: SPEC of the labelled images to measure on.
        out: folder of the results.
        catalogue: CSV, Parquet or FITS table with the classes; None where the images have labels.
        label: column of the classes in the catalogue.
        id: column of the images' names in the catalogue.
        heads: heads by name, or as people type them, such as `linear,nearest:neighbours=5`.
        fractions: fractions of the labels, above 0 and up to 1, or as text such as `0.01,1/20`.
        draws: random draws of the labels for each fraction.
        reinitialised: whether each network is also evaluated with random weights.
        joined: names of networks whose features are also evaluated side by side, by a new name.
        seed: seed of every draw.
        device: `auto`, `cpu`, `cuda` or `mps`, where a network that is opened here computes.
        trust: whether a card may name a factory, whose code is run.
        progress: whether to show how far the work is, or a function that receives the name of the
            work, how much of it is done, and how much there is; None shows it in notebooks only.
        command: command line that the results and the report name.
        say: receives one line of news at a time.

    Returns:
        The points of all learning curves.

    Raises:
        ConfigError: a head, a fraction or a name is wrong, or a column is missing.
        ImagesError: images have no labels, or most cannot be read.
        ClassifierError: a network does not show its layers.
        UntrustedError: a card could run code, and is not trusted.
        RunError: another process works in the folder.
        OutputError: the folder cannot be written.
        WorkInterrupted: it was interrupted; the same call goes on.
    """
    out = Path(out)
    check_seed(seed)
    add_labels = parse_labels(catalogue, label, id)
    protocol = FewLabelsProtocol(
        parse_heads(heads) if isinstance(heads, str) else heads,
        parse_fractions(fractions) if isinstance(fractions, str) else tuple(fractions),
        draws,
        seed,
    )
    check_images(images, test)
    evaluation = FeatureEvaluation(
        networks={
            name: network
            if isinstance(network, Classifier)
            else open_classifier(network, device=device, trust=trust)
            for name, network in networks.items()
        },
        images=str(images),
        test=str(test),
        add_labels=add_labels,
        protocol=protocol,
        reinitialised=reinitialised,
        say=say,
        joined={name: tuple(parts) for name, parts in (joined or {}).items()},
    )
    check_writable(out)
    kept = describe_interrupt(f"{out} keeps what is finished; the same call goes on")
    with kept, lock_folder(out), open_progress(progress) as report:
        return _write_evaluation(evaluation, out, report, command)


def _write_evaluation(
    evaluation: FeatureEvaluation, out: Path, progress: ProgressCallback, command: str
) -> list[LearningCurveRow]:
    """Run an evaluation in a folder that no other process writes."""
    earlier = _list_earlier_curves(out / RESULTS, evaluation)
    rows, plots, class_names, left_out = evaluation.run(out, progress)
    networks = evaluation.networks
    content: dict[str, Any] = {
        "images": evaluation.images,
        "test": evaluation.test,
        "classes": class_names,
        **({"left_out": left_out} if left_out else {}),
        "networks": {name: network.fingerprint for name, network in networks.items()},
        **({"joined": dict(evaluation.joined)} if evaluation.joined else {}),
        "command": command,
        "environment": describe_environment(
            evaluation.protocol.seed, next(iter(networks.values())).device
        ),
    }
    write_json(out / RESULTS, {**content, "rows": [row._asdict() for row in rows]})
    write_report(rows, plots, content, out)
    if missing := [name for name in earlier if name not in _name_curves(rows)]:
        evaluation.say(
            f"warning: {out}: these results leave out {', '.join(missing)} of an earlier call; "
            "finished curves are kept: name them too to have all together, or choose another --out"
        )
    return rows


def _name_curves(rows: Sequence[LearningCurveRow]) -> list[str]:
    """Return the network and the head of each curve, as one text."""
    return list(dict.fromkeys(f"{row.start} with {row.head}" for row in rows))


def _list_earlier_curves(path: Path, evaluation: FeatureEvaluation) -> list[str]:
    """Return the curves of an earlier call, with their images where these were others.

    Raises:
        RunError: the file cannot be read.
    """
    if not path.is_file():
        return []
    names, content = _name_curves(_read_rows(path)), parse_json(path.read_text(encoding="utf-8"))
    before = content.get("images"), content.get("test")
    if before == (evaluation.images, evaluation.test):
        return names
    return [f"{name} on {before[0]} and {before[1]}" for name in names]

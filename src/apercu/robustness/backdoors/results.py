"""What a search for backdoors found, as records, as `backdoors.json`, and as pictures."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from apercu import render
from apercu.errors import RunError
from apercu.io import parse_json, write_json
from apercu.robustness.backdoors.antidote import Correction
from apercu.robustness.backdoors.neural_cleanse import OUTLIER, WORKS, ReversedTrigger
from apercu.robustness.backdoors.poisoning import upgrade_poison
from apercu.run_record import RunRecord
from apercu.types import Images

RESULTS, TRIGGERS_FOLDER = "backdoors.json", "triggers"
SUBJECT = ("fingerprint", "images", "limit", "suspects", "poison", "seed")
"""What two searches must have in common so that the later one may replace the earlier one."""
MOST_ROWS = 8
"""Rows of a sheet of pictures."""
MEANING = (
    f"anomaly index above {OUTLIER:g}: the trigger of this class is far smaller than those of the "
    "others, as that of a backdoor is; below it, no sign"
)


@dataclass(frozen=True)
class Rate:
    """A fraction of images with its 95 % interval.

    Attributes:
        value: the fraction.
        ci95: lower and upper end of the interval.
        n: number of images.
    """

    value: float
    ci95: tuple[float, float]
    n: int

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.ci95[0]:.1%} to {self.ci95[1]:.1%}, {self.n})"


@dataclass(frozen=True)
class ClassFinding:
    """The trigger that was reconstructed for one class.

    Attributes:
        name: name of the class.
        target: class index.
        size: pixels that the trigger covers.
        success: fraction of images that it turns into the class.
        anomaly: anomaly index; high for a trigger far smaller than the others.
        picture: file of its picture, relative to the folder of the results.
    """

    name: str
    target: int
    size: float
    success: float
    anomaly: float
    picture: str

    @property
    def is_suspicious(self) -> bool:
        """Whether the class looks like the target of a backdoor."""
        return self.anomaly > OUTLIER and self.success >= WORKS


@dataclass(frozen=True)
class SuspiciousImage:
    """An image that a method took for poisoned.

    Attributes:
        name: name of the image in its source.
        score: its score.
        predicted: name of the predicted class.
        corrected: name of the class after the trigger was removed; None where none was located.
    """

    name: str
    score: float
    predicted: str
    corrected: str | None = None


@dataclass(frozen=True)
class RuntimeFinding:
    """What a method at run time found among the images, and how far it can be trusted.

    Attributes:
        method: the method as it was typed.
        threshold: score above which an image is suspicious.
        queries: images that the classifier classified for one image that was scored.
        false_alarms: clean images that were taken for poisoned.
        suspicious: images that were taken for poisoned, the highest score first.
        checked: number of images that were checked.
        detected: poisoned images of the test bed that were recognised.
        auroc: probability that a poisoned image has a higher score than a clean one.
        located: recognised images in which a trigger was located.
        corrected: poisoned images that get their true class after the correction.
        clean_accuracy: accuracy on clean images with detection and correction in front.
        patterns: neuron patterns of poisoned samples.
    """

    method: str
    threshold: float
    queries: float
    false_alarms: Rate
    suspicious: tuple[SuspiciousImage, ...]
    checked: int
    detected: Rate | None = None
    auroc: float | None = None
    located: Rate | None = None
    corrected: Rate | None = None
    clean_accuracy: Rate | None = None
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True)
class RemovalFinding:
    """A classifier that was cleaned, and what it costs.

    Attributes:
        method: the method as it was typed.
        card: card of the new classifier, relative to the folder of the results.
        images: number of clean images that were used.
        pruned: number of channels that were cut off.
        accuracy: accuracy on clean images that were not used.
        attack_success: poisoned images of the test bed that still get the attacker's class.
        recovered: poisoned images of the test bed that get their true class.
    """

    method: str
    card: str
    images: int
    pruned: int
    accuracy: Rate
    attack_success: Rate | None = None
    recovered: Rate | None = None


@dataclass(frozen=True)
class BackdoorReport:
    """All that a search for backdoors found; the content of `backdoors.json`.

    Attributes:
        about: classifier, images, seed, machine and command.
        accuracy: accuracy on clean images; None without labels.
        attack_success: success of the trigger of the test bed; None without one.
        classes: reconstructed triggers, in the order of the classes.
        runtime: methods that look at single images.
        removals: cleaned classifiers.
    """

    about: Mapping[str, Any]
    accuracy: Rate | None
    attack_success: Rate | None
    classes: tuple[ClassFinding, ...]
    runtime: tuple[RuntimeFinding, ...]
    removals: tuple[RemovalFinding, ...]

    @property
    def suspicious_classes(self) -> tuple[ClassFinding, ...]:
        """The classes that look like the target of a backdoor."""
        return tuple(row for row in self.classes if row.is_suspicious)

    def save(self, folder: Path) -> Path:
        """Write `backdoors.json` into a folder; return its path."""
        content = asdict(self)
        for row, finding in zip(content["classes"], self.classes, strict=True):
            row["suspicious"] = finding.is_suspicious
            row["anomaly"] = finding.anomaly if math.isfinite(finding.anomaly) else None
        content |= content.pop("about")
        if self.classes:
            content["meaning"] = MEANING
        return write_json(folder / RESULTS, content)


def check_earlier_search(about: Mapping[str, Any], folder: Path) -> None:
    """Check that a search takes nothing away from an earlier one in the same folder.

    Args:
        about: what the new search is about, as `BackdoorReport.about` says.
        folder: folder of the results.

    Raises:
        RunError: the earlier search is of another classifier, of other images or another seed, or
            had methods that the new one has not; or its file is damaged.
    """
    path = folder / RESULTS
    if not path.is_file():
        return
    try:
        before = parse_json(path.read_bytes())
        missing = [name for name in before["methods"] if name not in about["methods"]]
        before["seed"] = before["environment"]["seed"]
        if before.get("poison"):
            before["poison"] = upgrade_poison(before["poison"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: cannot be read; choose another --out") from error
    now = {**about, "seed": about["environment"]["seed"]}
    shared = [key for key in SUBJECT if key in before]
    RunRecord(folder, {}, "search").compare(
        {key: before[key] for key in shared}, {key: now[key] for key in shared}
    )
    if missing:
        raise RunError(
            f"{folder}: would lose what {', '.join(missing)} found in an earlier search; name the "
            "method too, or choose another --out"
        )


def draw_triggers(
    triggers: Sequence[ReversedTrigger], names: Sequence[str], images: Images, folder: Path
) -> list[str]:
    """Draw each reconstructed trigger, and an image that carries it.

    Args:
        triggers: the triggers in the order of the classes.
        names: names of the classes.
        images: clean images, of which the first is marked.
        folder: folder of the results.

    Returns:
        The file of each picture, relative to the folder.
    """
    files = []
    for trigger, name in zip(triggers, names, strict=True):
        word = re.sub(r"[^\w-]+", "_", name.partition(",")[0])[:40]
        file = f"{TRIGGERS_FOLDER}/{trigger.target}-{word}.png"
        grey = torch.full_like(images[:1].cpu(), 0.5)
        tiles = [
            render.Tile(render.to_image(trigger.stamp(picture)[0]), title)
            for picture, title in (
                (grey, f"{name}: {trigger.size:.0f} pixels"),
                (images[:1].cpu(), f"turns {trigger.success:.0%} of the images"),
            )
        ]
        render.save_image(folder / file, render.draw_contact_sheet([tiles]))
        files.append(file)
    return files


def draw_correction(
    images: Images, correction: Correction, names: Sequence[str], before: Sequence[str], path: Path
) -> None:
    """Draw flagged images, where their trigger was located, and what is left.

    Args:
        images: the flagged images.
        correction: what became of them.
        names: names of the classes.
        before: name of the predicted class of each image.
        path: the PNG file.
    """
    rows = []
    for number in range(min(MOST_ROWS, len(images))):
        image, region = images[number].cpu(), correction.regions[number].cpu().float()
        after = "no trigger located"
        if correction.is_located[number]:
            after = names[int(correction.predicted[number])]
        rows.append(
            [
                render.Tile(render.to_image(image), before[number]),
                render.Tile(render.draw_overlay(image, region), "located"),
                render.Tile(render.to_image(correction.images[number].cpu()), after),
            ]
        )
    render.save_image(path, render.draw_contact_sheet(rows))

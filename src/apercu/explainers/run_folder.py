"""The run folder of a trained explainer: settings, classifier, trained weights, what was measured.

config.json           the settings
classifier.json       identity, input and classes of the classifier
weights.safetensors   everything that was trained
encoder/              a classifier's frozen backbone with its card, where it is the encoder
facts.json            figures measured in training
card.md               the same for people
sha256.json           SHA-256 of these files, which are checked when the run is opened
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from apercu.classifiers import Classifier, open_classifier
from apercu.classifiers.card import CARD_FILE
from apercu.classifiers.trust import is_trusting, limit_network
from apercu.devices import enable_gradients
from apercu.errors import (
    ClassifierError,
    ConfigError,
    MissingExtraError,
    MissingModuleError,
    RunError,
    UntrustedError,
    format_shape,
)
from apercu.explainers.base import AnyExplainer, E, TrainedExplainer
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.kind import LOOKS_TRAINED, CardText, describe_doubts, find_kind
from apercu.explainers.ready import resolve_run
from apercu.explainers.settings import ExplainerSettings
from apercu.io import (
    HASHES,
    check_digests,
    describe_change,
    find_changed_file,
    is_inside,
    parse_json,
    write_file,
    write_hashes,
)
from apercu.networks.graph_encoder import GraphEncoder
from apercu.training.config import CONFIG
from apercu.weights import check_finite

CLASSIFIER, WEIGHTS = "classifier.json", "weights.safetensors"
FACTS, MODEL_CARD = "facts.json", "card.md"
ENCODER = "encoder"
EXPORT = "explainer.json"
"""File of a folder that `apercu export` wrote, which is no run folder."""

_FILES = (CONFIG, CLASSIFIER, FACTS, WEIGHTS, f"{ENCODER}/{CARD_FILE}")
_DAMAGE = (
    *(OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(AssertionError, SafetensorError, RuntimeError),
)
"""Errors of files that do not fit each other, or that hold impossible settings."""


@enable_gradients()
def load_explainer(
    run: str | Path, device: str | torch.device = "cpu", *, trust: bool = False
) -> TrainedExplainer[Any, Any]:
    """Open the run folder of an explainer of any kind.

    >>> import apercu
    >>> explainer = apercu.load_explainer("runs/mine")  # doctest: +SKIP
    >>> explainer.explain("cat.jpg", target="tabby").save("out")  # doctest: +SKIP

    Args:
        run: the run folder, or `ready:NAME` for a ready-made explainer.
        device: `auto`, `cpu`, `cuda`, `mps`, or a device of torch.
        trust: whether the folder may name a factory, whose code is run; see `open_classifier`.

    Returns:
        The explainer.

    Raises:
        UntrustedError: the folder could run code, and is not trusted.
        MissingModuleError: the module of the network that it names is not found.
        RunError: the folder is no run, is damaged, or its training has not finished.
    """
    folder = check_run(run, trust=trust)
    _check_unchanged(folder)
    try:
        content = _read_json(folder / CONFIG)
        kind = find_kind(content.get("explainer", "mask"))
        settings = kind.presets.model.model_validate(content)
        classifier_info = ClassifierInfo.model_validate(_read_json(folder / CLASSIFIER))
        facts = TypeAdapter(dict[str, float]).validate_python(_read_json(folder / FACTS))
        card = folder / ENCODER / CARD_FILE
        backbone = open_classifier(card, trust=trust) if card.is_file() else None
        weights = load_file(folder / WEIGHTS)
        check_finite(weights, folder / WEIGHTS)
        open_module = None if backbone is None else backbone.module
        size = (folder / WEIGHTS).stat().st_size
        with limit_network(str(folder), size, open_module):
            network = kind.build_network(settings, classifier_info, backbone, pretrained=False)
        missing, unknown = network.load_state_dict(weights, strict=False)
    except (UntrustedError, MissingModuleError, MissingExtraError):
        raise
    except _DAMAGE as error:
        raise _damage_error(folder, error) from error
    except (ClassifierError, ConfigError) as error:
        raise RunError(f"{folder}: the run folder is damaged ({error})") from error
    if unknown or any(not name.startswith("encoder.") for name in missing):
        raise RunError(f"{folder}: {WEIGHTS} does not fit {CONFIG}; the folder mixes two runs")
    return kind.explainer(network, classifier_info, settings, facts).to(device)


def check_run(run: str | Path, *, trust: bool = False) -> Path:
    """Check that a folder is a finished run, without opening it.

    Args:
        run: the run folder, or `ready:NAME`.
        trust: whether the folder may hold links to files outside of it.

    Returns:
        The folder.

    Raises:
        UntrustedError: the folder leads to other files, and is not trusted.
        RunError: the folder is no run, or its training has not finished.
    """
    folder = resolve_run(run)
    is_other = (folder / CARD_FILE).is_file() and not (folder / CLASSIFIER).is_file()
    if is_other or not (folder / CONFIG).is_file():
        raise RunError(_describe_other_folder(folder))
    if not (folder / WEIGHTS).is_file():
        raise RunError(
            f"{folder}: training has not finished ({WEIGHTS} is missing); "
            "continue it with `apercu train … --resume`"
        )
    for name in () if trust or is_trusting() else _FILES:
        if not is_inside(folder / name, folder):
            raise UntrustedError(
                f"{folder / name}: leads out of the run folder; copy the file there, or add "
                "--trust (in Python trust=True) if you trust the folder"
            )
    return folder


def read_classifier_info(run: str | Path, *, trust: bool = False) -> ClassifierInfo:
    """Read what a run says of its classifier, without opening its network.

    Args:
        run: the run folder, or `ready:NAME`.
        trust: whether the folder may hold links to files outside of it.

    Returns:
        The input and the classes of the classifier.

    Raises:
        UntrustedError: as in `check_run`.
        RunError: as in `check_run`, or the file is damaged.
    """
    folder = check_run(run, trust=trust)
    _check_unchanged(folder, (CLASSIFIER,))
    try:
        return ClassifierInfo.model_validate(_read_json(folder / CLASSIFIER))
    except _DAMAGE as error:
        raise _damage_error(folder, error) from error


def open_both(
    classifier: Classifier | str | Path,
    explainer: AnyExplainer | str | Path | None = None,
    *,
    device: str = "cpu",
    trust: bool = False,
) -> tuple[Classifier, AnyExplainer | None]:
    """Open a classifier, and the explainer where one is named; the explainer is checked first.

    Args:
        classifier: the classifier or its SPEC.
        explainer: an explainer of it, or its run folder; None for none.
        device: `auto`, `cpu`, `cuda` or `mps`, where a classifier that is opened here computes;
            the explainer follows it.
        trust: whether a card or a run may name a factory, whose code is run.

    Returns:
        Both.

    Raises:
        ClassifierError: the classifier cannot be opened.
        RunError: the folder is no run, or is damaged.
        UntrustedError: a card or a run could run code, and is not trusted.
    """
    if isinstance(explainer, str | Path):
        check_run(explainer, trust=trust)
    if not isinstance(classifier, Classifier):
        classifier = open_classifier(classifier, device=device, trust=trust)
    if isinstance(explainer, str | Path):
        explainer = load_explainer(explainer, classifier.device, trust=trust)
    return classifier, explainer


def _damage_error(folder: Path, error: Exception) -> RunError:
    """Return the error of a run folder whose files do not fit each other, in one line."""
    lines = (line.strip() for line in str(error).splitlines())
    reason = "; ".join(filter(None, lines))
    return RunError(f"{folder}: the run folder is damaged ({reason[:300]})")


def _check_unchanged(folder: Path, names: Iterable[str] | None = None) -> None:
    """Raise RunError if files of a run, or all of them, are not those that were saved."""
    if changed := find_changed_file(folder, names):
        raise RunError(
            f"{changed}: {describe_change(changed)}; copy the run again, or train it again"
        )


def _describe_other_folder(path: Path) -> str:
    """Return one line on a path that is no run folder."""
    folder = path.parent if path.is_file() else path
    if (folder / EXPORT).is_file():
        return (
            f"{path}: expected a run folder, got an export; give the run that it was made of, or "
            "open the export with apercu_runtime, or masks with apercu serve, video and batch"
        )
    if (card := folder / CARD_FILE).is_file() and not (folder / CLASSIFIER).is_file():
        return (
            f"{path}: expected a trained explainer, got a classifier or a pretrained network; "
            f"train one with `apercu train mask --classifier {card} --images … --out …`"
        )
    if path.is_file():
        advice = f"give its folder, {folder}" if (folder / CONFIG).is_file() else "give a folder"
        return f"{path}: expected a run folder, got a file; {advice}"
    return (
        f"{path}: expected a run folder, found no {CONFIG}; give the --out of an `apercu train …`"
    )


def digest_run(explainer: TrainedExplainer[Any, Any]) -> str:
    """Return a SHA-256 over the trained weights and the settings."""
    sha = hashlib.sha256(explainer.settings.model_dump_json().encode())
    for name, weights in sorted(explainer.network.state_dict().items()):
        sha.update(name.encode() + weights.contiguous().cpu().numpy().tobytes())
    return sha.hexdigest()


def load_doubts(run: str | Path) -> str | None:
    """Return one line on a run that does not look trained, without opening its network.

    Args:
        run: the run folder, or any other folder.

    Returns:
        The line; None where the run looks trained, or where nothing tells.
    """
    folder = Path(run)
    try:
        content, facts = _read_json(folder / CONFIG), _read_json(folder / FACTS)
        kind = find_kind(content.get("explainer", "mask"))
        if facts.get(LOOKS_TRAINED, 1.0):
            return None
        doubts = kind.judge_training(kind.presets.model.model_validate(content), facts)
    except (OSError, ValueError, LookupError, AttributeError, ConfigError):
        return None  # no run, or a damaged one; opening it raises an error
    return describe_doubts(folder, doubts) if doubts else None


def load_run(run: str | Path, explainer_class: type[E], *, trust: bool = False) -> E:
    """Open the run folder of one kind of explainer, on the CPU.

    Args:
        run: the run folder.
        explainer_class: the class of the explainer.
        trust: whether the folder may name a factory, whose code is run.

    Returns:
        The explainer.

    Raises:
        RunError: as `load_explainer`, or the folder holds another kind.
    """
    explainer = load_explainer(run, trust=trust)
    if not isinstance(explainer, explainer_class):
        raise RunError(
            f"{run}: expected a run of a {explainer_class.__name__}, got a "
            f"{type(explainer).__name__}"
        )
    return explainer


def save_run(explainer: TrainedExplainer[Any, Any], run: str | Path) -> None:
    """Write the run folder; a folder with weights is complete. Its hashes are written last.

    Raises:
        RunError: the folder holds a saved classifier or a guard.
        OutputError: the folder cannot be written.
    """
    folder, network, settings = Path(run), explainer.network, explainer.settings
    check_run_digests(folder, str(folder / "run"))
    write_file(folder / CONFIG, settings.model_dump_json(indent=1).encode())
    (folder / HASHES).unlink(missing_ok=True)
    write_file(folder / CLASSIFIER, explainer.classifier_info.model_dump_json(indent=1).encode())
    write_file(folder / FACTS, json.dumps(explainer.facts, indent=1).encode())
    text = find_kind(explainer.kind).describe(settings)
    write_file(
        folder / MODEL_CARD, render_card(explainer.classifier_info, settings, text, explainer.facts)
    )
    encoder = getattr(network, "encoder", None)
    if isinstance(encoder, GraphEncoder):
        encoder.save(folder / ENCODER)
        state = network.state_without_frozen_encoder()
    else:
        state = {k: v.contiguous().cpu() for k, v in network.state_dict().items()}
    write_file(folder / WEIGHTS, save(state))
    write_hashes(folder, [name for name in _FILES if (folder / name).is_file()])


def check_run_digests(folder: Path, example: str) -> None:
    """Raise RunError if a run would replace the digests of other files; see `check_digests`."""
    check_digests(folder, _FILES if (folder / CLASSIFIER).is_file() else (), "a run", example)


def _read_json(path: Path) -> Any:
    return parse_json(path.read_text(encoding="utf-8"))


_LINES: dict[str, tuple[str, Callable[[float], str]]] = {
    "training_images": ("training images, no labels used", "{:.0f}".format),
    "steps": ("steps of training", "{:.0f}".format),
    "training_seconds": ("training time", lambda seconds: f"{seconds / 60:.1f} min"),
    "student_agreement": ("predictions that student and classifier share", "{:.1%}".format),
    "embedding_agreement": ("predictions that embedding and classifier share", "{:.1%}".format),
    "z_threshold": ("z-score of a logit below which masks are closed", "{:.2f}".format),
    "measured_images": ("images kept from training, measured below", "{:.0f}".format),
    "area_true": ("region at level 0.5, predicted class", "{:.3f}".format),
    "area_absent": ("mean of the mask, absent classes", "{:.3f}".format),
    "kept_probability": ("probability of the predicted class, region kept", "{:.3f}".format),
    "removed_probability": ("the same, region removed", "{:.3f}".format),
    "advantage": ("kept minus removed, more than for regions moved elsewhere", "{:+.3f}".format),
    "saliency_metric": ("saliency metric at its best level", "{:.3f}".format),
    "saliency_level": ("that level", "{:g}".format),
    "second_look_above": ("score of a crop above which a mask is doubtful", "{:.3f}".format),
    "explained": ("error of equal values that is explained, subsets of cells", "{:.1%}".format),
    "kept": ("similar images predicted as the image is", "{:.1%}".format),
    "flipped": ("adversarial images predicted as the target", "{:.1%}".format),
    "change": ("mean difference of the two", "{:.4f}".format),
    "peak": ("largest difference, mean over images", "{:.3f}".format),
    "spread": ("fraction of the image where the difference is strong", "{:.3f}".format),
    "looks_trained": ("looks trained", lambda value: "yes" if value else "no"),
}


def render_card(
    classifier_info: ClassifierInfo,
    settings: ExplainerSettings,
    text: CardText,
    facts: Mapping[str, float],
) -> str:
    """Return the card as Markdown: the classifier, the kind of explainer, and a table of facts.

    Args:
        classifier_info: the explained classifier.
        settings: the settings of the training.
        text: what is said of the kind.
        facts: what was measured, by name.

    Returns:
        The text of the card.
    """
    rows = [
        f"| {words} | {format_value(facts[name])} |"
        for name, (words, format_value) in _LINES.items()
        if name in facts
    ]
    size = format_shape(classifier_info.input.size)
    return "\n".join(
        [
            f"# {text.title} of {classifier_info.spec}",
            "",
            f"Explains {classifier_info.input.channels}-channel images of {size} pixels for each "
            f"of {len(classifier_info.classes)} classes. Classifier's fingerprint: "
            f"`{classifier_info.fingerprint}`.",
            f"{text.training}, {settings.schedule.batch} images per step.",
            "",
            "| figure | value |",
            "|---|---|",
            *rows,
            "",
            text.usage,
            "",
        ]
    )

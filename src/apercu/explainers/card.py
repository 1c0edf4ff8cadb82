"""The card of a run: what was trained, and how good it is, for people to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.counterpart.settings import CounterpartSettings
from apercu.explainers.latent.settings import LatentSettings
from apercu.explainers.mask.settings import MaskSettings
from apercu.explainers.settings import ExplainerSettings

_LINES: dict[str, tuple[str, Callable[[float], str]]] = {
    "training_images": ("training images, no labels used", "{:.0f}".format),
    "steps": ("steps of training", "{:.0f}".format),
    "training_seconds": ("training time", lambda seconds: f"{seconds / 60:.1f} min"),
    "student_agreement": ("student names the classifier's top class", "{:.1%}".format),
    "embedding_agreement": ("embedding names the classifier's top class", "{:.1%}".format),
    "measured_images": ("images kept from training, measured below", "{:.0f}".format),
    "area_true": ("mean mask area, top class", "{:.3f}".format),
    "area_absent": ("mean mask area, absent classes", "{:.3f}".format),
    "kept_probability": ("probability of the top class, mask kept", "{:.3f}".format),
    "removed_probability": ("probability of the top class, mask removed", "{:.3f}".format),
    "saliency_metric": ("saliency metric at its best level", "{:.3f}".format),
    "saliency_level": ("that level", "{:g}".format),
    "kept": ("similar images seen as the image is", "{:.1%}".format),
    "flipped": ("adversarial images seen as what is wanted", "{:.1%}".format),
    "change": ("mean difference of the two", "{:.4f}".format),
    "peak": ("largest difference, mean over images", "{:.3f}".format),
    "spread": ("share of the image where the difference is strong", "{:.3f}".format),
}


def render_card(
    classifier_info: ClassifierInfo, settings: ExplainerSettings, facts: Mapping[str, float]
) -> str:
    """Markdown: the classifier, the kind of explainer, and a table of the known facts."""
    title, how, use = _describe(settings)
    rows = [
        f"| {words} | {shown(facts[name])} |"
        for name, (words, shown) in _LINES.items()
        if name in facts
    ]
    size = " × ".join(map(str, classifier_info.input.size))
    return "\n".join(
        [
            f"# {title} of {classifier_info.spec}",
            "",
            f"Answers {classifier_info.input.channels}-channel images of {size} pixels for each of "
            f"{len(classifier_info.classes)} classes. Classifier's fingerprint: `{classifier_info.fingerprint}`.",
            f"{how}, {settings.schedule.batch} images per step.",
            "",
            "| figure | value |",
            "|---|---|",
            *rows,
            "",
            use,
            "",
        ]
    )


def _describe(settings: ExplainerSettings) -> tuple[str, str, str]:
    """What it is, how it was trained, how it is used."""
    if isinstance(settings, MaskSettings):
        return (
            "Mask explainer",
            f"Encoder `{settings.encoder}`, objective `{settings.objective.form}`",
            "`dial.csv` and `dial.png` show area against kept and removed probability by level.\n"
            "Use: `apercu explain RUN IMAGE --out maps`.",
        )
    if isinstance(settings, CounterpartSettings):
        return (
            "Counterpart explainer",
            f"Encoder `{settings.encoder}`, stable images from `{settings.objective.stable}`",
            "Use: `apercu explain RUN IMAGE --out counterparts`.",
        )
    if isinstance(settings, LatentSettings):
        return (
            "Latent explainer",
            f"Codes of {settings.shape.code} numbers for pictures of {settings.shape.side} pixels",
            "Use: `apercu explain RUN IMAGE --out paths`.",
        )
    raise TypeError(f"run_card: no explainer is known by {type(settings).__name__}")

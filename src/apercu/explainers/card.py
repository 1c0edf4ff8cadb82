"""The card of a run: what was trained, and how good it is, for people to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.kind import CardText
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
    "kept": ("similar images predicted as the image is", "{:.1%}".format),
    "flipped": ("adversarial images predicted as the target", "{:.1%}".format),
    "change": ("mean difference of the two", "{:.4f}".format),
    "peak": ("largest difference, mean over images", "{:.3f}".format),
    "spread": ("fraction of the image where the difference is strong", "{:.3f}".format),
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
    size = " × ".join(map(str, classifier_info.input.size))
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

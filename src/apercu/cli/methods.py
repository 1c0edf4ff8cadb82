"""The names of methods on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Literal, TypeAlias, get_args, get_origin, get_type_hints

import torch

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError, nearest
from apercu.images import ImageSource
from apercu.methods import (
    Cam,
    CentreBox,
    Edges,
    ExcitationBackprop,
    GradCam,
    GradCamPlusPlus,
    Gradient,
    GuidedBackprop,
    GuidedIntegratedGradients,
    InputXGradient,
    IntegratedGradients,
    Lrp,
    MeaningfulPerturbation,
    Method,
    Mfpp,
    Occlusion,
    RandomMap,
    Rise,
    SmoothGrad,
    SmoothTaylor,
    TrueBox,
    WholeBox,
    ZoomCam,
)

Known: TypeAlias = Method | TrueBox

METHODS: dict[str, type[Known]] = {
    "gradient": Gradient,
    "input_x_gradient": InputXGradient,
    "integrated_gradients": IntegratedGradients,
    "smooth_grad": SmoothGrad,
    "guided_backprop": GuidedBackprop,
    "smooth_taylor": SmoothTaylor,
    "guided_integrated_gradients": GuidedIntegratedGradients,
    "cam": Cam,
    "grad_cam": GradCam,
    "grad_cam_pp": GradCamPlusPlus,
    "zoom_cam": ZoomCam,
    "lrp": Lrp,
    "excitation_backprop": ExcitationBackprop,
    "occlusion": Occlusion,
    "rise": Rise,
    "mfpp": Mfpp,
    "meaningful_perturbation": MeaningfulPerturbation,
    "centre_box": CentreBox,
    "whole_box": WholeBox,
    "true_box": TrueBox,
    "random": RandomMap,
    "edges": Edges,
}
SLOW = frozenset({"rise", "mfpp", "meaningful_perturbation", "smooth_taylor"})
"""More than a hundred passes per image: measured only when they are named."""
LOOKED_AT = 10
"""First images of a source that are asked for true boxes."""


def parse_methods(text: str) -> dict[str, Known]:
    """`a,b:key=value,key=value,c` as methods by name.

    Raises:
        ConfigError: a method or setting is unknown, or a value does not fit.
    """
    return {name: _made(name) for name in _split(text)}


def allowed_methods(classifier: Classifier, source: ImageSource) -> dict[str, Known]:
    """All quick methods that the classifier and the images allow, tried on one grey image."""
    grey = torch.full((1, classifier.channels, *classifier.size), 0.5, device=classifier.device)
    target = torch.zeros(1, dtype=torch.long, device=classifier.device)
    found: dict[str, Known] = {}
    for name in (name for name in METHODS if name not in SLOW):
        method = METHODS[name]()
        try:
            if isinstance(method, Method):
                method(classifier, grey, target)
            elif not _has_boxes(source):
                continue
        except ClassifierError:
            continue
        found[name] = method
    return found


def _has_boxes(source: ImageSource) -> bool:
    return any(source[index].boxes is not None for index in range(min(LOOKED_AT, len(source))))


def _split(text: str) -> list[str]:
    """Names with their settings; a part with = but no name goes on with the method before."""
    names: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if "=" in part and ":" not in part and names:
            names[-1] += f",{part}"
        else:
            names.append(part)
    if not names:
        raise ConfigError(f"methods: expected some of {', '.join(METHODS)}, got none")
    return names


def _made(name: str) -> Known:
    word, _, settings = name.partition(":")
    if word not in METHODS:
        raise ConfigError(
            f"methods: expected some of {', '.join(METHODS)}, got {word}{nearest(word, METHODS)}"
        )
    kind = METHODS[word]
    return kind(**_values(kind, word, settings.split(",") if settings else ()))


def _values(kind: type[Known], word: str, settings: Sequence[str]) -> dict[str, object]:
    hints, known = get_type_hints(kind), list(signature(kind).parameters)
    values: dict[str, object] = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        if key not in known:
            expected = ", ".join(known) or "none"
            raise ConfigError(
                f"methods: {word} has no setting {key}, expected {expected}{nearest(key, known)}"
            )
        try:
            values[key] = _read(hints[key], text)
        except ValueError as error:
            raise ConfigError(f"methods: expected {error} for {word}:{key}, got {text!r}") from None
    return values


def _read(hint: object, text: str) -> object:
    """A word as the type that a setting has; raises ValueError with what was expected."""
    if get_origin(hint) is Literal:
        if text not in get_args(hint):
            raise ValueError(f"one of {', '.join(get_args(hint))}")
        return text
    if get_origin(hint) is tuple:
        try:
            return tuple(get_args(hint)[0](part) for part in text.split("/"))
        except ValueError:
            raise ValueError("numbers with / between them") from None
    to = next(one for one in (get_args(hint) or (hint,)) if one is not type(None))
    if to is bool:
        if text not in ("true", "false"):
            raise ValueError("true or false")
        return text == "true"
    try:
        return to(text)
    except ValueError:
        raise ValueError(to.__name__) from None

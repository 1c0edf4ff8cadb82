"""The names of methods on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TypeAlias, cast

import torch

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError, suggest_nearest
from apercu.images import ImageSource
from apercu.methods import (
    Augmented,
    Cam,
    CentreBlob,
    CentreBox,
    Edges,
    ExcitationBackprop,
    Explainer,
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
    Smoothed,
    SmoothGrad,
    SmoothTaylor,
    TrueBox,
    WholeBox,
    Wrapper,
    ZoomCam,
)
from apercu.option_strings import parse_arguments, parse_settings, split_names

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
    "centre_blob": CentreBlob,
    "centre_box": CentreBox,
    "whole_box": WholeBox,
    "true_box": TrueBox,
    "random": RandomMap,
    "edges": Edges,
}
WRAPPERS: dict[str, Callable[[Explainer, str], Explainer]] = {
    "augmented": lambda method, copies: Augmented(method, int(copies)),
    "smoothed": lambda method, sigma: Smoothed(method, float(sigma)),
}
"""Settings that any method takes, in the order in which they are wrapped around it."""
SLOW_METHODS = frozenset({"rise", "mfpp", "meaningful_perturbation", "smooth_taylor"})
"""More than a hundred passes per image: measured only when they are named."""
SAMPLED_IMAGES = 10
"""First images of a source that are asked for true boxes."""


def parse_methods(
    text: str, runs: Mapping[str, Explainer] | None = None
) -> dict[str, Explainer | TrueBox]:
    """`a,b:key=value,key=value,c` as methods by name; `augmented=8` and `smoothed=0.03` wrap any.

    Args:
        text: as it is typed.
        runs: trained explainers by the names of their rows, which can be wrapped by name too.

    Raises:
        ConfigError: a method or setting is unknown, or a value does not fit.
    """
    return {name: _parse_method(name, runs or {}) for name in split_names(text, "methods", METHODS)}


def check_methods(text: str) -> None:
    """Raises what `parse_methods` would of methods, before any run is opened."""
    for name in split_names(text, "methods", METHODS):
        if name.partition(":")[0] in METHODS:
            _parse_method(name, {})


def apply_seed(
    found: Mapping[str, Explainer | TrueBox], seed: int
) -> dict[str, Explainer | TrueBox]:
    """The same explainers with this seed, where they draw at random and none was typed."""
    return {
        name: one if "seed=" in name else cast(Explainer | TrueBox, _replace_seed(one, seed))
        for name, one in found.items()
    }


def _replace_seed(explainer: object, seed: int) -> object:
    """With the seed, inside a wrapper too."""
    if not is_dataclass(explainer) or isinstance(explainer, type):
        return explainer
    changes: dict[str, object] = {}
    if isinstance(explainer, Wrapper):
        changes["method"] = _replace_seed(explainer.method, seed)
    if any(field.name == "seed" for field in fields(explainer)):
        changes["seed"] = seed
    return replace(explainer, **changes)


def find_allowed_methods(classifier: Classifier, source: ImageSource) -> dict[str, Known]:
    """All quick methods that the classifier and the images allow, tried on one grey image."""
    grey = torch.full((1, classifier.channels, *classifier.size), 0.5, device=classifier.device)
    target = torch.zeros(1, dtype=torch.long, device=classifier.device)
    found: dict[str, Known] = {}
    for name in (name for name in METHODS if name not in SLOW_METHODS):
        method = METHODS[name]()
        try:
            if isinstance(method, Method):
                method(classifier, grey, target)
            elif not _has_boxes(source):
                continue
        except ClassifierError:
            continue
        except Exception:  # a fault, which the comparison tells with its reason
            pass
        found[name] = method
    return found


def _has_boxes(source: ImageSource) -> bool:
    return any(source[index].boxes is not None for index in range(min(SAMPLED_IMAGES, len(source))))


def _parse_method(name: str, runs: Mapping[str, Explainer]) -> Explainer | TrueBox:
    word, _, rest = name.partition(":")
    settings = parse_settings(word, rest, "methods")
    wraps = [setting for setting in settings if setting.partition("=")[0] in WRAPPERS]
    own = [setting for setting in settings if setting not in wraps]
    inner = runs.get(f"{word}:{','.join(own)}" if own else word)
    made = _make_method(word, own) if inner is None else inner
    for key, wrap in WRAPPERS.items():
        for value in (text for name, _, text in (s.partition("=") for s in wraps) if name == key):
            if isinstance(made, TrueBox):
                raise ConfigError(f"methods: {word} is told the truth and cannot be {key}")
            try:
                made = wrap(made, value)
            except ValueError:
                raise ConfigError(
                    f"methods: expected a number for {word}:{key}, got {value!r}"
                ) from None
    return made


def _make_method(word: str, settings: Sequence[str]) -> Known:
    if word not in METHODS:
        raise ConfigError(
            f"methods: expected some of {', '.join(METHODS)}, got {word}{suggest_nearest(word, METHODS)}"
        )
    kind = METHODS[word]
    return kind(**parse_arguments(kind, word, settings, "methods"))

"""All methods by name: `get("rise:masks=400,seed=1")`, and lists of them as people type them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Final, TypeAlias, cast

import torch

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError, suggest_nearest
from apercu.images import ImageSource
from apercu.methods.attention_relevance import AttentionRelevance
from apercu.methods.attention_rollout import AttentionRollout
from apercu.methods.augmented import Augmented
from apercu.methods.base import MapExplainer, Method, Wrapper
from apercu.methods.baselines import CentreBlob, CentreBox, Edges, RandomMap, TrueBox, WholeBox
from apercu.methods.cam import Cam
from apercu.methods.excitation_backprop import ExcitationBackprop
from apercu.methods.grad_cam import GradCam
from apercu.methods.grad_cam_pp import GradCamPlusPlus
from apercu.methods.gradient import Gradient
from apercu.methods.guided_backprop import GuidedBackprop
from apercu.methods.guided_integrated_gradients import GuidedIntegratedGradients
from apercu.methods.input_x_gradient import InputXGradient
from apercu.methods.integrated_gradients import IntegratedGradients
from apercu.methods.lrp import Lrp
from apercu.methods.meaningful_perturbation import MeaningfulPerturbation
from apercu.methods.mfpp import Mfpp
from apercu.methods.occlusion import Occlusion
from apercu.methods.rise import Rise
from apercu.methods.smooth_grad import SmoothGrad
from apercu.methods.smooth_taylor import SmoothTaylor
from apercu.methods.smoothed import Smoothed
from apercu.methods.zoom_cam import ZoomCam
from apercu.option_strings import parse_arguments, parse_settings, split_names

NamedMethod: TypeAlias = Method | TrueBox

METHODS: Final[Mapping[str, type[NamedMethod]]] = {
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
    "attention_rollout": AttentionRollout,
    "attention_relevance": AttentionRelevance,
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

WRAPPERS: Final[Mapping[str, Callable[[MapExplainer, str], MapExplainer]]] = {
    "augmented": lambda method, copies: Augmented(method, int(copies)),
    "smoothed": lambda method, sigma: Smoothed(method, float(sigma)),
}
"""Settings that any method takes, in the order in which they are wrapped around it."""
SAMPLED_IMAGES = 10
"""The number of images of a source in which true boxes are looked for."""


def names() -> tuple[str, ...]:
    """Return the names of all methods."""
    return tuple(METHODS)


def get(text: str) -> MapExplainer | TrueBox:
    """Return a method by its name, with settings if some are given.

    >>> get("grad_cam")
    GradCam(layer=None)
    >>> get("grad_cam:augmented=4").method
    GradCam(layer=None)

    Args:
        text: `NAME` or `NAME:KEY=VALUE,KEY=VALUE`. The settings `augmented=8` and `smoothed=0.03`
            wrap any method.

    Returns:
        The method, which is called with a classifier, images and targets.

    Raises:
        ConfigError: the name or a setting is unknown, or a value does not fit.
    """
    return _parse_method(text.strip(), {})


def parse_methods(
    text: str, runs: Mapping[str, MapExplainer] | None = None
) -> dict[str, MapExplainer | TrueBox]:
    """Return the methods of a list such as `a,b:key=value,key=value,c`.

    Args:
        text: the list as it is typed.
        runs: trained explainers by their names, which can be wrapped by name too.

    Returns:
        The methods by their names with settings.

    Raises:
        ConfigError: a method or setting is unknown, or a value does not fit.
    """
    return {name: _parse_method(name, runs or {}) for name in split_names(text, "methods", METHODS)}


def check_methods(text: str) -> None:
    """Check a list of methods before any trained explainer is opened; other names are skipped.

    Raises:
        ConfigError: a setting of a method is unknown, or a value does not fit.
    """
    for name in split_names(text, "methods", METHODS):
        if name.partition(":")[0] in METHODS:
            _parse_method(name, {})


def apply_seed(
    explainers: Mapping[str, MapExplainer | TrueBox], seed: int
) -> dict[str, MapExplainer | TrueBox]:
    """Return the same explainers with this seed, where they are random and no seed was typed."""
    return {
        name: explainer
        if "seed=" in name
        else cast(MapExplainer | TrueBox, _replace_seed(explainer, seed))
        for name, explainer in explainers.items()
    }


def find_allowed_methods(classifier: Classifier, source: ImageSource) -> dict[str, NamedMethod]:
    """Return all quick methods that the classifier and the images allow.

    Each method is tried on one grey image.
    """
    grey = torch.full((1, classifier.channels, *classifier.size), 0.5, device=classifier.device)
    allowed: dict[str, NamedMethod] = {}
    for name in (name for name, method in METHODS.items() if not method.slow):
        method = METHODS[name]()
        try:
            if isinstance(method, Method):
                method(classifier, grey, 0)
            elif not _has_boxes(source):
                continue
        except ClassifierError:
            continue
        except Exception:  # a fault of the method: the comparison reports it with its reason
            pass
        allowed[name] = method
    return allowed


def _parse_method(text: str, runs: Mapping[str, MapExplainer]) -> MapExplainer | TrueBox:
    """Return the method of a name with settings, within the wrappers among the settings."""
    name, _, rest = text.partition(":")
    settings = parse_settings(name, rest, "methods")
    wrappers = [setting for setting in settings if setting.partition("=")[0] in WRAPPERS]
    own = [setting for setting in settings if setting not in wrappers]
    run = runs.get(f"{name}:{','.join(own)}" if own else name)
    method = _make_method(name, own) if run is None else run
    for key, wrap in WRAPPERS.items():
        for value in (s.partition("=")[2] for s in wrappers if s.partition("=")[0] == key):
            if isinstance(method, TrueBox):
                raise ConfigError(f"methods: {name} knows the truth and cannot be {key}")
            try:
                method = wrap(method, value)
            except ValueError:
                raise ConfigError(
                    f"methods: expected a number for {name}:{key}, got {value!r}"
                ) from None
    return method


def _make_method(name: str, settings: Sequence[str]) -> NamedMethod:
    if name not in METHODS:
        raise ConfigError(
            f"methods: expected some of {', '.join(METHODS)}, got {name}"
            f"{suggest_nearest(name, METHODS)}"
        )
    return METHODS[name](**parse_arguments(METHODS[name], name, settings, "methods"))


def _replace_seed(explainer: object, seed: int) -> object:
    """Return the explainer with the seed, inside a wrapper too."""
    if not is_dataclass(explainer) or isinstance(explainer, type):
        return explainer
    changes: dict[str, object] = {}
    if isinstance(explainer, Wrapper):
        changes["method"] = _replace_seed(explainer.method, seed)
    if any(field.name == "seed" for field in fields(explainer)):
        changes["seed"] = seed
    return replace(explainer, **changes)


def _has_boxes(source: ImageSource) -> bool:
    return any(source[index].boxes is not None for index in range(min(SAMPLED_IMAGES, len(source))))

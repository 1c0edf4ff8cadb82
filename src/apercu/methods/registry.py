"""All methods by name: `get("rise:masks=400,seed=1")`, and lists of them as people type them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from inspect import isroutine
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import torch

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError, ImageError, suggest_nearest
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
from apercu.methods.gradient_shap import GradientShap
from apercu.methods.guided_backprop import GuidedBackprop
from apercu.methods.guided_integrated_gradients import GuidedIntegratedGradients
from apercu.methods.input_x_gradient import InputXGradient
from apercu.methods.integrated_gradients import IntegratedGradients
from apercu.methods.lrp import Lrp
from apercu.methods.meaningful_perturbation import MeaningfulPerturbation
from apercu.methods.mfpp import Mfpp
from apercu.methods.occlusion import Occlusion
from apercu.methods.own import (
    OWN_FORM,
    FunctionExplainer,
    OwnText,
    adopt,
    make_own,
    name_own,
    split_own,
)
from apercu.methods.rise import Rise
from apercu.methods.second_look import SecondLook
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
    "gradient_shap": GradientShap,
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
    "second_look": lambda method, queries: SecondLook(method, int(queries)),
}
"""Settings that any method takes, in the order in which they are wrapped around it."""
SAMPLED_IMAGES = 10
"""The number of images of a source in which true boxes are looked for."""


def names() -> tuple[str, ...]:
    """Return the names of all methods."""
    return tuple(METHODS)


def get(text: str) -> MapExplainer | TrueBox:
    """Return a method by its name, with settings if some are given.

    A method from outside the package is named `package.module:NAME` or `FILE.py:NAME`, and its
    code runs.

    >>> get("grad_cam")
    GradCam(layer=None)
    >>> get("grad_cam:augmented=4").method
    GradCam(layer=None)

    Args:
        text: `NAME` or `NAME:KEY=VALUE,KEY=VALUE`, as a person typed it. The settings
            `augmented=8`, `smoothed=0.03` and `second_look=20` wrap any method.

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
    parsed: dict[str, MapExplainer | TrueBox] = {}
    for typed in dict.fromkeys(split_names(text, "methods", (*METHODS, OWN_FORM))):
        method = _parse_method(typed, runs or {})
        parsed[_name_typed(typed, {*parsed, *(runs or {})})] = method
    return parsed


def adopt_methods(
    given: Iterable[object], opened: Mapping[str, MapExplainer | TrueBox], seed: int
) -> dict[str, MapExplainer | TrueBox]:
    """Return explainers, and further methods by the names of their rows.

    Args:
        given: texts as they are typed, classes, objects, or functions of classifier, images and
            targets.
        opened: the explainers that are opened already, which texts may wrap by name.
        seed: the seed of what is named or made here, where none was typed.

    Returns:
        All by their names with settings, the opened ones first.

    Raises:
        ConfigError: one is no method, its settings are wrong, or two have the same name.
    """
    adopted = dict(opened)
    for each in given:
        if isinstance(each, str):
            methods = apply_seed(parse_methods(each, find_wrappable(adopted)), seed)
        else:
            name = name_given(each)
            methods = {name: adopt(each, f"methods: {name}")}
            methods = apply_seed(methods, seed) if isinstance(each, type) else methods
        if repeated := adopted.keys() & methods.keys():
            raise ConfigError(
                f"methods: two are called {repeated.pop()}; give them names, as in "
                "explainers={'one': …, 'other': …}"
            )
        adopted |= methods
    return adopted


def find_wrappable(explainers: Mapping[str, MapExplainer | TrueBox]) -> dict[str, MapExplainer]:
    """Return the explainers that a method may wrap: all but the true boxes."""
    return {name: each for name, each in explainers.items() if not isinstance(each, TrueBox)}


def check_methods(text: str) -> None:
    """Check a list of methods before any trained explainer is opened; other names are skipped.

    Raises:
        ConfigError: a setting of a method is unknown, or a value does not fit.
    """
    for name in split_names(text, "methods", (*METHODS, OWN_FORM)):
        if name.partition(":")[0] in METHODS or split_own(name):
            _parse_method(name, {})


def name_given(given: Any) -> str:
    """Return the name of the row of a class, an object or a function."""
    name = name_own(given, "", {kind: name for name, kind in METHODS.items()})
    owner = given if isinstance(given, type) or isroutine(given) else type(given)
    is_other = METHODS.get(name.partition(":")[0], owner) is not owner
    is_wrapper = isinstance(given, Wrapper)
    return f"{owner.__module__}.{name}" if is_other and not is_wrapper else name


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
    name, rest = _split_settings(text, runs)
    settings = parse_settings(name, rest, "methods")
    wrappers = [setting for setting in settings if setting.partition("=")[0] in WRAPPERS]
    own = [setting for setting in settings if setting not in wrappers]
    run = runs.get(f"{name}:{','.join(own)}" if own else name)
    method = _make_method(name, own) if run is None else run
    for key, wrap in WRAPPERS.items():
        for value in (s.partition("=")[2] for s in wrappers if s.partition("=")[0] == key):
            if isinstance(method, TrueBox):
                raise ConfigError(f"methods: {name} knows the truth and takes no {key}")
            try:
                method = wrap(method, value)
            except ValueError:
                raise ConfigError(
                    f"methods: expected a number for {name}:{key}, got {value!r}"
                ) from None
    return method


def _split_settings(text: str, runs: Mapping[str, MapExplainer]) -> OwnText:
    """Return a name, which may be that of an own method, and the text of its settings."""
    name, _, rest = text.partition(":")
    own = None if name in METHODS or name in runs else split_own(text)
    return own or OwnText(name, rest)


def _name_typed(text: str, others: Collection[str]) -> str:
    """Return the name of the row of a method as it was typed; an own one is named by its class.

    Where that name is another row's or a method's of the package, it begins with the module's.
    """
    own = split_own(text)
    if own is None or text.partition(":")[0] in METHODS or text in others:
        return text
    module, _, attribute = own.source.rpartition(":")
    name = name_own(type(attribute, (), {}), own.settings)
    if name in others or name.partition(":")[0] in METHODS:
        name = f"{Path(module).stem if module.endswith('.py') else module}.{name}"
    return name


def _make_method(name: str, settings: Sequence[str]) -> MapExplainer | TrueBox:
    if name not in METHODS and split_own(name):
        return make_own(name, settings)
    if name not in METHODS:
        raise ConfigError(
            f"methods: expected some of {', '.join(METHODS)}, {OWN_FORM}, got {name}"
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
    if isinstance(explainer, FunctionExplainer):
        changes["function"] = _replace_seed(explainer.function, seed)
    if any(field.name == "seed" for field in fields(explainer)):
        changes["seed"] = seed
    return replace(explainer, **changes) if changes else explainer


def _has_boxes(source: ImageSource) -> bool:
    """Whether one of the first images that can be read has boxes."""
    for index in range(min(SAMPLED_IMAGES, len(source))):
        with suppress(ImageError):
            if source[index].boxes is not None:
                return True
    return False

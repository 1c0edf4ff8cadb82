"""Open explainers for a comparison: methods by name, runs, and Python functions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.run_folder import check_run, load_explainer
from apercu.images import ImageSource
from apercu.methods import MapExplainer, Method, TrainedMethod, TrueBox
from apercu.methods.own import MapFunction, adopt, split_own
from apercu.methods.registry import (
    adopt_methods,
    apply_seed,
    check_methods,
    find_allowed_methods,
    find_wrappable,
    name_given,
    parse_methods,
)
from apercu.methods.registry import get as get_method
from apercu.methods.registry import names as method_names
from apercu.types import Images, Maps, Targets

MethodLike: TypeAlias = MapExplainer | TrueBox | MapFunction | type[Method]
"""A method, its class, or a function of classifier, images and targets to maps."""

ExplainerLike: TypeAlias = (
    TrainedExplainer[Any, Any] | MapExplainer | TrueBox | MapFunction | type[Method] | str | Path
)
"""A trained explainer or its run folder; a method, its class, or its name with settings; or a
function."""

MethodsLike: TypeAlias = str | MethodLike | Sequence[str | MethodLike]
"""Names with settings as they are typed, classes, objects or functions."""

QUICK = "quick"
"""The word for all quick methods that classifier and images allow."""


def open_explainers(
    explainers: Mapping[str, ExplainerLike] | Sequence[ExplainerLike] | None,
    methods: MethodsLike | None,
    classifier: Classifier,
    source: ImageSource,
    seed: int = 0,
) -> dict[str, MapExplainer | TrueBox]:
    """Open everything that is compared, by the names of its rows.

    Args:
        explainers: the explainers by name, or a sequence of run folders and of names of methods.
        methods: further methods, `a,b:key=value`, which may wrap the explainers by name, or classes
            and functions; `quick` for all quick ones that classifier and images allow; None for no
            more, or for the quick ones where no explainer is given either.
        classifier: the classifier that is explained.
        source: the images.
        seed: the seed of all methods that are named without one.

    Returns:
        The explainers by the names of their rows.

    Raises:
        RunError: a folder is no finished run, or was trained for another classifier.
        ConfigError: there is no such method, or something is no explainer.
    """
    if explainers is None or isinstance(explainers, Mapping):
        named = dict(explainers or {})
    else:
        named = _name_all(explainers, classifier)
    opened: dict[str, MapExplainer | TrueBox] = {}
    for name, explainer in named.items():
        is_name = isinstance(explainer, str) and not _is_run(explainer)
        ready = open_explainer(explainer, classifier, f"explainers: {name}")
        opened |= apply_seed({name: ready}, seed) if is_name else {name: ready}
    if methods == QUICK or (methods is None and not named):
        return {**opened, **apply_seed(dict(find_allowed_methods(classifier, source)), seed)}
    if methods is None:
        return opened
    if not isinstance(methods, str):
        return adopt_methods(_list_methods(methods), opened, seed)
    return {**opened, **apply_seed(parse_methods(methods, find_wrappable(opened)), seed)}


def check_explainers(
    explainers: Mapping[str, ExplainerLike] | Sequence[ExplainerLike] | None,
    methods: MethodsLike | None,
) -> None:
    """Check explainers and methods, before anything is opened; own methods are imported.

    Args:
        explainers: the explainers, as `open_explainers` takes them.
        methods: further methods, as `open_explainers` takes them.

    Raises:
        ConfigError: a name or a setting is unknown, or something is no method.
        RunError: a folder is no finished run.
    """
    given = [] if methods is None or methods == QUICK else _list_methods(methods)
    for each in given:
        if not isinstance(each, str):
            adopt(each, f"methods: {name_given(each)}")
        elif explainers:  # the others may be names of these
            check_methods(each)
        else:
            parse_methods(each)
    if isinstance(explainers, Mapping):
        for name, explainer in explainers.items():
            if not isinstance(explainer, str | Path | TrainedExplainer):
                adopt(explainer, f"explainers: {name}")
        return
    for explainer in explainers or ():
        if isinstance(explainer, Path) or (isinstance(explainer, str) and _is_run(explainer)):
            check_run(explainer, trust=True)  # its links are judged when it is opened


def _list_methods(methods: MethodsLike) -> Sequence[object]:
    """Return methods as a sequence; a text, or a single one, may stand alone."""
    if isinstance(methods, str) or not isinstance(methods, Sequence):
        return [methods]
    return methods


def open_explainer(
    explainer: ExplainerLike, classifier: Classifier, label: str = "explainers"
) -> MapExplainer | TrueBox:
    """Return an explainer as a comparison takes it.

    Args:
        explainer: a trained explainer or its run folder; a method, its class, or its name with
            settings; or a function of classifier, images and targets.
        classifier: the classifier that is explained.
        label: the start of an error line.

    Returns:
        A method, or a trained explainer or a function as a method.

    Raises:
        RunError: a folder is no finished run, or was trained for another classifier.
        ConfigError: there is no such method, or it is no explainer.
    """
    if isinstance(explainer, str) and not _is_run(explainer):
        return get_method(explainer)
    if isinstance(explainer, str | Path):
        return wrap_trained(load_explainer(explainer, classifier.device), classifier)
    if isinstance(explainer, TrainedExplainer):
        return wrap_trained(explainer, classifier)
    return adopt(explainer, label)


def wrap_trained(explainer: TrainedExplainer[Any, Any], classifier: Classifier) -> TrainedMethod:
    """Return a trained explainer as a method.

    Raises:
        RunError: it was trained for another classifier.
    """
    explainer.classifier_info.check_classifier(classifier)
    digest = hashlib.sha256()
    for name, weights in sorted(explainer.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.detach().cpu().contiguous().view(-1).numpy().tobytes())

    def attribute(images: Images, targets: Targets) -> Maps:
        return explainer.attribute(images, targets).to(images.device)

    return TrainedMethod(
        attribute=attribute,
        cache_key=f"{explainer.kind} {digest.hexdigest()}",
        training_seconds=explainer.facts.get("training_seconds", 0.0),
        map_scale=explainer.map_scale,
    )


def _is_run(text: str) -> bool:
    """Whether a text names a trained explainer rather than a method."""
    name = text.partition(":")[0]
    if split_own(text) is not None:
        return False
    return name not in method_names() and (name == "ready" or "/" in text or Path(text).exists())


def _name_all(
    explainers: Sequence[ExplainerLike], classifier: Classifier
) -> dict[str, ExplainerLike]:
    """Return the explainers of a sequence by the names of their rows.

    A method is named as it is typed. A trained explainer is named by its kind or, where several
    have that kind, `mask:run=NAME`.
    """
    named: dict[str, ExplainerLike] = {}
    runs: list[tuple[Path, TrainedExplainer[Any, Any]]] = []
    for explainer in explainers:
        if isinstance(explainer, str) and not _is_run(explainer):
            named[explainer] = explainer
        elif isinstance(explainer, str | Path):
            runs.append((Path(explainer), load_explainer(explainer, classifier.device)))
        else:
            raise ConfigError(
                "explainers: expected run folders and names of methods, got "
                f"{type(explainer).__name__}; give it a name, as in {{'mine': explainer}}"
            )
    names = _name_runs([folder for folder, _ in runs], [explainer.kind for _, explainer in runs])
    trained = {name: explainer for name, (_, explainer) in zip(names, runs, strict=True)}
    return {**trained, **named}


def _name_runs(runs: Sequence[Path], kinds: Sequence[str]) -> list[str]:
    """Return kinds where they are distinct; else with folder names, or with the paths as given."""
    if len(set(kinds)) == len(kinds):
        return list(kinds)
    short = [run.resolve().name for run in runs]
    distinct = len(set(short)) == len(short)
    return [
        f"{kind}:run={name if distinct else run}"
        for kind, name, run in zip(kinds, short, runs, strict=True)
    ]

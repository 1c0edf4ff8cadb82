"""Open explainers for a comparison: methods by name, runs, and Python functions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, final
from uuid import uuid4

from apercu.classifiers import Classifier
from apercu.classifiers.names import Target, choose_targets
from apercu.errors import ConfigError
from apercu.evaluation.results import FUNCTION
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.run_folder import load_explainer
from apercu.images import ImageSource
from apercu.methods import MapExplainer, MapScale, Requirement, TrainedMethod, TrueBox
from apercu.methods.registry import (
    apply_seed,
    check_methods,
    find_allowed_methods,
    parse_methods,
)
from apercu.methods.registry import get as get_method
from apercu.methods.registry import names as method_names
from apercu.types import Images, Maps, Targets

MapFunction: TypeAlias = Callable[[Classifier, Images, Targets], Maps]
"""A function of classifier, images and targets to maps, `batch × height × width`."""

ExplainerLike: TypeAlias = (
    TrainedExplainer[Any, Any] | MapExplainer | TrueBox | MapFunction | str | Path
)
"""A trained explainer or its run folder; a method or its name with settings; or a function."""

QUICK = "quick"
"""The word for all quick methods that classifier and images allow."""


@final
@dataclass(frozen=True)
class FunctionExplainer:
    """A function among the methods.

    Its maps have a scale of their own. What a function computes cannot be known beforehand, so its
    results are never taken from an earlier comparison.

    Attributes:
        function: the function, called with classifier, images and targets.
        cache_key: a text that no other explainer has.
    """

    function: MapFunction = field(repr=False)
    cache_key: str = field(default_factory=lambda: f"{FUNCTION} {uuid4().hex}")
    map_scale: ClassVar[MapScale] = "map"
    needs: ClassVar[tuple[Requirement, ...]] = ()
    training_seconds: ClassVar[float] = 0.0

    def __call__(self, classifier: Classifier, images: Images, targets: Target = None) -> Maps:
        """Return the maps that the function computes."""
        return self.function(classifier, images, choose_targets(classifier, images, targets))


def open_explainers(
    explainers: Mapping[str, ExplainerLike] | Sequence[ExplainerLike] | None,
    methods: str | None,
    classifier: Classifier,
    source: ImageSource,
    seed: int = 0,
) -> dict[str, MapExplainer | TrueBox]:
    """Open everything that is compared, by the names of its rows.

    Args:
        explainers: the explainers by name, or a sequence of run folders and of names of methods.
        methods: further methods, `a,b:key=value`, which may wrap the explainers by name; `quick`
            for all quick ones that classifier and images allow; None for no more, or for the quick
            ones where no explainer is given either.
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
        ready = open_explainer(explainer, classifier)
        opened |= apply_seed({name: ready}, seed) if is_name else {name: ready}
    if methods == QUICK or (methods is None and not named):
        return {**opened, **apply_seed(dict(find_allowed_methods(classifier, source)), seed)}
    if methods is None:
        return opened
    runs = {name: ready for name, ready in opened.items() if not isinstance(ready, TrueBox)}
    return {**opened, **apply_seed(parse_methods(methods, runs), seed)}


def check_names(
    explainers: Mapping[str, ExplainerLike] | Sequence[ExplainerLike] | None, methods: str | None
) -> None:
    """Check the names of methods, before anything is opened.

    Raises:
        ConfigError: a name or a setting is unknown.
    """
    if methods not in (None, QUICK):
        check_methods(str(methods)) if explainers else parse_methods(str(methods))


def open_explainer(explainer: ExplainerLike, classifier: Classifier) -> MapExplainer | TrueBox:
    """Return an explainer as a comparison takes it.

    Args:
        explainer: a trained explainer or its run folder; a method or its name with settings; or a
            function of classifier, images and targets.
        classifier: the classifier that is explained.

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
    if isinstance(explainer, MapExplainer | TrueBox):
        return explainer
    if callable(explainer):
        return FunctionExplainer(explainer)
    raise ConfigError(
        "explainers: expected trained explainers, run folders, methods or functions, "
        f"got {type(explainer).__name__}"
    )


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
        map_scale="mask" if explainer.makes_masks else "map",
    )


def _is_run(text: str) -> bool:
    """Whether a text names a trained explainer rather than a method."""
    name = text.partition(":")[0]
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

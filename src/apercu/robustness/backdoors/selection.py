"""Methods against backdoors by their names, which are possible, and what each needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError
from apercu.methods import MapExplainer
from apercu.option_strings import parse_named, split_names
from apercu.robustness.backdoors.antidote import AntidoteRt
from apercu.robustness.backdoors.evidence import CarriedEvidence
from apercu.robustness.backdoors.neural_cleanse import NeuralCleanse, check_comparable
from apercu.robustness.backdoors.removal import BackdoorRemoval, FinePruning, Unlearning
from apercu.robustness.backdoors.strip import Strip

BackdoorMethod: TypeAlias = NeuralCleanse | Strip | CarriedEvidence | AntidoteRt | BackdoorRemoval

BACKDOOR_METHODS: Mapping[str, type[BackdoorMethod]] = {
    "neural_cleanse": NeuralCleanse,
    "strip": Strip,
    "evidence": CarriedEvidence,
    "antidote": AntidoteRt,
    "fine_pruning": FinePruning,
    "unlearning": Unlearning,
}
"""Method classes by the names that people type."""


def parse_backdoor_methods(text: str, seed: int = 0) -> dict[str, BackdoorMethod]:
    """Parse the names of methods, such as `neural_cleanse:steps=500,strip`.

    Args:
        text: names with settings.
        seed: seed of the methods, unless their settings have one.

    Returns:
        Methods by name.

    Raises:
        ConfigError: there is no such method or setting.
    """
    names = split_names(text, "methods", BACKDOOR_METHODS)
    return {name: parse_named(name, BACKDOOR_METHODS, "methods", seed=seed) for name in names}


def choose_backdoor_methods(
    classifier: Classifier, seed: int, *, explainer: bool, poisoned: bool
) -> dict[str, BackdoorMethod]:
    """Choose all methods that a classifier and the images allow, without those that train.

    Args:
        classifier: classifier that is searched.
        seed: seed of the methods.
        explainer: whether there is a trained explainer.
        poisoned: whether poisoned samples are known.

    Returns:
        Methods by name.
    """
    names = ["strip"]
    if classifier.differentiable and len(classifier.classes) > 2:
        names.insert(0, "neural_cleanse")
    if explainer:
        names.append("evidence")
    if poisoned and classifier.exposes_layers:
        names.append("antidote")
    return parse_backdoor_methods(",".join(names), seed)


def check_methods(
    classifier: Classifier,
    methods: Mapping[str, BackdoorMethod],
    explainer: MapExplainer | None,
    *,
    has_samples: bool,
) -> None:
    """Check that each method has what it needs, before any work.

    Raises:
        ConfigError: an explainer, poisoned samples or another method is missing.
        ClassifierError: gradients or layers are missing, there are too few classes, classes are
            decided by themselves, or a value is predicted.
    """
    if classifier.output.name == "value":
        raise ClassifierError(
            f"{classifier.spec}: predicts a value; backdoors are looked for in classifiers that "
            "predict one class"
        )
    if classifier.decision.is_multiple:
        raise ClassifierError(
            f"{classifier.spec}: may predict several classes at once; backdoors are looked for in "
            "classifiers that predict one"
        )
    kinds = {type(method) for method in methods.values()}
    for name, method in methods.items():
        if isinstance(method, NeuralCleanse):
            check_comparable(classifier)
        elif isinstance(method, CarriedEvidence):
            method.choose_explainer(explainer)
        elif isinstance(method, AntidoteRt) and not has_samples:
            raise ConfigError(
                f"{name}: learns from images with the trigger; give --poisoned DIR, or "
                "--poison RUN of a test bed"
            )
        elif isinstance(method, Unlearning) and NeuralCleanse not in kinds:
            raise ConfigError(f"{name}: needs a trigger; name neural_cleanse among the methods")
        needs_layers = isinstance(method, AntidoteRt | BackdoorRemoval)
        if needs_layers and not classifier.exposes_layers:
            raise ClassifierError(
                f"{name}: needs the layers of the classifier, and {classifier.spec} is a black box"
            )

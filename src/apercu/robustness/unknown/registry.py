"""The methods by the names that people type, and scorers as files without code.

A folder of a scorer holds `unknown.json`, with the method, its settings and the fingerprint of the
classifier, and `unknown.safetensors`, with what was fitted.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError, RunError, suggest_nearest
from apercu.io import parse_json, write_file, write_json
from apercu.log import warn
from apercu.option_strings import parse_named, split_names
from apercu.robustness.unknown.base import (
    ScorerState,
    UnknownMethod,
    UnknownScorer,
    open_layers,
)
from apercu.robustness.unknown.boundary_samples import BoundarySamples
from apercu.robustness.unknown.conditional_generator import ConditionalGenerator
from apercu.robustness.unknown.deep_ensemble import DeepEnsemble
from apercu.robustness.unknown.discriminative_reconstruction import DiscriminativeReconstruction
from apercu.robustness.unknown.energy import Energy
from apercu.robustness.unknown.mahalanobis import LayerMahalanobis
from apercu.robustness.unknown.max_softmax import Entropy, MaxSoftmax
from apercu.robustness.unknown.monte_carlo_dropout import MonteCarloDropout
from apercu.robustness.unknown.on_manifold import OnManifold
from apercu.robustness.unknown.one_class import OneClassRepresentation
from apercu.robustness.unknown.openmax import OpenMax
from apercu.robustness.unknown.stain_noise import StainNoise

_CLASSES: tuple[type[UnknownMethod], ...] = (
    *(MaxSoftmax, Entropy, Energy, LayerMahalanobis, OpenMax, MonteCarloDropout, DeepEnsemble),
    *(ConditionalGenerator, BoundarySamples, OnManifold, DiscriminativeReconstruction),
    *(OneClassRepresentation, StainNoise),
)
UNKNOWN_METHODS = {method.name: method for method in _CLASSES}
"""Methods that recognise unknown images, by the names that people type."""
DEFAULT_METHODS = ("max_softmax", "energy", "mahalanobis")
"""Methods of `apercu stress unknown` where none are named, which train no network."""
CONTENT, TENSORS = "unknown.json", "unknown.safetensors"


def parse_unknown_methods(text: str, seed: int = 0) -> dict[str, UnknownMethod]:
    """Parse the names of methods, such as `energy,mahalanobis:components=low`.

    Args:
        text: names with settings.
        seed: seed of the methods that have one, unless their settings say another.

    Returns:
        The methods by what was typed.

    Raises:
        ConfigError: there is no such method or setting.
    """
    names = split_names(text, "methods", UNKNOWN_METHODS)
    return {name: parse_named(name, UNKNOWN_METHODS, "methods", seed=seed) for name in names}


def choose_unknown_methods(classifier: Classifier) -> dict[str, UnknownMethod]:
    """Return the methods without a training that a classifier allows; a warning names the others.

    Args:
        classifier: the classifier.

    Returns:
        Those of `DEFAULT_METHODS` that it gives the numbers or the layers for, by name.

    Raises:
        ClassifierError: it allows none of them.
    """
    chosen: dict[str, UnknownMethod] = {}
    for name in DEFAULT_METHODS:
        method = UNKNOWN_METHODS[name]()
        try:
            if isinstance(method, LayerMahalanobis):
                open_layers(classifier, name)
            else:
                method.restore(classifier, {})
        except ClassifierError as error:
            reason, _, _ = str(error).partition(";")
            warn(f"{reason}; it is left out")
        else:
            chosen[name] = method
    if not chosen:
        raise ClassifierError(
            f"methods: {classifier.spec} allows none of {', '.join(DEFAULT_METHODS)}; choose "
            "stain_noise"
        )
    return chosen


def restore_scorer(state: ScorerState, classifier: Classifier) -> UnknownScorer:
    """Make a scorer again of what `UnknownScorer.state` returned.

    Args:
        state: method, settings and tensors; lists in the settings may stand for tuples, as JSON
            has none.
        classifier: the classifier that it was fitted for.

    Returns:
        A scorer that gives the same scores.

    Raises:
        RunError: the method or a setting is unknown, or a tensor is missing.
    """
    if state.method not in UNKNOWN_METHODS:
        suggestion = suggest_nearest(state.method, UNKNOWN_METHODS)
        raise RunError(
            f"unknown: expected one of {', '.join(UNKNOWN_METHODS)}, got {state.method}"
            f"{suggestion}; fit it again"
        )
    method_class = UNKNOWN_METHODS[state.method]
    names = {field.name for field in fields(method_class)}  # type: ignore[arg-type]
    stored = {method_class.renamed_settings.get(k, k): v for k, v in state.settings.items()}
    if other := sorted(set(stored) - names):
        raise RunError(f"unknown: {state.method} has no setting {other[0]}; fit it again")
    settings = {
        name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
    }
    try:
        return method_class(**settings).restore(classifier, state.tensors)
    except (KeyError, RuntimeError, TypeError, ConfigError) as error:
        raise RunError(
            f"unknown: what was kept of {state.method} does not fit ({error}); fit it again"
        ) from error


def save_scorer(scorer: UnknownScorer, folder: str | Path) -> Path:
    """Write a scorer to a folder, as JSON and safetensors.

    Args:
        scorer: the scorer.
        folder: folder to write to; it is created.

    Returns:
        The folder.

    Raises:
        OutputError: the folder cannot be written.
    """
    folder, state = Path(folder), scorer.state()
    content: dict[str, Any] = {
        "method": state.method,
        "settings": state.settings,
        "fingerprint": scorer.classifier.fingerprint,
    }
    write_file(folder / TENSORS, save({name: each.clone() for name, each in state.tensors.items()}))
    write_json(folder / CONTENT, content)
    return folder


def load_scorer(folder: str | Path, classifier: Classifier) -> UnknownScorer:
    """Read the scorer in a folder.

    Args:
        folder: folder that `save_scorer` wrote.
        classifier: the classifier that it was fitted for.

    Returns:
        A scorer that gives the same scores.

    Raises:
        RunError: the folder holds no scorer, it is damaged, or belongs to another classifier.
    """
    folder = Path(folder)
    try:
        content = parse_json((folder / CONTENT).read_bytes())
        tensors = load((folder / TENSORS).read_bytes())
        state = ScorerState(str(content["method"]), dict(content["settings"]), tensors)
        fingerprint = str(content["fingerprint"])
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise RunError(
            f"{folder}: holds no readable {CONTENT} and {TENSORS}; fit it again"
        ) from error
    if fingerprint != classifier.fingerprint:
        raise RunError(
            f"{folder}: was fitted for another classifier than {classifier.spec}; fit it again"
        )
    return restore_scorer(state, classifier)

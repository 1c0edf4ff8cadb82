"""What a server knows of its explainer, whatever computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apercu.classifiers import ClassNames, InputSpec
from apercu.deploy.inference import InferenceEngine, Predictor
from apercu.explainers.base import TrainedExplainer


@dataclass(frozen=True)
class Facts:
    """One explainer.

    Args:
        kind: `mask`, `counterpart`, `latent`.
        classifier: SPEC of the one that it explains.
        names: of the classes.
        input: what its images look like.
        read_by: who says which classes an image shows.
    """

    kind: str
    classifier: str
    names: ClassNames
    input: InputSpec
    read_by: str

    @classmethod
    def of_engine(cls, engine: InferenceEngine) -> Facts:
        """Those of an engine, which explains by masks."""
        about = engine.about
        return cls("mask", about.classifier, engine.names, engine.input, about.read_by)

    @classmethod
    def of_explainer(cls, explainer: TrainedExplainer[Any, Any], reading: Predictor) -> Facts:
        """Those of an explainer that PyTorch runs."""
        passport = explainer.classifier_info
        kind = explainer.settings.explainer
        return cls(kind, passport.spec, passport.names, passport.input, reading.source)

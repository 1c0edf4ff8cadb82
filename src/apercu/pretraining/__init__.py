"""Learning from images without labels, and evaluating features where labels are few.

The names below are imported when they are first used. `pretrain_backbone` and `evaluate_features`
do what `apercu pretrain` and `apercu evaluate-features` do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apercu.pretraining.evaluate import FeatureEvaluation as FeatureEvaluation
    from apercu.pretraining.evaluate import evaluate_features as evaluate_features
    from apercu.pretraining.few_labels import FewLabelsProtocol as FewLabelsProtocol
    from apercu.pretraining.heads import parse_heads as parse_heads
    from apercu.pretraining.inputs import CatalogueJoin as CatalogueJoin
    from apercu.pretraining.inputs import InputOptions as InputOptions
    from apercu.pretraining.pretrain import PretrainedBackbone as PretrainedBackbone
    from apercu.pretraining.pretrain import PretrainInputs as PretrainInputs
    from apercu.pretraining.pretrain import pretrain_backbone as pretrain_backbone
    from apercu.pretraining.settings import PretrainSettings as PretrainSettings

_HOMES = {
    "CatalogueJoin": "inputs",
    "FeatureEvaluation": "evaluate",
    "FewLabelsProtocol": "few_labels",
    "InputOptions": "inputs",
    "PretrainInputs": "pretrain",
    "PretrainSettings": "settings",
    "PretrainedBackbone": "pretrain",
    "evaluate_features": "evaluate",
    "parse_heads": "heads",
    "pretrain_backbone": "pretrain",
}
"""The module of each public name."""

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'apercu.pretraining' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"apercu.pretraining.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""See what an image classifier looks at, in one forward pass.

>>> import apercu
>>> explainer = apercu.train("timm/resnet50", "photos/", "runs/mine")  # doctest: +SKIP
>>> explainer.explain("cat.jpg").save("out")  # doctest: +SKIP

The names below are imported when they are first used, so `import apercu` is cheap.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from apercu.errors import ApercuError, InputError, OutputError

warnings.filterwarnings("ignore", message="IProgress not found")  # of tqdm, in notebooks

if TYPE_CHECKING:
    from apercu import methods as methods
    from apercu import metrics as metrics
    from apercu import robustness as robustness
    from apercu.classifiers import Classifier as Classifier
    from apercu.classifiers import distil as distil
    from apercu.classifiers import make_card as make_card
    from apercu.classifiers import open_classifier as open_classifier
    from apercu.deploy.batch.explain_dataset import explain_dataset as explain_dataset
    from apercu.deploy.export.export_run import export as export
    from apercu.deploy.video.explain_video import explain_video as explain_video
    from apercu.evaluation import ComparisonResults as ComparisonResults
    from apercu.evaluation.compare import compare as compare
    from apercu.explain import CounterpartExplanation as CounterpartExplanation
    from apercu.explain import Explanation as Explanation
    from apercu.explain import Explanations as Explanations
    from apercu.explain import MaskExplanation as MaskExplanation
    from apercu.explainers.counterpart.explainer import CounterpartExplainer as CounterpartExplainer
    from apercu.explainers.counterpart.settings import CounterpartSettings as CounterpartSettings
    from apercu.explainers.latent.explainer import LatentExplainer as LatentExplainer
    from apercu.explainers.latent.settings import LatentSettings as LatentSettings
    from apercu.explainers.mask.explainer import MaskExplainer as MaskExplainer
    from apercu.explainers.mask.settings import MaskSettings as MaskSettings
    from apercu.explainers.run_folder import load_explainer as load_explainer
    from apercu.explainers.shapley.explainer import ShapleyExplainer as ShapleyExplainer
    from apercu.explainers.shapley.explainer import ShapleySettings as ShapleySettings
    from apercu.explainers.train import train as train
    from apercu.guard import Guard as Guard
    from apercu.guard import attach_guard as attach_guard
    from apercu.guard import check_files as check_files
    from apercu.guard import fit_guard as fit_guard
    from apercu.guard import load_guard as load_guard
    from apercu.guard import open_guard as open_guard
    from apercu.images import open_images as open_images
    from apercu.images import read_picture as read_picture
    from apercu.learning import TrainedClassifier as TrainedClassifier
    from apercu.learning import train_classifier as train_classifier
    from apercu.learning.labelling import choose_images_to_label as choose_images_to_label
    from apercu.learning.retrieval import find_similar as find_similar
    from apercu.pretraining import evaluate_features as evaluate_features
    from apercu.pretraining import pretrain_backbone as pretrain_backbone
    from apercu.robustness import run_stress_test as run_stress_test
    from apercu.robustness.guards.measure import measure_guard as measure_guard

__version__ = "0.2.0"

_HOMES = {
    "Classifier": "apercu.classifiers",
    "ComparisonResults": "apercu.evaluation",
    "CounterpartExplainer": "apercu.explainers.counterpart.explainer",
    "CounterpartExplanation": "apercu.explain",
    "CounterpartSettings": "apercu.explainers.counterpart.settings",
    "Explanation": "apercu.explain",
    "Explanations": "apercu.explain",
    "Guard": "apercu.guard",
    "LatentExplainer": "apercu.explainers.latent.explainer",
    "LatentSettings": "apercu.explainers.latent.settings",
    "MaskExplainer": "apercu.explainers.mask.explainer",
    "MaskExplanation": "apercu.explain",
    "MaskSettings": "apercu.explainers.mask.settings",
    "ShapleyExplainer": "apercu.explainers.shapley.explainer",
    "ShapleySettings": "apercu.explainers.shapley.explainer",
    "TrainedClassifier": "apercu.learning",
    "attach_guard": "apercu.guard",
    "check_files": "apercu.guard",
    "choose_images_to_label": "apercu.learning.labelling",
    "compare": "apercu.evaluation.compare",
    "distil": "apercu.classifiers",
    "evaluate_features": "apercu.pretraining",
    "explain_dataset": "apercu.deploy.batch.explain_dataset",
    "explain_video": "apercu.deploy.video.explain_video",
    "export": "apercu.deploy.export.export_run",
    "find_similar": "apercu.learning.retrieval",
    "fit_guard": "apercu.guard",
    "load_explainer": "apercu.explainers.run_folder",
    "load_guard": "apercu.guard",
    "make_card": "apercu.classifiers",
    "measure_guard": "apercu.robustness.guards.measure",
    "open_classifier": "apercu.classifiers",
    "open_guard": "apercu.guard",
    "open_images": "apercu.images",
    "pretrain_backbone": "apercu.pretraining",
    "read_picture": "apercu.images",
    "run_stress_test": "apercu.robustness",
    "train": "apercu.explainers.train",
    "train_classifier": "apercu.learning",
}
"""Public names → the modules that define them."""
_MODULES = ("methods", "metrics", "robustness")
"""Modules that are public names themselves."""

__all__ = ["ApercuError", "InputError", "OutputError", "__version__", *_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"apercu.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'apercu' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""Image classifiers from any source, as one kind of object for the rest of the package."""

from apercu.classifiers.card import ClassifierCard, InputSpec, read_card, write_card
from apercu.classifiers.classifier import Classifier
from apercu.classifiers.distillation import DistillationResult, StudentSettings, distil
from apercu.classifiers.draft import CardDraft, make_card
from apercu.classifiers.names import ClassNames
from apercu.classifiers.network import BlackBox, Network
from apercu.classifiers.open import open_classifier, wrap_module
from apercu.classifiers.save import save_classifier
from apercu.classifiers.small_resnet import SmallResNet

__all__ = [
    "BlackBox",
    "CardDraft",
    "ClassNames",
    "Classifier",
    "ClassifierCard",
    "DistillationResult",
    "InputSpec",
    "Network",
    "SmallResNet",
    "StudentSettings",
    "distil",
    "make_card",
    "open_classifier",
    "read_card",
    "save_classifier",
    "wrap_module",
    "write_card",
]

"""The classifier's door: opens any image classifier, and shows it to the rest as one kind of thing."""

from apercu.classifiers.card import ClassifierCard, InputSpec, read_card, write_card
from apercu.classifiers.door import Classifier
from apercu.classifiers.memory import classifier_of, save_classifier
from apercu.classifiers.names import ClassNames
from apercu.classifiers.network import BlackBox, Network
from apercu.classifiers.open import open_classifier
from apercu.classifiers.small import SmallResNet
from apercu.classifiers.student import Distilled, StudentSettings, distil

__all__ = [
    "BlackBox",
    "ClassNames",
    "Classifier",
    "ClassifierCard",
    "Distilled",
    "InputSpec",
    "Network",
    "SmallResNet",
    "StudentSettings",
    "classifier_of",
    "distil",
    "open_classifier",
    "read_card",
    "save_classifier",
    "write_card",
]

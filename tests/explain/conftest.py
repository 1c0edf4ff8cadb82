"""A small classifier and a trained explainer of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from apercu import MaskExplainer
from apercu.classifiers import Classifier, open_classifier


@pytest.fixture(scope="module")
def classifier(tiny_card: Path) -> Classifier:
    return open_classifier(tiny_card)


@pytest.fixture(scope="module")
def explainer(tiny_run: Path) -> MaskExplainer:
    return MaskExplainer.from_pretrained(tiny_run)

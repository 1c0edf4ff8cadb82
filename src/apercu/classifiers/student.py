"""A differentiable student, distilled from the answers of a classifier without gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from apercu.classifiers.card import ClassifierCard
from apercu.classifiers.door import Classifier
from apercu.classifiers.memory import classifier_of
from apercu.classifiers.small import SmallResNet
from apercu.errors import ClassifierError, ConfigError, ImagesError
from apercu.types import Images, Logits, Scores

_FEWEST_IMAGES = 20

"""An edge detector: what an explanation that ignores the classifier looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F

from apercu.classifiers import Classifier
from apercu.images.reader import LUMA
from apercu.methods.base import Method, Requirement
from apercu.types import Images, Maps, Targets

_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


@final
@dataclass(frozen=True)
class Edges(Method):
    """The gradient magnitude of the luminance, by Sobel's filter; the border is replicated.

    Three channels are read as red, green and blue; of any other number the mean is taken.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ()

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        images = images.detach()
        channels = images.shape[1]
        weights = LUMA if channels == 3 else (1 / channels,) * channels
        grey = (images * images.new_tensor(weights)[:, None, None]).sum(dim=1, keepdim=True)
        across = images.new_tensor(_SOBEL) / 8
        filters = torch.stack((across, across.T))[:, None]
        gradients = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), filters)
        return torch.linalg.vector_norm(gradients, dim=1)

"""A classifier behind a server without a trained explainer: a method explains it, such as CAM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.deploy.serving.batch_explainer import BatchExplainer
from apercu.deploy.serving.requests import RequestOptions
from apercu.deploy.serving.served_explainer import (
    ServedExplainer,
    TargetExplanation,
    TargetGroup,
    describe_map,
    make_examples,
    select_mask_targets,
)
from apercu.errors import ClassifierError
from apercu.learning.case_features import CaseEncoder
from apercu.types import Images, Logits, Targets

KIND, CLASSIFIER = "method", "classifier"
"""Kind of explainer in descriptions and responses, and who predicts."""


@final
class MethodBatchExplainer(BatchExplainer):
    """Explains by the maps of a method, whose largest value is 1 in every image.

    Args:
        name: name of the classifier, which is part of addresses.
        encoder: the classifier with its method.

    Raises:
        ClassifierError: the network knows no classes.
    """

    def __init__(self, name: str, encoder: CaseEncoder) -> None:
        classifier = encoder.classifier
        if not encoder.has_classes or encoder.explain is None:
            raise ClassifierError(
                f"{classifier.spec}: computes features and knows no classes that could be explained"
            )
        super().__init__(
            ServedExplainer(
                name=name,
                kind=KIND,
                classifier=classifier.spec,
                names=classifier.names,
                input=classifier.network.input,
                output=classifier.output,
                read_by=CLASSIFIER,
                examples=make_examples(classifier.network.input, classifier.names),
                method=encoder.method,
            )
        )
        self.encoder = encoder

    def read(
        self, images: Images, options: Sequence[RequestOptions]
    ) -> tuple[Logits, list[Tensor]]:
        classifier = self.encoder.classifier
        return classifier(images.to(classifier.device)), []

    def select_targets(self, options: RequestOptions, logits: Float[Tensor, " classes"]) -> Targets:
        return select_mask_targets(self.served.output, options, logits)

    def explain(self, group: TargetGroup) -> list[list[TargetExplanation]]:
        count = group.targets.shape[1]
        with torch.inference_mode(False):  # some methods need gradients
            images = group.images.clone().repeat_interleave(count, 0)
            maps = self.encoder.find_evidence(images, group.targets.clone().flatten()).cpu()
        explanations = []
        for row, map in enumerate(maps):
            image = row // count
            fields = describe_map(map, group.options[image].level, group.sizes[image])
            explanations.append(TargetExplanation(map, fields))
        return [explanations[first : first + count] for first in range(0, len(explanations), count)]


def name_classifier(spec: Path) -> str:
    """Return what a classifier is called in addresses: its folder, or the end of its SPEC.

    >>> name_classifier(Path("runs/films/card.json")), name_classifier(Path("timm/resnet18"))
    ('films', 'resnet18')
    """
    path = spec.resolve() if spec.exists() else spec
    return (path.parent.name if path.name == "card.json" else path.stem) or "classifier"

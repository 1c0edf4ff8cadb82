"""Attention relevance: attention, weighted by gradients of the class (Chefer et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from apercu.classifiers import Classifier
from apercu.methods.attention import (
    MAX_BATCH,
    Attention,
    AttentionRecorder,
    differentiate,
    find_token_flow,
)
from apercu.methods.base import Method, Requirement
from apercu.methods.layers import get_open_module
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class AttentionRelevance(Method):
    """Where the attention that raises the target's logit comes from.

    R ← R + mean over heads of (∇A ⊙ A)⁺ · R from the first layer to the last, where A is the
    attention of a layer and ∇A the gradient of the target's logit by it: equations 5 and 6 of
    H. Chefer, S. Gur and L. Wolf, *Generic Attention-model Explainability for Interpreting Bi-Modal
    and Encoder-Decoder Transformers*, 2021. The map is the row of the class token without its own
    column, or the mean over the rows from which the logits are read.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("gradients", "layers")

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        flow = find_token_flow(classifier, get_open_module(classifier), "attention_relevance")
        size = (images.shape[2], images.shape[3])
        maps = []
        for batch, target in zip(
            torch.split(images, MAX_BATCH), torch.split(targets, MAX_BATCH), strict=True
        ):
            attentions: list[Attention] = []
            with torch.enable_grad():
                with AttentionRecorder(len(batch), attentions.append):
                    logits = classifier(batch.detach().requires_grad_())
                score = logits.gather(1, target[:, None]).sum()
                gradients = differentiate(score, attentions, classifier, "attention_relevance")
            relevance = flow.start(batch)
            for attention, gradient in zip(attentions, gradients, strict=True):
                weighted = gradient.float() * attention.matrix.detach().float()
                product = weighted.clamp(min=0).mean(dim=1)
                raised = product @ relevance
                # a last layer in which one query reads all tokens has no skip connection
                relevance = relevance + raised if raised.shape == relevance.shape else raised
            maps.append(flow.read(relevance, size))
        return torch.cat(maps)

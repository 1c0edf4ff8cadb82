"""Attention rollout: the attention of all layers, multiplied (Abnar & Zuidema 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from apercu.classifiers import Classifier
from apercu.methods.attention import MAX_BATCH, Attention, AttentionRecorder, find_token_flow
from apercu.methods.base import Method, Requirement
from apercu.methods.layers import get_open_module
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class AttentionRollout(Method):
    """How much of each position arrives at the logits if attention were all that moves it.

    R ← (Ā + I) / 2 · R from the first layer to the last, where Ā is the mean over the heads and the
    identity stands for the skip connection (section 3 of the paper). The map is the row of the
    class token without its own column, or the mean over the rows from which the logits are read.
    It is the same for all classes, and the values and the layers between attentions do not enter.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("gradients", "layers")

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        flow = find_token_flow(classifier, get_open_module(classifier), "attention_rollout")
        size = (images.shape[2], images.shape[3])
        maps = []
        for batch in torch.split(images, MAX_BATCH):
            rollout = flow.start(batch)

            def mix(attention: Attention) -> None:
                nonlocal rollout
                mixed = attention.matrix.float().mean(dim=1) @ rollout
                # a last layer in which one query reads all tokens has no skip connection
                rollout = (mixed + rollout) / 2 if mixed.shape == rollout.shape else mixed

            with torch.no_grad(), AttentionRecorder(len(batch), mix):
                classifier(batch)
            maps.append(flow.read(rollout, size))
        return torch.cat(maps)

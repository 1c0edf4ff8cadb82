"""Our own objective: what it asks of real and of fake classes, and its search for crops."""

from __future__ import annotations

import pytest
import torch

from apercu.explainers.mask.network import enlarge
from apercu.explainers.mask.objectives import ExtentAndCore, MaskBatch
from apercu.explainers.mask.objectives.base import edge_aware_roughness
from apercu.explainers.mask.objectives.crop_search import find_boxes, propose_boxes
from apercu.networks.decoder import Evidence

SIZE, CLASSES = 12, 4


def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def classifier(images: torch.Tensor) -> torch.Tensor:
    weights = torch.randn(CLASSES, 3 * SIZE * SIZE, generator=torch.Generator().manual_seed(5))
    return images.flatten(1) @ weights.T / 10


@pytest.fixture
def question() -> MaskBatch:
    images = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    real, true = torch.tensor([True, True, False]), torch.tensor([0, 1, 3])
    return MaskBatch(images, targets=torch.tensor([0, 1, 2]), real=real, predicted=true)


@pytest.fixture
def evidence() -> Evidence:
    extent, core = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    return Evidence(extent, core)


def test_a_fake_class_must_only_be_small(question, evidence):
    terms = ExtentAndCore(area=3.0).compute_terms(classifier, question, evidence, drawn())
    extent = enlarge(evidence.extent, (SIZE, SIZE)).sigmoid()[2].mean().item()
    core = evidence.core.sigmoid()[2].mean().item()
    asked = {name: values[2].item() for name, values in terms.items()}
    assert asked.pop("area") == pytest.approx(3 * (extent + core), rel=1e-5)
    assert asked == dict.fromkeys(("smoothness", "preserver", "destroyer", "sufficient"), 0.0)


def test_real_classes_pay_every_term_and_half_of_them_try_crops(question, evidence):
    terms = ExtentAndCore().compute_terms(classifier, question, evidence, drawn())
    for name in ("area", "smoothness", "preserver", "destroyer"):
        assert (terms[name][:2] > 0).all(), name
    assert (terms["sufficient"] > 0).sum() == 1


def test_a_batch_of_fakes_alone_has_a_loss(question, evidence):
    fakes = MaskBatch(question.images, question.targets, torch.zeros(3).bool(), question.predicted)
    terms = ExtentAndCore().compute_terms(classifier, fakes, evidence, drawn())
    assert terms["area"].gt(0).all() and terms["smoothness"].eq(0).all()


def test_the_same_generator_gives_the_same_loss(question, evidence):
    first, second = (
        ExtentAndCore().compute_terms(classifier, question, evidence, drawn()) for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_edge_costs_less_where_the_image_has_one():
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1
    flat, split = torch.full((1, 3, 8, 8), 0.5), mask[:, None].expand(1, 3, 8, 8)
    literal = sum(
        sum(float(x < 4 <= x + reach) for x in range(8 - reach)) / (8 - reach)
        for reach in (1, 2, 4)
    )
    assert edge_aware_roughness(mask, flat).item() == pytest.approx(literal)
    assert edge_aware_roughness(mask, split).item() < 1e-6


def test_proposals_are_lawful_and_begin_with_the_masks_own_box(evidence):
    boxes = propose_boxes(evidence.core, 6, drawn())
    assert boxes.shape == (3, 6, 4)
    assert boxes.amin() >= -1e-6 and boxes.amax() <= 1 + 1e-6
    assert (boxes[..., 2:] - boxes[..., :2]).amin() >= 0.15 - 1e-6
    torch.testing.assert_close(boxes[:, 0], find_boxes(evidence.core, torch.zeros(3)))


def test_the_core_learns_from_crops_and_the_extent_from_the_rest(question, evidence):
    leaves = Evidence(evidence.extent.requires_grad_(), evidence.core.requires_grad_())
    terms = ExtentAndCore().compute_terms(classifier, question, leaves, drawn())
    terms["sufficient"].sum().backward(retain_graph=True)
    assert leaves.extent.grad is None and leaves.core.grad.abs().sum() > 0
    leaves.core.grad = None
    (terms["preserver"] + terms["destroyer"] + terms["smoothness"]).sum().backward()
    assert leaves.core.grad is None and leaves.extent.grad.abs().sum() > 0

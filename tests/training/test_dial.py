"""Our own objective: what it asks of real and of fake classes, and its search for crops."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from apercu.classifiers import BlackBox, Classifier, ClassNames, InputSpec, Network
from apercu.explainers.kind import find_kind
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.mask.levels import measure_advantage
from apercu.explainers.mask.network import enlarge
from apercu.explainers.mask.objectives import ExtentAndCore, MaskBatch
from apercu.explainers.mask.objectives.base import edge_aware_roughness
from apercu.explainers.mask.objectives.crop_search import find_boxes, propose_boxes
from apercu.explainers.mask.settings import MaskSettings
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
    weights = {name: values[2].item() for name, values in terms.items()}
    assert weights.pop("area") == pytest.approx(3 * (extent + core), rel=1e-5)
    assert weights == dict.fromkeys(("smoothness", "preserver", "destroyer", "sufficient"), 0.0)


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


def _find_texture(images: torch.Tensor) -> torch.Tensor:
    """Logits of two classes: the upper left quarter is sharp, or is not."""
    height, width = images.shape[2] // 2, images.shape[3] // 2
    corner = images[:, :, :height, :width]
    sharpness = 60 * corner.diff(dim=3).abs().mean((1, 2, 3)) - 8
    return torch.stack([sharpness, -sharpness], 1)


@pytest.mark.parametrize(("corner", "low", "high"), [(0, 1.99, 2), (16, -2, -1.99), (None, 0, 0)])
def test_only_a_mask_that_is_where_the_evidence_is_has_an_advantage(
    corner: int | None, low: float, high: float, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texture = Network(
        source="texture",
        forward=BlackBox(_find_texture),
        digest="0",
        input=InputSpec(size=(32, 32)),
        names=ClassNames.of(["sharp", "blurred"]),
        differentiable=False,
    )
    explainer = MaskExplainer.from_pretrained(tiny_run)

    def attribute(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        masks = torch.full((len(images), 32, 32), 0.1 if corner is not None else 0.6)
        if corner is not None:
            masks[:, corner : corner + 16, corner : corner + 16] = 0.9
        return masks

    monkeypatch.setattr(explainer, "attribute", attribute)
    images = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    advantage, error = measure_advantage(explainer, Classifier(texture), images.split(4))
    assert low <= advantage <= high and error < 1e-3
    assert measure_advantage(explainer, Classifier(texture), [images[:1]])[1] == float("inf")


GOOD_MASKS = {"advantage": 0.3, "advantage_error": 0.05, "area_true": 0.3, "area_absent": 0.05}


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        ({}, None),
        ({"advantage": 0.04}, "hardly better than the same regions elsewhere"),
        ({"advantage_error": 0.2}, "hardly better than the same regions elsewhere"),
        ({"area_absent": 0.29}, "masks hardly depend on the class"),
        ({"steps": 10.0}, "it had 10 steps of 12 images, and 1100 of 12 are usual"),
        ({"student_agreement": 0.4}, "its student agrees with the classifier on only 40%"),
    ],
)
def test_masks_look_trained_by_what_was_measured(odd: dict[str, float], says: str | None) -> None:
    kind, settings = find_kind("mask"), MaskSettings()
    facts = {"steps": 1100.0, "measured_images": 96.0, **GOOD_MASKS, **odd}
    doubts = kind.judge_training(settings, facts)
    assert doubts is not None and len(doubts) == (says is not None)
    assert says is None or says in doubts[0]
    few = kind.judge_training(settings, facts | {"measured_images": 3.0, "advantage": 0.0})
    assert few == (doubts if "steps" in odd or "student_agreement" in odd else None)


@pytest.mark.parametrize(
    ("kept", "flipped", "count"), [(1.0, 0.9, 0), (1.0, 0.1, 1), (0.2, 0.3, 2), (0.3, 0.8, 1)]
)
def test_counterparts_look_trained_where_decisions_are_right(
    kept: float, flipped: float, count: int
) -> None:
    for name in ("counterpart", "latent"):
        kind = find_kind(name)
        settings = kind.presets.read(None)
        facts = {"steps": 1500.0, "measured_images": 20.0, "kept": kept, "flipped": flipped}
        assert len(kind.judge_training(settings, facts) or ()) == count

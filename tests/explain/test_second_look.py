"""A second look: where it is taken, what it changes, and what is said of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from apercu import MaskExplainer
from apercu.classifiers import Classifier
from apercu.cli.root import app
from apercu.errors import ConfigError, NotFiniteError
from apercu.explain import MaskExplanation
from apercu.explain.explanation import format_percent
from apercu.explain.options import SecondLooks
from apercu.explainers.mask.objectives.crop_search import LIMIT_FACT, search_crops


def draw_masks(self: MaskExplainer, features: list[torch.Tensor], targets: torch.Tensor):  # type: ignore[no-untyped-def]
    """Masks of which half of the image is the extent, and less is above level 0.6."""
    height, width = self.classifier_info.input.size
    mask = torch.full((height, width), 0.1)
    mask[: height // 2] = 0.55
    mask[4 : height // 3, 4 : width // 2] = 0.65
    return mask.expand(*targets.shape, height, width)


@pytest.fixture
def explainer(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> MaskExplainer:
    monkeypatch.setattr(MaskExplainer, "decode_classes", draw_masks)
    return MaskExplainer.from_pretrained(tiny_run)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    pixels = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_the_mask_is_that_of_the_search(
    explainer: MaskExplainer, classifier: Classifier, photo: Path
) -> None:
    plain = explainer.explain(photo, classifier=classifier)
    looked = explainer.explain(photo, classifier=classifier, second_look="all")
    assert isinstance(plain, MaskExplanation) and isinstance(looked, MaskExplanation)
    images = explainer.prepare(plain.image)[None]
    target = torch.tensor([plain.target.index])
    found = search_crops(classifier, images, target, plain.mask[None])
    assert torch.equal(looked.mask, found.masks[0])
    assert not torch.equal(looked.mask, plain.mask)
    assert looked.box == plain.box  # the extent does not change
    result = looked.second_look
    assert plain.second_look is None and result is not None
    assert result.score == found.scores.item() < result.first_score == found.first_scores.item()
    assert (result.looked, result.queries) == (True, 21)
    height, width = explainer.classifier_info.input.size
    box = (found.boxes[0] * torch.tensor([120 / width, 80 / height] * 2)).tolist()
    assert looked.sufficient_box is not None
    assert looked.sufficient_box == pytest.approx(box, abs=1)  # rounded to whole pixels
    crop = looked.sufficient_crop()
    xmin, ymin, xmax, ymax = looked.sufficient_box
    assert crop is not None and crop.size == (xmax - xmin, ymax - ymin)
    area = format_percent((xmax - xmin) * (ymax - ymin) / (80 * 120))
    assert f"A second look found a crop of {area} of the image" in looked.line
    assert looked.search_line in looked.summary


def test_only_doubtful_masks_are_searched(
    explainer: MaskExplainer, classifier: Classifier, photo: Path
) -> None:
    score = explainer.explain(photo, classifier=classifier, second_look="all").second_look  # type: ignore[union-attr]
    assert score is not None
    for limit, looked in ((score.first_score + 0.01, False), (score.first_score - 0.01, True)):
        explainer.facts[LIMIT_FACT] = limit
        explanation = explainer.explain(photo, classifier=classifier, second_look="doubtful")
        assert isinstance(explanation, MaskExplanation) and explanation.second_look is not None
        assert explanation.second_look.looked == looked
        assert explanation.second_look.queries == (21 if looked else 1)
        assert ("sufficient" in explanation.draw_views()) == looked
        assert ("The best crop" in explanation._repr_html_()) == looked
        assert bool(explanation.search_line) == looked


def test_a_crop_that_is_no_better_is_called_that_of_the_mask(
    explainer: MaskExplainer, classifier: Classifier, photo: Path
) -> None:
    explanation = explainer.explain(photo, classifier=classifier, second_look="all")
    assert isinstance(explanation, MaskExplanation) and explanation.second_look is not None
    same = replace(explanation.second_look, score=0.001, first_score=-0.001)
    tied = replace(explanation, second_look=same)
    assert tied.sufficient_box == explanation.sufficient_box is not None
    assert "A second look found no better crop than that of the mask, " in tied.line
    none = replace(explanation, second_look=replace(same, found=False))
    assert none.sufficient_box is None
    assert none.line.endswith("A second look found no better crop.")


@pytest.mark.usefixtures("shapes_unchecked")
def test_many_masks_are_searched_in_parts(explainer: MaskExplainer, classifier: Classifier) -> None:
    generator = torch.Generator().manual_seed(0)
    images, masks = torch.rand(1, 3, 32, 32, generator=generator), torch.full((45, 32, 32), 0.55)
    masks[:, 8:24, 8:24] += 0.4 * torch.rand(45, 16, 16, generator=generator)
    targets, copies = torch.arange(45) % 3, images.expand(45, -1, -1, -1)
    sizes: list[int] = []

    class Counted(nn.Module):
        device, decision = classifier.device, classifier.decision

        def forward(self, views: torch.Tensor) -> torch.Tensor:
            sizes.append(len(views))
            return classifier(views)

    after, results = SecondLooks(explainer, Counted(), "all").look(copies, targets, masks)  # type: ignore[arg-type]
    assert max(sizes) == 100 and sum(sizes) == 45 * 21 == sum(each.queries for each in results)
    whole = search_crops(classifier, copies, targets, masks)
    torch.testing.assert_close(after, whole.masks)
    scores = torch.tensor([each.score for each in results])
    torch.testing.assert_close(scores, whole.scores, atol=1e-4, rtol=1e-4)


def test_an_image_whose_crops_have_no_logits_is_named(
    explainer: MaskExplainer, classifier: Classifier, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(*_: object) -> None:
        raise NotFiniteError("classifier: its output", (3,), 5)

    monkeypatch.setattr(SecondLooks, "look", look)
    with pytest.raises(NotFiniteError, match=r"its output for cat\.png is not a number"):
        explainer.explain(photo, classifier=classifier, second_look="all")


def test_a_training_measures_which_masks_are_doubtful(tiny_run: Path) -> None:
    facts = json.loads((tiny_run / "facts.json").read_text())
    assert np.isfinite(facts[LIMIT_FACT])
    assert "score of a crop above which a mask is doubtful" in (tiny_run / "card.md").read_text()


def test_the_command_writes_the_crop_and_what_was_found(
    explainer: MaskExplainer, tiny_run: Path, tiny_card: Path, photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "maps"
    words = ["explain", tiny_run, photo, "--second-look", "all", "--classifier", tiny_card]
    done = CliRunner().invoke(app, [str(word) for word in [*words, "--out", out]])
    assert done.exit_code == 0, done.output
    assert "A second look found a crop of" in done.output
    done = CliRunner().invoke(
        app, [str(word) for word in [*words, "--target", "all", "--out", tmp_path / "several"]]
    )
    assert "(lower is better); 3 classes explained" in done.output
    answer = json.loads((out / "explain.json").read_text())["images"][0]["answers"][0]
    assert set(answer["second_look"]) == {"first_score", "score", "looked", "queries", "box"}
    xmin, ymin, xmax, ymax = answer["second_look"]["box"]
    with Image.open(out / answer["files"]["sufficient"]) as crop:
        assert crop.size == (xmax - xmin, ymax - ymin)


@pytest.mark.usefixtures("shapes_unchecked")
def test_what_cannot_look_again_says_so(
    explainer: MaskExplainer, classifier: Classifier, photo: Path
) -> None:
    with pytest.raises(ConfigError, match="does not hold; give --classifier SPEC"):
        explainer.explain(photo, second_look="all")
    for word in ("some", ""):
        with pytest.raises(ConfigError, match=f"expected doubtful or all, got '{word}'"):
            explainer.explain(photo, classifier=classifier, second_look=word)  # type: ignore[call-overload]
    del explainer.facts[LIMIT_FACT]
    with pytest.raises(ConfigError, match="trained by an earlier version; take all"):
        explainer.explain(photo, classifier=classifier, second_look="doubtful")

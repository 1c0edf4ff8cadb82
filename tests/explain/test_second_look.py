"""A second look: where it is taken, what it changes, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from apercu import MaskExplainer
from apercu.classifiers import Classifier
from apercu.cli.root import app
from apercu.errors import ConfigError
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
        assert bool(explanation.search_line) == looked


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
    answer = json.loads((out / "explain.json").read_text())["images"][0]["answers"][0]
    assert set(answer["second_look"]) == {"first_score", "score", "looked", "queries", "box"}
    xmin, ymin, xmax, ymax = answer["second_look"]["box"]
    with Image.open(out / answer["files"]["sufficient"]) as crop:
        assert crop.size == (xmax - xmin, ymax - ymin)


def test_what_cannot_look_again_says_so(
    explainer: MaskExplainer, classifier: Classifier, photo: Path
) -> None:
    with pytest.raises(ConfigError, match="does not hold; give --classifier SPEC"):
        explainer.explain(photo, second_look="all")
    with pytest.raises(ConfigError, match="expected doubtful or all, got 'some'"):
        SecondLooks(explainer, classifier, "some")
    del explainer.facts[LIMIT_FACT]
    with pytest.raises(ConfigError, match="trained by an earlier version; take all"):
        explainer.explain(photo, classifier=classifier, second_look="doubtful")

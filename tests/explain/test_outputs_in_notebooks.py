"""What a notebook shows of explanations and explainers: words, pictures with words for them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apercu import Explanations, MaskExplainer
from apercu.classifiers import Classifier
from apercu.errors import ImageError
from apercu.explain import CounterpartExplanation, MaskExplanation, NamedClass, StoredImage

VOID = {"img", "br"}


class Output(HTMLParser):
    """The texts and pictures of a part of a page; every tag has to be closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def check_output(html: str, pictures: int) -> Output:
    """Check what holds for every output: words for pictures, no other address, any background."""
    output = Output(html)
    assert len(output.images) == pictures
    for image in output.images:
        assert str(image["src"]).startswith("data:image/jpeg;base64,")
        assert str(image["alt"]).strip()
    words = re.sub(r'src="data:[^"]*"', "", html)
    assert not re.search(r"https?:|url\(|<script|<link|<style|[^-]color:|background", words)
    return output


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photos" / "a cat & <dog>.png"
    path.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((3000, 2000)).save(path)
    return path


def test_a_mask_shows_itself_with_words(
    explainer: MaskExplainer, classifier: Classifier, photo: Path
) -> None:
    explanation = explainer.explain(photo, "dots", classifier=classifier)
    html = explanation._repr_html_()
    output = check_output(html, 4)
    assert "a cat & <dog>.png: what speaks for dots" in output.text
    assert output.text.count(explanation.verdict) == 1
    assert len(html) < 400_000


def test_the_verdict_says_who_predicts_and_how_sure(
    explainer: MaskExplainer, classifier: Classifier, photo: Path
) -> None:
    predicted = explainer.explain(photo, classifier=classifier)
    first, second = (predicted.describe_class(each) for each in (predicted.predicted, None))
    assert second == "unknown"
    name = first.partition(",")[0]
    assert re.fullmatch(
        rf"The classifier says {name} \(\d+ %\), then \w+ \(\d+ %\)\.", predicted.verdict
    )
    other = predicted.runner_up
    assert other is not None
    asked = explainer.explain(photo, other.index, classifier=classifier)
    assert re.fullmatch(
        rf"The classifier says {name} \(\d+ %\)\. It gives {other.short_name} \d+ %\.",
        asked.verdict,
    )
    estimated = explainer.explain(photo)
    assert re.fullmatch(
        r"The classifier, as the explainer reads it, says \w+ \(~\d+ %\), then \w+ \(~\d+ %\)\.",
        estimated.verdict,
    )
    assert re.fullmatch(r".+\.png: \w+ \(~\d+ %\), then \w+ \(~\d+ %\)", estimated.line)
    asked = explainer.explain(photo, other.index)
    assert re.search(rf"It gives {other.short_name} ~\d+ %\.$|^((?!It gives).)*$", asked.verdict)
    assert "~" not in predicted.line
    several = replace(
        predicted, predicted_classes=(predicted.target, other), stored=predicted.stored
    )
    assert re.fullmatch(r"The classifier finds \w+ \(\d+ %\), \w+ \(\d+ %\)\.", several.verdict)
    nothing = replace(predicted, predicted_classes=())
    assert nothing.verdict == "The classifier finds none of its classes."
    assert replace(predicted, value=2.5).verdict == "The classifier says 2.5."
    assert replace(predicted, predicted=None).verdict == ""


@pytest.mark.parametrize(
    ("strongest", "sentence"),
    [
        (0.04, "Nothing here speaks for dots: the strongest evidence is 0.04, of at most 1."),
        (0.3, "Little here speaks for dots: the strongest evidence is 0.30, of at most 1."),
        (0.9, None),
    ],
)
def test_a_mask_without_evidence_says_so(strongest: float, sentence: str | None) -> None:
    mask = torch.zeros(8, 8)
    mask[2, 3] = strongest
    stored = StoredImage(torch.rand(3, 8, 8), "grey.png")
    output = check_output(MaskExplanation(stored, NamedClass(1, "dots"), mask)._repr_html_(), 4)
    assert (sentence is None) == ("here speaks for" not in output.text)
    assert sentence is None or sentence in output.text
    assert ("no region" in output.text) == (strongest < 0.5)


def test_counterparts_say_whether_the_class_changed() -> None:
    strip = torch.linspace(0.2, 0.8, 5)[:, None, None, None].expand(5, 3, 8, 8)
    dots, rings = NamedClass(1, "dots"), NamedClass(2, "rings")
    stored = StoredImage(strip[0], "scan.png")
    pair = CounterpartExplanation(stored, rings, strip[0], strip, predicted=dots)
    output = check_output(pair._repr_html_(), 4 + 5)
    assert "scan.png: what would change it into rings" in output.text
    assert "Nobody checked whether the changed image is predicted as rings." in output.text
    flipped = replace(pair, strip_classes=(dots, dots, dots, rings, rings))
    assert "The changed image is predicted as rings." in Output(flipped._repr_html_()).text
    failed = replace(pair, strip_classes=(dots,) * 5)
    assert "It did not succeed: the changed image is predicted as dots, not rings." in (
        Output(failed._repr_html_()).text
    )


def test_several_images_have_an_explanation_each(
    explainer: MaskExplainer, photo: Path, tmp_path: Path
) -> None:
    forms = [photo, str(photo), Image.open(photo).resize((40, 30))]
    explanations = explainer.explain(forms, "rings")
    assert isinstance(explanations, Explanations) and len(explanations) == 3
    assert [each.target.name for each in explanations] == ["rings"] * 3
    single = explainer.explain(photo, "rings")
    assert isinstance(single, MaskExplanation) and isinstance(explanations[0], MaskExplanation)
    torch.testing.assert_close(explanations[0].mask, single.mask)
    assert len(explanations[1:]) == 2 and isinstance(explanations[1:], Explanations)
    check_output(explanations._repr_html_(), 12)
    assert repr(explanations).splitlines()[0] == "3 explanations:"
    folder = explanations.save(tmp_path / "out")
    record = json.loads((folder / "explain.json").read_text())
    maps = {answer["files"]["map"] for image in record["images"] for answer in image["answers"]}
    assert len(record["images"]) == len(maps) == 3
    assert all((folder / name).is_file() for name in maps)


def test_many_explanations_are_not_all_shown(explainer: MaskExplainer) -> None:
    explanations = explainer.explain([torch.rand(3, 32, 32)] * 14)
    output = check_output(explanations._repr_html_(), 4 * 12)
    assert output.text.endswith("… and 2 more: explanations[12:]")
    assert repr(explanations).endswith("… and 2 more")


def test_no_image_at_all_is_an_error(explainer: MaskExplainer) -> None:
    with pytest.raises(ImageError, match="expected at least one, got an empty list"):
        explainer.explain([])


def test_an_explainer_shows_a_card_with_its_doubts(explainer: MaskExplainer) -> None:
    output = check_output(explainer._repr_html_(), 0)
    assert output.text.startswith("Mask explainer of ")
    assert "3: stripes, dots, rings" in output.text and "32 × 32 pixels" in output.text
    doubted = MaskExplainer(
        explainer.network,
        explainer.classifier_info,
        explainer.settings,
        {**explainer.facts, "looks_trained": 0.0, "advantage": 0.0, "advantage_error": 0.0}
        | {"area_true": 0.5, "area_absent": 0.5},
    )
    assert doubted.doubts and "It does not look trained: " in doubted._repr_html_()

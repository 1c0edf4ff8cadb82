"""Methods for unknown images, by what the numbers of a network mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from apercu import open_classifier, open_images
from apercu.classifiers import Classifier
from apercu.errors import ClassifierError
from apercu.log import redirect_warnings
from apercu.robustness.unknown import (
    UNKNOWN_METHODS,
    KnownImages,
    MaxSoftmax,
    OpenMax,
    choose_unknown_methods,
    load_scorer,
    measure_unknown,
    save_scorer,
)
from apercu.statistics import auroc

DrawFn = Callable[..., tuple[Tensor, Tensor]]
WrapFn = Callable[..., Classifier]
OF_IMAGES = {"mahalanobis", "discriminative_reconstruction", "one_class", "stain_noise"}
"""Methods that look at no classes."""


class Centred(nn.Module):
    """The logits of another network, with a mean of 0."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits - logits.mean(1, keepdim=True)


def test_openmax_of_probabilities_is_that_of_centred_logits(
    known: KnownImages, wrap_bars: WrapFn, draw_bars: DrawFn, tmp_path: Path
) -> None:
    """Logarithms of probabilities are negative: what is taken away would raise them."""
    network = known.classifier.module
    assert network is not None
    softmax = wrap_bars(nn.Sequential(network, nn.Softmax(1)), output="probabilities")
    centred = wrap_bars(Centred(network))
    first, second = (
        OpenMax().fit(KnownImages(each, known.images, known.labels)) for each in (softmax, centred)
    )
    images = torch.cat([draw_bars(20, seed=2)[0], draw_bars(20, seed=3, kind="unknown")[0]])
    scores = first.score(images)
    torch.testing.assert_close(scores, second.score(images), rtol=1e-3, atol=1e-3)
    assert auroc(scores[:20].numpy(), scores[20:].numpy()) > 0.7 and scores.max() > 0.3
    kept = save_scorer(first, tmp_path / "kept")
    assert torch.equal(load_scorer(kept, softmax).score(images), scores)


def test_methods_of_classes_refuse_a_value(known: KnownImages, wrap_bars: WrapFn) -> None:
    """A value in the middle of its range is no uncertain one."""
    network = known.classifier.module
    assert network is not None
    value = wrap_bars(
        nn.Sequential(network, nn.Linear(2, 1)),
        output="value", value_range=(0.0, 1.0), classes=("size",),
    )  # fmt: skip
    images = KnownImages(value, known.images, known.labels)
    for name in sorted(set(UNKNOWN_METHODS) - OF_IMAGES):
        with pytest.raises(ClassifierError, match=f"^{name}: .* predicts a value"):
            UNKNOWN_METHODS[name]().fit(images)


def test_methods_that_are_not_named_are_those_that_the_classifier_allows(
    known: KnownImages, wrap_bars: WrapFn
) -> None:
    network = known.classifier.module
    assert network is not None
    softmax = nn.Sequential(network, nn.Softmax(1))
    value = {"output": "value", "value_range": (0.0, 1.0), "classes": ("size",)}
    box = open_classifier(
        lambda images: images.numpy().mean((1, 2, 3))[:, None],
        size=8, output="value", value_range=(0.0, 1.0), classes=["size"],
    )  # fmt: skip
    warnings: list[str] = []
    with redirect_warnings(warnings.append):
        assert [*choose_unknown_methods(known.classifier)] == [
            "max_softmax",
            "energy",
            "mahalanobis",
        ]
        assert warnings == []
        chosen = choose_unknown_methods(wrap_bars(softmax, output="probabilities"))
        assert [*chosen] == ["max_softmax", "mahalanobis"]
        assert len(warnings) == 1 and warnings[0].endswith("; it is left out")
        regression = wrap_bars(nn.Sequential(network, nn.Linear(2, 1)), **value)
        assert [*choose_unknown_methods(regression)] == ["mahalanobis"]
        with pytest.raises(ClassifierError, match=r"allows none of .*; choose stain_noise"):
            choose_unknown_methods(box)


@pytest.mark.parametrize("output", ["sigmoid", "value"])
def test_labels_are_left_out_where_no_class_is_chosen(
    output: str, known: KnownImages, wrap_bars: WrapFn, tmp_path: Path
) -> None:
    """Folders are no findings, and no values."""
    network = known.classifier.module
    assert network is not None
    card = {"output": output, "classes": ("a", "b")}
    if output == "value":
        card |= {"value_range": (0.0, 1.0), "classes": ("size",)}
        network = nn.Sequential(network, nn.Linear(2, 1))
    classifier = wrap_bars(network, **card)
    images = open_images("planted:size=32,images=40,classes=3")
    other = open_images("planted:size=32,images=12,classes=3,seed=5")
    method = MaxSoftmax() if output == "sigmoid" else UNKNOWN_METHODS["mahalanobis"]()
    rows = measure_unknown(classifier, images, {"other": other}, {"one": method}, tmp_path)
    metrics = {row.metric for row in rows}
    assert "auroc" in metrics and "accuracy" not in metrics
    assert "pointing" not in metrics  # the images have boxes, and the method no maps

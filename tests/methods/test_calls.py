"""How methods are called: targets of every kind, arrays, and a method bound to a classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from apercu.classifiers import Classifier, open_classifier
from apercu.errors import ClassifierError, ConfigError, ImageError, TargetError
from apercu.methods import (
    Augmented,
    BoundMethod,
    CentreBox,
    GradCam,
    Gradient,
    Smoothed,
    TrainedMethod,
    WholeBox,
)


@pytest.fixture
def classifier(tiny_card: Path) -> Classifier:
    """Classes: "stripes, bands", "dots" and "rings"."""
    return open_classifier(tiny_card)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", [GradCam(), Smoothed(Gradient()), Augmented(Gradient(), 2)])
@pytest.mark.parametrize(
    "targets",
    [
        1,
        "dots",
        "1",
        [1, 1],
        ["dots", 1],
        (1, "dots"),
        torch.tensor(1),
        torch.tensor([1, 1]),
        np.array([1, 1]),
        np.array(1),
    ],
    ids=str,
)
def test_a_target_has_many_forms(
    method: GradCam, targets: object, classifier: Classifier, images: torch.Tensor
) -> None:
    expected = method(classifier, images, torch.tensor([1, 1]))
    assert torch.equal(method(classifier, images, targets), expected)  # type: ignore[arg-type]
    assert torch.equal(method.bind(classifier)(images, targets), expected)  # type: ignore[arg-type]


def test_synonyms_name_a_class(classifier: Classifier, images: torch.Tensor) -> None:
    expected = Gradient()(classifier, images, 0)
    assert torch.equal(Gradient()(classifier, images, "bands"), expected)


def test_no_target_stands_for_the_predicted_class(
    classifier: Classifier, images: torch.Tensor
) -> None:
    predicted = classifier(images).argmax(dim=1)
    expected = Gradient()(classifier, images, predicted)
    assert torch.equal(Gradient()(classifier, images), expected)
    assert torch.equal(Gradient().bind(classifier).attribute(images), expected)


def test_each_image_has_its_own_target(classifier: Classifier, images: torch.Tensor) -> None:
    both = Gradient()(classifier, images, ["rings", 0])
    torch.testing.assert_close(both[:1], Gradient()(classifier, images[:1], 2))
    torch.testing.assert_close(both[1:], Gradient()(classifier, images[1:], 0))


def test_images_may_be_a_numpy_array(classifier: Classifier, images: torch.Tensor) -> None:
    expected = Gradient()(classifier, images, 1)
    for array in (images.numpy(), images.double().numpy()):
        assert torch.equal(Gradient()(classifier, array, 1), expected)
        assert torch.equal(Gradient().bind(classifier).attribute(array, target=1), expected)


@pytest.mark.parametrize(
    ("targets", "match"),
    [
        (99, "expected a class index from 0 to 2, got 99"),
        (-1, "got -1"),
        ("dot", "no class is called 'dot'; did you mean dots"),
        ([0, 1, 2], "expected one class or 2, got 3"),
        (torch.tensor([0.5, 1.0]), "expected a class name or index, got 0.5"),
    ],
    ids=str,
)
def test_a_wrong_target_is_one_clear_line(
    targets: object, match: str, classifier: Classifier, images: torch.Tensor
) -> None:
    for call in (GradCam().bind(classifier), Smoothed(WholeBox()).bind(classifier)):
        with pytest.raises(TargetError, match=match):
            call(images, targets)  # type: ignore[arg-type]
    with pytest.raises(TargetError, match=match):
        CentreBox()(classifier, images, targets)  # type: ignore[arg-type]


@pytest.mark.usefixtures("shapes_unchecked")
def test_wrong_images_are_one_clear_line(classifier: Classifier, images: torch.Tensor) -> None:
    with pytest.raises(ImageError, match=r"expected pixels in \[0, 1\]"):
        Gradient()(classifier, images * 255, 0)
    with pytest.raises(ClassifierError, match="images of 32×32 pixels, got 16×32"):
        Gradient()(classifier, images[:, :, ::2], 0)
    expected = "expected float batch × channels × height × width, got"
    with pytest.raises(ImageError, match=f"{expected} uint8 2 × 3 × 32 × 32; classifier.prepare"):
        WholeBox()(classifier, (images * 255).byte(), 0)
    with pytest.raises(ImageError, match=f"{expected} float32 3 × 32 × 32; "):
        WholeBox()(classifier, images[0], 0)
    with pytest.raises(ImageError, match=f"{expected} str ; "):
        WholeBox()(classifier, "cat.jpg", 0)  # type: ignore[arg-type]


@pytest.mark.usefixtures("shapes_unchecked")
def test_a_missing_classifier_is_one_clear_line(images: torch.Tensor) -> None:
    use = r"call GradCam\(\)\(classifier, images, target\) or GradCam\(\).bind\(classifier\)"
    with pytest.raises(ConfigError, match=f"GradCam holds no classifier; {use}"):
        GradCam().attribute(images, target=1)
    with pytest.raises(ConfigError, match=f"expected a Classifier first, got Tensor; {use}"):
        GradCam()(images, images, 1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected a Classifier first, got Linear"):
        GradCam().bind(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


def test_a_bound_method_shows_both(classifier: Classifier) -> None:
    bound = GradCam().bind(classifier)
    assert bound == BoundMethod(GradCam(), classifier)
    assert repr(bound).startswith("BoundMethod(method=GradCam(layer=None), classifier=Classifier(")


def test_a_trained_explainer_keeps_the_cache_key_of_stored_results() -> None:
    trained = TrainedMethod(lambda images, targets: images[:, 0], "mask 3f", 60.0)
    assert trained.cache_key == "mask 3f"
    assert Smoothed(trained, 0.1).cache_key == (
        "Smoothed(method=Trained(identity='mask 3f', training_seconds=60.0, kind='mask'), "
        "sigma=0.1)"
    )

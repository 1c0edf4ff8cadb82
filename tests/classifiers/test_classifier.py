"""The classifier: what it refuses, how it counts, and that its logits are the bare network's."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from apercu.classifiers import (
    BlackBox,
    Classifier,
    ClassNames,
    InputSpec,
    Network,
    open_classifier,
    save_classifier,
)
from apercu.errors import ClassifierError, ImageError, ImagesError, RunError, TargetError
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.filters import BitDepth, Jpeg
from apercu.io import HASHES, write_hashes
from apercu.verdicts import GUARD_FILES

SPEC = InputSpec(size=(4, 5), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))


def _make_linear(classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(60, classes))


def _open(forward: Any = None, **changes: Any) -> Classifier:
    settings: dict[str, Any] = {"source": "test", "digest": "0", "input": SPEC, **changes}
    return Classifier(Network(forward=forward or _make_linear(), **settings))


def _images(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 4, 5, generator=torch.Generator().manual_seed(2))


def test_logits_are_those_of_the_network_on_normalised_images() -> None:
    module = _make_linear()
    images = _images()
    normalised = (images - torch.tensor(SPEC.mean)[:, None, None]) / torch.tensor(SPEC.std)[
        :, None, None
    ]
    torch.testing.assert_close(_open(module)(images), module(normalised))
    torch.testing.assert_close(_open(module).normalise(images), normalised)


def test_gradients_reach_the_images_but_not_the_parameters() -> None:
    module = _make_linear()
    classifier = _open(module)
    images = _images().requires_grad_()
    classifier(images)[:, 1].sum().backward()
    weights = module[1].weight[1].view(3, 4, 5)  # type: ignore[union-attr, index]
    expected = weights / torch.tensor(SPEC.std)[:, None, None]
    torch.testing.assert_close(images.grad, expected.expand(2, 3, 4, 5))
    assert all(p.grad is None and not p.requires_grad for p in module.parameters())


def test_a_filter_stands_before_the_normalisation() -> None:
    images, bare = _images(), _open()
    classifier = _open(filter="bit_depth:bits=1")
    torch.testing.assert_close(classifier(images), bare(images.round()))
    torch.testing.assert_close(classifier.normalise(images), bare.normalise(images.round()))
    torch.testing.assert_close(classifier.compute_logits_at_any_size(images), bare(images.round()))
    assert classifier.filter == BitDepth(bits=1)


def test_gradients_pass_a_filter_by_its_surrogate() -> None:
    classifier, images = _open(filter="bit_depth:bits=1"), _images().requires_grad_()
    classifier(images).sum().backward()
    filtered, again = _images().round().requires_grad_(), _images().requires_grad_()
    _open()(filtered).sum().backward()
    BitDepth(bits=1).apply_surrogate(again).backward(filtered.grad)
    torch.testing.assert_close(images.grad, again.grad)
    assert classifier.differentiable


def test_a_classifier_without_its_filter_shares_the_network() -> None:
    module = _make_linear()
    classifier = _open(module, filter="bit_depth:bits=1", guard="somewhere")
    bare = classifier.without_filter()
    assert (bare.filter, bare.guard_folder, bare.module) == (None, None, module)
    assert bare.fingerprint == _open(module).fingerprint != classifier.fingerprint
    assert torch.equal(bare(_images()), _open(module)(_images()))
    assert (bare.queries, classifier.queries) == (2, 0)
    assert bare.without_filter() is bare


def test_a_filter_of_raw_counts_is_refused() -> None:
    counts = InputSpec(size=(4, 5), normalise="l2_per_channel")
    match = (
        r"classifier test: filter: filters take pixels in \[0, 1\], and this classifier raw counts"
    )
    with pytest.raises(ClassifierError, match=match):
        _open(input=counts, filter="median")


def test_a_module_in_memory_has_a_filter() -> None:
    classifier = open_classifier(_make_linear(), size=(4, 5), filter="jpeg:quality=50")
    assert classifier.filter == Jpeg(quality=50)
    with pytest.raises(ClassifierError, match="memory/Sequential: filter: expected some of none"):
        open_classifier(_make_linear(), size=(4, 5), filter="jpg")


def test_a_module_in_memory_has_a_temperature(tmp_path: Path) -> None:
    module, images = _make_linear(), _images()
    plain = open_classifier(module, size=(4, 5))
    scaled = open_classifier(module, size=(4, 5), temperature=2.5)
    expected = (plain(images) / 2.5).softmax(1)
    torch.testing.assert_close(scaled.predict_probabilities(images), expected)
    again = open_classifier(save_classifier(scaled, tmp_path / "saved"))
    torch.testing.assert_close(again.predict_probabilities(images), expected)
    with pytest.raises(ClassifierError, match="temperature: input should be greater than 0"):
        open_classifier(module, size=(4, 5), temperature=0.0)
    with pytest.raises(ClassifierError, match="temperature can be given for a module in memory"):
        open_classifier(str(tmp_path / "saved"), temperature=2.0)


def write_guard(folder: Path) -> Path:
    """Files of a guard, as far as they can be copied without being opened."""
    folder.mkdir(parents=True)
    for name in GUARD_FILES:
        (folder / name).write_text(f"content of {name}")
    write_hashes(folder, GUARD_FILES)
    return folder


def test_a_saved_classifier_keeps_its_filter_and_its_guard(tmp_path: Path) -> None:
    guard = write_guard(tmp_path / "one" / "mine")
    classifier = open_classifier(_make_linear(), size=(4, 5), filter="jpeg:quality=50")
    guarded = Classifier(replace(classifier.network, guard=str(guard)))
    for name, place in (("one", guard), ("other", tmp_path / "other" / "guard")):
        opened = open_classifier(save_classifier(guarded, tmp_path / name))
        assert (opened.filter, opened.guard_folder) == (Jpeg(quality=50), place)
        assert opened.fingerprint == classifier.fingerprint
        assert [(place / file).read_bytes() for file in (*GUARD_FILES, HASHES)] == [
            (guard / file).read_bytes() for file in (*GUARD_FILES, HASHES)
        ]
    assert not (tmp_path / "one" / "guard").exists()


@pytest.mark.parametrize("listed", [GUARD_FILES, ("config.json", "weights.safetensors")])
def test_a_folder_of_something_else_is_refused(listed: tuple[str, ...], tmp_path: Path) -> None:
    """Its list of digests would be lost, and the weights of a run."""
    classifier = open_classifier(_make_linear(), size=(4, 5))
    guarded = Classifier(replace(classifier.network, guard=str(write_guard(tmp_path / "mine"))))
    for each, place in ((classifier, "."), (guarded, "guard")):
        folder = tmp_path / str(place == "guard")
        (folder / place).mkdir(parents=True)
        names = listed if place == "." else ("config.json",)
        for name in names:
            (folder / place / name).write_text(f"content of {name}")
        before = write_hashes(folder / place, names).read_bytes()
        files = sorted(path.name for path in folder.rglob("*"))
        with pytest.raises(RunError, match=r"holds other files, .* would replace; .*/classifier$"):
            save_classifier(each, folder)
        assert sorted(path.name for path in folder.rglob("*")) == files
        assert (folder / place / HASHES).read_bytes() == before
    card = save_classifier(classifier, tmp_path / "again")
    assert save_classifier(classifier, tmp_path / "again") == card


@pytest.mark.parametrize("where", ["inside", "outside"])
@pytest.mark.parametrize("fault", ["gone", "damaged"])
def test_a_guard_that_cannot_be_saved_is_refused(where: str, fault: str, tmp_path: Path) -> None:
    guard = write_guard(tmp_path / where / "guard")
    classifier = Classifier(replace(_open().network, source="memory/test", guard=str(guard)))
    if fault == "damaged":
        (guard / GUARD_FILES[1]).write_text("other")
    else:
        shutil.rmtree(guard)
    with pytest.raises(ClassifierError, match=r"guard: the guard .*cannot be saved.*fit it again"):
        save_classifier(classifier, tmp_path / "inside")
    assert not (tmp_path / "inside" / "card.json").exists()
    opened = open_classifier(save_classifier(classifier.without_guard(), tmp_path / "inside"))
    assert opened.guard_folder is None
    assert classifier.guard_folder == guard


def test_an_open_network_is_switched_to_inference() -> None:
    module = nn.Sequential(_make_linear(), nn.Dropout(0.9))
    classifier = _open(module)
    assert not module.training
    assert torch.equal(classifier(_images()), classifier(_images()))


def test_queries_count_classified_images() -> None:
    classifier = _open()
    assert classifier.queries == 0
    classifier(_images(3))
    classifier.predict_probabilities(_images(2))
    with pytest.raises(ImageError, match=r"images: expected pixels in \[0, 1\], got \[0"):
        classifier(_images() * 9)
    assert classifier.queries == 5


@pytest.mark.parametrize(
    ("images", "error", "match"),
    [
        (torch.rand(1, 1, 4, 5), ClassifierError, "images have 1; .*channels=3.* converts"),
        (torch.rand(1, 3, 5, 4), ClassifierError, "images of 4×5 pixels, got 5×4"),
        (torch.full((1, 3, 4, 5), 255.0), ImageError, r"in \[0, 1\], got \[255, 255\]"),
        (torch.full((1, 3, 4, 5), -0.1), ImageError, r"in \[0, 1\], got \[-0.1, -0.1\]"),
        (torch.full((1, 3, 4, 5), float("nan")), ImageError, r"in \[0, 1\], got \[nan, nan\]"),
        (torch.zeros(3, 4, 5), ImageError, "expected a float tensor batch"),
        (torch.zeros(0, 3, 4, 5), ImageError, "expected a float tensor batch"),
        (torch.zeros(1, 3, 4, 5, dtype=torch.uint8), ImageError, "got uint8"),
    ],
)
def test_images_that_do_not_fit(images: Tensor, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        _open()(images)


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (np.zeros((1, 3, 4, 5), np.float32), "got ndarray of float32 1 × 3 × 4 × 5; "),
        (np.zeros((4, 5, 3), np.uint8), "got ndarray of uint8 4 × 5 × 3; "),
        (PIL.Image.new("RGB", (5, 4)), "got Image; "),
        ([torch.zeros(3, 4, 5)], "got list; "),
        ("cat.jpg", "got str; "),
        (torch.tensor(0.5), "got float32 number; "),
        (torch.zeros(3, 0, 5), "got float32 3 × 0 × 5; "),
        (torch.zeros(3, 4, 5, dtype=torch.bool), "got bool 3 × 4 × 5; "),
        (torch.zeros(3, 4, 5).to_sparse(), "got sparse float32 3 × 4 × 5; "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_tensor_of_floats_is_told_how_to_become_one(wrong: Any, match: str) -> None:
    classifier = _open()
    for call in (classifier, classifier.predict_probabilities):
        with pytest.raises(ImageError, match=f"expected a float tensor batch.*{match}classifier.p"):
            call(wrong)
    explainer = ClassifierInfo.from_classifier(classifier)
    for prepare in (classifier.prepare, explainer.prepare):
        with pytest.raises(ImageError, match=f"float tensor channels.*{match}apercu.read_picture"):
            prepare(wrong)


def test_one_nan_pixel_is_enough() -> None:
    images = _images()
    images[1, 2, 3, 4] = float("nan")
    with pytest.raises(ImageError, match="nan"):
        _open()(images)


def test_raw_counts_pass_where_the_rule_says_so() -> None:
    classifier = _open(input=InputSpec(size=(4, 5), normalise="l2_per_channel"))
    counts = _images() * 50000
    counts[0, 0, 0, 0] = float("nan")
    assert classifier(counts).isfinite().all()


def test_an_image_with_other_channels_cannot_be_prepared() -> None:
    with pytest.raises(ClassifierError, match="expects 3 channels, images have 1"):
        _open().prepare(torch.rand(1, 9, 9))


def test_a_black_box_gives_logits_but_no_gradients() -> None:
    module = _make_linear()
    classifier = _open(BlackBox(module), differentiable=False)
    images = _images().requires_grad_()
    assert classifier.module is None and not classifier.exposes_layers
    with pytest.raises(ClassifierError, match="gives no gradients; distil a student"):
        classifier(images)
    with torch.no_grad():
        torch.testing.assert_close(classifier(images), _open(module)(images))


def test_probability_of_the_second_class_becomes_two_logits() -> None:
    chances = torch.tensor([0.0, 1e-6, 0.25, 1.0])

    def predict(images: Tensor) -> Tensor:
        return chances[: len(images), None]

    classifier = _open(BlackBox(predict), output="probability", differentiable=False)
    logits = classifier(_images(4))
    torch.testing.assert_close(logits[1:3, 1], chances[1:3].log())
    torch.testing.assert_close(logits[1:3, 0], torch.log1p(-chances[1:3]))
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.softmax(1)[:, 1], chances)


def test_probabilities_become_logits_whose_softmax_gives_them_back() -> None:
    chances = torch.tensor([[0.7, 0.3, 0.0], [0.2, 0.2, 0.6]])
    classifier = _open(
        BlackBox(lambda images: chances[: len(images)]),
        output="probabilities",
        differentiable=False,
    )
    torch.testing.assert_close(classifier.predict_probabilities(_images()), chances)
    assert classifier(_images()).isfinite().all()


@pytest.mark.parametrize(
    ("forward", "output", "match"),
    [
        (lambda x: ("a", 1), "logits", "one tensor as its output, got tuple"),
        (lambda x: x, "logits", "expected 1 × classes numbers .* got 1 × 3 × 4 × 5"),
        (lambda x: x.flatten(1), "probability", "expected 1 × 1 numbers"),
        (lambda x: x.flatten(1) * 100, "probabilities", r"probabilities in \[0, 1\]"),
        (lambda x: x.view(7), "logits", "cannot classify an image of 3×4×5: .*; check its input"),
    ],
)
def test_networks_whose_output_is_not_as_described(forward: Any, output: Any, match: str) -> None:
    class Wrong(nn.Module):
        def forward(self, images: Tensor) -> Any:
            return forward(images)

    with pytest.raises(ClassifierError, match=match):
        _open(Wrong(), output=output)


def test_class_names() -> None:
    assert _open().classes == ("class 0", "class 1", "class 2", "class 3")
    classifier = _open(names=ClassNames.of("abcd", ["n0", "n1", "n2", "n3"]))
    assert classifier.index_of("C") == classifier.index_of("n2") == classifier.index_of(2) == 2
    assert classifier.identifiers == ("n0", "n1", "n2", "n3")
    with pytest.raises(TargetError, match="no class"):
        classifier.index_of("e")
    with pytest.raises(ClassifierError, match="has 4 classes, but 3 names"):
        _open(names=ClassNames.of("abc"))


def test_opening_and_classifying_change_neither_images_nor_global_randomness() -> None:
    state = torch.get_rng_state()
    images = _images()
    before = images.clone()
    module = _make_linear()
    torch.set_rng_state(state)
    _open(module)(images)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_images_are_opened_with_the_channels_of_the_classifier() -> None:
    grey = _open(
        nn.Sequential(nn.Flatten(), nn.Linear(20, 4)),
        input=InputSpec(channels=1, size=(4, 5), mean=(0.5,), std=(0.5,)),
    )
    images = grey.open_images("planted:size=32,images=2")
    assert images[0].picture.shape == (1, 32, 32)
    assert grey.open_images(images) is images
    with pytest.raises(ImagesError, match="no such file or folder of images"):
        grey.open_images("nowhere")

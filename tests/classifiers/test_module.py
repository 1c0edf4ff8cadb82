"""Modules and functions in memory become classifiers."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import apercu
from apercu import open_classifier
from apercu.classifiers import InputSpec, save_classifier
from apercu.classifiers.sources.module import open_in_memory
from apercu.errors import ClassifierError, FunctionError, describe_interrupt
from apercu.log import redirect_warnings

SIZE = (6, 5)


def _make_module(channels: int = 3, classes: int = 4) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    )


def _make_images(channels: int = 3, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(1))


def test_logits_are_those_of_the_module_on_normalised_images() -> None:
    module, images = _make_module().eval(), _make_images()
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    classifier = apercu.open_classifier(module, size=SIZE, mean=mean, std=std, classes=[*"abcd"])
    normalised = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(classifier(images), module(normalised))
    assert classifier.classes == ("a", "b", "c", "d")
    assert (classifier.size, classifier.channels, classifier.spec) == (SIZE, 3, "memory/Sequential")
    assert classifier.differentiable and classifier.exposes_layers


def test_without_mean_and_std_the_module_receives_the_pixels() -> None:
    module, images = _make_module(), _make_images(size=(8, 8))
    classifier = open_classifier(module, size=8)
    torch.testing.assert_close(classifier(images), module.eval()(images))
    assert classifier.classes == ("class 0", "class 1", "class 2", "class 3")


def test_one_number_is_the_mean_of_all_channels() -> None:
    classifier = open_classifier(_make_module(2), size=SIZE, mean=0.5, std=2, channels=2)
    spec = InputSpec(channels=2, size=SIZE, mean=(0.5, 0.5), std=(2, 2))
    assert classifier.network.input == spec


def test_the_module_itself_is_not_changed_and_does_not_change_the_classifier() -> None:
    module, images = _make_module(), _make_images()
    module[0].requires_grad_(False)
    module[1].eval()
    module(images).sum().backward()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    classifier = open_classifier(module, size=SIZE)
    logits, fingerprint = classifier(images), classifier.fingerprint
    assert [part.training for part in module.modules()] == modes
    assert [p.requires_grad for p in module.parameters()] == [False] * 2 + [True] * 4
    assert module[5].weight.grad is not None  # type: ignore[union-attr]
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]) and value.stride() == before[name].stride()
    with torch.no_grad():
        module[5].bias += 1  # type: ignore[operator]
    assert torch.equal(classifier(images), logits)
    assert open_classifier(module, size=SIZE).fingerprint != fingerprint


def test_without_a_copy_the_module_itself_is_frozen() -> None:
    module = _make_module()
    classifier = open_classifier(module, size=SIZE, copy=False)
    assert classifier.module is module
    assert not module.training and not any(p.requires_grad for p in module.parameters())


def test_the_fingerprint_is_of_weights_and_preprocessing() -> None:
    fingerprints = [
        open_classifier(_make_module(), size=SIZE).fingerprint,
        open_classifier(_make_module().eval(), size=SIZE, classes=[*"abcd"]).fingerprint,
        open_classifier(torch.compile(_make_module()), size=SIZE).fingerprint,
        open_classifier(_make_module(), size=SIZE, mean=0.5).fingerprint,
    ]
    assert fingerprints[0] == fingerprints[1] == fingerprints[2] != fingerprints[3]


def test_half_precision_is_computed_in_single_precision() -> None:
    classifier = open_classifier(_make_module().half(), size=SIZE)
    assert classifier(_make_images()).dtype == torch.float32


def test_a_model_of_timm_brings_its_input() -> None:
    module = timm.create_model("test_resnet", num_classes=3)
    classifier = open_classifier(module)
    config = module.pretrained_cfg
    assert (classifier.channels, *classifier.size) == config["input_size"]
    assert classifier.network.input.mean == config["mean"]
    assert open_classifier(module, mean=0.5).network.input.mean == (0.5,) * 3
    expected = InputSpec(size=(64, 64), mean=config["mean"], std=config["std"])
    assert open_classifier(module, size=64).network.input == expected
    assert open_classifier(module, size=64, mean=0, std=1).network.input.mean == (0, 0, 0)


def test_attributes_describe_a_module_but_layers_of_the_same_name_do_not() -> None:
    module: Any = _make_module(1)
    module.input = {"channels": 1, "size": [6, 5], "mean": [0.5]}
    module.classes = [*"abcd"]
    classifier = open_classifier(module)
    assert classifier.network.input == InputSpec(channels=1, size=SIZE, mean=(0.5,))
    assert classifier.classes == ("a", "b", "c", "d")

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input, self.output, self.classes = nn.Flatten(), nn.Linear(90, 2), 2

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.output(self.input(images))
            return logits

    assert len(open_classifier(Layers(), size=SIZE).classes) == 2
    with pytest.raises(ClassifierError, match="size of its images is missing"):
        open_classifier(Layers())


def test_class_names_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("n0\tant\nn1\tbee\nn2\tcat\nn3\tdog\n")
    classifier = open_classifier(_make_module(), size=SIZE, classes=tmp_path / "names.txt")
    assert (classifier.classes[2], classifier.identifiers[2]) == ("cat", "n2")


def test_a_function_is_a_black_box() -> None:
    def brightness(images: Tensor) -> np.ndarray:
        assert not images.requires_grad
        return images.mean((2, 3)).numpy()

    classifier = open_classifier(brightness, size=SIZE, output="sigmoid_probabilities")
    images = _make_images()
    torch.testing.assert_close(classifier.predict_probabilities(images), images.mean((2, 3)))
    assert not classifier.differentiable and not classifier.exposes_layers
    assert classifier.spec == "memory/brightness"
    brightness.fingerprint = "second version"  # type: ignore[attr-defined]
    again = open_classifier(brightness, size=SIZE, output="sigmoid_probabilities")
    assert again.fingerprint != classifier.fingerprint


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "size of its images is missing; pass it in pixels, such as size=224"),
        ({"size": 0}, "size: both sides must be at least 1 pixel"),
        ({"size": SIZE, "mean": [0.5]}, r"mean: expected 3 values, one per channel, got \[0.5\]"),
        ({"size": SIZE, "std": 0}, "std: every number must be above 0"),
        ({"size": SIZE, "resize": 3}, "resize: must be at least as large as size"),
        ({"size": SIZE, "classes": ["a"]}, "has 4 classes, but 1 names"),
        ({"size": SIZE, "classes": "no.txt"}, "No such file"),
        ({"size": SIZE, "output": "logit"}, "did you mean sigmoid"),
        ({"size": SIZE, "channels": 1}, "cannot classify an image of 1×6×5: .*; check its input"),
    ],
)
def test_descriptions_that_do_not_fit_are_one_short_line(
    arguments: dict[str, Any], match: str
) -> None:
    with pytest.raises(ClassifierError, match=match) as caught:
        open_classifier(_make_module(), **arguments)
    message = str(caught.value)
    assert message.startswith("classifier memory/Sequential") or "classes no.txt" in message
    assert "\n" not in message and len(message) < 250


class Expecting(nn.Module):
    """A linear classifier of pixels that takes its images in one way only."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__()
        self.shape, self.dtype = shape, dtype
        self.layer = nn.Linear(int(np.prod(shape)), 4)

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype != self.dtype or tuple(images.shape[1:]) != self.shape:
            raise ValueError(f"not {self.shape} of {self.dtype}")
        return self.layer(images.flatten(1).float())


@pytest.mark.parametrize(
    ("shape", "dtype", "match"),
    [
        ((6, 5, 3), torch.float32, r"channels last; .* images\.permute\(0, 2, 3, 1\)$"),
        ((3, 6, 5), torch.uint8, r"takes bytes; .* \(images \* 255\)\.round\(\)\.byte\(\)$"),
        ((6, 5, 3), torch.uint8, r"takes bytes with the channels last; .*\.permute"),
        (
            (1, 6, 5),
            torch.float32,
            r"check its input: it takes images of 1 channel \(channels=1\)$",
        ),
        ((3, 7, 5), torch.float32, r"not \(3, 7, 5\) of torch\.float32; check its input$"),
    ],
)
def test_what_a_module_takes_instead_is_said(
    shape: tuple[int, ...], dtype: torch.dtype, match: str
) -> None:
    with pytest.raises(ClassifierError, match=match):
        open_classifier(Expecting(shape, dtype), size=SIZE)


@pytest.mark.parametrize(
    "numbers",
    [
        {"size": np.int64(6), "mean": np.float32(0.5), "std": np.array([0.5, 0.25, 0.5])},
        {"size": torch.tensor(6), "mean": torch.tensor(0.5), "std": torch.tensor([0.5, 0.25, 0.5])},
        {
            "size": np.array([6, 6]),
            "mean": [np.float64(0.5)] * 3,
            "std": (0.5, np.float32(0.25), 0.5),
        },
    ],
)
def test_numbers_of_numpy_and_torch_describe_a_module(numbers: dict[str, Any]) -> None:
    module = _make_module()
    expected = open_classifier(module, size=6, mean=0.5, std=[0.5, 0.25, 0.5])
    assert open_classifier(module, **numbers).fingerprint == expected.fingerprint


def test_a_description_is_refused_with_a_spec() -> None:
    match = "timm/resnet18: size, mean can be given for a module in memory only; write a .* card"
    with pytest.raises(ClassifierError, match=match):
        open_classifier("timm/resnet18", size=224, mean=0.5)
    with pytest.raises(ClassifierError, match="pass the module, or save it by save_classifier"):
        open_classifier("memory/Sequential")


@pytest.mark.parametrize(
    ("description", "match"),
    [
        ({"size": "large"}, "size: .* got 'large'"),
        ({"size": SIZE, "classes": 4}, "classes: expected the name of a file or a list of names"),
    ],
)
def test_descriptions_of_other_types_are_refused(description: dict[str, Any], match: str) -> None:
    with pytest.raises(ClassifierError, match=f"memory/Sequential: {match}"):
        open_in_memory(_make_module(), description)


def test_a_classifier_is_no_module() -> None:
    classifier = open_classifier(_make_module(), size=SIZE)
    with pytest.raises(ClassifierError, match=r"a module or a function .* got a Classifier"):
        open_classifier(classifier, size=SIZE)


def test_a_module_without_a_tensor_as_output_is_told_what_to_do() -> None:
    class Wrapped(nn.Module):
        def forward(self, images: Tensor) -> dict[str, str]:
            return {"logits": "bright"}

    with pytest.raises(ClassifierError, match="got dict; wrap it in a module that returns the"):
        open_classifier(Wrapped(), size=SIZE)


def test_a_module_that_cannot_be_copied() -> None:
    module: Any = _make_module()
    module.lock = threading.Lock()
    with pytest.raises(ClassifierError, match=r"cannot be copied \(.*lock.*\); pass copy=False"):
        open_classifier(module, size=SIZE)
    assert open_classifier(module, size=SIZE, copy=False).module is module


def test_a_saved_module_opens_with_the_same_logits_and_fingerprint(tmp_path: Path) -> None:
    classifier = open_classifier(_make_module(), size=SIZE, mean=0.5, std=0.25, classes=[*"abcd"])
    opened = open_classifier(save_classifier(classifier, tmp_path / "first"))
    again = open_classifier(save_classifier(opened, tmp_path / "second"))
    images = _make_images()
    for other in (opened, again):
        torch.testing.assert_close(other(images), classifier(images))
        torch.testing.assert_close(other(images[:1]), classifier(images[:1]))
        assert other.fingerprint == classifier.fingerprint
        assert other.classes == classifier.classes
    assert opened.differentiable and not opened.exposes_layers


def test_a_module_for_one_image_at_a_time_is_saved_as_such(tmp_path: Path) -> None:
    class OneByOne(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            if len(images) > 1:
                return torch.cat([self(image[None]) for image in images])
            return images.mean((2, 3)).view(1, 3)

    classifier, images = open_classifier(OneByOne(), size=SIZE), _make_images()
    opened = open_classifier(save_classifier(classifier, tmp_path))
    torch.testing.assert_close(opened(images), classifier(images))


def test_a_saved_program_that_was_replaced_is_refused(tmp_path: Path) -> None:
    card = save_classifier(open_classifier(_make_module(), size=SIZE), tmp_path / "a")
    other = save_classifier(open_classifier(_make_module(classes=2), size=SIZE), tmp_path / "b")
    card.with_name("classifier.pt2").write_bytes(other.with_name("classifier.pt2").read_bytes())
    with pytest.raises(ClassifierError, match="damaged, or not the file that was saved here"):
        open_classifier(card)
    content = card.with_name("classifier.pt2").read_bytes()
    card.with_name("classifier.pt2").unlink()
    with pytest.raises(ClassifierError, match=r"classifier.pt2: missing, though it was saved here"):
        open_classifier(card)
    card.with_name("classifier.pt2").write_bytes(content)
    card.with_name("sha256.json").unlink()
    with pytest.raises(ClassifierError, match="not the one that its card describes"):
        open_classifier(card)
    content = json.loads(other.read_text())
    content["options"]["strides"] = "wide"
    other.write_text(json.dumps(content))
    with pytest.raises(ClassifierError, match=r"options: strides: input should be a valid tuple"):
        open_classifier(other)
    del content["options"]["strides"]
    content["options"]["stride"] = [4]
    other.write_text(json.dumps(content))
    with pytest.raises(ClassifierError, match=r"stride is no key .*; did you mean strides\?"):
        open_classifier(other)


def test_networks_that_cannot_be_saved(tmp_path: Path) -> None:
    class Undecided(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            means = images.mean((2, 3))
            return means if means.sum() > 0 else -means

    with pytest.raises(ClassifierError, match=r"torch\.export cannot trace it .*package\.module:"):
        save_classifier(open_classifier(Undecided(), size=SIZE), tmp_path)
    with pytest.raises(ClassifierError, match="a black box cannot be saved"):
        save_classifier(open_classifier(lambda images: images.mean((2, 3)), size=SIZE), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "config",
    [
        {"input_size": (3, 8, 8)},
        {"input_size": (3, 8)},
        {"input_size": None},
        {"input_size": (3, 8, 8), "mean": (0.5,), "std": (0.5,)},
        {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0,) * 3},
        {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (1,) * 3, "crop_pct": 0},
        {"input_size": ("a", "b", "c"), "mean": (0.5,) * 3, "std": (1,) * 3},
    ],
)
def test_a_configuration_like_that_of_timm_that_does_not_fit(config: dict[str, Any]) -> None:
    module: Any = _make_module()
    module.pretrained_cfg = config
    with pytest.raises(ClassifierError, match=r"its pretrained_cfg(: | .*pass the size)"):
        open_classifier(module)
    lines: list[str] = []
    with redirect_warnings(lines.append):
        assert open_classifier(module, size=SIZE).network.input == InputSpec(size=SIZE)
    assert "its pretrained_cfg" in lines[0] and "it is not used" in lines[0]


def test_another_size_keeps_what_the_network_says_of_its_pixels() -> None:
    module: Any = _make_module(1)
    module.input = {"channels": 1, "size": [6, 5], "resize": 9, "mean": [0.5], "std": [0.2]}
    spec = InputSpec(channels=1, size=(20, 20), mean=(0.5,), std=(0.2,))
    assert open_classifier(module, size=20).network.input == spec
    module.input = {"channels": 1, "size": [6, 5], "normalise": "l2_per_channel"}
    spec = InputSpec(channels=1, size=(6, 5), mean=(0.5,))
    assert open_classifier(module, mean=0.5).network.input == spec
    lines: list[str] = []
    module = timm.create_model("test_resnet", num_classes=3, in_chans=1)
    with redirect_warnings(lines.append):
        spec = open_classifier(module, size=64, channels=1, mean=0.5).network.input
    assert spec == InputSpec(channels=1, size=(64, 64), mean=(0.5,))
    assert "std of the network is for 3 channels and is not used; pass std" in lines[0]


@pytest.mark.parametrize(
    "classes",
    [
        {1: "b", 0: "a", 3: "d", 2: "c"},
        {"d": 3, "b": 1, "a": 0, "c": 2},
    ],
)
def test_dictionaries_of_classes(classes: Any, tmp_path: Path) -> None:
    assert open_classifier(_make_module(), size=SIZE, classes=classes).classes == (*"abcd",)
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(classes, indent=1))
    assert open_classifier(_make_module(), size=SIZE, classes=path).classes == (*"abcd",)
    module = _make_module()
    module.classes = classes
    assert open_classifier(module, size=SIZE).classes == (*"abcd",)


def test_a_set_of_classes_is_refused() -> None:
    with pytest.raises(ClassifierError, match="memory/Sequential: classes: a set has no order"):
        open_in_memory(_make_module(), {"size": SIZE, "classes": {*"abcd"}})


@pytest.mark.parametrize("count", [4, 3])
def test_names_of_a_configuration(count: int) -> None:
    module = _make_module()
    module.config = SimpleNamespace(id2label={i: f"LABEL_{i}" for i in range(4)})
    assert open_classifier(module, size=SIZE).classes[0] == "class 0"
    module.config = SimpleNamespace(id2label=dict(enumerate("abcde"[:count])))
    if count == 4:
        assert open_classifier(module, size=SIZE).classes == (*"abcd",)
        return
    lines: list[str] = []
    with redirect_warnings(lines.append):
        assert open_classifier(module, size=SIZE).classes[0] == "class 0"
    assert "configuration names 3 classes, and its last layer has 4" in lines[0]


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ([123.7, 116.3, 103.5], [58.4, 57.1, 57.4], r"mean \(123\.7\) and std \(58\.4\) would be"),
        (
            127.5,
            1,
            r"mean \(127\.5\) would be in units of 0 to 255, but .* \[0, 1\]; divide",
        ),
        (0, 255, r"std \(255\) would be in units of 0 to 255"),
        (1, 2, ""),
        (-2, 1 / 255, ""),
    ],
)
def test_a_mean_in_units_of_bytes_is_told(mean: Any, std: Any, words: str) -> None:
    lines: list[str] = []
    with redirect_warnings(lines.append):
        classifier = open_classifier(_make_module(), size=SIZE, mean=mean, std=std)
    assert classifier.network.input.mean is not None
    assert re.search(words, lines[0]) if words else not lines


def test_a_function_that_fails_later_says_so_with_how_to_go_on() -> None:
    calls: list[int] = []

    def flaky(images: Tensor) -> Tensor:
        calls.append(len(images))
        if len(calls) > 10:
            raise ConnectionError("503 upstream\nand more")
        return images.mean((2, 3))

    classifier = open_classifier(flaky, size=SIZE)
    failed = r"memory/flaky: its function failed \(ConnectionError: 503 upstream\)"
    with pytest.raises(FunctionError, match=f"^classifier {failed}$") as caught:
        for _ in range(10):
            classifier(_make_images())
    assert caught.value.exit_code == 2 and isinstance(caught.value.__cause__, ConnectionError)
    with (
        pytest.raises(FunctionError, match=f"{failed}; all is kept$"),
        describe_interrupt("all is kept"),
    ):
        classifier(_make_images())


@pytest.mark.parametrize(
    "function",
    [
        lambda images: images.astype("uint8"),
        lambda images: images @ torch.ones(3, 4),
        lambda images: np.zeros((len(images), 2)) if images.shape[3] == 3 else 1 / 0,
    ],
)
def test_a_function_that_expects_something_else_is_told_what_it_gets(function: Any) -> None:
    match = r"cannot classify an image of 3×6×5: .*; the function gets a float tensor on the CPU, "
    with pytest.raises(ClassifierError, match=match + "batch × .*numpy.*permute") as caught:
        open_classifier(function, size=SIZE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_module_of_its_own_precision_can_be_saved(dtype: torch.dtype, tmp_path: Path) -> None:
    classifier = open_classifier(_make_module().to(dtype), size=SIZE, mean=0.5, copy=False)
    images = _make_images()
    again = open_classifier(save_classifier(classifier, tmp_path))
    assert again.layout.dtype == dtype
    torch.testing.assert_close(again(images), classifier(images), atol=1e-2, rtol=1e-2)

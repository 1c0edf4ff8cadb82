"""What networks of people do: each opens as it works by itself, or is told in one line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apercu import open_classifier
from apercu.classifiers import Classifier
from apercu.classifiers.sources.module import open_in_memory
from apercu.errors import ClassifierError
from apercu.log import redirect_warnings
from apercu.methods import GradCam, Gradient, Occlusion

SIDE = 12


class Plain(nn.Module):
    """Two convolutions and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 5, 3, padding=1)
        self.head = nn.Linear(5, 4)

    def features(self, images: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(images))))

    def forward(self, images: Tensor) -> Any:
        logits: Tensor = self.head(self.features(images).mean((2, 3)))
        return logits


class ByView(Plain):
    """Flattens by view, which needs the plain order in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5 * 6 * 6, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        logits: Tensor = self.head(features.view(len(features), -1))
        return logits


class ByStride(Plain):
    """Reads memory as if it had the plain order: with channels last, other numbers come out."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        rows = features.as_strided((len(features), 180), (180, 1))
        return self.head(rows.reshape(-1, 5, 36).mean(2))  # type: ignore[no-any-return]


class InPlace(Plain):
    def forward(self, images: Tensor) -> Any:
        images -= 0.5
        return super().forward(images)


class NoGradInside(Plain):
    def features(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return super().features(images)


class Detached(Plain):
    def features(self, images: Tensor) -> Tensor:
        return super().features(images).detach()


class Inference(Plain):
    @torch.inference_mode()
    def forward(self, images: Tensor) -> Any:
        return super().forward(images)


class Rounded(Plain):
    def forward(self, images: Tensor) -> Any:
        return super().forward((images * 255).round() / 255)


class Stubborn(Plain):
    """Stays in training mode, with statistics of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(5)

    def train(self, mode: bool = True) -> Stubborn:
        return self

    def features(self, images: Tensor) -> Tensor:
        normed: Tensor = self.norm(super().features(images))
        return normed


class Deep(nn.Module):
    """Begins with a convolution of three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = nn.Conv3d(1, 4, 3, padding=(0, 1, 1)), nn.Conv2d(4, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.rest(self.first(images[:, None]).squeeze(2)).mean((2, 3))  # type: ignore[no-any-return]


def _build(kind: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return kind()


def _open(kind: Callable[[], nn.Module], **settings: Any) -> tuple[Classifier, list[str]]:
    """Open a network of a kind, and return it with the warnings."""
    lines: list[str] = []
    with redirect_warnings(lines.append):
        return open_classifier(_build(kind), size=SIDE, **settings), lines


def _images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", [Plain, ByView, ByStride, InPlace, Deep, Stubborn, Rounded])
def test_logits_are_those_of_the_network_itself(kind: Callable[[], nn.Module]) -> None:
    classifier, _ = _open(kind)
    module = _build(kind)
    for part in module.modules():
        part.training = False
    images = _images()
    with torch.no_grad():
        torch.testing.assert_close(classifier(images), module(images.clone()))
        torch.testing.assert_close(classifier(images[:1]), classifier(images)[:1])
    assert torch.equal(images, _images())


@pytest.mark.parametrize("kind", [Plain, ByView, InPlace, Deep, Stubborn])
def test_gradients_reach_the_images(kind: Callable[[], nn.Module]) -> None:
    classifier, lines = _open(kind)
    images = _images().requires_grad_()
    classifier(images).sum().backward()
    assert classifier.differentiable and not lines
    assert images.grad is not None and images.grad.any()


@pytest.mark.parametrize("kind", [NoGradInside, Detached, Inference, Rounded])
def test_gradients_that_never_arrive_are_told(kind: Callable[[], nn.Module]) -> None:
    classifier, lines = _open(kind)
    assert not classifier.differentiable and len(lines) == 1
    assert "gives no gradients" in lines[0] and "distil a student" in lines[0]
    for method in (Gradient(), GradCam()):
        with pytest.raises(ClassifierError, match=r"gives none \(.*(no_grad|zero everywhere)"):
            method(classifier, _images())
    with pytest.raises(ClassifierError, match=r"gives no gradients \(.*distil a student"):
        classifier(_images().requires_grad_())
    assert Occlusion()(classifier, _images(1)).any()


class Noisy(Plain):
    """Keeps a dropout on."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(F.dropout(images, 0.5, training=True))


class Together(Plain):
    """Subtracts the mean of the batch."""

    def forward(self, images: Tensor) -> Any:
        logits = super().forward(images)
        return logits - logits.mean(0) if len(logits) > 1 else logits


FORMS: dict[str, Callable[[nn.Module], Any]] = {
    "module": lambda module: module,
    "script": lambda module: torch.jit.trace(module.eval(), _images(), check_trace=False),
    "function": lambda module: lambda images: module(images).detach(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
def test_chance_and_the_other_images_of_a_batch_are_told(form: str) -> None:
    lines: list[str] = []
    for seed in range(20):
        torch.manual_seed(seed)
        with redirect_warnings(lines.append):
            open_classifier(FORMS[form](Noisy()), size=SIDE, copy=True)
    assert sum("other numbers for the same image each time" in line for line in lines) == 20
    lines.clear()
    for kind in (Plain, Together):
        with redirect_warnings(lines.append):
            open_classifier(FORMS[form](_build(kind)), size=SIDE)
    (line,) = (line for line in lines if "other numbers" in line)
    assert "other numbers for an image if other images are in" in line


def test_a_network_that_sees_nothing_is_told() -> None:
    class Dead(Plain):
        def features(self, images: Tensor) -> Tensor:
            return F.relu(super().features(images) - 1000)

    classifier, lines = _open(Dead)
    assert "gives the same numbers for two different images" in lines[0]
    assert classifier.differentiable


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("make_copy", [True, False])
def test_other_precisions(dtype: torch.dtype, make_copy: bool) -> None:
    module = _build(Plain).to(dtype)
    classifier = open_classifier(module, size=SIDE, copy=make_copy)
    expected = _build(Plain)(_images())
    assert classifier(_images()).dtype == torch.float32
    torch.testing.assert_close(classifier(_images()), expected, atol=0.02, rtol=0.02)
    assert classifier.differentiable
    assert module.head.weight.dtype == dtype  # type: ignore[union-attr]


def test_wrappers_are_opened() -> None:
    expected = _open(Plain)[0]
    compiled_inside: Any = _build(Plain)
    compiled_inside.second = torch.compile(compiled_inside.second, backend="eager")
    compiled_itself = _build(Plain)
    compiled_itself.compile(backend="eager")
    parallel: Any = nn.DataParallel(_build(Plain))
    parallel.input = {"size": SIDE, "channels": 3}
    for module in (
        parallel,
        torch.compile(_build(Plain), backend="eager"),
        nn.DataParallel(torch.compile(_build(Plain), backend="eager")),  # type: ignore[arg-type]
        compiled_inside,
        compiled_itself,
    ):
        given = {} if module is parallel else {"size": SIDE}
        classifier = open_classifier(module, **given)
        assert classifier.fingerprint == expected.fingerprint
        torch.testing.assert_close(classifier(_images()), expected(_images()))
        torch.testing.assert_close(GradCam()(classifier, _images()), GradCam()(expected, _images()))
    assert hasattr(compiled_inside.second, "_orig_mod")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "script", [torch.jit.script, lambda module: torch.jit.trace(module.eval(), _images())]
)
def test_torchscript_gives_gradients_but_shows_no_layers(script: Any) -> None:
    classifier = open_classifier(script(_build(Plain)), size=SIDE)
    module = _build(Plain)
    torch.testing.assert_close(classifier(_images()), module(_images()))
    assert classifier.differentiable and not classifier.exposes_layers
    torch.testing.assert_close(
        Gradient()(classifier, _images()), Gradient()(_open(Plain)[0], _images())
    )
    with pytest.raises(ClassifierError, match="exposes no layers"):
        GradCam()(classifier, _images())


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_network_opens() -> None:
    module = torch.ao.quantization.quantize_dynamic(_build(Plain).eval(), {nn.Linear})
    classifier = open_classifier(module, size=SIDE)
    expected = _open(Plain)[0]
    torch.testing.assert_close(classifier(_images()), expected(_images()), atol=0.05, rtol=0.05)
    assert classifier.fingerprint != expected.fingerprint


def test_functions_may_return_arrays_and_lists() -> None:
    module = _build(Plain).eval()

    def as_array(images: Tensor) -> Any:
        with torch.no_grad():
            return module(images).double().numpy()

    def as_list(images: Tensor) -> Any:
        return as_array(images).tolist()

    def as_tuples(images: Tensor) -> Any:
        return tuple(map(tuple, as_list(images)))

    def as_objects(images: Tensor) -> Any:
        return as_array(images).astype(object)

    def as_big_endian(images: Tensor) -> Any:
        return as_array(images).astype(">f4")

    def as_reversed(images: Tensor) -> Any:
        return np.flip(as_array(images)[:, ::-1].copy(), 1)  # a view with a negative stride

    def as_read_only(images: Tensor) -> Any:
        array = as_array(images)
        array.flags.writeable = False
        return array

    def as_other_library(images: Tensor) -> Any:
        class Array:
            def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
                return as_array(images)

        return {"logits": Array()}

    for function in (
        as_array,
        as_list,
        as_tuples,
        as_objects,
        as_big_endian,
        as_reversed,
        as_read_only,
        as_other_library,
    ):
        classifier = open_classifier(function, size=SIDE)
        torch.testing.assert_close(classifier(_images()), module(_images()))


def test_objects_with_slots_are_read() -> None:
    class Slotted:
        __slots__ = ("logits",)

        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    module = _build(Plain).eval()
    classifier = open_classifier(lambda images: Slotted(module(images)), size=SIDE)
    torch.testing.assert_close(classifier(_images()), module(_images()))


def test_a_row_for_each_image_in_a_list_is_told() -> None:
    module = _build(Plain).eval()
    with pytest.raises(ClassifierError, match=r"2 × 4 .* let it return torch\.stack of the rows"):
        open_classifier(lambda images: list(module(images)), size=SIDE)


def test_the_error_of_a_function_says_its_kind() -> None:
    with pytest.raises(ClassifierError, match="KeyError: 'pixel_values'; the function gets"):
        open_classifier(lambda images: {}["pixel_values"], size=SIDE)


def test_a_forward_of_another_precision_is_told() -> None:
    class Doubled(Plain):
        def forward(self, images: Tensor) -> Any:
            return super().forward(images.double())

    class Halved(Plain):
        def features(self, images: Tensor) -> Tensor:
            return super().features(images).half()

    for kind in (Doubled, Halved):
        with pytest.raises(ClassifierError, match=r"same.*its weights are used in float32"):
            open_classifier(_build(kind), size=SIDE)


class RootOfZero(Plain):
    """Adds a norm that is 0: its numbers are finite, their gradients are not."""

    def forward(self, images: Tensor) -> Any:
        zero = images - images.detach()
        return super().forward(images) + (zero**2).sum((1, 2, 3)).sqrt()[:, None]


class NaNElsewhere(Plain):
    """Chooses between numbers and NaN, so that 0 · NaN is a part of the gradient."""

    def forward(self, images: Tensor) -> Any:
        logits = super().forward(images)
        return torch.where(images.mean((1, 2, 3))[:, None] < 0.1, logits * torch.nan, logits)


@pytest.mark.parametrize("kind", [RootOfZero, NaNElsewhere])
def test_gradients_that_are_no_numbers_are_told(kind: type[nn.Module]) -> None:
    classifier, lines = _open(kind)
    assert not classifier.differentiable
    assert "gives no gradients (they are NaN or infinite, as behind the square" in lines[0]
    with pytest.raises(ClassifierError, match=r"gives none \(they are NaN or infinite"):
        Gradient()(classifier, _images())


@pytest.mark.filterwarnings("ignore:.*is deprecated")
@pytest.mark.parametrize("make_copy", [True, False])
def test_a_module_with_a_scripted_part_opens(make_copy: bool) -> None:
    inside: Any = nn.Sequential(torch.jit.script(_build(Plain).eval()), nn.Identity())
    classifier = open_classifier(inside, size=SIDE, copy=make_copy)
    torch.testing.assert_close(classifier(_images()), _build(Plain)(_images()))
    assert classifier.differentiable
    assert all(weight.is_leaf for weight in classifier.module.parameters())  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore:.*is deprecated")
def test_what_fails_in_torchscript_is_said() -> None:
    class One(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean(3).view(1, 24)

    with pytest.raises(ClassifierError, match=r"shape '\[1, 24\]' is invalid for input"):
        open_classifier(torch.jit.script(One()), size=SIDE)


def test_attributes_that_fail_or_say_nothing_are_passed_over() -> None:
    class Failing(Plain):
        classes: ClassVar[list[str]] = []

        @property
        def output(self) -> Any:
            raise RuntimeError("no output before the first call")

        @property
        def input(self) -> Any:
            raise RuntimeError("no input before the first call")

    classifier = open_classifier(_build(Failing), size=SIDE)
    assert classifier.output.name == "logits" and classifier.classes[0] == "class 0"


def test_attributes_that_are_not_ours_stay_theirs() -> None:
    class Named(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.input, self.output, self.classes = nn.Identity(), nn.Linear(5, 4), 4

        def forward(self, images: Tensor) -> Any:
            return self.output(self.features(images).mean((2, 3)))

    assert len(_open(Named)[0].classes) == 4
    module: Any = _build(Plain)
    module.output = "linear"
    lines: list[str] = []
    with redirect_warnings(lines.append):
        open_in_memory(module, {"size": SIDE})
    assert "its attribute output is 'linear', which is none of logits" in lines[0]


def test_a_network_that_fails_is_told_in_one_line() -> None:
    class OneOnly(Plain):
        def forward(self, images: Tensor) -> Any:
            if len(images) != 1:
                raise ValueError("one image at a time\nplease")
            return super().forward(images)

    advice = r"it takes one image at a time; wrap it .* torch\.cat\(\[network\(image\) for image"
    with pytest.raises(
        ClassifierError, match=rf"cannot classify 2 images .*: one image at a time; .*{advice}"
    ):
        _open(OneOnly)
    with pytest.raises(ClassifierError, match="cannot be moved to cuda"):
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
        copy.deepcopy(_open(Plain)[0]).to("cuda")


def test_weights_that_are_not_there_yet() -> None:
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
    with pytest.raises(ClassifierError, match="lazy and have no weights yet; call the module once"):
        open_classifier(lazy, size=SIDE)
    with pytest.raises(ClassifierError, match="on the device meta, which holds no numbers"):
        open_classifier(_build(Plain).to("meta"), size=SIDE)


def test_an_exported_program_in_memory() -> None:
    program = torch.export.export(
        _build(Plain).eval(), (_images(2),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )
    for exported in (program, program.module()):
        classifier = open_classifier(exported, size=SIDE)  # type: ignore[arg-type]
        torch.testing.assert_close(classifier(_images()), _open(Plain)[0](_images()))
        assert classifier.differentiable

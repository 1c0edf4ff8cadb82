"""What every method must do, whatever it computes."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable

import pytest
import torch
from torch import nn

from apercu import methods
from apercu.classifiers import (
    Classifier,
    ClassifierCard,
    InputSpec,
    open_classifier,
    wrap_module,
)
from apercu.errors import ClassifierError
from apercu.methods import MapExplainer, Method, Wrapper

EVERY: list[Method | Wrapper] = [
    methods.AttentionRelevance(),
    methods.AttentionRollout(),
    methods.Augmented(methods.GradCam(), copies=3),
    methods.Cam(),
    methods.CentreBlob(),
    methods.CentreBox(),
    methods.Edges(),
    methods.ExcitationBackprop(),
    methods.GradCam(),
    methods.GradCamPlusPlus(),
    methods.Gradient(),
    methods.GradientShap(samples=3),
    methods.GuidedBackprop(),
    methods.GuidedIntegratedGradients(),
    methods.InputXGradient(),
    methods.IntegratedGradients(steps=5),
    methods.Lrp(),
    methods.MeaningfulPerturbation(steps=3),
    methods.MeaningfulPerturbation(aim="sufficient", steps=3),
    methods.MeaningfulPerturbation(aim="full", steps=3),
    methods.Mfpp(masks=6),
    methods.Occlusion(),
    methods.RandomMap(),
    methods.Rise(masks=6),
    methods.Smoothed(methods.Gradient()),
    methods.SecondLook(methods.Gradient(), queries=7),
    methods.SmoothGrad(samples=3),
    methods.SmoothTaylor(samples=3),
    methods.WholeBox(),
    methods.ZoomCam(),
]
every_method = pytest.mark.parametrize("method", EVERY, ids=lambda method: type(method).__name__)


def test_every_exported_method_is_in_this_file() -> None:
    exported = {
        one
        for _, one in inspect.getmembers(methods, inspect.isclass)
        if issubclass(one, Method | Wrapper)
    }
    assert exported - {Method, Wrapper} == {type(method) for method in EVERY}


def test_a_classifier_opened_in_inference_mode_gives_gradients(residual: Classifier) -> None:
    with torch.inference_mode():
        module = copy.deepcopy(residual.module)
        classifier = open_classifier(module, size=residual.size)  # type: ignore[arg-type]
        assert classifier.differentiable
        maps = methods.Lrp()(classifier, torch.rand(1, 3, *classifier.size), 0)
    assert maps.isfinite().all()


def all_hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@pytest.fixture
def subject(method: Method | Wrapper, residual: Classifier, transformer: Classifier) -> Classifier:
    """A network with attention for the methods that need it, else a convolutional one."""
    needs_attention = isinstance(method, methods.AttentionRelevance | methods.AttentionRollout)
    return transformer if needs_attention else residual


@every_method
class TestEvery:
    def test_maps_are_finite_float_and_as_large_as_the_images(
        self,
        method: Method | Wrapper,
        subject: Classifier,
        images: torch.Tensor,
        targets: torch.Tensor,
    ) -> None:
        maps = method(subject, images, targets)
        assert maps.shape == (3, 24, 32)
        assert maps.dtype == torch.float32
        assert maps.isfinite().all()
        if method.map_scale == "mask":
            assert maps.amin() >= 0 and maps.amax() <= 1
        if method.map_scale == "box":
            assert set(maps.unique().tolist()) <= {0.0, 1.0}

    def test_nothing_leaks(
        self,
        method: Method | Wrapper,
        subject: Classifier,
        images: torch.Tensor,
        targets: torch.Tensor,
    ) -> None:
        before = images.clone()
        module = subject.module
        assert module is not None
        with torch.no_grad():
            maps = method(subject, images, targets)
            assert not torch.is_grad_enabled()
        assert not maps.requires_grad
        assert torch.equal(images, before)
        assert not images.requires_grad
        assert images.grad is None
        assert all_hooks(module) == 0
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
        assert not any(m.training for m in module.modules())

    def test_inference_mode_changes_nothing(
        self,
        method: Method | Wrapper,
        subject: Classifier,
        images: torch.Tensor,
        targets: torch.Tensor,
    ) -> None:
        expected = method(subject, images, targets)
        with torch.inference_mode():
            copies, classes = images.clone(), targets.clone()
            within = method(subject, copies, classes)
            bound = method.bind(subject).attribute(copies)
            assert torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
        for maps in (within, method(subject, copies, classes)):
            torch.testing.assert_close(maps, expected)
        torch.testing.assert_close(bound, method(subject, images))
        assert torch.equal(copies, images)

    def test_a_batch_equals_its_singles(
        self,
        method: Method | Wrapper,
        subject: Classifier,
        images: torch.Tensor,
        targets: torch.Tensor,
    ) -> None:
        together = method(subject, images, targets)
        pairs = zip(images.split(1), targets.split(1), strict=True)
        alone = torch.cat([method(subject, *pair) for pair in pairs])
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)

    def test_the_same_call_gives_the_same_maps(
        self,
        method: Method | Wrapper,
        subject: Classifier,
        images: torch.Tensor,
        targets: torch.Tensor,
    ) -> None:
        first = method(subject, images, targets)
        torch.rand(5)
        assert torch.equal(method(subject, images, targets), first)

    def test_methods_are_values(self, method: Method | Wrapper) -> None:
        again = dataclasses.replace(method)  # type: ignore[type-var]
        assert method == again
        assert hash(method) == hash(again)
        assert method.cache_key == repr(method)
        assert isinstance(method, MapExplainer)
        with pytest.raises(AttributeError, match="cannot assign"):
            method.map_scale = "mask"  # type: ignore[misc]

    def test_needs_are_true(
        self,
        method: Method | Wrapper,
        subject: Classifier,
        black_box: Classifier,
        images: torch.Tensor,
        targets: torch.Tensor,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        before = subject.queries
        method(subject, images, targets)
        assert (subject.queries > before) == bool(method.needs)
        if {"gradients", "layers"} & set(method.needs):
            with pytest.raises(ClassifierError):
                method(black_box, images, targets)
        else:
            assert method(black_box, images, targets).isfinite().all()
        monkeypatch.setattr(Classifier, "exposes_layers", False)
        if "layers" in method.needs:
            with pytest.raises(ClassifierError, match="exposes no layers"):
                method(subject, images, targets)
        else:
            method(subject, images, targets)


def change_input(
    classifier: Classifier, change: Callable[[torch.Tensor], torch.Tensor]
) -> Classifier:
    """Return a copy of a classifier whose network begins with an operation on its input."""
    module = copy.deepcopy(classifier.module)
    assert module is not None
    module.register_forward_pre_hook(lambda _module, inputs: change(inputs[0]))
    spec = InputSpec(channels=3, size=classifier.size)
    return wrap_module(module, ClassifierCard(source="tests:network", input=spec))


def subtract_in_place(images: torch.Tensor) -> torch.Tensor:
    images -= 0.5
    return images


def blacken_in_place(images: torch.Tensor) -> torch.Tensor:
    images[:, 0] = 0
    return images


@every_method
@pytest.mark.parametrize(
    ("in_place", "apart"),
    [
        (subtract_in_place, lambda images: images - 0.5),
        (
            blacken_in_place,
            lambda images: torch.cat((torch.zeros_like(images[:, :1]), images[:, 1:]), dim=1),
        ),
    ],
    ids=["-=", "[:, 0] = 0"],
)
def test_networks_may_write_into_their_input(
    in_place: Callable[[torch.Tensor], torch.Tensor],
    apart: Callable[[torch.Tensor], torch.Tensor],
    method: Method | Wrapper,
    subject: Classifier,
    images: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    before = images.clone()
    maps, expected = (
        method(change_input(subject, change), images, targets) for change in (in_place, apart)
    )
    torch.testing.assert_close(maps, expected)
    assert torch.equal(images, before)


def make_head(module: nn.Module, weight: torch.Tensor) -> nn.Module:
    """Return a copy of a network with another last layer."""
    copied = copy.deepcopy(module)
    head = nn.Linear(weight.shape[1], len(weight))
    head.weight.data, head.bias.data = weight, weight.new_full((len(weight),), 0.0)
    vars(copied)["_modules"]["head"] = head
    return copied


@every_method
class TestOutputs:
    """One logit is explained as two logits are; each of several classes as if it was alone."""

    def test_one_logit_has_the_maps_of_two_logits(
        self, method: Method | Wrapper, subject: Classifier, images: torch.Tensor
    ) -> None:
        weight = subject.module.head.weight[:1].detach()  # type: ignore[union-attr]
        spec, targets = subject.network.input, [1, 0, 1]
        one, two = (
            wrap_module(
                make_head(subject.module, rows),  # type: ignore[arg-type]
                ClassifierCard(source="tests:network", input=spec, output=output),
            )
            for rows, output in (
                (weight, "sigmoid"),
                (torch.cat((-weight / 2, weight / 2)), "logits"),
            )
        )
        torch.testing.assert_close(
            method(one, images, targets), method(two, images, targets), atol=1e-5, rtol=1e-3
        )
        assert method(one, images, "class").shape == (3, *images.shape[2:])

    def test_one_of_several_classes_has_the_maps_that_it_has_alone(
        self, method: Method | Wrapper, subject: Classifier, images: torch.Tensor
    ) -> None:
        if isinstance(method, methods.AttentionRelevance):
            pytest.skip("its layers are multiplied, so that half the logit gives another map")
        weights = subject.module.head.weight[:3].detach()  # type: ignore[union-attr]
        several, alone = (
            wrap_module(
                make_head(subject.module, rows),  # type: ignore[arg-type]
                ClassifierCard(source="tests:network", input=subject.network.input, output=output),
            )
            for rows, output in ((weights, "sigmoid"), (weights[1:2], "sigmoid"))
        )
        first, second = method(several, images, 1), method(alone, images, "class")
        scale = 2.0 if _is_linear_in_the_logit(method) else 1.0
        torch.testing.assert_close(first, scale * second, atol=1e-5, rtol=1e-3)


def _is_linear_in_the_logit(method: Method | Wrapper) -> bool:
    """Whether maps are on the scale of the logit, which is halved where it stands for two."""
    if isinstance(method, methods.SecondLook):
        return False  # its maps are stretched to [0, 1]
    first = method.method if isinstance(method, Wrapper) else method
    kinds = (
        methods.Cam,
        methods.GradCam,
        methods.GradCamPlusPlus,
        methods.Gradient,
        methods.GradientShap,
        methods.GuidedBackprop,
        methods.GuidedIntegratedGradients,
        methods.InputXGradient,
        methods.IntegratedGradients,
        methods.Lrp,
        methods.Occlusion,
        methods.SmoothGrad,
        methods.SmoothTaylor,
    )
    return isinstance(first, kinds)

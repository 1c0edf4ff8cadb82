"""Code that runs on a device, on one that is made up: it holds no float64 and mixes with no CPU."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from apercu import compare, methods, open_classifier
from apercu.classifiers import Classifier, SmallResNet
from apercu.classifiers.reinitialise import copy_trainable
from apercu.devices import choose_device, choose_memory_format, read_device
from apercu.errors import ClassifierError, ConfigError
from apercu.explainers.kind import find_kind
from apercu.explainers.train import build_network
from apercu.filters import FILTERS
from apercu.filters.purifier import Purifier
from apercu.images import Planted
from apercu.robustness.attacks import ATTACKS
from apercu.robustness.objectives import Untargeted
from apercu.training.trainer import Hardware, Trainer

FAKE = torch.device("meta")
"""Any device but the CPU; its tensors hold numbers here, as `OnDevice`."""


class OnDevice(Tensor):
    """A tensor that says that it is on the made-up device, around one on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        if held.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        made: OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, device=FAKE
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def new_tensor(self, data: Any, **settings: Any) -> Tensor:  # type: ignore[override]
        return OnDevice(TENSOR(data, **{"dtype": self.dtype, **settings}))

    def __getitem__(self, index: Any) -> Tensor:
        if isinstance(index, list):  # torch makes no numbers of them on the device meta
            index = OnDevice(TENSOR(index))
        return super().__getitem__(index)

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run_on_device(call, args, kwargs or {})


class FakeDevice(TorchDispatchMode):
    """Runs on the CPU what is asked of the made-up device, and refuses what a real one refuses."""

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run_on_device(call, args, kwargs or {})


def run_on_device(call: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run one operation of torch; its results are on the device if its tensors were."""
    values = tree_flatten((args, kwargs))[0]
    given = [value for value in values if isinstance(value, Tensor)]
    on_device = [value for value in given if isinstance(value, OnDevice)]
    target = kwargs.get("device")
    is_copy = call.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
    mixed = [v for v in given if not isinstance(v, OnDevice) and v.ndim > 0]
    by_index = "index" in str(call) and isinstance(given[0], OnDevice)  # indices may be on the CPU
    if on_device and mixed and not (is_copy or by_index):
        raise RuntimeError(f"{call}: expected all tensors on the same device")
    if target is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    inner = tree_map(lambda v: v.held if isinstance(v, OnDevice) else v, (args, kwargs))
    result = call(*inner[0], **inner[1])
    stays = target is None or torch.device(target) == FAKE
    if call.overloadpacket is torch.ops.aten.copy_:
        return args[0]
    if not (stays and (on_device or target is not None)):
        return result
    outputs = {id(v.held): v for v in on_device}  # of operations in place

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return outputs[id(value)] if id(value) in outputs else OnDevice(value)

    return tree_map(wrap, result)


def make_tensor(data: Any, device: Any = None, **settings: Any) -> Tensor:
    """Make a tensor as `torch.tensor` does; that one makes no numbers on the device meta."""
    made = TENSOR(data, **settings)
    return made if device is None or torch.device(device) != FAKE else OnDevice(made)


def compute_quantile(values: Tensor, *arguments: Any, **settings: Any) -> Tensor:
    """Compute a quantile; torch computes its ranks in float64, but not on a device without it."""
    if not isinstance(values, OnDevice):
        return QUANTILE(values, *arguments, **settings)
    return OnDevice(QUANTILE(values.held, *arguments, **settings))


TENSOR, QUANTILE = torch.tensor, Tensor.quantile


@pytest.fixture
def fake_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    monkeypatch.setattr("torch.tensor", make_tensor)
    for owner in ("torch", "torch.Tensor"):
        monkeypatch.setattr(f"{owner}.quantile", compute_quantile)
    with FakeDevice():
        yield FAKE


def move(module: nn.Module) -> nn.Module:
    """Put the weights of a module on the made-up device."""
    for part in module.modules():
        for name, weight in list(part._parameters.items()):
            if weight is not None and not isinstance(weight.data, OnDevice):
                part._parameters[name] = nn.Parameter(OnDevice(weight.data), requires_grad=False)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None and not isinstance(buffer, OnDevice):
                part._buffers[name] = OnDevice(buffer)
    return module


def test_the_fake_refuses_what_a_real_one_refuses(fake_device: torch.device) -> None:
    values = torch.ones(3, device=fake_device)
    assert values.device == fake_device
    assert (values + 1).sum().item() == 6 and (values.cpu().double() + 1).sum() == 6
    with pytest.raises(TypeError, match="float64"):
        values.double()
    with pytest.raises(TypeError, match="float64"):
        torch.zeros(2, dtype=torch.float64, device=fake_device)
    with pytest.raises(RuntimeError, match="same device"):
        values + torch.ones(3)


def test_auto_takes_the_gpu_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, expected in (
        (True, True, "cuda"),
        (False, True, "mps"),
        (False, False, "cpu"),
    ):
        monkeypatch.setattr("torch.cuda.is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr("torch.backends.mps.is_available", lambda mps=mps: mps)
        assert choose_device("auto") == expected
        assert choose_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="no mps device is available here; use auto or cpu"):
        choose_device("mps")
    with pytest.raises(ConfigError, match="expected one of auto, cpu, cuda, mps, got tpu"):
        choose_device("tpu")


def test_a_device_is_named_as_people_and_as_torch_do(
    tiny_card: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert read_device("auto") == read_device(torch.device("cpu")) == torch.device("cpu")
    assert read_device("meta") == torch.device("meta")
    for name, words in (
        ("gpu", "or a name of torch such as cuda:1, got gpu"),
        ("auto:1", "or a name of torch such as cuda:1, got auto:1"),
        ("cuda:1", "no cuda device is available here; use auto or cpu"),
        ("mps", "no mps device is available here; use auto or cpu"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_device(name)
        with pytest.raises(ClassifierError, match=f"cannot be moved to {name}: device: .*{words}"):
            open_classifier(tiny_card, device=name)
    assert open_classifier(tiny_card, device="auto").device == torch.device("cpu")
    black_box = open_classifier(lambda images: images.mean((2, 3)), size=32, classes=[*"abc"])
    with pytest.raises(ClassifierError, match="no cuda device"):  # it would compute on the CPU
        black_box.to("cuda")
    assert black_box.to("auto").device == torch.device("cpu")


@pytest.fixture
def fake_classifier(tiny_card: Path, fake_device: torch.device) -> Classifier:
    """A classifier whose weights are on the made-up device."""
    classifier = open_classifier(tiny_card)
    move(cast(nn.Module, classifier.module))
    classifier.device = fake_device
    return classifier


METHODS_HERE = sorted(set(methods.names()) - {"true_box", "attention_rollout"})


@pytest.mark.parametrize("name", METHODS_HERE)
def test_methods_run_on_the_device(name: str, fake_classifier: Classifier, tiny_card: Path) -> None:
    quick = {"rise": ":masks=8", "mfpp": ":masks=8", "meaningful_perturbation": ":steps=2"}
    method = methods.get(name + quick.get(name, ""))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    try:
        expected = method(open_classifier(tiny_card), images, 1)  # type: ignore[operator]
    except ClassifierError as error:
        pytest.skip(str(error))
    maps = method(fake_classifier, images.to(FAKE), 1)  # type: ignore[operator]
    assert maps.device == FAKE
    torch.testing.assert_close(maps.cpu(), expected, atol=1e-4, rtol=1e-3)


QUICK = ("pointing_game", "energy", "ncc", "dauc", "total_variation")


@pytest.mark.parametrize("metrics", [QUICK, pytest.param(None, marks=pytest.mark.slow)])
def test_a_comparison_runs_on_the_device(
    metrics: tuple[str, ...] | None, fake_classifier: Classifier, tmp_path: Path
) -> None:
    results = compare(
        fake_classifier,
        "planted:size=32,images=8,classes=3,difficulty=0",
        methods="grad_cam,occlusion:window=0.5,stride=0.25",
        metrics=metrics,
        limit=4,
        steps=4,
        out=tmp_path,
        device=FAKE,
    )
    assert not results.failed and {row.explainer for row in results.rows} >= {"grad_cam"}


@pytest.mark.parametrize(
    "name", [name for name, kind in FILTERS.items() if not issubclass(kind, Purifier)]
)
def test_filters_run_on_the_device(name: str, fake_device: torch.device) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = FILTERS[name]()(images)
    filtered = FILTERS[name]()(images.to(FAKE))
    assert filtered.device == FAKE
    torch.testing.assert_close(filtered.cpu(), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["fgsm", "i_fgsm", "pgd", "mult", "deepfool", "sparse_evo"])
def test_attacks_run_on_the_device(name: str, fake_classifier: Classifier) -> None:
    quick = {"i_fgsm": {"steps": 2}, "pgd": {"steps": 2}, "sparse_evo": {"queries": 40}}
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(FAKE)
    labels = fake_classifier(images).argmax(1)
    adversarial = ATTACKS[name](**quick.get(name, {}))(Untargeted(fake_classifier, labels), images)
    assert adversarial.device == FAKE and adversarial.cpu().isfinite().all()


class _NoFitError(Exception):
    """Ends a training where Lightning would begin."""


@pytest.mark.parametrize(
    ("kind", "few"),
    [
        ("mask", {"embedding": {"steps": 2, "images": 8}}),
        ("mask", {"embedding": {"form": "masked", "steps": 2, "images": 24, "masks": 2}}),
        ("counterpart", {"embedding": {"steps": 2, "images": 8}}),
        ("latent", {"shape": {"side": 32, "code": 8, "width": 8, "reader": 16}}),
        ("shapley", {"embedding": {"steps": 2, "images": 8}}),
    ],
    ids=["mask", "masked", "counterpart", "latent", "shapley"],
)
def test_trainings_run_on_the_device(
    kind: str,
    few: dict[str, Any],
    fake_classifier: Classifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen, few = find_kind(kind), {"schedule": {"steps": 2, "batch": 4}, **few}
    settings = chosen.presets.parse(few)
    network = build_network(settings, fake_classifier, seed=0)
    module = chosen.build_training(network, fake_classifier, settings, 0)
    monkeypatch.setattr(nn.Module, "to", lambda self, device: move(self))
    monkeypatch.setattr(Classifier, "to", lambda self, device: self)
    monkeypatch.setattr(module, "step_generator", lambda: torch.Generator().manual_seed(0))
    monkeypatch.setattr(module, "log_terms", lambda terms, figures: None)
    monkeypatch.setattr(Trainer, "_build_lightning_trainer", _end)
    monkeypatch.setattr(  # the parameters of the device take no gradients
        "apercu.explainers.masked_embedding.descend",
        lambda network, settings, steps, phase: list(islice(steps(0), settings.steps)),
    )
    source = Planted(images=40, size=32, classes=3, difficulty=0.0)
    trainer = Trainer(fake_classifier, source, tmp_path, Hardware("cpu"), say=print)
    with pytest.raises(_NoFitError):
        trainer.fit(module)
    move(module)  # as Lightning does
    loss = module.training_step(torch.rand(4, 3, 32, 32).to(FAKE), 0)
    assert loss.device == FAKE and loss.cpu().isfinite()


def _end(*arguments: Any) -> None:
    raise _NoFitError


@pytest.mark.parametrize(
    ("layer", "last"),
    [
        (nn.Conv2d(8, 16, 1, stride=2), False),
        (nn.Conv2d(15, 16, (1, 1), stride=(1, 2)), False),
        (nn.Conv2d(16, 16, 1, stride=2), True),
        (nn.Conv2d(8, 16, 1), True),
        (nn.Conv2d(3, 16, 3, stride=2), True),
    ],
)
def test_channels_are_not_last_where_gradients_would_be_wrong(layer: nn.Module, last: bool) -> None:
    expected = torch.channels_last if last else torch.contiguous_format
    assert choose_memory_format(nn.Sequential(nn.ReLU(), layer)) == expected


@pytest.mark.parametrize(("width", "last"), [(8, False), (16, True)])
def test_a_small_network_that_is_trained_further_has_the_right_gradients(
    width: int, last: bool
) -> None:
    torch.manual_seed(0)
    module = SmallResNet(3, 4, (32, 32), width).eval()
    classifier = open_classifier(module, size=32, mean=0.5, std=0.5)
    copy = copy_trainable(classifier)
    convolution = next(each for each in copy.modules() if isinstance(each, nn.Conv2d))
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last) == last
    images, reference = torch.rand(3, 3, 32, 32), SmallResNet(3, 4, (32, 32), width).eval().double()
    reference.load_state_dict(module.state_dict())
    copy(images).square().mean().backward()
    reference(images.double()).square().mean().backward()
    for trained, exact in zip(copy.parameters(), reference.parameters(), strict=True):
        assert trained.grad is not None and exact.grad is not None
        torch.testing.assert_close(trained.grad.double(), exact.grad, atol=1e-5, rtol=1e-3)

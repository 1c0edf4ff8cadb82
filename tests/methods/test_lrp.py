from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError, ConfigError
from apercu.methods.lrp import Lrp

Layer = Callable[[torch.Tensor], torch.Tensor]


def dense(layer: nn.Conv2d, shape: torch.Size) -> torch.Tensor:
    """A convolution without its bias as a matrix, outputs × inputs."""
    basis = torch.eye(shape.numel(), dtype=torch.float64).view(-1, *shape)
    options = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return F.conv2d(basis, layer.weight.double(), None, *options).flatten(1).T


def bias_of(layer: nn.Conv2d, places: int) -> torch.Tensor:
    assert layer.bias is not None
    return layer.bias.double().repeat_interleave(places)


def epsilon_rule(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, r: torch.Tensor, epsilon: float = 1e-6
) -> torch.Tensor:
    result = torch.zeros_like(x)
    for j, row in enumerate(w):
        z = (row @ x + b[j]).item()
        result += x * row * r[j] / (z + (epsilon if z >= 0 else -epsilon))
    return result


def gamma_rule(
    x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, r: torch.Tensor, gamma: float = 0.25
) -> torch.Tensor:
    """The generalised γ rule: contributions of the output's own sign count 1 + γ times."""
    result = torch.zeros_like(x)
    for j, row in enumerate(w):
        parts, own = x * row, b[j]
        sign = 1 if parts.sum() + own > 0 else -1
        parts = parts * (1 + gamma * (parts * sign > 0))
        own = own * (1 + gamma * (own * sign > 0))
        result += parts * r[j] / (parts.sum() + own)
    return result


def box_rule(
    x: torch.Tensor, w: torch.Tensor, r: torch.Tensor, bounds: tuple[float, float]
) -> torch.Tensor:
    result = torch.zeros_like(x)
    for j, row in enumerate(w):
        parts = x * row - bounds[0] * row.clamp(min=0) - bounds[1] * row.clamp(max=0)
        if parts.sum() > 0:
            result += parts * r[j] / parts.sum()
    return result


def literal(network: nn.Module, image: torch.Tensor, target: int) -> torch.Tensor:
    """Bach et al., layer by layer with matrices, for the `residual` network in float64."""
    conv, norm = network.stem[0], network.stem[1]
    first, second = network.stages
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    x0 = ((image - 0.5) / 0.25).double()
    w0 = dense(conv, x0.shape) * scale.repeat_interleave(12 * 16)[:, None]
    shift = (conv.bias - norm.running_mean).double() * scale + norm.bias.double()
    x0 = x0.flatten()
    x1 = (w0 @ x0 + shift.repeat_interleave(12 * 16)).relu()
    values, weights = [x1], []
    for stage, size in ((first, (6, 12, 16)), (second, (8, 6, 8))):
        sides = (stage.body, stage.side)
        pair = [(dense(side, torch.Size(size)), bias_of(side, 48)) for side in sides]
        weights.append(pair)
        values.append(sum(w @ values[-1] + b for w, b in pair).relu())
    pooled = values[-1].view(8, 48).mean(dim=1)
    logits = network.head.weight.double() @ pooled + network.head.bias.double()
    r = torch.zeros_like(logits)
    r[target] = logits[target]
    r = epsilon_rule(pooled, network.head.weight.double(), network.head.bias.double(), r)
    last = values[-1].view(8, 48)
    share = last / last.sum(dim=1, keepdim=True).clamp(min=1e-30)
    r = (share * r[:, None]).flatten()
    for x, pair in zip(values[-2::-1], weights[::-1], strict=True):
        terms = [w @ x + b for w, b in pair]
        total = sum(terms)
        shares = [torch.where(r == 0, 0.0, term / total * r) for term in terms]
        r = sum(gamma_rule(x, w, b, s) for (w, b), s in zip(pair, shares, strict=True))
    return box_rule(x0, w0, r, (-2.0, 2.0)).view(3, 24, 32).sum(dim=0)


def test_equals_the_literal_rules_layer_by_layer(
    residual: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    norm = residual.module.stem[1]  # type: ignore[union-attr, index]
    generator = torch.Generator().manual_seed(4)
    for values in (norm.weight, norm.bias, norm.running_mean):
        values.data.copy_(torch.randn(6, generator=generator))
    norm.running_var.uniform_(0.5, 2.0, generator=generator)
    assert norm.weight.min() < 0
    maps = Lrp()(residual, images[:2], targets[:2])
    for index, target in enumerate(targets[:2].tolist()):
        expected = literal(residual.module, images[index], target)  # type: ignore[arg-type]
        spread = expected.abs().max().item()
        torch.testing.assert_close(maps[index].double(), expected, atol=1e-4 * spread, rtol=1e-3)


def test_of_a_linear_model_is_input_times_weight(
    linear: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    weight = linear.module[1].weight.view(-1, 3, 24, 32)[targets]  # type: ignore[union-attr, index]
    expected = (weight * (images - 0.5) / 0.25).sum(dim=1)
    torch.testing.assert_close(Lrp()(linear, images, targets), expected, atol=1e-5, rtol=1e-3)


class Plain(nn.Module):
    """Without biases: nothing can absorb relevance."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 5, 3, stride=2, bias=False)
        self.act = act
        self.two = nn.Conv2d(5, 6, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.three = nn.Linear(6, 4, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.act(self.one(F.pad(images, (0, 1, 0, 1))))
        return self.three(self.pool(self.act(self.two(hidden)) + hidden[:, :1]).mean(dim=(2, 3)))


@pytest.mark.parametrize("act", [nn.ReLU(inplace=True), nn.ReLU6(), nn.SiLU()])
@pytest.mark.parametrize("gamma", [0.0, 0.25, 10.0])
def test_relevance_adds_up_to_the_logit_without_biases(
    act: nn.Module,
    gamma: float,
    opened: Callable[[nn.Module], Classifier],
    images: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    torch.manual_seed(2)
    network = Plain(act)
    network.one.weight.data.mul_(4)  # so that ReLU6 cuts
    classifier = opened(network)
    maps = Lrp(gamma=gamma, epsilon=0.0)(classifier, images, targets).sum(dim=(1, 2))
    logits = classifier(images).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(maps, logits, atol=1e-4, rtol=1e-3)


def test_box_explains_black_pixels_where_the_network_pads_its_input_too(
    opened: Callable[[nn.Module], Classifier], targets: torch.Tensor
) -> None:
    """By the other rules a pixel that the network receives as 0 could have no relevance."""
    torch.manual_seed(2)
    maps = Lrp()(opened(Plain(nn.ELU())), torch.full((3, 3, 24, 32), 1e-6), targets)
    assert (maps != 0).float().mean() > 0.9


def test_epsilon_absorbs_small_contributions(
    linear: Classifier, images: torch.Tensor, targets: torch.Tensor
) -> None:
    ratio = Lrp(epsilon=1.0)(linear, images, targets) / Lrp(epsilon=0.0)(linear, images, targets)
    logits = linear(images).gather(1, targets[:, None])[:, :, None].abs()
    torch.testing.assert_close(ratio, (logits / (logits + 1)).expand_as(ratio), atol=1e-3, rtol=0)


def test_a_gate_counts_as_a_constant(
    opened: Callable[[nn.Module], Classifier], images: torch.Tensor, targets: torch.Tensor
) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.gate = nn.Linear(2304, 4, bias=False), nn.Linear(2304, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.body(images.flatten(1)) * self.gate(images.flatten(1)).sigmoid()

    torch.manual_seed(0)
    classifier = opened(Gated())
    maps = Lrp(epsilon=0.0)(classifier, images, targets).sum(dim=(1, 2))
    logits = classifier(images).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(maps, logits, atol=1e-5, rtol=1e-4)


class Swish(nn.Module):
    """Written out: the sigmoid is a gate, so the product has one factor alone."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * values.sigmoid()


def test_relevance_adds_up_through_a_product_with_a_gate(
    opened: Callable[[nn.Module], Classifier], images: torch.Tensor, targets: torch.Tensor
) -> None:
    torch.manual_seed(2)
    classifier = opened(Plain(Swish()))
    maps = Lrp(epsilon=0.0)(classifier, images, targets).sum(dim=(1, 2))
    logits = classifier(images).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(maps, logits, atol=1e-4, rtol=1e-3)


class Bent(nn.Module):
    """A function as an activation."""

    def __init__(self, function: Layer) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.function(values)


@pytest.mark.parametrize(
    "act",
    [
        lambda values: values.clip(-0.1, 0.1),
        lambda values: values.clamp_min(0).clamp_max(0.2),
        lambda values: torch.minimum(values, torch.tensor(0.1)),
        lambda values: torch.maximum(values, torch.zeros_like(values)),
        lambda values: torch.maximum(values, values.flip(1)),
        F.softsign,
        F.softshrink,
        F.tanhshrink,
        F.logsigmoid,
        torch.erf,
        torch.atan,
        torch.asinh,
        lambda values: values.relu().log1p(),
        lambda values: F.relu(input=values),
        lambda values: torch.min(values, torch.tensor(0.1)),
        lambda values: values.max(1, keepdim=True)[0].expand_as(values),
        lambda values: values.clamp(-0.9, 0.9).asin(),
    ],
)
def test_relevance_adds_up_through_any_activation(
    act: Layer,
    opened: Callable[[nn.Module], Classifier],
    images: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    torch.manual_seed(2)
    network = Plain(Bent(act))
    network.one.weight.data.mul_(4)
    classifier = opened(network)
    maps = Lrp(gamma=0.0, epsilon=0.0)(classifier, images, targets).sum(dim=(1, 2))
    logits = classifier(images).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(maps, logits, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("act", "word"),
    [
        (lambda values: F.glu(torch.cat([values, values], 1), 1), "glu"),
        (lambda values: values + values.var((2, 3), keepdim=True), "var"),
        (lambda values: values + F.cosine_similarity(values, values + 1)[:, None], "cosine_sim"),
        (lambda values: values * F.relu6(values + 3) / 6, "mul"),
        (lambda values: values * values, "mul"),
        (lambda values: torch.multiply(values, values), "mul"),
        (lambda values: torch.true_divide(values, 1 + values.abs()), "div"),
        (lambda values: values.float_power(2).float(), "float_power"),
        (lambda values: torch.hypot(values, torch.ones(1)), "hypot"),
        (lambda values: F.softmin(values, 1), "softmin"),
        (lambda values: 1 / (1 + values.relu()), "__rdiv"),
        (lambda values: values / (1 + values.relu()), "div"),
        (lambda values: values**2, "pow"),
        (lambda values: F.normalize(values, dim=1), "normalize"),
        (lambda values: torch.einsum("bchw,bchw->bchw", values, values), "einsum"),
    ],
)
def test_what_would_not_add_up_is_refused(
    act: Layer,
    word: str,
    opened: Callable[[nn.Module], Classifier],
    images: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    with pytest.raises(ClassifierError, match=f"relevance: {word}.* has no rule here"):
        Lrp()(opened(Plain(Bent(act))), images, targets)


def test_shows_the_object_of_a_photograph(apercu_data: Path) -> None:
    from apercu import open_classifier, open_images
    from apercu.maps import fill_boxes

    classifier = open_classifier(apercu_data / "models" / "mobilenetv2_100.json")
    source = open_images(apercu_data / "data" / "imagenet-val")
    inside, area = [], []
    for index in (3, 200):
        item = source[index]
        assert item.boxes is not None
        image = classifier.prepare(item.picture)[None]
        height, width = item.picture.shape[1:]
        boxes = item.boxes * torch.tensor([224 / width, 224 / height] * 2)
        region = fill_boxes(boxes, (224, 224)).any(dim=0)
        relevance = Lrp()(classifier, image, classifier(image).argmax(dim=1))[0].clamp(min=0)
        inside.append((relevance[region].sum() / relevance.sum()).item())
        area.append(region.float().mean().item())
    assert all(share > expected + 0.15 for share, expected in zip(inside, area, strict=True))


class TestRefusals:
    def test_a_black_box(
        self, black_box: Classifier, images: torch.Tensor, targets: torch.Tensor
    ) -> None:
        with pytest.raises(ClassifierError, match="lrp needs a classifier with gradients"):
            Lrp()(black_box, images, targets)

    def test_a_network_that_norms_tokens(
        self,
        opened: Callable[[nn.Module], Classifier],
        images: torch.Tensor,
        targets: torch.Tensor,
    ) -> None:
        classifier = opened(
            nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten(), nn.LayerNorm(1700), nn.Linear(1700, 4))
        )
        with pytest.raises(ClassifierError, match="layer_norm has no rule here"):
            Lrp()(classifier, images, targets)

    def test_a_network_that_changes_values_behind_its_layers(
        self,
        opened: Callable[[nn.Module], Classifier],
        images: torch.Tensor,
        targets: torch.Tensor,
    ) -> None:
        class Behind(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.one, self.two = nn.Conv2d(3, 4, 8, stride=8), nn.Linear(48, 4)

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                hidden = self.one(images)
                hidden.relu_()
                return self.two(hidden.flatten(1)) * 10

        torch.manual_seed(0)
        with pytest.raises(ClassifierError, match="cannot be followed to its logits"):
            Lrp()(opened(Behind()), images, targets)

    def test_a_network_without_layers(
        self,
        opened: Callable[[nn.Module], Classifier],
        images: torch.Tensor,
        targets: torch.Tensor,
    ) -> None:
        with pytest.raises(ClassifierError, match="cannot be followed"):
            Lrp()(opened(nn.Flatten()), images, targets)

    @pytest.mark.parametrize("settings", [{"gamma": -0.1}, {"epsilon": -1.0}])
    def test_settings_out_of_range(self, settings: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match="gamma and epsilon of at least 0"):
            Lrp(**settings)

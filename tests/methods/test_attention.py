"""Attention rollout and attention relevance against slow versions from the papers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from timm.models.xcit import Xcit
from torch import nn
from torchvision.models import VisionTransformer as TorchvisionTransformer

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError
from apercu.maps import resize_maps
from apercu.methods import AttentionRelevance, AttentionRollout, Method
from apercu.methods.attention import find_token_flow

Opened = Callable[[nn.Module], Classifier]
both = pytest.mark.parametrize("method", [AttentionRollout(), AttentionRelevance()])


def build_vit(**options: object) -> VisionTransformer:
    """Patches of 8 pixels: 3 × 4 positions in an image of 24 × 32."""
    torch.manual_seed(0)
    shape = {"img_size": (24, 32), "patch_size": 8, "embed_dim": 12, "depth": 3, "num_heads": 3}
    shape["num_classes"] = 4
    vit = VisionTransformer(**{**shape, **options})  # type: ignore[arg-type]
    for weight in vit.parameters():  # attention that differs between tokens
        nn.init.normal_(weight, std=0.5)
    return vit


def forward_literally(
    vit: VisionTransformer, image: torch.Tensor, read: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The logits of one image and the attention of every head, layer after layer."""
    tokens = vit.patch_embed.proj(image[None]).flatten(2).transpose(1, 2)[0]
    prefix = [t[0] for t in (vit.cls_token, vit.reg_token) if t is not None]
    if vit.no_embed_class:
        tokens = torch.cat([*prefix, tokens + vit.pos_embed[0]])
    else:
        tokens = torch.cat([*prefix, tokens]) + vit.pos_embed[0]
    attentions = []
    for block in vit.blocks:
        attention = block.attn
        n, heads, width = len(tokens), attention.num_heads, attention.head_dim
        parts = attention.qkv(block.norm1(tokens)).view(n, 3, heads, width)
        matrices = []
        outputs = []
        for head in range(heads):
            query, key, value = (parts[:, part, head] for part in range(3))
            matrix = torch.softmax(query @ key.T / math.sqrt(width), dim=1)
            matrices.append(matrix)
            outputs.append(matrix @ value)
        attentions.append(matrices)
        tokens = tokens + attention.proj(torch.cat(outputs, dim=1))
        tokens = tokens + block.mlp(block.norm2(tokens))
    return read(vit.norm(tokens)), attentions  # type: ignore[return-value]


def roll_out_literally(attentions: list[list[torch.Tensor]], rows: list[int]) -> torch.Tensor:
    """Abnar & Zuidema, section 3."""
    count = len(attentions[0][0])
    rollout = torch.eye(count)
    for heads in attentions:
        mean = torch.zeros(count, count)
        for matrix in heads:
            mean += matrix.detach() / len(heads)
        rollout = (0.5 * mean + 0.5 * torch.eye(count)) @ rollout
    return torch.stack([rollout[row] for row in rows]).mean(dim=0)


def relate_literally(
    logit: torch.Tensor, attentions: list[list[torch.Tensor]], rows: list[int]
) -> torch.Tensor:
    """Chefer et al., equations 1, 5 and 6."""
    count = len(attentions[0][0])
    relevance = torch.eye(count)
    for heads in attentions:
        mean = torch.zeros(count, count)
        for matrix in heads:
            (gradient,) = torch.autograd.grad(logit, matrix, retain_graph=True)
            for i in range(count):
                for j in range(count):
                    mean[i, j] += max(0.0, float(gradient[i, j] * matrix[i, j].detach())) / len(
                        heads
                    )
        relevance = relevance + mean @ relevance
    return torch.stack([relevance[row] for row in rows]).mean(dim=0)


CLASS_TOKEN: dict[str, object] = {}
REGISTERS: dict[str, object] = {"reg_tokens": 3, "no_embed_class": True}
MEAN: dict[str, object] = {"global_pool": "avg", "class_token": False, "fc_norm": False}
MEAN_WITH_CLASS: dict[str, object] = {"global_pool": "avg", "fc_norm": False}


@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "open"])
@pytest.mark.parametrize(
    ("options", "prefix", "rows"),
    [
        (CLASS_TOKEN, 1, [0]),
        (REGISTERS, 4, [0]),
        (MEAN, 0, list(range(12))),
        (MEAN_WITH_CLASS, 1, list(range(1, 13))),
    ],
    ids=["class token", "registers", "mean", "mean beside a class token"],
)
def test_both_are_the_literal_formulas(
    options: dict[str, object],
    prefix: int,
    rows: list[int],
    is_fused: bool,
    opened: Opened,
    images: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    vit = build_vit(**options)
    for block in vit.blocks:
        block.attn.fused_attn = is_fused
    classifier = opened(vit)
    rollouts, relevances = [], []
    for image, target in zip(images, targets.tolist(), strict=True):
        with torch.enable_grad():
            logits, attentions = forward_literally(
                vit, image.clone().requires_grad_(), lambda tokens: vit.head(tokens[rows].mean(0))
            )
            torch.testing.assert_close(logits, classifier(image[None])[0])
            rollouts.append(roll_out_literally(attentions, rows)[prefix:])
            relevances.append(relate_literally(logits[target], attentions, rows)[prefix:])
    for method, expected in ((AttentionRollout(), rollouts), (AttentionRelevance(), relevances)):
        coarse = torch.stack(expected).view(3, 3, 4)
        assert coarse.std() > 1e-4
        torch.testing.assert_close(
            method(classifier, images, targets), resize_maps(coarse, (24, 32)), atol=1e-5, rtol=1e-4
        )


def test_relevance_depends_on_the_class_and_rollout_does_not(
    opened: Opened, images: torch.Tensor
) -> None:
    classifier = opened(build_vit())
    assert not torch.allclose(
        AttentionRelevance()(classifier, images, 0), AttentionRelevance()(classifier, images, 1)
    )
    assert torch.equal(
        AttentionRollout()(classifier, images, 0), AttentionRollout()(classifier, images, 1)
    )


class Encoder(nn.Module):
    """PyTorch's own layers, a class token first or registers last."""

    def __init__(self, *, registers_last: bool, batch_first: bool, fast: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 12, 8, stride=8)
        self.extra = nn.Parameter(torch.randn(1, 2, 12))
        layer = nn.TransformerEncoderLayer(
            12, 3, 24, batch_first=batch_first, norm_first=not fast, dropout=0.1
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(12, 4)
        self.registers_last, self.batch_first = registers_last, batch_first

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.embed(images).flatten(2).transpose(1, 2)
        extra = self.extra.expand(len(images), -1, -1)
        order = (patches, extra) if self.registers_last else (extra, patches)
        tokens = torch.cat(order, dim=1)
        if not self.batch_first:
            tokens = self.layers(tokens.transpose(0, 1)).transpose(0, 1)
        else:
            tokens = self.layers(tokens)
        return self.head(tokens[:, -1] if self.registers_last else tokens[:, 0])


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("fast", [True, False])
def test_the_attention_of_pytorch_gives_its_own_weights(
    batch_first: bool, fast: bool, opened: Opened, images: torch.Tensor, targets: torch.Tensor
) -> None:
    module = Encoder(registers_last=False, batch_first=batch_first, fast=fast)
    classifier = opened(module)
    weights: list[torch.Tensor] = []
    layers = module.layers.layers

    def keep(layer: nn.Module, args: tuple[torch.Tensor, ...], options: dict[str, object]) -> None:
        plain = {**options, "need_weights": True, "average_attn_weights": False}
        _, matrix = nn.MultiheadAttention.forward(layer, *args, **plain)  # type: ignore[arg-type]
        weights.append(matrix)

    handles = [
        layer.self_attn.register_forward_pre_hook(keep, with_kwargs=True) for layer in layers
    ]
    classifier(images)
    for handle in handles:
        handle.remove()
    rollout = torch.eye(14)
    for matrix in weights:
        rollout = (matrix.mean(dim=1) + torch.eye(14)) / 2 @ rollout
    expected = resize_maps(rollout[:, 0, 2:].view(3, 3, 4), (24, 32))
    torch.testing.assert_close(AttentionRollout()(classifier, images, targets), expected)
    relevance = AttentionRelevance()(classifier, images, targets)
    assert relevance.std(dim=(1, 2)).min() > 0


def test_tokens_after_the_positions_are_told_apart(
    opened: Opened, images: torch.Tensor, targets: torch.Tensor
) -> None:
    last = Encoder(registers_last=True, batch_first=True)
    first = Encoder(registers_last=False, batch_first=True)
    with torch.no_grad():  # the token that is read is the last of one and the first of the other
        first.extra.copy_(last.extra.flip(1))
    for method in (AttentionRollout(), AttentionRelevance()):
        torch.testing.assert_close(
            method(opened(last), images, targets), method(opened(first), images, targets)
        )


class Handwritten(nn.Module):
    """Attention as people write it: with bmm, einsum or matmul, and a grid of its own."""

    def __init__(self, product: str, stride: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 12, 8, stride=stride)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.attend = nn.Linear(12, 36)
        self.mix = nn.Linear(12, 12)
        self.head = nn.Linear(12, 4)
        self.product = product

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.token.expand(len(images), -1, -1), tokens), dim=1)
        for _ in range(2):
            parts = self.attend(F.layer_norm(tokens, (12,))).chunk(3, dim=2)
            query, key, value = (part.unflatten(2, (3, 4)).transpose(1, 2) for part in parts)
            matrix = F.softmax(query @ key.transpose(2, 3), dim=3)
            if self.product == "matmul":
                result = matrix.matmul(value)
            elif self.product == "einsum":
                result = torch.einsum("b h i j, b h j d -> b h i d", matrix, value)
            else:
                result = torch.bmm(matrix.flatten(0, 1), value.flatten(0, 1)).view_as(value)
            tokens = tokens + self.mix(result.transpose(1, 2).flatten(2))
        return self.head(tokens[:, 0])


@both
def test_every_way_of_writing_attention_gives_the_same(
    method: Method, opened: Opened, images: torch.Tensor, targets: torch.Tensor
) -> None:
    maps = [
        method(opened(Handwritten(product)), images, targets)
        for product in ("matmul", "einsum", "bmm")
    ]
    assert maps[0].std() > 0
    torch.testing.assert_close(maps[1], maps[0])
    torch.testing.assert_close(maps[2], maps[0])


def test_overlapping_patches_have_their_own_grid(opened: Opened) -> None:
    """5 × 7 positions, although 24 × 32 pixels hold 3 × 4 patches of 8."""
    network = Handwritten("matmul", stride=4)
    flow = find_token_flow(opened(network), network, "attention_rollout")
    assert (flow.layout.rows, flow.layout.columns) == (5, 7)
    assert flow.count == 36
    assert flow.outputs == (0,)


class Pooled(nn.Module):
    """A learnt query that reads all positions at the end, as in SigLIP."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = build_vit(class_token=False, global_pool="map", depth=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.vit(images)


@both
def test_a_last_layer_with_one_query_is_followed(
    method: Method, opened: Opened, images: torch.Tensor, targets: torch.Tensor
) -> None:
    maps = method(opened(Pooled()), images, targets)
    assert maps.shape == (3, 24, 32)
    assert maps.std(dim=(1, 2)).min() > 0


@pytest.mark.parametrize(
    "build",
    [
        lambda: Eva(
            (24, 32), 8, num_classes=4, embed_dim=16, depth=2, num_heads=2, use_rot_pos_emb=True
        ),
        lambda: build_vit(qkv_bias=False, init_values=0.1),
    ],
    ids=["rotary", "layer scale"],
)
@both
def test_other_transformers_of_one_sequence_work(
    method: Method,
    build: Callable[[], nn.Module],
    opened: Opened,
    images: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    torch.manual_seed(0)
    network = build()
    for name, weight in network.named_parameters():
        if name.startswith("head"):
            nn.init.normal_(weight)
    assert method(opened(network), images, targets).std(dim=(1, 2)).min() > 0


def build_swin() -> nn.Module:
    return SwinTransformer(
        (24, 32),
        patch_size=2,
        embed_dim=8,
        depths=(2,),
        num_heads=(2,),
        window_size=4,
        num_classes=4,
    )


def build_xcit() -> nn.Module:
    return Xcit((24, 32), patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=4)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (build_swin, "has attention within windows"),
        (build_xcit, "has layers (with different numbers of tokens|in which not all)"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(4)), "no attention"),
    ],
    ids=["windows", "channels", "convolutions"],
)
@both
def test_other_networks_are_refused_in_one_line(
    method: Method,
    build: Callable[[], nn.Module],
    reason: str,
    opened: Opened,
    images: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    network = build()
    with torch.no_grad():
        network(images)
    with pytest.raises(ClassifierError, match=f"{reason}.*: choose grad_cam") as error:
        method(opened(network), images, targets)
    assert "\n" not in str(error.value)


class Resized(nn.Module):
    """A network for square images, behind a resizing."""

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network, self.side = network, side

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        size = (self.side, self.side)
        output = self.network(F.interpolate(images, size, mode="bilinear"))
        return getattr(output, "logits", output)


@both
def test_torchvision(
    method: Method, opened: Opened, images: torch.Tensor, targets: torch.Tensor
) -> None:
    torch.manual_seed(0)
    network = TorchvisionTransformer(24, 8, 2, 2, 16, 32, num_classes=4)
    for weight in network.heads.parameters():
        nn.init.normal_(weight)
    maps = method(opened(Resized(network, 24)), images, targets)
    assert maps.std(dim=(1, 2)).min() > 0


@both
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["ViT", "DeiT", "Dinov2", "Dinov2WithRegisters"])
def test_transformers(
    method: Method,
    name: str,
    attention: str,
    opened: Opened,
    images: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    torch.manual_seed(0)
    shape = {"image_size": 24, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "intermediate_size": 32, "num_labels": 4}
    config = getattr(transformers, f"{name}Config")(**shape, attn_implementation=attention)
    network = getattr(transformers, f"{name}ForImageClassification")(config)
    for weight in network.classifier.parameters():
        nn.init.normal_(weight)
    maps = method(opened(Resized(network, 24)), images, targets)
    assert maps.std(dim=(1, 2)).min() > 0

"""Feature maps of networks of every form: tokens, attention, channels last, stages of timm."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from apercu import open_classifier
from apercu.classifiers import Classifier
from apercu.classifiers.positions import MapLayout, find_layout, make_probes
from apercu.errors import ConfigError, NoFeatureMapsError
from apercu.networks.feature_maps import GraphMaps, StageMaps, find_stride
from apercu.networks.graph_encoder import EncoderWithHead, GraphEncoder
from apercu.networks.timm_encoder import TimmEncoder


class Transformer(nn.Module):
    """Patches, attention as a product of matrices, and a class token; by `stride` they overlap."""

    def __init__(self, side: int, patch: int, stride: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, patch, stride)
        self.grid = (side - patch) // stride + 1
        self.first = nn.Parameter(torch.randn(1, 1, 12))
        self.attend, self.join, self.norm = nn.Linear(12, 36), nn.Linear(12, 12), nn.LayerNorm(12)
        self.head = nn.Linear(12, 3)
        self.positions = nn.Parameter(0.1 * torch.randn(1, self.grid**2, 12))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.positions
        tokens = torch.cat((self.first.expand(images.shape[0], -1, -1), tokens), 1)
        query, key, value = self.attend(tokens).chunk(3, 2)
        attention = (query @ key.transpose(1, 2)).softmax(2).unsqueeze(1)
        tokens = self.norm(tokens + self.join(attention.squeeze(1) @ value))
        return self.head(tokens[:, 0] + tokens[:, 1:].mean(1))


class AttentionWithoutClassToken(nn.Module):
    """Sixteen tokens of 32 pixels: their attention matrix has the sides of a map of stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend = nn.Conv2d(3, 12, 8, 8), nn.Linear(12, 36)
        self.head = nn.Linear(12, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        query, key, value = self.attend(tokens).chunk(3, 2)
        attention = (query @ key.transpose(1, 2)).softmax(2).unsqueeze(1)
        return self.head((tokens + attention.squeeze(1) @ value).mean(1))


class ChannelsLast(nn.Module):
    """Its last stage has its channels last, and as many of them as columns."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.mix(self.embed(images).permute(0, 2, 3, 1)).relu()
        return self.head(features.mean((1, 2)))


class TableOfPositions(nn.Module):
    """Biases of positions, from a table with the sides of a map of stride 2, as in Swin v2."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.bias = nn.Conv2d(3, 8, 4, 4), nn.Linear(2, 16)
        self.register_buffer("table", torch.rand(1, 16, 16, 2))
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.embed(images).relu()
        return self.head((features + self.bias(self.table).mean()).mean((2, 3)))


def open_network(module: nn.Module, size: int) -> Classifier:
    return open_classifier(module, size=size, mean=0.5, std=0.25)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def follows_image(encoder: GraphEncoder, size: tuple[int, int]) -> bool:
    layouts = [find_layout(features, size) for features in encoder(make_probes(3, size))]
    return all(layout is not None and layout.form == "channels_first" for layout in layouts)


def test_the_last_tokens_are_a_map() -> None:
    classifier = open_network(Transformer(48, 8, 8), 48)
    encoder = GraphEncoder(classifier)
    assert encoder.strides == (8,)
    images = torch.rand(2, 3, 48, 48)
    (features,) = encoder(images)
    tokens: list[Tensor] = []
    handle = classifier.module.norm.register_forward_hook(lambda *call: tokens.append(call[2]))
    classifier(images)
    handle.remove()
    expected = tokens[0][:, 1:].transpose(1, 2).reshape(2, 12, 6, 6)
    torch.testing.assert_close(features, expected)


def test_overlapping_patches_keep_their_own_grid() -> None:
    """Fifty tokens are 7 × 7 and a class token, not 6 × 6 and fourteen others."""
    encoder = GraphEncoder(open_network(Transformer(96, 16, 12), 96))
    assert encoder.strides == (16,)
    assert encoder(torch.rand(1, 3, 96, 96))[0].shape == (1, 12, 7, 7)
    assert follows_image(encoder, (96, 96))


def test_an_attention_matrix_is_no_map() -> None:
    encoder = GraphEncoder(open_network(AttentionWithoutClassToken(), 32))
    assert (encoder.strides, encoder.channels) == ((8,), (12,))


def test_a_table_that_is_the_same_for_all_images_is_no_map() -> None:
    encoder = GraphEncoder(open_network(TableOfPositions(), 32))
    assert (encoder.strides, encoder.channels) == ((4,), (8,))


def test_a_stage_with_its_channels_last_is_turned() -> None:
    encoder = GraphEncoder(open_network(ChannelsLast(), 32))
    assert isinstance(encoder.feature_maps[0], GraphMaps)
    assert encoder.feature_maps[0].layouts[-1].form == "channels_last"
    assert follows_image(encoder, (32, 32))


def test_a_network_of_other_strides_on_both_axes_is_refused() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, (16, 4), (16, 4)), nn.ReLU(), nn.Flatten(), nn.Linear(512, 3)
    )
    with pytest.raises(NoFeatureMapsError, match="has no feature maps; name another encoder"):
        GraphEncoder(open_network(network, 64))


def test_an_encoder_of_one_size_takes_no_other_images() -> None:
    classifier = open_network(Transformer(48, 8, 8), 48)
    spec = classifier.network.input.model_copy(update={"size": (64, 64)})
    with pytest.raises(ConfigError, match="takes images of 48 × 48 pixels only, and these have 64"):
        GraphEncoder(classifier, spec)


def test_an_encoder_of_any_size_is_read_at_the_size_of_the_images() -> None:
    network = Transformer(48, 8, 8)
    network.positions = nn.Parameter(torch.zeros(1, 1, 12))
    encoder = GraphEncoder(
        open_network(network, 48),
        open_network(network, 64).network.input,
    )
    assert encoder(torch.rand(1, 3, 64, 64))[0].shape == (1, 12, 8, 8)


@pytest.mark.parametrize(
    ("shape", "size", "stride"),
    [
        ((1, 8, 14, 14), (224, 224), 16),
        ((1, 8, 16, 16), (224, 224), 16),
        ((1, 8, 13, 13), (224, 224), 16),
        ((1, 8, 6, 8), (96, 128), 16),
        ((1, 8, 56, 96), (224, 224), None),
        ((1, 8, 50, 3), (224, 224), None),
        ((1, 8, 1, 1), (32, 32), None),
        ((1, 8, 32, 32), (32, 32), 1),
        ((1, 49, 8), (224, 224), None),
    ],
)
def test_a_stride_is_the_same_on_both_axes(
    shape: tuple[int, ...], size: tuple[int, int], stride: int | None
) -> None:
    assert find_stride(torch.Size(shape), size) == stride


@pytest.mark.parametrize(
    ("name", "options", "size", "strides"),
    [
        ("test_vit", {"img_size": 64}, 64, (16,)),
        ("vit_tiny_patch16_224", {"img_size": 64, "depth": 1, "reg_tokens": 4}, 64, (16,)),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 64, "depths": (1, 1, 1, 1)},
            64,
            (4, 8, 16, 32),
        ),
        ("test_convnext", {}, 64, (4, 8, 16, 32)),
        ("test_efficientnet", {}, 64, (2, 4, 8, 16, 32)),
        ("pit_ti_224", {"img_size": 64, "depth": (1, 1, 1)}, 64, (8, 16, 32)),
    ],
)
def test_models_of_timm_are_encoders_with_their_head(
    name: str, options: dict[str, object], size: int, strides: tuple[int, ...]
) -> None:
    classifier = open_network(timm.create_model(name, num_classes=3, **options), size)
    encoder = GraphEncoder(classifier)
    assert encoder.strides == strides
    images = torch.rand(2, 3, size, size)
    logits, maps = EncoderWithHead(encoder)(images)
    torch.testing.assert_close(logits, classifier(images))
    for features, again, channels, stride in zip(
        maps, encoder(images), encoder.channels, strides, strict=True
    ):
        assert features.shape[:2] == (2, channels)
        assert find_stride(features.shape, (size, size)) == stride
        torch.testing.assert_close(features, again)


def test_the_deepest_map_of_a_transformer_holds_what_its_head_receives() -> None:
    module = timm.create_model("test_vit", img_size=64, num_classes=3, global_pool="avg")
    classifier = open_network(module, 64)
    encoder = GraphEncoder(classifier)
    assert isinstance(encoder.feature_maps[0], StageMaps)
    images = torch.rand(2, 3, 64, 64)
    pooled = encoder(images)[-1].mean((2, 3))
    head = classifier.module.head(classifier.module.fc_norm(pooled))
    torch.testing.assert_close(head, classifier(images))


def test_convolutional_models_of_timm_are_traced() -> None:
    """The runs of earlier versions hold decoders for the maps of the trace."""
    encoder = GraphEncoder(open_network(timm.create_model("test_efficientnet", num_classes=3), 64))
    assert isinstance(encoder.feature_maps[0], GraphMaps)


def test_probes_change_one_half_each() -> None:
    first, left, right, top, bottom = make_probes(3, (8, 12))
    assert torch.equal(left[..., 6:], first[..., 6:]) and (left[..., :6] != first[..., :6]).any()
    assert torch.equal(right[..., :6], first[..., :6]) and (right[..., 6:] != first[..., 6:]).any()
    assert torch.equal(top[:, 4:], first[:, 4:]) and (top[:, :4] != first[:, :4]).any()
    assert torch.equal(bottom[:, :4], first[:, :4]) and (bottom[:, 4:] != first[:, 4:]).any()


def test_layouts_are_found_by_where_outputs_change() -> None:
    probes = make_probes(3, (64, 96))
    maps = nn.functional.avg_pool2d(probes, 16)
    tokens = maps.flatten(2).transpose(1, 2)
    with_others = torch.cat((torch.rand(1, 4, 3).expand(5, -1, -1), tokens), 1)
    assert find_layout(maps, (64, 96)) == MapLayout(4, 6, "channels_first")
    assert find_layout(maps.permute(0, 2, 3, 1), (64, 96)) == MapLayout(4, 6, "channels_last")
    assert find_layout(tokens, (64, 96)) == MapLayout(4, 6, "tokens")
    layout = find_layout(with_others, (64, 96))
    assert layout == MapLayout(4, 6, "tokens")
    assert torch.equal(layout.read(with_others), maps)
    assert find_layout((tokens @ tokens.transpose(1, 2))[:, None], (64, 96)) is None
    many = nn.functional.avg_pool2d(probes, 4).flatten(2).transpose(1, 2)
    assert find_layout(many, (64, 96)) == MapLayout(16, 24, "tokens")
    assert find_layout(many[:, torch.randperm(16 * 24)], (64, 96)) is None
    assert find_layout(maps[:3], (64, 96)) is None


def test_a_timm_encoder_is_made_for_the_size_of_the_images() -> None:
    encoder = TimmEncoder("test_vit", size=(64, 64)).eval()
    (features,) = encoder(torch.rand(1, 3, 64, 64))
    assert features.shape[2:] == (4, 4)


class SeveralOutputs(nn.Module):
    """Returns features after its logits, in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.layer(images).relu()
        return {"logits": self.head(features.mean((2, 3))), "pooled": features.amax((2, 3)).exp()}


def test_the_logits_of_several_outputs_come_with_the_maps(tmp_path: Path) -> None:
    classifier = open_network(SeveralOutputs(), 32)
    images = torch.rand(2, 3, 32, 32)
    stored = GraphEncoder(open_classifier(GraphEncoder(classifier).save(tmp_path)))
    for encoder in (GraphEncoder(classifier), stored):
        logits, maps = EncoderWithHead(encoder)(images)
        torch.testing.assert_close(logits, classifier(images))
        assert maps[-1].shape == (2, 8, 16, 16)

"""Gate, decoder and encoders against closed forms and literal versions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from apercu import open_classifier
from apercu.classifiers import Classifier, ClassifierCard, InputSpec, SmallResNet, wrap_module
from apercu.errors import ConfigError
from apercu.explainers.mask.network import CORE_PEAK_FRACTION, MaskNetwork, combine_fields
from apercu.images.stretch import Stretch
from apercu.networks.decoder import Decoder, DecoderShape
from apercu.networks.encoder import SmallEncoder
from apercu.networks.gate import ClassGate
from apercu.networks.graph_encoder import EncoderWithHead, GraphEncoder
from apercu.networks.shared_decoder import SharedDecoder, SharedShape
from apercu.networks.timm_encoder import TimmEncoder


def make_small_classifier(size: int = 32):
    torch.manual_seed(0)
    card = ClassifierCard(
        source="apercu.classifiers.small_resnet:SmallResNet",
        options={"channels": 3, "classes": 4, "size": [size, size], "width": 8},
        input=InputSpec(channels=3, size=(size, size), mean=(0.5,) * 3, std=(0.25,) * 3),
    )
    return wrap_module(SmallResNet(3, 4, (size, size), width=8), card)


def test_relative_gate_is_activation_over_peak_times_presence():
    gate = ClassGate(2, 1)
    with torch.no_grad():
        gate.embedding.copy_(torch.tensor([[1.0], [-1.0]]))
    gate.set_threshold(present=4.0, absent=1.0)
    features = torch.tensor([[[[4.0, 2.0], [0.0, -1.0]]]])
    present = torch.sigmoid(torch.tensor(12 / 3 * (4 - 1.5)))
    expected = present * torch.tensor([[1.0, 0.5], [0.0, 0.0]])
    torch.testing.assert_close(gate(features, torch.tensor([0]))[0, 0], expected)
    absent = gate(features, torch.tensor([1]))  # its peak is 1, far below the threshold
    assert absent.amax() < 0.3 < expected.amax()


def test_published_gate_is_a_sigmoid_of_the_activation():
    gate = ClassGate(3, 5, "published")
    features, targets = torch.randn(2, 5, 3, 3), torch.tensor([2, 0])
    literal = torch.stack(
        [
            torch.sigmoid(sum(features[i, c] * gate.embedding[t, c] for c in range(5)))
            for i, t in enumerate(targets.tolist())
        ]
    )
    torch.testing.assert_close(gate(features, targets)[:, 0], literal)


@pytest.mark.parametrize(
    ("kind", "shape"), [(Decoder, DecoderShape(width=16)), (SharedDecoder, SharedShape())]
)
def test_a_mask_begins_as_its_gate(kind, shape):
    torch.manual_seed(0)
    decoder = kind((8, 8), (4, 8), shape)
    nn.init.zeros_(decoder.head.weight[:, :-1])
    ramp = torch.linspace(0, 1, 9).reshape(1, 1, 3, 3)
    evidence = decoder({4: torch.zeros(1, 8, 3, 3)}, torch.zeros(1, 8, 3, 3), ramp)
    for field, fraction in ((evidence.extent, 0.4), (evidence.core, 0.65)):
        flat = field.flatten()
        assert (flat.diff() > 0).all()
        index = int(fraction * 8)  # the ramp has nine positions
        assert flat[index] < 0.1 and flat[index + 1] > 0.1


def test_a_combined_mask_is_the_extent_up_to_a_half_and_the_core_above():
    torch.manual_seed(0)
    extent, core = torch.rand(2, 2, 9, 9)
    masks = combine_fields(extent, core).sigmoid()
    for level in (0.1, 0.3, 0.499):
        assert torch.equal(masks >= level, extent >= level)
    for wide, narrow, mask in zip(extent, core, masks, strict=True):
        peak = narrow[wide > 0.5].max()
        for level in (0.61, 0.7, 0.839):
            inside = (narrow >= (0.5 + (level - 0.6) / 0.8) * peak) & (wide > 0.5)
            assert torch.equal(mask >= level, inside)
        fraction = torch.where(wide > 0.5, narrow / peak, 0)
        top = fraction > CORE_PEAK_FRACTION
        lowest = wide[top].min()
        inner = (torch.where(top, wide, 0) - lowest).clamp(min=0) / (wide[top].max() - lowest)
        expected = 0.84 + 0.16 * inner * ((fraction - CORE_PEAK_FRACTION).clamp(min=0) / 0.2).sqrt()
        torch.testing.assert_close(mask[top], expected[top], atol=2e-4, rtol=0)


def test_a_faint_core_counts_like_a_strong_one_and_none_outside_the_extent():
    torch.manual_seed(0)
    extent, core = torch.rand(2, 2, 9, 9)
    torch.testing.assert_close(combine_fields(extent, core), combine_fields(extent, core / 20))
    assert combine_fields(extent / 2, core).sigmoid().max() <= 0.5


def test_a_published_decoder_has_one_field():
    shape = DecoderShape(16, gate="deepest", resolution=2)
    network = MaskNetwork(SmallEncoder(3, width=8), 5, shape, frozen=False).eval()
    features = network.encode(torch.rand(1, 3, 32, 32))
    evidence = network.evidence(features, torch.tensor([2]))
    assert evidence.core is evidence.extent
    assert torch.equal(network.decode(features, torch.tensor([2])), evidence.extent)


@pytest.mark.parametrize("upsampling", ["transposed", "pixel_shuffle"])
@pytest.mark.parametrize("residual", ["bottleneck", "compact"])
@pytest.mark.parametrize("gate", ["everywhere", "deepest"])
def test_every_decoder_gives_masks_at_its_resolution(upsampling, residual, gate):
    shape = DecoderShape(16, 2, residual, upsampling, gate, resolution=2)
    network = MaskNetwork(SmallEncoder(3, width=8), 5, shape, frozen=False)
    images = torch.rand(2, 3, 32, 32)
    features = network.encode(images)
    assert network.decode(features, torch.tensor([0, 4])).shape == (2, 16, 16)
    assert network(images, torch.tensor([0, 4])).shape == (2, 32, 32)


def test_graph_encoder_is_the_classifier_up_to_its_pooling():
    classifier = make_small_classifier()
    encoder = GraphEncoder(classifier)
    images = torch.rand(2, 3, 32, 32)
    deepest = encoder(images)[-1]
    pooled = deepest.mean((2, 3))
    torch.testing.assert_close(classifier.module.head(pooled), classifier(images))
    assert encoder.strides[-1] == 8
    assert [f.shape[1] for f in encoder(images)] == list(encoder.channels)


def test_graph_encoder_refuses_a_classifier_that_shows_no_layers():
    classifier = make_small_classifier()
    classifier.module = None
    with pytest.raises(ConfigError, match="does not show its layers; name another encoder"):
        GraphEncoder(classifier)


def test_timm_encoder_gives_timms_features():
    encoder = TimmEncoder("resnet10t", 3).eval()
    images = torch.rand(1, 3, 64, 64)
    plain = timm.create_model("resnet10t", features_only=True).eval()
    plain.load_state_dict(encoder.network.state_dict())
    expected = plain((images - encoder.mean) / encoder.std)[1:]
    assert encoder.strides == (4, 8, 16, 32)
    for features, plain_features in zip(encoder(images), expected, strict=True):
        torch.testing.assert_close(features, plain_features)


def test_timm_encoder_names_what_does_not_exist():
    with pytest.raises(ConfigError, match="expected a timm model with features_only"):
        TimmEncoder("resnet_fifty")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AssertionError(), "AssertionError"),
        (RuntimeError("\n"), "RuntimeError"),
        (KeyError("no stage"), "'no stage'"),
        (ZeroDivisionError("by zero\nand more"), "by zero"),
    ],
)
def test_whatever_timm_raises_is_one_line(error, reason, monkeypatch) -> None:
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(ConfigError, match=rf"got timm/resnet10t \({reason}\)$"):
        TimmEncoder("resnet10t")


def test_a_frozen_encoder_stays_as_it_is():
    encoder = SmallEncoder(3, width=8)
    network = MaskNetwork(encoder, 3, DecoderShape(16, resolution=2)).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    network(torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])).mean().backward()
    assert not encoder.training
    assert all(parameter.grad is None for parameter in encoder.parameters())
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(value, before[name])
    assert not any(name.startswith("encoder.") for name in network.state_without_frozen_encoder())


def test_an_encoder_takes_counts_with_its_own_stretch(tiny_card) -> None:
    """Images stretched for one classifier become counts, and are stretched for another."""
    network = open_classifier(tiny_card).network
    own = Stretch(low=(-50.0,) * 3, high=(4000.0,) * 3, noise=(5.0,) * 3)
    other = Stretch(low=(-100.0,) * 3, high=(9000.0,) * 3, noise=(30.0,) * 3, sky=False)
    spec = network.input.model_copy(update={"stretch": own})
    classifier = Classifier(replace(network, input=spec))
    counts = 300 + 2000 * torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) ** 3
    expected = GraphEncoder(classifier)(torch.stack([own(image) for image in counts]))
    image_spec = spec.model_copy(update={"stretch": other})
    stretched = torch.stack([other(image) for image in counts])
    converted = GraphEncoder(classifier, image_spec)(stretched)
    raw = network.input.model_copy(
        update={"normalise": "l2_per_channel", "mean": None, "std": None}
    )
    from_counts = GraphEncoder(classifier, raw)(counts)
    for features, again, direct in zip(expected, converted, from_counts, strict=True):
        torch.testing.assert_close(again, features, atol=2e-3, rtol=1e-2)
        torch.testing.assert_close(direct, features)
    with pytest.raises(ConfigError, match="needs raw counts"):
        GraphEncoder(classifier, network.input)


def test_an_encoder_of_a_module_in_memory_is_stored_with_its_head(tmp_path):
    module = make_small_classifier().module
    classifier = open_classifier(module, size=32, mean=0.5, std=0.25)
    encoder = GraphEncoder(classifier)
    encoder.check_storable()
    opened = open_classifier(encoder.save(tmp_path / "first"))
    stored = GraphEncoder(opened)
    again = GraphEncoder(open_classifier(stored.save(tmp_path / "second")))
    images = torch.rand(3, 3, 32, 32)
    for other in (stored, again):
        assert (other.strides, other.channels) == (encoder.strides, encoder.channels)
        for features, expected in zip(other(images), encoder(images), strict=True):
            torch.testing.assert_close(features, expected)
        logits, maps = EncoderWithHead(other)(images)
        torch.testing.assert_close(logits, classifier(images))
        torch.testing.assert_close(maps[-1], encoder(images)[-1])
        assert other.classifier[0].fingerprint == classifier.fingerprint
    torch.testing.assert_close(opened(images), classifier(images))
    assert stored.train().eval() is stored


def test_a_stored_encoder_can_be_exported_again(tmp_path):
    classifier = open_classifier(make_small_classifier().module, size=32)
    stored = GraphEncoder(open_classifier(GraphEncoder(classifier).save(tmp_path)))
    images = torch.rand(2, 3, 32, 32)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(EncoderWithHead(stored), (images,), dynamic_shapes=({0: batch},))
    logits, maps = program.module()(images)
    torch.testing.assert_close(logits, classifier(images))
    assert len(maps) == len(stored.strides)


@torch.library.custom_op("apercu_tests::twice", mutates_args=())
def twice(images: torch.Tensor) -> torch.Tensor:
    return 2 * images


@twice.register_fake
def _(images: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(images)


def test_an_encoder_that_cannot_be_stored_is_refused_at_once():
    class Custom(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, 2)

        def forward(self, images):
            return self.head(twice(self.layer(images)).mean((2, 3)))

    encoder = GraphEncoder(open_classifier(Custom(), size=32))
    with pytest.raises(ConfigError, match=r"^encoder: .*memory/Custom: .*apercu_tests.*; or name"):
        encoder.check_storable()


def test_a_gate_closes_for_classes_with_a_low_z_score() -> None:
    torch.manual_seed(0)
    gate, features = ClassGate(6, 4, closes_absent=True), torch.rand(3, 4, 5, 5)
    targets, plain = torch.tensor([1, 5, 2]), ClassGate(6, 4)
    plain.load_state_dict({k: v for k, v in gate.state_dict().items() if k != "z_threshold"})
    torch.testing.assert_close(gate(features, targets), plain(features, targets))
    gate.z_threshold.fill_(0.5)
    opened, closed = plain(features, targets), gate(features, targets)
    for row, target in enumerate(targets.tolist()):
        logits = gate.predict_logits(features)[row].double()
        z = (logits[target] - logits.mean()) / logits.std(unbiased=False)
        expected = opened[row] / (1 + torch.exp(-6 * (z - 0.5)))
        torch.testing.assert_close(closed[row], expected.float())
    every = gate(features[:1], torch.arange(6))  # many classes of one image
    for target in range(6):
        torch.testing.assert_close(every[target], gate(features[:1], torch.tensor([target]))[0])


def test_a_gate_of_equal_logits_has_finite_gradients() -> None:
    gate, features = ClassGate(6, 4, closes_absent=True), torch.zeros(2, 4, 5, 5)
    gate(features.requires_grad_(), torch.tensor([1, 5])).sum().backward()
    gradients = [features.grad, *(parameter.grad for parameter in gate.parameters())]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)

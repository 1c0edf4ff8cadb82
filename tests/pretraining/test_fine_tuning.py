"""Fine-tuning: a new last layer on a copy, learnt from the chosen labels; backbones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Generator, nn

from apercu import open_classifier, open_images
from apercu.classifiers import InputSpec, save_classifier
from apercu.errors import ClassifierError, ConfigError
from apercu.learning.settings import InputChoice
from apercu.learning.start import open_start
from apercu.pretraining.backbone import inflate, open_backbone, read_input
from apercu.pretraining.heads import FineTuning, LabelledFeatures
from apercu.pretraining.heads.fine_tuning import replace_head

SPEC = InputSpec(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)


def _bright_or_dark(count: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = Generator().manual_seed(count)
    labels = torch.arange(count) % 2
    noise = torch.rand(count, 3, 32, 32, generator=generator)
    return list(0.5 * noise + 0.4 * labels[:, None, None, None]), labels


def test_only_chosen_labels_are_learnt(tiny_card: Path) -> None:
    classifier = open_classifier(tiny_card)
    weights = {k: v.clone() for k, v in classifier.module.state_dict().items()}  # type: ignore[union-attr]
    images, labels = _bright_or_dark(40)
    wrong = labels.clone()
    wrong[20:] = 1 - wrong[20:]  # half of the labels are wrong; they are not chosen
    training = LabelledFeatures(torch.zeros(40, 1), wrong, images, classifier)
    test = LabelledFeatures(torch.zeros(40, 1), labels, images, classifier)
    tuning = FineTuning(steps=40, batch=8, rate=3e-3)
    predicted = tuning.predict(training, range(20), test, seed=0)
    assert (predicted == labels).float().mean() > 0.9
    assert torch.equal(predicted, tuning.predict(training, range(20), test, seed=0))
    for name, weight in classifier.module.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(weight, weights[name])


def test_features_alone_are_not_enough() -> None:
    labelled = LabelledFeatures(torch.zeros(4, 1), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(ConfigError, match="expected the images"):
        FineTuning().predict(labelled, [0, 1], labelled, 0)
    with pytest.raises(ConfigError, match="steps and batch of at least 1"):
        FineTuning(steps=0)


def test_a_new_head_for_classifiers_and_for_features(tiny_card: Path) -> None:
    image = torch.rand(3, 32, 32)
    for classifier in (open_classifier(tiny_card), open_backbone("timm/test_resnet", SPEC, 0)):
        network = replace_head(classifier, image, 7, seed=0).eval()
        assert network(classifier.normalise(image[None])).shape == (1, 7)
        assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_new_head_has_the_precision_of_its_network() -> None:
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    ).double()
    classifier = open_classifier(plain, size=16, copy=False)
    image = torch.rand(3, 16, 16)
    network = replace_head(classifier, image, 7, seed=0)
    logits = network(classifier.normalise(image[None]))
    assert logits.shape == (1, 7) and logits.dtype == torch.float64


class Gated(nn.Module):
    """Logits that are multiplied by a gate behind their layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3)
        self.logits, self.gate = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled = self.features(images).mean((2, 3))
        return self.logits(pooled) * self.gate(pooled).sigmoid()


def test_a_layer_that_does_not_give_the_logits_alone_is_not_replaced() -> None:
    classifier = open_classifier(Gated(), size=16)
    with pytest.raises(ClassifierError, match="computes its logits from more than that layer"):
        replace_head(classifier, torch.rand(3, 16, 16), 7, seed=0)


def test_a_backbone_depends_on_its_seed_and_takes_any_number_of_bands() -> None:
    many = InputSpec(channels=12, size=(32, 32))
    one, same, other = (open_backbone("timm/test_resnet", many, seed) for seed in (0, 0, 1))
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.classes[:2] == ("feature 0", "feature 1")
    assert one(torch.rand(2, 12, 32, 32)).shape == (2, len(one.classes))
    with pytest.raises(ConfigError, match="expected timm/NAME, or a card"):
        open_backbone("torchvision/resnet18", many, 0)


def test_a_start_is_a_card_its_folder_or_an_opened_network(tmp_path: Path) -> None:
    first = open_backbone("timm/test_resnet", SPEC, 0)
    save_classifier(first, tmp_path)
    grey = InputSpec(channels=1, size=(32, 32), mean=(0.5,), std=(0.5,))
    starts = (str(tmp_path / "card.json"), str(tmp_path), first)
    networks = [open_backbone(start, grey, 7) for start in starts]
    assert len({network.fingerprint for network in networks}) == 1
    image = torch.rand(1, 1, 32, 32, generator=Generator().manual_seed(0))
    torch.testing.assert_close(networks[0](image), first(image.expand(-1, 3, -1, -1)))
    assert read_input(str(tmp_path)) == first.network.input


@pytest.mark.parametrize("form", ["opened", "SPEC"])
def test_weights_stay_where_a_classifier_is_trained_for_other_bands(
    monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    usual = InputSpec(size=(32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)  # also for other bands
    pretrained = open_backbone("timm/test_resnet", usual, 0)
    monkeypatch.setattr("apercu.learning.start.open_classifier", lambda spec: pretrained)
    network = pretrained if form == "opened" else "timm/test_resnet"
    source = open_images("planted:size=32,images=4", channels=1)
    start = open_start(network, InputChoice(channels=1), lambda bands: source, 7, scratch=False)
    image = torch.rand(1, 1, 32, 32, generator=Generator().manual_seed(0))
    torch.testing.assert_close(start(image), pretrained(image.expand(-1, 3, -1, -1)))


def test_an_inflated_layer_gives_the_same_for_grey_images() -> None:
    layer, wide = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(5, 4, 3, bias=False)
    with torch.no_grad():
        wide.weight.copy_(inflate(layer.weight, 5))
        grey = torch.rand(1, 1, 8, 8)
        torch.testing.assert_close(wide(grey.repeat(1, 5, 1, 1)), layer(grey.repeat(1, 3, 1, 1)))

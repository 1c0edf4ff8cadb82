"""Networks of torchvision, of transformers and in memory: trained, and where possible again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from apercu import open_classifier, open_images, train_classifier
from apercu.classifiers import Classifier
from apercu.classifiers.decisions import ONE_CLASS
from apercu.errors import ClassifierError, ConfigError, NoWeightsError
from apercu.learning.network import make_network
from apercu.learning.recipes.fine_tuning import Frozen
from apercu.learning.settings import InputChoice
from apercu.learning.start import open_start
from apercu.log import redirect_warnings

PLANTED = "planted:size=32,images=15,classes=3,difficulty=0"
QUICK: dict[str, Any] = {"steps": 2, "batch": 4, "say": lambda line: None}


def write_card(folder: Path, source: str, **options: Any) -> Path:
    content = {"source": source, "options": options, "input": {"size": [32, 32], "std": 0.5}}
    path = folder / "card.json"
    path.write_text(json.dumps(content))
    return path


def write_transformer(folder: Path) -> str:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(
        "resnet", embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic"
    )
    torch.manual_seed(0)
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    side = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=side).save_pretrained(folder)
    return f"hf/{folder}"


@pytest.mark.parametrize("library", ["torchvision", "transformers"])
def test_a_run_is_trained_further(library: str, tmp_path: Path) -> None:
    start: str | Path
    if library == "torchvision":
        start = write_card(tmp_path, "torchvision/squeezenet1_1", weights=None, num_classes=7)
    else:
        start = write_transformer(tmp_path / "hub")
    with redirect_warnings(lambda line: None):
        first = train_classifier(PLANTED, start, tmp_path / "first", **QUICK)
    if library == "transformers":
        (tmp_path / "hub").rename(tmp_path / "gone")
    assert not list((tmp_path / "first").glob("*.pt2"))
    again = open_classifier(tmp_path / "first")
    assert again.fingerprint == first.classifier.fingerprint
    assert again.exposes_layers and len(again.classes) == 3
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again(images), first.classifier(images))
    second = train_classifier(
        PLANTED, tmp_path / "first", tmp_path / "second", recipes=[Frozen()], **QUICK
    )
    weights, learnt = (dict(each.module.named_parameters()) for each in (again, second.classifier))
    changed = {name for name in weights if not weights[name].equal(learnt[name])}
    head = "classifier.1" if library == "torchvision" else "model.classifier.1"
    assert changed == {f"{head}.weight", f"{head}.bias"}
    renewed = dict(make_network(again, 3, 0, scratch=True).body.named_parameters())
    assert renewed.keys() == weights.keys()
    assert not any(weights[name].equal(renewed[name]) for name in weights if weights[name].ndim > 1)


def test_a_name_of_torchvision_with_new_weights_needs_no_download(tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("scratch: true\ninput: {size: 32}\n")
    result = train_classifier(
        PLANTED, "torchvision/squeezenet1_1", tmp_path / "run", config=config, **QUICK
    )
    assert result.classifier.size == (32, 32)
    assert json.loads((tmp_path / "run" / "card.json").read_text())["source"].startswith("torchv")
    config.write_text("scratch: true\ninput: {channels: 1}\n")
    with pytest.raises(ConfigError, match=r"input\.channels: networks of torchvision take 3"):
        train_classifier(
            PLANTED, "torchvision/squeezenet1_1", tmp_path / "grey", config=config, **QUICK
        )


def test_weights_that_cannot_be_downloaded_lead_to_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apercu.classifiers.sources.timm.is_reachable", lambda url: False)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: None)
    for name in ("resnet18", "test_resnet_none"):
        message = "--config scratch" if name == "resnet18" else "no such model"
        with pytest.raises(ClassifierError, match=message) as caught:
            train_classifier(PLANTED, f"timm/{name}", tmp_path / "run", **QUICK)
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, NoWeightsError) is (name == "resnet18")
    assert not (tmp_path / "run").exists()


class Plain(nn.Module):
    """A network that no SPEC builds."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2))
        self.head = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images).mean((2, 3)))


def test_a_module_is_trained_once_from_its_run_and_again_in_memory(tmp_path: Path) -> None:
    start = open_classifier(Plain(), size=32)
    first = train_classifier(PLANTED, start, tmp_path / "first", **QUICK)
    with pytest.raises(ClassifierError, match="exported program, which cannot be trained further"):
        train_classifier(PLANTED, tmp_path / "first", tmp_path / "second", **QUICK)
    second = train_classifier(PLANTED, first.classifier, tmp_path / "second", **QUICK)
    assert second.classifier.fingerprint != first.classifier.fingerprint


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)), "has no feature map or tokens"),
        (lambda images: images.mean((2, 3)), "shows no weights, so it cannot be trained"),
    ],
)
def test_networks_that_cannot_be_trained_say_so(start: Any, message: str, tmp_path: Path) -> None:
    classifier: Classifier = open_classifier(start, size=32)
    with pytest.raises(ClassifierError, match=message):
        train_classifier(PLANTED, classifier, tmp_path / "run", **QUICK)


def test_auxiliary_outputs_are_refused_in_one_line(tmp_path: Path) -> None:
    class Auxiliary(Plain):
        def forward(self, images: torch.Tensor) -> Any:
            logits = super().forward(images)
            return (logits, logits) if self.training else logits

    classifier = open_classifier(Auxiliary(), size=32)
    with pytest.raises(ClassifierError, match=r"returns tuple .* auxiliary layers.*aux_logits"):
        train_classifier(PLANTED, classifier, tmp_path / "run", **QUICK)


def test_weights_that_are_not_used_are_not_told_to_be_random(tmp_path: Path) -> None:
    card = write_card(tmp_path, "timm/test_resnet", pretrained=False, num_classes=2)
    for scratch in (True, False):
        lines: list[str] = []
        with redirect_warnings(lines.append):
            open_start(card, InputChoice(), lambda _: open_images(PLANTED), 0, scratch=scratch)
        assert any("its weights are random" in line for line in lines) is not scratch


def test_small_logits_of_a_trained_network_are_logits(build_network: Any) -> None:
    """A network with added layers whose logits are in [0, 1] and sum to 1, as by chance."""
    network = build_network().eval()
    last = nn.Linear(network.head.in_features, 2)
    with torch.no_grad():
        last.weight[0] = -last.weight[1].mul_(1e-3)
        last.bias.copy_(torch.tensor([0.25, 0.75]))
    network.set_head(nn.Sequential(nn.Flatten(), last))
    lines: list[str] = []
    with redirect_warnings(lines.append):
        classifier = network.to_classifier(("a", "b"), ONE_CLASS, temperature=0.5)
    assert lines == [] and network.kept_source is None
    found = classifier.predict_probabilities(torch.zeros(1, 3, 32, 32))[0]
    torch.testing.assert_close(found, torch.tensor([0.5, 1.5]).softmax(0), atol=0.02, rtol=0)

"""Trains the pneumonia classifier of the chest study and says how good and how calibrated it is.

    python recipes/chest/classifier.py DATA MODELS OUT [--seed N] [--epochs N]

DATA holds `cxr-kermany` and `cxr-nih`, MODELS the ImageNet classifier to start from. Leaves a
classifier card with weights, and `facts.json`, in OUT.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from films import CLASSES, Films, read_films
from torch import Generator, Tensor, nn
from torchmetrics.functional.classification import binary_auroc, binary_calibration_error

from apercu.classifiers import (
    ClassifierCard,
    InputSpec,
    classifier_of,
    open_classifier,
    save_classifier,
)
from apercu.training.augment import Views

SPEC = InputSpec(channels=1, size=(224, 224), mean=(0.5,), std=(0.5,))
BATCH, RATE, FASTER, DECAY, SMOOTHING = 16, 1.5e-4, 10, 0.02, 0.05
RESAMPLED = 2000


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("data", type=Path)
    words.add_argument("models", type=Path)
    words.add_argument("out", type=Path)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--epochs", type=int, default=8)
    asked = words.parse_args()
    begun = time.monotonic()
    films = read_films(asked.data, SPEC, asked.seed)
    print({name: len(part) for name, part in films.items()}, flush=True)
    network = begin(asked.models / "mobilenetv2_100.json")
    train(network, films["train"], asked.epochs, asked.seed)
    facts = {"training_seconds": round(time.monotonic() - begun), "seed": asked.seed}
    facts |= calibrate(network, films["validate"])
    facts |= measure(network, films["test"], asked.seed)
    card = ClassifierCard(
        source="timm/mobilenetv2_100",
        options={"pad_type": "same", "num_classes": len(CLASSES), "in_chans": 1},
        input=SPEC,
        classes=CLASSES,
    )
    save_classifier(classifier_of(network.eval(), card), asked.out)
    (asked.out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


def begin(card: Path) -> nn.Module:
    """MobileNetV2 with ImageNet's weights, for grey films and two classes."""
    network = timm.create_model("mobilenetv2_100", pad_type="same", in_chans=1, num_classes=2)
    module = open_classifier(card).module
    if not isinstance(module, nn.Module):
        raise SystemExit(f"error: {card} shows no layers")
    known = {n: v for n, v in module.state_dict().items() if not n.startswith("classifier.")}
    known["conv_stem.weight"] = known["conv_stem.weight"].sum(dim=1, keepdim=True)
    network.load_state_dict(known, strict=False)
    nn.init.zeros_(network.get_submodule("classifier").weight)
    return network.eval()


def train(network: nn.Module, films: Films, epochs: int, seed: int) -> None:
    """AdamW in one cycle; classes and hospitals are drawn equally often.

    The head learns faster than the rest. Batch norms keep ImageNet's statistics: those of sixteen
    films extinguish the last features.
    """
    steps = epochs * (len(films) // BATCH)
    head = network.get_submodule("classifier")
    others = [v for n, v in network.named_parameters() if not n.startswith("classifier.")]
    groups = [{"params": others}, {"params": head.parameters()}]
    optimiser = torch.optim.AdamW(groups, RATE, weight_decay=DECAY)
    peaks = [RATE, FASTER * RATE]
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, peaks, total_steps=steps)
    for step, (images, labels) in zip(range(steps), _batches(films, seed), strict=False):
        logits = network((images - 0.5) / 0.5)
        loss = F.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        rate.step()
        if step % 20 == 0:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)


def _batches(films: Films, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches in which every class of every hospital has the same share."""
    generator = Generator().manual_seed(seed)
    views = Views(smallest=0.7, stretch=1.2, whole=0.2)
    groups = 2 * films.hospitals + films.labels
    weights = 1 / groups.bincount().clamp(min=1)[groups].double()
    while True:
        chosen = weights.multinomial(BATCH, generator=generator)
        yield weathered(views(films.images[chosen], generator), generator), films.labels[chosen]


def weathered(images: Tensor, generator: Generator) -> Tensor:
    """Other exposure, sharpness and noise per film: texture is no evidence of pneumonia."""
    draws = torch.rand(5, len(images), 1, 1, 1, generator=generator)
    gamma, contrast, brightness, blur, noise = draws
    changed = images.clamp(min=1e-3) ** (0.7 + 0.7 * gamma)
    changed = (changed - 0.5) * (0.7 + 0.6 * contrast) + 0.5 + 0.2 * (brightness - 0.5)
    coarse = F.interpolate(changed, scale_factor=0.5, mode="bilinear", antialias=True)
    coarse = F.interpolate(coarse, size=images.shape[2:], mode="bicubic")
    changed = torch.lerp(changed, coarse, (1.5 * blur).clamp(max=1))
    grain = torch.randn(images.shape, generator=generator)
    return (changed + 0.05 * (noise - 0.5).clamp(min=0) * 2 * grain).clamp(0, 1)


@torch.no_grad()
def answers(network: nn.Module, films: Films) -> Tensor:
    """Logits of all films."""
    network.eval()
    return torch.cat([network((part - 0.5) / 0.5) for part in torch.split(films.images, 32)])


def calibrate(network: nn.Module, films: Films) -> dict[str, float]:
    """Divides the last layer by the temperature that fits these films best (Guo et al. 2017)."""
    logits = answers(network, films)
    grid = torch.logspace(-1, 1, 401)
    losses = torch.stack([F.cross_entropy(logits / one, films.labels) for one in grid])
    temperature = float(grid[losses.argmin()])
    head = network.get_submodule("classifier")
    with torch.no_grad():
        for values in head.parameters():
            values /= temperature
    return {"temperature": temperature, "validation_films": float(len(films))}


def measure(network: nn.Module, films: Films, seed: int) -> dict[str, object]:
    """AUROC with its bootstrapped interval, accuracy and calibration, hospital by hospital."""
    found: dict[str, object] = {}
    for hospital, name in enumerate(("kermany", "nih")):
        some = films.of(hospital)
        ill = answers(network, some).softmax(dim=1)[:, 1]
        generator = Generator().manual_seed(seed)
        draws = torch.randint(len(some), (RESAMPLED, len(some)), generator=generator)
        again = torch.stack([binary_auroc(ill[draw], some.labels[draw]) for draw in draws])
        ends = again.quantile(torch.tensor([0.025, 0.975]))
        found[name] = {
            "films": len(some),
            "auroc": round(binary_auroc(ill, some.labels).item(), 4),
            "auroc_ci95": [round(end, 4) for end in ends.tolist()],
            "accuracy": round(((ill > 0.5) == (some.labels == 1)).float().mean().item(), 4),
            "calibration_error": round(binary_calibration_error(ill, some.labels).item(), 4),
        }
    return found


if __name__ == "__main__":
    main()

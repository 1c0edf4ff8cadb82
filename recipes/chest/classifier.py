"""Trains the pneumonia classifier of the chest study and says how good and how calibrated it is.

    python recipes/chest/classifier.py FILMS MODELS OUT [--plain] [--colour] [--seed N] [--epochs N]

FILMS is what `prepare.py` leaves, MODELS holds the ImageNet classifier to start from. Leaves a
classifier card with weights, and `facts.json`, in OUT.

Films of the two classes differ in more than lungs: in how far up the arms are, in what is written
in the corners. Unless it is `--plain`, the classifier learns on films in the frame of another. With
`--colour` a learned colouring stands before it; else its first layer is summed over the colours.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from films import CLASSES, HOSPITALS, Films, read_films
from torch import Generator, Tensor, nn
from torchmetrics.functional.classification import binary_auroc, binary_calibration_error

from apercu.classifiers import (
    ClassifierCard,
    InputSpec,
    open_classifier,
    save_classifier,
    wrap_module,
)
from apercu.classifiers.colour import Coloured
from apercu.training.augment import RandomViews

SPEC = InputSpec(channels=1, size=(160, 160), mean=(0.5,), std=(0.5,))
GREY = "timm/mobilenetv2_100", {"pad_type": "same", "num_classes": len(CLASSES), "in_chans": 1}
COLOURED = (
    "apercu.classifiers.colour:Coloured",
    {"backbone": "mobilenetv2_100", "pad_type": "same", "num_classes": len(CLASSES)},
)
"""Source and options of the two kinds of classifier."""
BATCH, RATE, FASTER, DECAY, SMOOTHING = 16, 1.5e-4, 10, 0.02, 0.05
AVERAGING = 0.995
"""Share of the average of all weights that is kept in each step."""
FRAMED = 0.6
"""Share of the films that get the frame of another."""
RESAMPLED = 2000


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("films", type=Path)
    words.add_argument("models", type=Path)
    words.add_argument("out", type=Path)
    words.add_argument("--plain", action="store_true")
    words.add_argument("--colour", action="store_true")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--epochs", type=int, default=8)
    arguments = words.parse_args()
    begun = time.monotonic()
    films = {
        part: read_films(arguments.films / part, SPEC) for part in ("train", "validate", "test")
    }
    print({part: len(some) for part, some in films.items()}, flush=True)
    source, options = COLOURED if arguments.colour else GREY
    network = begin(source, options, arguments.models / "mobilenetv2_100.json")
    network = train(network, films["train"], arguments)
    facts = {"training_seconds": round(time.monotonic() - begun), "seed": arguments.seed}
    facts |= calibrate(network, films["validate"])
    card = ClassifierCard(
        source=source,
        options=options,
        input=SPEC,
        classes=CLASSES,
    )
    save_classifier(wrap_module(network.eval(), card), arguments.out)
    facts |= measure(network, films["test"], arguments.seed)
    (arguments.out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


def begin(source: str, options: dict[str, Any], card: Path) -> nn.Module:
    """MobileNetV2 with ImageNet's weights, for grey films and two classes."""
    coloured = source == COLOURED[0]
    network = Coloured(**options) if coloured else timm.create_model("mobilenetv2_100", **options)
    module = open_classifier(card).module
    if not isinstance(module, nn.Module):
        raise SystemExit(f"error: {card} shows no layers")
    weights = {n: v for n, v in module.state_dict().items() if not n.startswith("classifier.")}
    if not coloured:
        weights["conv_stem.weight"] = weights["conv_stem.weight"].sum(dim=1, keepdim=True)
    (network.backbone if coloured else network).load_state_dict(weights, strict=False)
    nn.init.zeros_(head(network).weight)
    return network.eval()


def head(network: nn.Module) -> nn.Module:
    """The last layer, which is new."""
    return getattr(network, "backbone", network).get_submodule("classifier")


def train(network: nn.Module, films: Films, asked: argparse.Namespace) -> nn.Module:
    """AdamW in one cycle; classes and hospitals are drawn equally often; weights are averaged.

    The head learns faster than the rest. Batch norms keep ImageNet's statistics: those of sixteen
    films extinguish the last features.
    """
    steps = asked.epochs * (len(films) // BATCH)
    new = list(head(network).parameters())
    others = [values for values in network.parameters() if all(values is not one for one in new)]
    groups = [{"params": others}, {"params": new}]
    optimiser = torch.optim.AdamW(groups, RATE, weight_decay=DECAY)
    peaks = [RATE, FASTER * RATE]
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, peaks, total_steps=steps)
    average = copy.deepcopy(network)
    generator = Generator().manual_seed(asked.seed)
    for step, (images, labels) in zip(range(steps), _batches(films, generator), strict=False):
        if not asked.plain:
            images = reframed(images, generator)
        loss = F.cross_entropy(scores(network, images), labels, label_smoothing=SMOOTHING)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        rate.step()
        kept = min(AVERAGING, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, now in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(now, 1 - kept)
        if step % 20 == 0:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)
    return average


def scores(network: nn.Module, images: Tensor) -> Tensor:
    return network((images - SPEC.mean[0]) / SPEC.std[0])


def reframed(images: Tensor, generator: Generator) -> Tensor:
    """Some films with what surrounds the middle of another: a frame is no evidence."""
    count, _, height, width = images.shape
    draws = torch.rand(5, count, 1, 1, generator=generator)
    half_height, half_width = 0.30 + 0.16 * draws[0], 0.34 + 0.14 * draws[1]
    down, across = (0.5 + 0.06 * (draw - 0.5) for draw in draws[2:4])
    rows = (torch.arange(height)[:, None] + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    away = ((rows - down) / half_height) ** 4 + ((columns - across) / half_width) ** 4
    middle = ((1.08 - away**0.25) / 0.16).clamp(0, 1)
    kept = torch.where(draws[4] < FRAMED, middle, torch.ones_like(middle))[:, None]
    return torch.lerp(images[torch.randperm(count, generator=generator)], images, kept)


def _batches(films: Films, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches in which every class of every hospital has the same share."""
    views = RandomViews(smallest=0.7, stretch=1.2, whole=0.2)
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
    return torch.cat([scores(network, part) for part in torch.split(films.images, 32)])


def calibrate(network: nn.Module, films: Films) -> dict[str, float]:
    """Divides the last layer by the temperature that fits these films best (Guo et al. 2017)."""
    logits = answers(network, films)
    grid = torch.logspace(-1, 1, 401)
    losses = torch.stack([F.cross_entropy(logits / one, films.labels) for one in grid])
    temperature = float(grid[losses.argmin()])
    with torch.no_grad():
        for values in head(network).parameters():
            values /= temperature
    return {"temperature": temperature, "validation_films": float(len(films))}


def measure(network: nn.Module, films: Films, seed: int) -> dict[str, object]:
    """AUROC with its bootstrapped interval, accuracy and calibration, hospital by hospital."""
    results: dict[str, object] = {}
    for name in HOSPITALS:
        some = films.of(name)
        ill = answers(network, some).softmax(dim=1)[:, 1]
        generator = Generator().manual_seed(seed)
        draws = torch.randint(len(some), (RESAMPLED, len(some)), generator=generator)
        again = torch.stack([binary_auroc(ill[draw], some.labels[draw]) for draw in draws])
        ends = again.quantile(torch.tensor([0.025, 0.975]))
        results[name] = {
            "films": len(some),
            "auroc": round(binary_auroc(ill, some.labels).item(), 4),
            "auroc_ci95": [round(end, 4) for end in ends.tolist()],
            "accuracy": round(((ill > 0.5) == (some.labels == 1)).float().mean().item(), 4),
            "calibration_error": round(binary_calibration_error(ill, some.labels).item(), 4),
        }
    return results


if __name__ == "__main__":
    main()

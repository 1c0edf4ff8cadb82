"""Trains the pneumonia classifier of the chest study and says how good and how calibrated it is.

    python recipes/chest/classifier.py FILMS MODELS OUT [--plain] [--colour] [--seed N] [--epochs N]

FILMS is what `prepare.py` leaves, MODELS holds the ImageNet classifier to start from. Leaves a
classifier card with weights, and `facts.json`, in OUT.

Films of the two classes differ in more than lungs: in how far up the arms are, in what is written
in the corners. Unless `--plain` is given, many films are trained on with the frame of another film.
With `--colour` a learned colouring stands before the network; else its first layer is summed over
the colours.
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
GREYSCALE = "timm/mobilenetv2_100", {"pad_type": "same", "num_classes": len(CLASSES), "in_chans": 1}
COLOURED = (
    "apercu.classifiers.colour:Coloured",
    {"backbone": "mobilenetv2_100", "pad_type": "same", "num_classes": len(CLASSES)},
)
"""Source and options of a classifier of grey images, and of one with a learned colouring."""
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY, LABEL_SMOOTHING = 16, 1.5e-4, 0.02, 0.05
HEAD_RATE = 10 * LEARNING_RATE
"""Learning rate of the last layer, which starts anew."""
EMA_DECAY = 0.995
"""Fraction of the average of the weights that each step keeps, from some steps on."""
FRAME_FRACTION = 0.6
"""Fraction of the films that get the frame of another."""
BOOTSTRAP_SAMPLES = 2000


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
    start = time.monotonic()
    films = {
        part: read_films(arguments.films / part, SPEC) for part in ("train", "validate", "test")
    }
    print({part: len(of_part) for part, of_part in films.items()}, flush=True)
    source, options = COLOURED if arguments.colour else GREYSCALE
    torch.manual_seed(arguments.seed)  # of the learned colouring
    network = load_pretrained(source, options, arguments.models / "mobilenetv2_100.json")
    network = train(
        network,
        films["train"],
        arguments.epochs,
        arguments.seed,
        foreign_frames=not arguments.plain,
    )
    facts = {"training_seconds": round(time.monotonic() - start), "seed": arguments.seed}
    facts |= calibrate(network, films["validate"])
    card = ClassifierCard(
        source=source,
        options=options,
        input=SPEC,
        classes=CLASSES,
    )
    save_classifier(wrap_module(network.eval(), card), arguments.out)
    facts |= evaluate(network, films["test"], arguments.seed)
    (arguments.out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


def load_pretrained(source: str, options: dict[str, Any], card: Path) -> nn.Module:
    """Return MobileNetV2 with ImageNet's weights, for grey films and two classes.

    Args:
        source: source of GREYSCALE or of COLOURED.
        options: its options.
        card: the card of the ImageNet classifier.

    Returns:
        The network in evaluation mode; the weights of its last layer are 0.
    """
    coloured = source == COLOURED[0]
    network = Coloured(**options) if coloured else timm.create_model("mobilenetv2_100", **options)
    module = open_classifier(card).module
    if not isinstance(module, nn.Module):
        raise SystemExit(f"error: {card} shows no layers")
    weights = {n: v for n, v in module.state_dict().items() if not n.startswith("classifier.")}
    if not coloured:
        weights["conv_stem.weight"] = weights["conv_stem.weight"].sum(dim=1, keepdim=True)
    (network.backbone if coloured else network).load_state_dict(weights, strict=False)
    nn.init.zeros_(get_head(network).weight)
    return network.eval()


def get_head(network: nn.Module) -> nn.Module:
    """Return the last layer, which is not pretrained."""
    return getattr(network, "backbone", network).get_submodule("classifier")


def train(
    network: nn.Module, films: Films, epochs: int, seed: int, *, foreign_frames: bool
) -> nn.Module:
    """Train a network with AdamW in one cycle of the learning rate.

    Batch norms keep ImageNet's statistics: those of sixteen films extinguish the last features.

    Args:
        network: the network, which is changed in place.
        films: films that are trained on.
        epochs: passes over the films.
        seed: seed of all random draws.
        foreign_frames: whether films get the frames of others, see `exchange_frames`.

    Returns:
        A network with the moving average of all weights.
    """
    steps = epochs * (len(films) // BATCH_SIZE)
    head = list(get_head(network).parameters())
    others = [values for values in network.parameters() if all(values is not one for one in head)]
    groups = [{"params": others}, {"params": head}]
    optimiser = torch.optim.AdamW(groups, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    peaks = [LEARNING_RATE, HEAD_RATE]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peaks, total_steps=steps)
    average = copy.deepcopy(network)
    generator = Generator().manual_seed(seed)
    for step, (images, labels) in zip(range(steps), draw_batches(films, generator), strict=False):
        if foreign_frames:
            images = exchange_frames(images, generator)
        logits = forward(network, images)
        loss = F.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        update_average(average, network, step)
        if step % 20 == 0:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)
    return average


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, step: int) -> None:
    """Move the averaged weights towards those of a network; step 0 is the first."""
    keep = min(EMA_DECAY, (1 + step) / (10 + step))
    for mean, values in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(values, 1 - keep)


def forward(network: nn.Module, images: Tensor) -> Tensor:
    """Return logits, `films × classes`, of films in [0, 1]."""
    return network((images - SPEC.mean[0]) / SPEC.std[0])


def draw_batches(films: Films, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield random batches without end, in which classes and hospitals are equally frequent.

    Yields:
        Images in [0, 1], `films × 1 × height × width`, cropped and perturbed; and their labels.
    """
    views = RandomViews(smallest=0.7, stretch=1.2, whole=0.2)
    groups = 2 * films.hospitals + films.labels
    weights = 1 / groups.bincount().clamp(min=1)[groups].double()
    while True:
        chosen = weights.multinomial(BATCH_SIZE, generator=generator)
        images = views(films.images[chosen], generator)
        yield perturb_exposure(images, generator), films.labels[chosen]


def exchange_frames(images: Tensor, generator: Generator) -> Tensor:
    """Return films of which some have the surroundings of the middle from another film.

    A classifier trained on them can find no evidence in the frame.

    Args:
        images: films in [0, 1], `films × 1 × height × width`.
        generator: source of all draws: which films, how large a middle, whose frame.

    Returns:
        Films in the same shape; the middle passes softly into the frame.
    """
    count, _, height, width = images.shape
    draws = torch.rand(5, count, 1, 1, generator=generator)
    half_height, half_width = 0.30 + 0.16 * draws[0], 0.34 + 0.14 * draws[1]
    centre_y, centre_x = (0.5 + 0.06 * (draw - 0.5) for draw in draws[2:4])
    rows = (torch.arange(height)[:, None] + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    distance = ((rows - centre_y) / half_height) ** 4 + ((columns - centre_x) / half_width) ** 4
    middle = ((1.08 - distance**0.25) / 0.16).clamp(0, 1)
    weights = torch.where(draws[4] < FRAME_FRACTION, middle, torch.ones_like(middle))[:, None]
    return torch.lerp(images[torch.randperm(count, generator=generator)], images, weights)


def perturb_exposure(images: Tensor, generator: Generator) -> Tensor:
    """Return films with another exposure, sharpness and noise each.

    A classifier trained on them can find no evidence in the texture of a film.

    Args:
        images: films in [0, 1], `films × 1 × height × width`.
        generator: source of all draws.

    Returns:
        Films in [0, 1] in the same shape.
    """
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
def predict_logits(network: nn.Module, films: Films) -> Tensor:
    """Return the logits of all films, `films × classes`."""
    network.eval()
    return torch.cat([forward(network, part) for part in torch.split(films.images, 32)])


def calibrate(network: nn.Module, films: Films) -> dict[str, float]:
    """Divide the last layer by the temperature that fits films best (Guo et al. 2017).

    Args:
        network: the network, which is changed in place.
        films: films that were not trained on.

    Returns:
        The temperature, and the number of films.
    """
    logits = predict_logits(network, films)
    grid = torch.logspace(-1, 1, 401)
    losses = torch.stack([F.cross_entropy(logits / one, films.labels) for one in grid])
    temperature = float(grid[losses.argmin()])
    with torch.no_grad():
        for values in get_head(network).parameters():
            values /= temperature
    return {"temperature": temperature, "validation_films": float(len(films))}


def evaluate(network: nn.Module, films: Films, seed: int) -> dict[str, object]:
    """Measure AUROC with a bootstrap interval, accuracy and calibration error.

    Args:
        network: the calibrated network.
        films: films of other patients.
        seed: seed of the bootstrap.

    Returns:
        The figures by hospital.
    """
    results: dict[str, object] = {}
    for hospital in HOSPITALS:
        selected = films.select_hospital(hospital)
        labels, count = selected.labels, len(selected)
        probabilities = predict_logits(network, selected).softmax(dim=1)[:, 1]
        generator = Generator().manual_seed(seed)
        samples = torch.randint(count, (BOOTSTRAP_SAMPLES, count), generator=generator)
        aurocs = torch.stack([binary_auroc(probabilities[rows], labels[rows]) for rows in samples])
        ends = aurocs.quantile(torch.tensor([0.025, 0.975]))
        results[hospital] = {
            "films": count,
            "auroc": round(binary_auroc(probabilities, labels).item(), 4),
            "auroc_ci95": [round(end, 4) for end in ends.tolist()],
            "accuracy": round(((probabilities > 0.5) == (labels == 1)).float().mean().item(), 4),
            "calibration_error": round(binary_calibration_error(probabilities, labels).item(), 4),
        }
    return results


if __name__ == "__main__":
    main()

"""What counterparts of chest films do to the classifier, and how well they pass for films.

    python recipes/chest/measure.py FILMS CLASSIFIER RUN OUT [--seed N]

FILMS is what `prepare.py` leaves. Prints the figures and writes them to OUT/facts.json, and a sheet
of test films of Kermany to OUT/sheet.png.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from films import CLASSES, HOSPITALS, Films, read_films
from PIL import Image
from torch import Generator, Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from apercu import render
from apercu.classifiers import Classifier, open_classifier
from apercu.explainers.counterfactual import CounterfactualExplainer, Counterparts
from apercu.explainers.run_folder import load_explainer
from apercu.images import open_images

PART = 32
STEPS, RATE = 400, 2e-3
BODY = 0.1
"""Blurred brightness above which a place of a film shows the patient."""


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    for name in ("films", "classifier", "run", "out"):
        words.add_argument(name, type=Path)
    words.add_argument("--seed", type=int, default=0)
    arguments = words.parse_args()
    classifier = open_classifier(arguments.classifier)
    explainer = load_explainer(arguments.run)
    if not isinstance(explainer, CounterfactualExplainer):
        raise SystemExit(f"error: {arguments.run}: expected counterparts or latent paths")
    spec = explainer.classifier_info.input
    test, train = (read_films(arguments.films / part, spec) for part in ("test", "train"))
    results: dict[str, object] = {
        hospital: decisions(classifier, explainer, test.of(hospital).images)
        for hospital in HOSPITALS
    }
    results["real_or_counterpart_auroc"] = passing(
        classifier, explainer, train, test, arguments.seed
    )
    results["energy"] = places(classifier, explainer, arguments.films / "opacities")
    results["readers"] = readers(arguments.films / "boxes" / "boxes.csv")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "facts.json").write_text(json.dumps(results, indent=1) + "\n")
    sheet(classifier, explainer, test.of("kermany"), arguments.out / "sheet.png")
    print(json.dumps(results, indent=1))


def counterparts(
    classifier: Classifier, explainer: CounterfactualExplainer[Any, Any], images: Tensor
) -> Iterator[tuple[Tensor, Counterparts]]:
    """Films and their counterparts for the other class, part by part."""
    for part in torch.split(images, PART):
        with torch.inference_mode():
            logits = classifier(part)
            yield part, explainer.counterparts(part, 1 - logits.argmax(1), logits=logits)


def decisions(
    classifier: Classifier, explainer: CounterfactualExplainer[Any, Any], images: Tensor
) -> dict[str, float]:
    """Shares of films whose similar image keeps the decision, whose adversarial one flips it."""
    rows: dict[str, list[Tensor]] = {}
    for _, pair in counterparts(classifier, explainer, images):
        with torch.inference_mode():
            kept = classifier(pair.stable).argmax(1) == pair.predicted
            flipped = {
                name: classifier(change(pair.adversarial)).argmax(1) == pair.target
                for name, change in FILTERS.items()
            }
        for name, values in {"kept": kept, **flipped}.items():
            rows.setdefault(name, []).append(values)
        for predicted, name in enumerate(CLASSES):
            rows.setdefault(f"flipped_from_{name}", []).append(
                flipped["flipped"][pair.predicted == predicted]
            )
    return {
        name: round(torch.cat(values).float().mean().item(), 4) for name, values in rows.items()
    }


def jpeg(images: Tensor) -> Tensor:
    """Quality 75 and back."""
    results = []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(stream, "JPEG", quality=75)
        results.append(torch.from_numpy(np.asarray(Image.open(stream)).copy())[None] / 255)
    return torch.stack(results)


def median(images: Tensor) -> Tensor:
    """Of 3 × 3 pixels."""
    around = F.unfold(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3)
    return around.median(1).values.view(images.shape)


def shift(images: Tensor) -> Tensor:
    """One pixel down and right."""
    return F.pad(images, (1, 0, 1, 0), mode="replicate")[:, :, :-1, :-1]


FILTERS: dict[str, Callable[[Tensor], Tensor]] = {
    "flipped": lambda images: images,
    "after_jpeg": jpeg,
    "after_median": median,
    "after_shift": shift,
}


def passing(
    classifier: Classifier,
    explainer: CounterfactualExplainer[Any, Any],
    train: Films,
    test: Films,
    seed: int,
) -> float:
    """AUROC of a small network that learnt to tell counterparts from films, on other patients.

    No film is shown both as it is and changed.
    """

    def halves(films: Films) -> tuple[Tensor, Tensor]:
        real, changed = films.images[::2], films.images[1::2]
        pairs = counterparts(classifier, explainer, changed)
        adversarial = torch.cat([pair.adversarial.clone() for _, pair in pairs])
        truth = torch.cat([torch.zeros(len(real)), torch.ones(len(adversarial))])
        return torch.cat([real, adversarial]), truth

    generator = Generator().manual_seed(seed)
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 24), (24, 48), (48, 96), (96, 96)):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    discriminator = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 1))
    optimiser = torch.optim.AdamW(discriminator.parameters(), RATE)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
    images, truth = halves(train)
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (PART,), generator=generator)
        batch = images[chosen]
        mirrored = torch.rand(PART, 1, 1, 1, generator=generator) < 0.5
        batch = torch.where(mirrored, batch.flip(3), batch)
        logits = discriminator(batch - 0.5)[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits, truth[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    discriminator.eval()
    images, truth = halves(test)
    with torch.inference_mode():
        parts = torch.split(images, PART)
        scores = torch.cat([discriminator(part - 0.5)[:, 0] for part in parts])
    return round(binary_auroc(scores, truth.long()).item(), 4)


def places(
    classifier: Classifier, explainer: CounterfactualExplainer[Any, Any], folder: Path
) -> dict[str, float]:
    """Shares of the difference's energy in the body and the lungs, and theirs of the film."""
    images, lungs = [], []
    size = explainer.classifier_info.input.size
    for item in open_images(folder, channels=1):
        images.append(explainer.prepare(item.picture))
        with Image.open(folder / "lungs" / f"{Path(item.name).stem}.png") as mask:
            lungs.append(np.asarray(mask.convert("L").resize(size[::-1])) > 0)
    changed = torch.stack(images)
    regions = {"lungs": torch.from_numpy(np.stack(lungs)), "body": body(changed)}
    pairs = counterparts(classifier, explainer, changed)
    energy = torch.cat([pair.difference.square().mean(1) for _, pair in pairs])
    results = {}
    for name, region in regions.items():
        share = (energy * region).sum((1, 2)) / energy.sum((1, 2))
        results[f"inside_{name}"] = round(share.mean().item(), 4)
        results[f"{name}_of_the_film"] = round(region.float().mean().item(), 4)
    return results


def body(images: Tensor) -> Tensor:
    """Where a film is not black, seen from a little way off."""
    coarse = F.avg_pool2d(images, 9, 1, 4, count_include_pad=False)
    return coarse[:, 0] > BODY


def readers(path: Path) -> dict[str, float]:
    """How well two readers of a film agree: IoU of all boxes of the one with the other's."""
    boxes: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            corners = tuple(float(row[side]) for side in ("xmin", "ymin", "xmax", "ymax"))
            boxes.setdefault((row["file"], row["source"]), []).append(corners)
    scores = []
    for file in sorted({name for name, _ in boxes}):
        one, other = (boxes.get((file, source)) for source in ("nih", "rsna"))
        if one and other:
            first, second = filled(one), filled(other)
            scores.append(float((first & second).sum() / (first | second).sum()))
    return {"films_read_twice": len(scores), "mean_iou": round(float(np.mean(scores)), 4)}


def filled(boxes: list[tuple[float, ...]]) -> np.ndarray:
    region = np.zeros((320, 320), dtype=bool)
    for left, top, right, bottom in boxes:
        region[round(top) : round(bottom), round(left) : round(right)] = True
    return region


def sheet(
    classifier: Classifier, explainer: CounterfactualExplainer[Any, Any], films: Films, path: Path
) -> None:
    """Three films of each class that are seen as what they are."""
    rows = []
    for label, name in enumerate(CLASSES):
        images = films.images[films.labels == label]
        with torch.inference_mode():
            images = images[classifier(images).argmax(1) == label]
        images = images[:: len(images) // 3][:3]
        for image, pair in counterparts(classifier, explainer, images):
            steps = [image, pair.stable, pair.adversarial] if pair.between is None else pair.strip
            with torch.inference_mode():
                shares = [classifier(step).softmax(1)[:, 1].tolist() for step in steps]
            for i in range(len(image)):
                tiles = [
                    render.Tile(render.to_image(step[i]), f"{CLASSES[1]} {share[i]:.2f}")
                    for step, share in zip(steps, shares, strict=True)
                ]
                change = pair.difference[i]
                caption = f"{name}: {render.describe_change(change)}"
                rows.append([*tiles, render.Tile(render.draw_difference(change), caption)])
    render.save_image(path, render.draw_contact_sheet(rows, 220))


if __name__ == "__main__":
    main()

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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from films import CLASSES, HOSPITALS, Films, read_films
from PIL import Image
from realism import measure_realism
from torch import Tensor

from apercu import render
from apercu.classifiers import Classifier, open_classifier
from apercu.explainers.counterfactual import CounterfactualExplainer, Counterparts
from apercu.explainers.run_folder import load_explainer
from apercu.images import open_images

Explainer = CounterfactualExplainer[Any, Any, Any]
BATCH_SIZE = 32
BODY_BRIGHTNESS = 0.1
"""Brightness of a blurred film above which a pixel shows the patient."""
READER_SIZE = 320
"""Side of the films in whose pixels the readers' boxes are given."""


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
        hospital: measure_decisions(classifier, explainer, test.select_hospital(hospital).images)
        for hospital in HOSPITALS
    }
    results["real_or_counterpart_auroc"] = measure_realism(
        train.images, test.images, partial(make_adversarial, classifier, explainer), arguments.seed
    )
    results["energy"] = measure_energy(classifier, explainer, arguments.films / "opacities")
    results["readers"] = compare_readers(arguments.films / "boxes" / "boxes.csv")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "facts.json").write_text(json.dumps(results, indent=1) + "\n")
    kermany = test.select_hospital("kermany")
    draw_sheet(classifier, explainer, kermany, arguments.out / "sheet.png")
    print(json.dumps(results, indent=1))


def make_counterparts(
    classifier: Classifier, explainer: Explainer, images: Tensor
) -> Iterator[tuple[Tensor, Counterparts]]:
    """Yield batches of films, and their counterparts for the other class."""
    for batch in torch.split(images, BATCH_SIZE):
        with torch.inference_mode():
            logits = classifier(batch)
            yield batch, explainer.counterparts(batch, 1 - logits.argmax(1), logits=logits)


def make_adversarial(classifier: Classifier, explainer: Explainer, images: Tensor) -> Tensor:
    """Return the adversarial image of each film, in the same shape."""
    pairs = make_counterparts(classifier, explainer, images)
    return torch.cat([pair.adversarial.clone() for _, pair in pairs])


def measure_decisions(
    classifier: Classifier, explainer: Explainer, images: Tensor
) -> dict[str, float]:
    """Measure how often the images that are made for films keep or flip the decision.

    Args:
        classifier: classifier of films.
        explainer: explainer that makes a stable and an adversarial image for each film.
        images: films in [0, 1], `films × 1 × height × width`.

    Returns:
        Fractions of the films: `kept` of the stable images; of the adversarial ones those that
        flip, as they are, after each filter, and by predicted class.
    """
    rows: dict[str, list[Tensor]] = {}
    for _, pair in make_counterparts(classifier, explainer, images):
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


def compress_jpeg(images: Tensor) -> Tensor:
    """Return films, `films × 1 × height × width` in [0, 1], after JPEG of quality 75."""
    results = []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(stream, "JPEG", quality=75)
        results.append(torch.from_numpy(np.asarray(Image.open(stream)).copy())[None] / 255)
    return torch.stack(results)


def filter_median(images: Tensor) -> Tensor:
    """Return images in which each pixel is the median of 3 × 3 pixels around it."""
    windows = F.unfold(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3)
    return windows.median(1).values.view(images.shape)


def shift_by_pixel(images: Tensor) -> Tensor:
    """Return images shifted by one pixel down and to the right."""
    return F.pad(images, (1, 0, 1, 0), mode="replicate")[:, :, :-1, :-1]


FILTERS: dict[str, Callable[[Tensor], Tensor]] = {
    "flipped": lambda images: images,
    "after_jpeg": compress_jpeg,
    "after_median": filter_median,
    "after_shift": shift_by_pixel,
}


def measure_energy(classifier: Classifier, explainer: Explainer, folder: Path) -> dict[str, float]:
    """Measure where the differences between films and their counterparts lie.

    Args:
        classifier: classifier of films.
        explainer: explainer that makes the counterparts.
        folder: films, and masks of their lungs in `lungs`.

    Returns:
        For the body and the lungs, the fraction of the energy of the difference inside, and the
        fraction of the film's area.
    """
    images, lungs = [], []
    size = explainer.classifier_info.input.size
    for item in open_images(folder, channels=1):
        images.append(explainer.prepare(item.picture))
        with Image.open(folder / "lungs" / f"{Path(item.name).stem}.png") as mask:
            lungs.append(np.asarray(mask.convert("L").resize(size[::-1])) > 0)
    films = torch.stack(images)
    regions = {"lungs": torch.from_numpy(np.stack(lungs)), "body": find_body(films)}
    pairs = make_counterparts(classifier, explainer, films)
    energy = torch.cat([pair.difference.square().mean(1) for _, pair in pairs])
    results = {}
    for name, region in regions.items():
        inside = (energy * region).sum((1, 2)) / energy.sum((1, 2))
        results[f"inside_{name}"] = round(inside.mean().item(), 4)
        results[f"{name}_of_the_film"] = round(region.float().mean().item(), 4)
    return results


def find_body(images: Tensor) -> Tensor:
    """Return where films are not black after a blur, `films × height × width`."""
    blurred = F.avg_pool2d(images, 9, 1, 4, count_include_pad=False)
    return blurred[:, 0] > BODY_BRIGHTNESS


def compare_readers(path: Path) -> dict[str, float]:
    """Compare the boxes of two readers of the same films.

    Args:
        path: boxes in pixels; the column `source` says which reader each is from.

    Returns:
        The number of films that both read, and the mean IoU of all boxes of the one with all boxes
        of the other.
    """
    boxes: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            corners = tuple(float(row[side]) for side in ("xmin", "ymin", "xmax", "ymax"))
            boxes.setdefault((row["file"], row["source"]), []).append(corners)
    scores = []
    for file in sorted({name for name, _ in boxes}):
        one, other = (boxes.get((file, source)) for source in ("nih", "rsna"))
        if one and other:
            first, second = fill_boxes(one), fill_boxes(other)
            scores.append(float((first & second).sum() / (first | second).sum()))
    return {"films_read_twice": len(scores), "mean_iou": round(float(np.mean(scores)), 4)}


def fill_boxes(boxes: list[tuple[float, ...]]) -> np.ndarray:
    """Return the region that boxes cover, READER_SIZE pixels high and wide."""
    region = np.zeros((READER_SIZE, READER_SIZE), dtype=bool)
    for left, top, right, bottom in boxes:
        region[round(top) : round(bottom), round(left) : round(right)] = True
    return region


def draw_sheet(classifier: Classifier, explainer: Explainer, films: Films, path: Path) -> None:
    """Draw the counterparts of three films of each class that are classified correctly.

    Args:
        classifier: classifier of films.
        explainer: explainer that makes the counterparts.
        films: films to choose from.
        path: PNG file that is written, one row per film.
    """
    rows = []
    for label, name in enumerate(CLASSES):
        images = films.images[films.labels == label]
        with torch.inference_mode():
            images = images[classifier(images).argmax(1) == label]
        if not len(images):
            continue
        images = images[:: max(1, len(images) // 3)][:3]
        for image, pair in make_counterparts(classifier, explainer, images):
            steps = [image, pair.stable, pair.adversarial] if pair.between is None else pair.strip
            with torch.inference_mode():
                probabilities = [classifier(step).softmax(1)[:, 1].tolist() for step in steps]
            for i in range(len(image)):
                tiles = [
                    render.Tile(render.to_image(step[i]), f"{CLASSES[1]} {probability[i]:.2f}")
                    for step, probability in zip(steps, probabilities, strict=True)
                ]
                change = pair.difference[i]
                caption = f"{name}: {render.describe_change(change)}"
                rows.append([*tiles, render.Tile(render.draw_difference(change), caption)])
    render.save_image(path, render.draw_contact_sheet(rows, 220))


if __name__ == "__main__":
    main()

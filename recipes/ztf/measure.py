"""Does the evidence of braai lie on the object? The share of flux in the strongest tenth of maps.

    python recipes/ztf/measure.py RUN_FOLDER [LIMIT]

Writes measure.json and a Markdown table into the folder: for alerts of the test, how much of the
difference image's flux (above three times its noise, whatever its sign) lies on the tenth of the
pixels where each method's map is highest. A tenth would be chance.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from apercu import open_classifier, open_images
from apercu.explainers.run_folder import load_explainer
from apercu.images.stretch import SIGMA_PER_MAD, subtract_sky
from apercu.io import write_file, write_json
from apercu.methods import (
    CentreBlob,
    Gradient,
    Method,
    Occlusion,
    RandomMap,
    Rise,
    SmoothGrad,
)
from apercu.statistics import bootstrap_interval
from apercu.types import Maps, Picture, Scores

STRONGEST = 0.1
"""Fraction of the pixels of a map that count as its highest."""
ABOVE = 3.0
"""Flux counts above this many standard deviations of the noise."""
METHODS: dict[str, Method] = {
    "gradient": Gradient(),
    "smooth_grad": SmoothGrad(),
    "occlusion": Occlusion(),
    "rise": Rise(masks=1000),
    "centre_blob": CentreBlob(),
    "random": RandomMap(),
}
DIFFERENCE = 2
"""Index of the difference image among the bands."""


def measure_flux(picture: Picture) -> Float[Tensor, "height width"]:
    """Return absolute counts of the difference image where they are above its noise, else 0."""
    counts = subtract_sky(picture)[DIFFERENCE].abs()
    noise = (
        SIGMA_PER_MAD * counts[counts > 0].median()
        if (counts > 0).any()
        else counts.new_tensor(1.0)
    )
    return torch.where(counts > ABOVE * noise, counts, 0.0)


def measure_on_flux(maps: Maps, flux: Float[Tensor, "batch height width"]) -> Scores:
    """Return the fraction of each image's flux on the highest tenth of its map; NaN where none."""
    count = round(STRONGEST * maps[0].numel())
    top = maps.flatten(1).topk(count).indices
    on_top = flux.flatten(1).gather(1, top).sum(1)
    return on_top / flux.flatten(1).sum(1)


def main(run: Path, limit: int) -> None:
    """Measure explainers and methods on the same alerts, at most about `limit` of them."""
    classifier = open_classifier(run / "braai.json")
    source = open_images(run / "data" / "test.npz", channels=3)
    step = max(1, len(source) // limit)
    pictures = [source[index].picture for index in range(0, len(source), step)]
    images = torch.stack([classifier.prepare(picture) for picture in pictures])
    flux = torch.stack([measure_flux(picture) for picture in pictures])
    targets = classifier.predict_probabilities(images).argmax(1)
    results: dict[str, Scores] = {}
    for name in ("mask", "counterpart"):
        explainer = load_explainer(run / name)
        results[name] = measure_on_flux(explainer.attribute(images, targets), flux)
    for name, method in METHODS.items():
        parts = zip(images.split(8), targets.split(8), strict=True)
        maps = torch.cat([method(classifier, *part) for part in parts])
        results[name] = measure_on_flux(maps, flux)
    rows, lines = [], ["| map | on flux, real | on flux, bogus |", "|---|---|---|"]
    for name, scores in results.items():
        cells = []
        for index, kind in enumerate(classifier.classes):
            chosen = scores[(targets == index) & scores.isfinite()]
            mean, (low, high) = float(chosen.mean()), bootstrap_interval(chosen.numpy(), 0)
            ends = [low, high]
            rows.append({"map": name, "class": kind, "value": mean, "ci95": ends, "n": len(chosen)})
            cells.append(f"{100 * mean:.0f} % ({100 * low:.0f} to {100 * high:.0f})")
        lines.append(f"| {name} | {cells[1]} | {cells[0]} |")
    write_json(run / "measure.json", {"rows": rows})
    write_file(run / "measure.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN_FOLDER", type=Path)
    parser.add_argument("limit", metavar="LIMIT", type=int, nargs="?", default=150)
    main(**vars(parser.parse_args()))

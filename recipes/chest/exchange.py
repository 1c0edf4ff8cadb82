"""Does the classifier use what radiologists mark? The marked part of films is exchanged.

    python recipes/chest/exchange.py FILMS CLASSIFIER OUT [--truth boxes|opacities] [--seed N]

FILMS is what `prepare.py` leaves. Of each film that is predicted as pneumonia, a part is replaced:
by the same part of normal films, by its own mirrored side, by a blur, by the mean; and as a check
of the seams by that of other films with pneumonia. The part is the marked one, or one of the same
size elsewhere. Writes OUT/facts.json and OUT/table.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from films import CLASSES, Films, read_films
from torch import Generator, Tensor

from apercu.classifiers import Classifier, open_classifier
from apercu.images import batches, open_images
from apercu.methods import CentreBlob
from apercu.metrics import iou_over_percentiles, ncc
from apercu.metrics.evidence_exchange import (
    find_centres,
    measure_exchange,
    move_regions,
    replace_parts,
)
from apercu.metrics.pointing import true_regions
from apercu.removal import Blur, Mean
from apercu.statistics import bootstrap_interval, sign_flip_test, wilson_interval

NORMAL, ILL = range(len(CLASSES))
DONORS, CANDIDATES = 2, 12
"""Films that give a part to each film; films that are aligned with it to choose them."""
FEATHER = 0.02
"""Blur of the edges of a part, as a fraction of a side."""
COARSE, STEPS, RATE = 40, 50, 0.02
"""Side, steps and rate of the alignment."""
SHARED, LIKE = 0.25, 1.4
"""Largest overlap of a control with the marks, and largest ratio of their areas."""
WINDOW, STRIDE, PART = 40, 16, 64


@dataclass(frozen=True, eq=False)
class Marked:
    """Films on which somebody marked a region."""

    images: Tensor
    regions: Tensor
    patients: list[str]

    def __len__(self) -> int:
        return len(self.images)


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("films", "classifier", "out"):
        words.add_argument(name, type=Path)
    words.add_argument("--truth", choices=("boxes", "opacities"), default="boxes")
    words.add_argument("--seed", type=int, default=0)
    arguments = words.parse_args()
    classifier = open_classifier(arguments.classifier)
    marked = read_marked(classifier, arguments.films / arguments.truth)
    test = read_films(arguments.films / "test", classifier.network.input).of("nih")
    healthy, ill = pools(classifier, test, arguments.films / "test")
    normal = borrow(marked, healthy)
    others = borrow(marked, ill)
    predicted = decide(classifier, marked.images) == ILL
    certain = Marked(
        marked.images[predicted],
        marked.regions[predicted],
        [name for name, is_ill in zip(marked.patients, predicted.tolist(), strict=True) if is_ill],
    )
    sites = place(certain, arguments.seed)
    print(f"{len(marked)} films, {int(predicted.sum())} predicted as {CLASSES[ILL]}", flush=True)
    facts: dict[str, object] = {
        "films": len(marked),
        "predicted_pneumonia": int(predicted.sum()),
        "healthy_donors": len(healthy),
        "ill_donors": len(ill),
        "marked_area": round(marked.regions.float().mean((1, 2))[predicted].mean().item(), 4),
        "donors_still_normal": round(
            (decide(classifier, normal.flatten(0, 1)) == NORMAL).float().mean().item(), 4
        ),
        "seed": arguments.seed,
    }
    films, own = certain.images[:, None], certain.images
    fills = {
        "normal films": normal[predicted],
        "own mirrored side": mirrored_films(own, certain.regions)[:, None],
        "blur": Blur().make_replacement(own)[:, None],
        "mean": Mean().make_replacement(own)[:, None],
        "other films with pneumonia": others[predicted],
    }
    scores = {
        fill: {
            site: exchange(classifier, films, other, parts, ILL) for site, parts in sites.items()
        }
        for fill, other in fills.items()
    }
    scores["pasted into normal films"] = {
        site: exchange(classifier, normal[predicted], films, parts, NORMAL)
        for site, parts in sites.items()
    }
    facts["rows"] = {fill: summarise(of_fill, arguments.seed) for fill, of_fill in scores.items()}
    print(table(facts["rows"]), flush=True)
    facts["rank"] = ranks(classifier, certain, normal[predicted], arguments.seed)
    facts["exchange_map"] = maps(classifier, marked, normal, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    (arguments.out / "table.md").write_text(table(facts["rows"]))
    print(json.dumps({name: value for name, value in facts.items() if name != "rows"}, indent=1))


def read_marked(classifier: Classifier, folder: Path) -> Marked:
    """The films of a folder with their boxes or outlines at the classifier's size."""
    images, regions, names = [], [], []
    for batch in batches(open_images(folder, channels=1), classifier.prepare, PART):
        names += batch.names
        images.append(batch.images)
        for boxes, region in zip(batch.boxes, batch.regions, strict=True):
            size = (batch.images.shape[2], batch.images.shape[3])
            regions.append(region if region is not None else true_regions(boxes[None], size)[0])
    return Marked(torch.cat(images), torch.stack(regions), [patient(name) for name in names])


def patient(name: str) -> str:
    """The patient's number, with which a file of the NIH begins."""
    return Path(name).stem.removeprefix("nih-").partition("_")[0]


def pools(classifier: Classifier, films: Films, folder: Path) -> tuple[Marked, Marked]:
    """Test films of the NIH that are normal, and that are ill, and predicted so."""
    items = open_images(folder, channels=1)
    names = [Path(item.name).name for item in items if Path(item.name).name.startswith("nih-")]
    predicted = decide(classifier, films.images)
    results = []
    for label in (NORMAL, ILL):
        chosen = ((films.labels == label) & (predicted == label)).nonzero()[:, 0]
        nothing = torch.zeros(len(chosen), *films.images.shape[2:], dtype=torch.bool)
        patients = [patient(names[index]) for index in chosen.tolist()]
        results.append(Marked(films.images[chosen], nothing, patients))
    return results[0], results[1]


@torch.no_grad()
def decide(classifier: Classifier, images: Tensor) -> Tensor:
    return torch.cat([classifier(part).argmax(1) for part in torch.split(images, PART)])


def borrow(films: Marked, pool: Marked) -> Tensor:
    """For each film the pool's films that fit it best when aligned, `films × donors × …`.

    The marked region and its surroundings do not count, so that nothing is chosen by what lies
    there. Exposure is that of the film outside the region.
    """
    weights = 1 - spread(films.regions)
    fits = correlate(coarse(films.images)[:, None], coarse(pool.images)[None], weights[:, None])
    for row, patient_of_film in enumerate(films.patients):
        same = [patient_of_film == other for other in pool.patients]
        fits[row, torch.tensor(same)] = -1
    order = fits.topk(CANDIDATES, dim=1).indices
    candidates = pool.images[order.flatten()]
    film, region = (
        values.repeat_interleave(CANDIDATES, 0) for values in (films.images, films.regions)
    )
    aligned, agreement = align(candidates, film, region)
    best = agreement.view(len(films), CANDIDATES).topk(DONORS).indices
    chosen = (best + CANDIDATES * torch.arange(len(films))[:, None]).flatten()
    results = expose(aligned[chosen], film[chosen], region[chosen])
    return results.view(len(films), DONORS, *results.shape[1:])


def coarse(images: Tensor) -> Tensor:
    return F.interpolate(images, (COARSE, COARSE), mode="bilinear", antialias=True)[:, 0]


def spread(regions: Tensor) -> Tensor:
    """Regions and their surroundings, coarse."""
    return (F.max_pool2d(coarse(regions[:, None].float())[:, None], 5, 1, 2)[:, 0] > 0.1).float()


def correlate(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Weighted correlation over the last two dimensions."""
    total = weights.sum((-2, -1), keepdim=True)

    def centre(values: Tensor) -> Tensor:
        return values - (values * weights).sum((-2, -1), keepdim=True) / total

    first, second = centre(first), centre(second)
    product = (weights * first * second).sum((-2, -1))
    norms = (weights * first**2).sum((-2, -1)) * (weights * second**2).sum((-2, -1))
    return product / norms.clamp(min=1e-12).sqrt()


def align(moving: Tensor, fixed: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """Films moved, scaled and turned onto others, and how well they agree outside the regions."""
    weights, small, still = 1 - spread(regions), coarse(moving)[:, None], coarse(fixed)
    change = torch.zeros(len(moving), 2, 3, requires_grad=True)
    optimiser = torch.optim.Adam([change], RATE)
    for _ in range(STEPS):
        loss = 1 - correlate(warp(small, change)[:, 0], still, weights)
        optimiser.zero_grad()
        (loss + 0.3 * change.square().sum((1, 2))).sum().backward()
        optimiser.step()
    change = change.detach()
    return warp(moving, change), correlate(warp(small, change)[:, 0], still, weights)


def warp(images: Tensor, change: Tensor) -> Tensor:
    grid = F.affine_grid(torch.eye(2, 3) + change, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def expose(images: Tensor, like: Tensor, regions: Tensor) -> Tensor:
    """Images with the mean and the contrast of others, outside the regions."""
    weights = (~regions)[:, None].float()
    total = weights.sum((2, 3), keepdim=True)

    def moments(values: Tensor) -> tuple[Tensor, Tensor]:
        mean = (values * weights).sum((2, 3), keepdim=True) / total
        variance = (weights * (values - mean).square()).sum((2, 3), keepdim=True) / total
        return mean, variance.sqrt().clamp(min=1e-3)

    (mean, deviation), (other, of_other) = moments(images), moments(like)
    return ((images - mean) * (of_other / deviation).clamp(0.5, 2) + other).clamp(0, 1)


def mirrored_films(images: Tensor, regions: Tensor) -> Tensor:
    """Films mirrored, and aligned with themselves."""
    return align(images.flip(3), images, regions)[0]


def place(marked: Marked, seed: int) -> dict[str, Tensor]:
    """The marks and parts of the same size elsewhere, `films × draws × height × width`.

    An empty region stands where a film has no such part.
    """
    regions, size = marked.regions, torch.tensor(marked.regions.shape[1:]) / 2
    mirror = regions.flip(2)
    centres = find_centres(regions)
    centre = move_regions(regions, (size - centres).round().long())
    generator = Generator().manual_seed(seed)
    areas = regions.flatten(1).sum(1).float()
    elsewhere = torch.zeros(len(regions), DONORS, *regions.shape[1:], dtype=torch.bool)
    for row in range(len(regions)):
        ratio = areas / areas[row]
        fits = (ratio < LIKE) & (ratio > 1 / LIKE) & (share(regions, regions[row]) <= SHARED)
        if len(rows := fits.nonzero()[:, 0]):
            draws = torch.randint(len(rows), (DONORS,), generator=generator)
            elsewhere[row] = regions[rows[draws]]
    return {
        "marked": regions[:, None],
        "mirrored": blank(mirror, regions)[:, None],
        "elsewhere": elsewhere,
        "centre": blank(centre, regions)[:, None],
        "all but the marked": ~regions[:, None],
        "everything": torch.ones_like(regions)[:, None],
    }


def share(regions: Tensor, marked: Tensor) -> Tensor:
    """Fraction of each region that lies on the marks."""
    shared = (regions & marked).flatten(1).sum(1)
    return shared / regions.flatten(1).sum(1).clamp(min=1)


def blank(controls: Tensor, regions: Tensor) -> Tensor:
    """Controls that overlap the marks, or left the image, as empty regions."""
    areas = controls.flatten(1).sum(1) / regions.flatten(1).sum(1)
    overlap = (controls & regions).flatten(1).sum(1) / regions.flatten(1).sum(1)
    valid = (overlap <= SHARED) & (areas > 1 / LIKE)
    return controls & valid[:, None, None]


def exchange(
    classifier: Classifier, films: Tensor, others: Tensor, regions: Tensor, target: int
) -> tuple[Tensor, Tensor]:
    """Change of the margin and flips of each film, means over its draws; NaN without a part."""
    count = max(films.shape[1], others.shape[1], regions.shape[1])
    changes, flips = [], []
    for draw in range(count):
        one, other, region = (
            values[:, draw % values.shape[1]] for values in (films, others, regions)
        )
        targets = torch.full((len(one),), target)
        result = measure_exchange(classifier, one, other, region, targets, FEATHER)
        empty = ~region.flatten(1).any(1)
        changes.append(result.changes.masked_fill(empty, torch.nan))
        flips.append(result.flipped.masked_fill(empty, torch.nan))
    return torch.stack(changes).mean(0), torch.stack(flips).mean(0)


def summarise(
    of_fill: Mapping[str, tuple[Tensor, Tensor]], seed: int
) -> dict[str, dict[str, object]]:
    """Means with intervals, and paired differences from the marked part."""
    results: dict[str, dict[str, object]] = {}
    truth, flipped = of_fill["marked"]
    for site, (changes, flips) in of_fill.items():
        valid = ~changes.isnan()
        row: dict[str, object] = {"films": int(valid.sum())}
        row |= {
            "change": interval(changes[valid], seed),
            "flipped": interval(flips[valid], seed),
        }
        if site != "marked":
            row["marked_minus_this"] = interval((truth - changes)[valid], seed)
            row["marked_flips_minus_these"] = interval((flipped - flips)[valid], seed)
            row["p"] = round(sign_flip_test((truth - changes)[valid].numpy(), seed), 4)
        results[site] = row
    return results


def interval(values: Tensor, seed: int) -> list[float]:
    """Mean, and the ends of its interval."""
    numbers = values.double().numpy()
    whole = bool(np.isin(numbers, (0, 1)).all())
    ends = wilson_interval(numbers) if whole else bootstrap_interval(numbers, seed)
    return [round(float(value), 4) for value in (numbers.mean(), *ends)]


def ranks(classifier: Classifier, marked: Marked, normal: Tensor, seed: int) -> dict[str, object]:
    """Share of all other places of the same shape that matter less than the marked one."""
    shares = []
    height, width = marked.regions.shape[1:]
    for row in range(len(marked)):
        region = marked.regions[row]
        downs, rights = (
            range(-length // STRIDE * STRIDE, length, STRIDE) for length in (height, width)
        )
        offsets = torch.tensor([(down, right) for down in downs for right in rights])
        places = move_regions(region.expand(len(offsets), -1, -1), offsets)
        whole = places.flatten(1).sum(1) >= 0.95 * region.sum()
        apart = share(places, region) <= 0.5
        places = torch.cat([region[None], places[whole & apart]])
        changes = sweep(classifier, marked.images[row], normal[row, :1], places)
        if len(changes) > 1:
            shares.append((changes[1:] > changes[0]).float().mean())
    return {
        "films": len(shares),
        "share_of_places_that_matter_less": interval(torch.stack(shares), seed),
    }


def sweep(classifier: Classifier, film: Tensor, donors: Tensor, places: Tensor) -> Tensor:
    """Change of the margin of pneumonia when each place is that of the donors, one per place."""
    results = []
    with torch.no_grad():
        before = margin(classifier(film[None]))
        for part in torch.split(places, PART):
            films = film.expand(len(part), -1, -1, -1)
            changed = [
                margin(classifier(replace_parts(films, donor.expand_as(films), part, FEATHER)))
                for donor in donors
            ]
            results.append(torch.stack(changed).mean(0) - before)
    return torch.cat(results)


def margin(logits: Tensor) -> Tensor:
    return logits[:, ILL] - logits[:, NORMAL]


def maps(classifier: Classifier, marked: Marked, normal: Tensor, seed: int) -> dict[str, object]:
    """How well the map of all exchanges agrees with the marks: it is faithful by construction."""
    height, width = marked.regions.shape[1:]
    starts = [
        (top, left)
        for top in range(0, height - WINDOW + 1, STRIDE)
        for left in range(0, width - WINDOW + 1, STRIDE)
    ]
    windows = torch.zeros(len(starts), height, width, dtype=torch.bool)
    for window, (top, left) in zip(windows, starts, strict=True):
        window[top : top + WINDOW, left : left + WINDOW] = True
    weights = windows.float()
    rows = []
    for film, donors in zip(marked.images, normal, strict=True):
        losses = -sweep(classifier, film, donors[:1], windows)
        rows.append((losses[:, None, None] * weights).sum(0) / weights.sum(0).clamp(min=1))
    of_films = torch.stack(rows)
    blob = CentreBlob()(classifier, marked.images, torch.full((len(marked),), ILL))
    return {
        name: {
            "ncc": interval(ncc(values, marked.regions), seed),
            "iou_over_percentiles": interval(iou_over_percentiles(values, marked.regions), seed),
        }
        for name, values in {"exchange": of_films, "centre_blob": blob}.items()
    }


def table(rows: Mapping[str, Mapping[str, Mapping[str, object]]]) -> str:
    """The rows as a table of Markdown."""

    def text(values: object) -> str:
        if values is None:
            return ""
        mean, low, high = values
        return f"{mean:.2f} ({low:.2f} to {high:.2f})".replace("-", "−")

    lines = [
        "| replaced by | part | films | change of the logit | flipped | marked minus this | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for fill, of_fill in rows.items():
        for site, row in of_fill.items():
            cells = (
                fill,
                site,
                str(row["films"]),
                text(row["change"]),
                text(row["flipped"]),
                text(row.get("marked_minus_this")),
                str(row.get("p", "")),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

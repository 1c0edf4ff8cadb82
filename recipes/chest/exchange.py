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
from pathlib import Path

import torch
from controls import make_sites
from donors import DONORS, ILL, NORMAL, borrow_films, make_pools, mirror_films, predict_classes
from exchange_map import FEATHER, compare_exchange_maps, rank_marked_regions
from exchange_table import render_table, summarise_sites
from films import CLASSES, MarkedFilms, read_films, read_marked_films
from torch import Tensor

from apercu.classifiers import Classifier, open_classifier
from apercu.metrics.evidence_exchange import ExchangeScores, measure_exchange
from apercu.removal import Blur, Mean


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("films", "classifier", "out"):
        words.add_argument(name, type=Path)
    words.add_argument("--truth", choices=("boxes", "opacities"), default="boxes")
    words.add_argument("--seed", type=int, default=0)
    arguments = words.parse_args()
    classifier, seed = open_classifier(arguments.classifier), arguments.seed
    marked = read_marked_films(classifier, arguments.films / arguments.truth)
    test = read_films(arguments.films / "test", classifier.network.input).select_hospital("nih")
    healthy, ill = make_pools(classifier, test, arguments.films / "test")
    normal, others = borrow_films(marked, healthy), borrow_films(marked, ill)
    is_ill = predict_classes(classifier, marked.images) == ILL
    predicted_ill = marked.select(is_ill)
    print(f"{len(marked)} films, {len(predicted_ill)} predicted as {CLASSES[ILL]}", flush=True)
    if not len(predicted_ill):
        raise SystemExit(
            f"error: {arguments.classifier}: predicts no marked film as {CLASSES[ILL]}"
        )
    is_normal = predict_classes(classifier, normal.flatten(0, 1)) == NORMAL
    facts: dict[str, object] = {
        "films": len(marked),
        "predicted_pneumonia": len(predicted_ill),
        "healthy_donors": len(healthy),
        "ill_donors": len(ill),
        "marked_area": round(marked.regions.float().mean((1, 2))[is_ill].mean().item(), 4),
        "donors_still_normal": round(is_normal.float().mean().item(), 4),
        "seed": seed,
    }
    scores = exchange_all(classifier, predicted_ill, normal[is_ill], others[is_ill], seed)
    rows = {fill: summarise_sites(sites, seed) for fill, sites in scores.items()}
    facts["rows"] = rows
    print(render_table(rows), flush=True)
    facts["rank"] = rank_marked_regions(classifier, predicted_ill, normal[is_ill], ILL, seed)
    facts["exchange_map"] = compare_exchange_maps(classifier, marked, normal, ILL, seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    (arguments.out / "table.md").write_text(render_table(rows))
    print(json.dumps({name: value for name, value in facts.items() if name != "rows"}, indent=1))


def exchange_all(
    classifier: Classifier, films: MarkedFilms, normal: Tensor, others: Tensor, seed: int
) -> dict[str, dict[str, ExchangeScores]]:
    """Replace parts of films by everything that may stand there, and the reverse.

    Args:
        classifier: classifier of films.
        films: films that are predicted as pneumonia.
        normal: normal films aligned with them, `films × donors × 1 × height × width`.
        others: other films with pneumonia, in the same shape.
        seed: seed of the control regions.

    Returns:
        Scores of each film, by what replaces the part, then by which part it is. In the last
        entry, the part is pasted into normal films.
    """
    sites = make_sites(films.regions, DONORS, seed)
    images = films.images[:, None]
    fills = {
        "normal films": normal,
        "own mirrored side": mirror_films(films)[:, None],
        "blur": Blur().make_replacement(films.images)[:, None],
        "mean": Mean().make_replacement(films.images)[:, None],
        "other films with pneumonia": others,
    }
    scores = {
        fill: {
            site: exchange_parts(classifier, images, replacement, regions, ILL)
            for site, regions in sites.items()
        }
        for fill, replacement in fills.items()
    }
    scores["pasted into normal films"] = {
        site: exchange_parts(classifier, normal, images, regions, NORMAL)
        for site, regions in sites.items()
    }
    return scores


def exchange_parts(
    classifier: Classifier, films: Tensor, others: Tensor, regions: Tensor, target: int
) -> ExchangeScores:
    """Measure what the replacement of a part does to the decision about each film.

    Args:
        classifier: classifier of films.
        films: films in [0, 1], `films × draws × 1 × height × width`.
        others: films that give the parts, in the same shape.
        regions: the parts, `films × draws × height × width`. Where a number of draws is smaller,
            its draws are repeated.
        target: class whose margin is measured.

    Returns:
        Change of the margin and flips, means over the draws; NaN where a part is empty.
    """
    draws = max(films.shape[1], others.shape[1], regions.shape[1])
    changes, flips = [], []
    for draw in range(draws):
        film, other, region = (
            values[:, draw % values.shape[1]] for values in (films, others, regions)
        )
        targets = torch.full((len(film),), target)
        result = measure_exchange(classifier, film, other, region, targets, FEATHER)
        is_empty = ~region.flatten(1).any(1)
        changes.append(result.changes.masked_fill(is_empty, torch.nan))
        flips.append(result.flipped.masked_fill(is_empty, torch.nan))
    return ExchangeScores(torch.stack(changes).mean(0), torch.stack(flips).mean(0))


if __name__ == "__main__":
    main()

"""What exchanges of evidence show, as means with intervals and as a table of Markdown."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from apercu.metrics.evidence_exchange import ExchangeScores
from apercu.statistics import bootstrap_interval, sign_flip_test, wilson_interval

Row = dict[str, object]
"""Figures of one site: `films`, `change`, `flipped`, and but for the marked one the differences."""


def summarise_sites(scores: Mapping[str, ExchangeScores], seed: int) -> dict[str, Row]:
    """Return means with intervals of each site, and paired differences from the marked one.

    Args:
        scores: changes and flips of each film, by site; NaN where a film has no such site.
        seed: seed of the intervals and tests.

    Returns:
        Figures by site.
    """
    results: dict[str, Row] = {}
    marked = scores["marked"]
    for site, of_site in scores.items():
        valid = ~of_site.changes.isnan()
        row: Row = {
            "films": int(valid.sum()),
            "change": compute_interval(of_site.changes[valid], seed),
            "flipped": compute_interval(of_site.flipped[valid], seed),
        }
        if site != "marked":
            differences = (marked.changes - of_site.changes)[valid]
            flips = (marked.flipped - of_site.flipped)[valid]
            row["marked_minus_this"] = compute_interval(differences, seed)
            row["marked_flips_minus_these"] = compute_interval(flips, seed)
            if len(differences):
                row["p"] = round(sign_flip_test(differences.numpy(), seed), 4)
        results[site] = row
    return results


def compute_interval(values: Tensor, seed: int) -> list[float] | None:
    """Return the mean and the ends of its 95 % interval: Wilson's for zeros and ones.

    Args:
        values: one number per film.
        seed: seed of the bootstrap.

    Returns:
        Mean, lower end and upper end; None without any film.
    """
    if not len(values):
        return None
    numbers = values.double().numpy()
    is_binary = bool(np.isin(numbers, (0, 1)).all())
    ends = wilson_interval(numbers) if is_binary else bootstrap_interval(numbers, seed)
    return [round(float(value), 4) for value in (numbers.mean(), *ends)]


def render_table(rows: Mapping[str, Mapping[str, Row]]) -> str:
    """Return a table of Markdown of the figures by replacement and site."""
    lines = [
        "| replaced by | part | films | change of the logit | flipped | marked minus this | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for fill, sites in rows.items():
        for site, row in sites.items():
            cells = (
                fill,
                site,
                str(row["films"]),
                render_interval(row["change"]),
                render_interval(row["flipped"]),
                render_interval(row.get("marked_minus_this")),
                str(row.get("p", "")),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def render_interval(values: object) -> str:
    """Return a mean and the ends of its interval in words; empty for None."""
    if values is None:
        return ""
    mean, low, high = values
    return f"{mean:.2f} ({low:.2f} to {high:.2f})".replace("-", "−")

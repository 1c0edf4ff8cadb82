"""Filters as parts of graphs: ONNX Runtime computes what they do, bit for bit where they round."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from apercu.classifiers import InputSpec
from apercu.deploy.export.tracing import (
    Traceable,
    open_program,
    open_session,
    run_session,
    write_onnx,
    write_program,
)
from apercu.filters import FILTERS, FilterLayer, parse_filter
from apercu.filters.wavefront import diffuse_error_by_lines, find_lag
from apercu.types import Images

ROUNDING = (
    "floyd_steinberg",
    "floyd_steinberg:bits=2,channels=grey",
    "jarvis_judice_ninke",
    "atkinson:bits=4",
    "bayer:bits=2",
    "blue_noise:channels=grey",
    "bit_depth:bits=2",
    "median:width=5",
)
SMOOTH = (
    "gaussian",
    "inverse_halftone",
    "low_resolution:factor=5",
    "non_local_means:window=3",
    "total_variation:steps=4",
)
WITHOUT = ("jpeg", "floyd_steinberg:scan=serpentine", "total_variation:steps=1000")
SPEC = InputSpec(size=(12, 17))


class Filtered(torch.nn.Module):
    """Filters images; the targets are used as the network of an explainer uses them."""

    def __init__(self, name: str) -> None:
        super().__init__()
        filter = parse_filter(name)
        assert filter is not None
        self.layer = FilterLayer(filter, "surrogate")

    def forward(self, images: Images, targets: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.layer(images) + 0 * targets.view(-1, 1, 1, 1),)


def make_trials() -> list[Images]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(5, 3, 12, 17, generator=generator)
    noise[0, :, :3] = 128 / 255  # the value that turns dark, though it is nearer to white
    flat = torch.linspace(0, 1, 17).expand(2, 3, 12, 17).clone()
    return [noise, flat, noise[:1]]


def trace(name: str) -> Traceable:
    module = Filtered(name)
    module(*Traceable.for_images(module, ("images",), SPEC).inputs)  # fills tables
    return Traceable.for_images(module, ("filtered",), SPEC)


def measure_difference(name: str, path: Path) -> float:
    """The largest difference of a filter in ONNX Runtime from the filter itself."""
    traceable = trace(name)
    session = open_session(write_onnx(traceable, path / "filter.onnx"))
    worst = 0.0
    for images in make_trials():
        targets = torch.zeros(len(images), dtype=torch.long)
        actual = run_session(session, images, targets)["filtered"]
        worst = max(worst, (actual - traceable.module.layer(images)).abs().max().item())
    return worst


@pytest.mark.parametrize(
    "name", [ROUNDING[0], *(pytest.param(n, marks=pytest.mark.slow) for n in ROUNDING[1:])]
)
def test_a_graph_rounds_to_the_same_bits(name: str, tmp_path: Path) -> None:
    assert measure_difference(name, tmp_path) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOOTH)
def test_a_graph_smooths_as_the_filter_does(name: str, tmp_path: Path) -> None:
    assert measure_difference(name, tmp_path) < 1e-5


def test_every_filter_is_tried_here() -> None:
    names = {name.partition(":")[0] for name in (*ROUNDING, *SMOOTH, *WITHOUT)}
    purifiers = {name for name, one in FILTERS.items() if hasattr(one, "network_class")}
    assert names == set(FILTERS) - purifiers


def test_a_program_halftones_to_the_same_bits(tmp_path: Path) -> None:
    traceable = trace("floyd_steinberg")
    run = open_program(write_program(traceable, tmp_path / "filter.pt2"), ("filtered",))
    for images in make_trials():
        targets = torch.zeros(len(images), dtype=torch.long)
        assert torch.equal(run(images, targets)["filtered"], traceable.module.layer(images))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("name", ["floyd_steinberg", "jarvis_judice_ninke:bits=2", "atkinson"])
def test_lines_of_small_images(name: str, shape: tuple[int, int]) -> None:
    filter = parse_filter(name)
    images = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(1))
    with pytest.MonkeyPatch.context() as patch:  # the loop without its compilation
        patch.setattr("apercu.filters.wavefront.scan", scan_slowly)
        halftones = diffuse_error_by_lines(images[:, 0], filter.kernel, filter.bits)
    assert torch.equal(halftones, filter(images)[:, 0])


def scan_slowly(step, start, sequences, others):
    """What `scan` computes, one step after the other."""
    outputs = []
    for values in zip(*sequences, strict=True):
        *start, output = step(*start, *values, *others)
        outputs.append(output)
    return [*start, torch.stack(outputs)]


def test_a_row_lags_behind_all_that_it_receives() -> None:
    lags = {name: find_lag(parse_filter(name).kernel) for name in ("floyd_steinberg", "atkinson")}
    assert lags == {"floyd_steinberg": 2, "atkinson": 2}
    assert find_lag(parse_filter("jarvis_judice_ninke").kernel) == 3


@pytest.mark.parametrize("name", [*ROUNDING, *SMOOTH, *WITHOUT])
def test_filters_without_a_graph_say_why(name: str) -> None:
    filter = parse_filter(name)
    assert bool(filter.graph_obstacle) == (name in WITHOUT)

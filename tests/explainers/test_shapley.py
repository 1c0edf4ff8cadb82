"""The Shapley explainer: its objective, its sum, what it learns, a run folder, a command."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations, permutations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import apercu
from apercu import open_classifier, open_images
from apercu.classifiers import Classifier
from apercu.deploy.export.graphs import build_graph
from apercu.deploy.inference import open_engine
from apercu.deploy.serving.batch_explainer import Explained, MaskBatchExplainer
from apercu.deploy.serving.prepared_image import PreparedImage
from apercu.deploy.serving.requests import RequestOptions
from apercu.errors import ConfigError, ImageError
from apercu.evaluation.open_explainers import open_explainers
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.run_folder import load_explainer
from apercu.explainers.shapley.explainer import (
    SHAPLEY_PRESETS,
    ShapleyExplainer,
    ShapleySettings,
)
from apercu.explainers.shapley.kind import SHAPLEY, build_shapley_network
from apercu.explainers.shapley.network import hide_cells, share_rest
from apercu.explainers.shapley.training import (
    ShapleyTraining,
    compute_errors,
    compute_explained,
    draw_subsets,
)
from apercu.explainers.train import build_network, train_explainer
from apercu.training.data import TrainingImages
from apercu.training.trainer import Hardware, Trainer

PLANTED = "planted:size=32,images=24,classes=3,difficulty=0"
SETTINGS = {
    "shape": {"grid": 4, "width": 8},
    "embedding": {"images": 16},
    "schedule": {"steps": 3, "batch": 4, "copies": 2},
}
PLAYERS = 4
SUBSETS = [s for k in range(PLAYERS + 1) for s in combinations(range(PLAYERS), k)]


def settings(**changes: Any) -> ShapleySettings:
    return SHAPLEY_PRESETS.parse({**SETTINGS, **changes})


def shapley_by_enumeration(game: dict[tuple[int, ...], float]) -> Tensor:
    """The mean over all orders of what each player adds to those before it."""
    values = torch.zeros(PLAYERS, dtype=torch.float64)
    orders = list(permutations(range(PLAYERS)))
    for order in orders:
        for position, player in enumerate(order):
            before = tuple(sorted(order[:position]))
            values[player] += game[tuple(sorted((*before, player)))] - game[before]
    return values / len(orders)


@pytest.fixture
def game() -> dict[tuple[int, ...], float]:
    generator = torch.Generator().manual_seed(3)
    return {s: float(torch.randn((), generator=generator)) for s in SUBSETS}


def solve(game: dict[tuple[int, ...], float], subsets: Tensor, weights: Tensor) -> Tensor:
    """The values with the least weighted squared errors, after the rest is shared."""
    rows = [tuple(torch.nonzero(row)[:, 0].tolist()) for row in subsets]
    gains = torch.tensor([[game[row] - game[()]] for row in rows]).double()[None]
    total = torch.tensor(game[tuple(range(PLAYERS))] - game[()]).double()

    def errors(values: Tensor) -> Tensor:
        grid = share_rest(values.view(1, 1, 2, 2), total)
        return compute_errors(grid, subsets.double().view(1, -1, 2, 2), gains).flatten()

    start = errors(torch.zeros(PLAYERS, dtype=torch.float64))
    columns = [errors(row) - start for row in torch.eye(PLAYERS, dtype=torch.float64)]
    scale = weights.double().sqrt()
    free = torch.linalg.lstsq(  # the sum is free, so the rank is one less
        scale[:, None] * torch.stack(columns, 1), -scale * start, driver="gelsd"
    ).solution
    return share_rest(free.view(2, 2), total).flatten()


def test_the_objective_is_least_at_the_shapley_values(
    game: dict[tuple[int, ...], float],
) -> None:
    """Of any game, with all subsets at their weights, and with subsets as they are drawn."""
    exact = shapley_by_enumeration(game)
    inner = [s for s in SUBSETS if 0 < len(s) < PLAYERS]
    subsets = torch.tensor([[float(p in s) for p in range(PLAYERS)] for s in inner])
    kernel = [1 / (comb(PLAYERS, len(s)) * len(s) * (PLAYERS - len(s))) for s in inner]
    torch.testing.assert_close(solve(game, subsets, torch.tensor(kernel)), exact)
    drawn = draw_subsets(40000, PLAYERS, torch.Generator().manual_seed(0))
    some, counts = drawn.unique(dim=0, return_counts=True)
    assert len(some) == len(inner)
    torch.testing.assert_close(solve(game, some, counts), exact, atol=0.03, rtol=0)
    uniform = solve(game, subsets, torch.ones(len(inner)))
    assert (uniform - exact).abs().max() > 0.01  # so the weights matter


def test_subsets_are_drawn_in_pairs_that_share_all_cells() -> None:
    subsets = draw_subsets(600, 9, torch.Generator().manual_seed(1))
    assert torch.equal(subsets[::2] + subsets[1::2], torch.ones(300, 9))
    sizes = subsets.sum(1)
    assert sizes.amin() == 1 and sizes.amax() == 8


def test_hidden_cells_have_the_colour_and_the_others_stay() -> None:
    images, kept = torch.rand(1, 3, 6, 8), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    hidden = hide_cells(images, kept, (0.1, 0.2, 0.3))
    assert torch.equal(hidden[..., :3, :4], images[..., :3, :4])
    assert torch.equal(hidden[..., 3:, 4:], images[..., 3:, 4:])
    colour = torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    assert torch.equal(hidden[0, :, :3, 4:], colour.expand(3, 3, 4))


class Additive(nn.Module):
    """Each class adds up its own weights of all cells of 4 × 4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cells = nn.Conv2d(3, 8, 4, 4)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.cells(images).mean((2, 3)))

    def shapley_values(self, images: Tensor, colour: float) -> Tensor:
        """What each cell adds, `batch × classes × 4 × 4`, in closed form."""
        change = self.cells(images) - self.cells(torch.full_like(images, colour))
        return torch.einsum("bwij,kw->bkij", change, self.head.weight) / 16


@pytest.fixture
def additive() -> Classifier:
    return open_classifier(Additive(), size=16, mean=0.5, std=0.5, classes=["a", "b", "c"])


def train_module(
    classifier: Classifier, steps: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> ShapleyExplainer:
    """Train without Lightning, on noise, from a network that does not start as a CAM."""
    chosen = settings(schedule={"batch": 16, "copies": 8})
    network = build_network(chosen, classifier, seed=0)
    module = ShapleyTraining(network, classifier, chosen, seed=0)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(module, "step_generator", lambda: generator)
    monkeypatch.setattr(module, "log_terms", lambda terms, figures: None)
    monkeypatch.setattr(module, "views", lambda images, generator: images)
    folder.mkdir()
    stack = np.random.default_rng(0).random((32, 3, 16, 16)).astype(np.float32)
    np.savez(folder / "noise.npz", images=stack)
    images = TrainingImages(open_images(folder / "noise.npz"), classifier)
    module.prepare_network(images, folder, lambda line: None)
    module.network.decoder.scale.data.zero_()
    optimiser = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], 0.03)
    network.train()
    for step in range(steps):
        loss = module.training_step(torch.rand(16, 3, 16, 16, generator=generator), step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    info = ClassifierInfo.from_classifier(classifier)
    return ShapleyExplainer(network, info, chosen, {})  # type: ignore[arg-type]


def test_of_an_additive_classifier_it_learns_the_exact_values(
    additive: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    exact = additive.module.shapley_values(2 * images - 1, 0.0)[:, 1]  # type: ignore[union-attr,operator]
    distances = []
    for steps in (0, 60):
        explainer = train_module(additive, steps, tmp_path / str(steps), monkeypatch)
        values = explainer.shapley_values(images, 1, logits=additive(images))
        distances.append(float((values - exact).square().sum() / exact.square().sum()))
    assert distances[1] < 0.1 and distances[0] > 0.8


@pytest.mark.parametrize("value", ["logit", "probability"])
def test_values_add_up_to_the_prediction(value: str, tiny_card: Path) -> None:
    """Above that of the image without any cell: that of the classifier, or the own estimate."""
    classifier = open_classifier(tiny_card)
    chosen = settings(value=value)
    network = build_network(chosen, classifier, seed=0)
    network.empty_logits.copy_(torch.tensor([0.3, -0.2, 0.1]))  # type: ignore[operator,union-attr]
    network.gate.set_logit_units(0.5, 2.0)  # type: ignore[operator,union-attr]
    info = ClassifierInfo.from_classifier(classifier)
    explainer = ShapleyExplainer(network, info, chosen, {})  # type: ignore[arg-type]
    images = torch.rand(4, 3, 32, 32)
    for given in (classifier(images), None):
        logits = explainer.estimate_logits(images) if given is None else given
        empty = explainer.network.empty_logits[None]
        if value == "probability":
            logits, empty = logits.softmax(1), empty.softmax(1)
        values = explainer.shapley_values(images, 2, logits=given)
        assert values.shape == (4, 4, 4)
        torch.testing.assert_close(values.sum((1, 2)), (logits - empty)[:, 2], atol=1e-5, rtol=1e-4)
    with pytest.raises(ImageError, match="logits: expected 4 × 3, got 1 × 3"):
        explainer.shapley_values(images, 2, logits=classifier(images[:1]))


def test_equal_values_explain_nothing_and_exact_ones_everything() -> None:
    subsets = draw_subsets(64, 4, torch.Generator().manual_seed(0)).view(2, 32, 2, 2)
    exact = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    gains = torch.einsum("bsrc,bkrc->bsk", subsets, exact)
    assert compute_explained(exact, subsets, gains) == pytest.approx(1, abs=1e-5)
    equal = exact.mean((2, 3), keepdim=True).expand_as(exact)
    assert compute_explained(equal, subsets, gains) == 0


@pytest.fixture(scope="module")
def run(tiny_card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, classifier = tmp_path_factory.mktemp("runs") / "shapley", open_classifier(tiny_card)
    source = open_images(PLANTED)
    trainer = Trainer(classifier, source, folder, Hardware("cpu"), say=lambda line: None)
    train_explainer(settings(), trainer, classifier)
    return folder


def test_a_training_leaves_a_run_that_opens_again(run: Path, tiny_card: Path) -> None:
    explainer, again = ShapleyExplainer.from_pretrained(run), load_explainer(run)
    images = torch.rand(3, 3, 32, 32)
    assert torch.equal(explainer.attribute(images), again.attribute(images))
    empty = (
        torch.full((1, 3, 32, 32), 0.0)
        + torch.tensor(open_classifier(tiny_card).zero_colour)[:, None, None]
    )
    expected = open_classifier(tiny_card)(empty)[0]
    torch.testing.assert_close(explainer.network.empty_logits, expected)
    facts = json.loads((run / "facts.json").read_text())
    assert {"explained", "embedding_agreement", "measured_images"} <= facts.keys()
    assert "Shapley explainer" in (run / "card.md").read_text()


def test_it_is_compared_as_a_map_and_served_as_a_mask(run: Path, tiny_card: Path) -> None:
    classifier = open_classifier(tiny_card)
    result = open_explainers([run], None, classifier, open_images(PLANTED))
    assert list(result) == ["shapley"] and result["shapley"].map_scale == "map"
    served = MaskBatchExplainer("shapley", open_engine(run))
    prepared = PreparedImage(torch.rand(3, 32, 32), (32, 32), RequestOptions(top=2))
    (explained,) = served([prepared])
    assert isinstance(explained, Explained)
    assert (
        served.write(explained)["explainer"] == served.served.describe()["explainer"] == "shapley"
    )
    assert "kind" not in served.engine.info.model_dump()  # as in older manifests of batches
    maps = [each.map for each in explained.explanations]
    assert len(maps) == 2 and all(map.min() >= 0 and map.max() <= 1 for map in maps)
    assert maps[0].max() > 0.5  # the predicted class has a cell of full evidence
    with pytest.raises(ConfigError, match="there is no graph of a shapley explainer"):
        build_graph(load_explainer(run))


def test_a_black_box_is_enough(tmp_path: Path) -> None:
    """A plain callable: no gradients, no student."""
    chosen = settings(encoder="small", frozen=False, embedding={"steps": 2, "batch": 4})
    explainer = apercu.train(
        f"{__name__}:Colours",
        PLANTED,
        tmp_path,
        kind="shapley",
        config=chosen,
        device="cpu",
        workers=0,
        say=lambda line: None,
    )
    assert explainer.attribute(torch.rand(2, 3, 32, 32), "green").shape == (2, 32, 32)
    assert not (tmp_path / "student").exists()


class Colours:
    """A plain callable: the mean of each colour decides."""

    input = {"size": [32, 32]}  # noqa: RUF012
    classes = ("red", "green", "blue")

    def __call__(self, images: Tensor) -> Tensor:
        return 20 * images.mean((2, 3))


def test_the_command_trains_and_explains(
    tiny_card: Path, tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text(json.dumps(SETTINGS))
    words = ("--classifier", tiny_card, "--images", PLANTED, "--config", config)
    code, result = command("train", "shapley", *words, "--out", tmp_path / "run", "--device", "cpu")
    assert code == 0 and "of the squared error of equal values" in result
    out = tmp_path / "maps"
    code, _ = command("explain", tmp_path / "run", "planted:size=32,images=2", "--out", out)
    assert code == 0
    for image in json.loads((out / "explain.json").read_text())["images"]:
        (answer,) = image["answers"]
        assert (out / answer["files"]["overlay"]).is_file()


def test_what_does_not_fit(additive: Classifier) -> None:
    with pytest.raises(ConfigError, match=r"schedule.copies: .*multiple of 2"):
        settings(schedule={"copies": 3})
    info = ClassifierInfo.from_classifier(additive)
    with pytest.raises(ConfigError, match=r"shape.grid: expected at most 16 rows, .*got 20"):
        build_shapley_network(settings(shape={"grid": 20}), info, additive)
    assert SHAPLEY.find_doubts({"explained": 0.5}) == []
    assert "hardly better than equal ones" in SHAPLEY.find_doubts({"explained": 0.01})[0]

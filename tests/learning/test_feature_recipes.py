"""Recipes that weigh, mix or exchange what the last layer sees: each idea has its effect."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn

from apercu import methods, open_classifier, train_classifier
from apercu.classifiers import Classifier, InputSpec, Network, save_classifier
from apercu.classifiers.decisions import EACH_CLASS, ONE_CLASS
from apercu.classifiers.reinitialise import NetworkSource
from apercu.errors import ClassifierError, ConfigError
from apercu.learning.network import make_network
from apercu.learning.recipes.background_exchange import BackgroundExchange
from apercu.learning.recipes.base import Recipe, Task, TrainingStep
from apercu.learning.recipes.colouring import FILE, Colouring
from apercu.learning.recipes.described import BUILDERS, find_inner
from apercu.learning.recipes.explanation_guided import ExplanationGuided, compute_relevance
from apercu.learning.recipes.fine_tuning import Frozen
from apercu.learning.recipes.graph_interpolation import FACTORY, GraphInterpolation
from apercu.learning.recipes.spatial_attention import AttendedMaps, SpatialAttention
from apercu.learning.settings import LearningSettings
from apercu.learning.train import prepare_training
from apercu.learning.training import LearningTraining
from apercu.pretraining.backbone import open_backbone
from apercu.training.augment import RandomViews

SIDE = 16
PLAIN = LearningSettings(views=RandomViews(whole=1.0, mirror=0.0))


def _generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def _open_pooled(weights: Tensor, scores: Tensor) -> Classifier:
    """A classifier of ReLU features of single pixels, their mean, and a linear layer."""
    features, classes = nn.Conv2d(3, len(weights), 1), len(scores)
    head = nn.Linear(len(weights), classes)
    with torch.no_grad():
        features.weight.copy_(weights[:, :, None, None])
        nn.init.constant_(features.bias, 0.05)  # grey images are not at the kink of the ReLU
        head.weight.copy_(scores)
        head.bias.zero_()
    module = nn.Sequential(features, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    names = [f"old {number}" for number in range(classes)]
    return open_classifier(module, size=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3, classes=names)


def _make_task(classifier: Classifier, images: Tensor, labels: Tensor, folder: Path) -> Task:
    network = make_network(classifier, 2, 0, scratch=False)
    return Task(
        network.to_classifier(("a", "b"), ONE_CLASS),
        ("a", "b"),
        ONE_CLASS,
        images,
        F.one_hot(labels, 2).float(),
        torch.ones(2, 2),
        None,
        folder,
        pretrained=classifier,
    )


def _train(
    classifier: Classifier, task: Task, recipes: list[Recipe], steps: int, rate: float = 1e-2
) -> LearningTraining:
    """Train a new network of a task for some steps of 16 images."""
    network = make_network(classifier, 2, 0, scratch=False)
    training = prepare_training(network, task, recipes, PLAIN)
    optimiser = torch.optim.AdamW(network.parameters(), rate)
    for number in range(steps):
        generator = _generator(number)
        rows = torch.randint(len(task.images), (16,), generator=generator)
        stored = torch.stack([task.images[row] for row in rows.tolist()])
        training.set_rates(number / steps)
        step = TrainingStep(
            task,
            network.train(),
            training.draw_views(stored, generator),
            stored,
            task.targets[rows],
            None,
            generator,
            number / steps,
            training.draw_views,
        )
        terms = training.compute_terms(step)
        optimiser.zero_grad()
        torch.autograd.backward(torch.stack([term.mean() for term in terms.values()]).sum())
        optimiser.step()
    network.eval()
    return training


@torch.no_grad()
def _accuracy(training: LearningTraining, images: Tensor, labels: Tensor) -> float:
    logits = training.network(training.task.start.normalise(images))
    return (logits.argmax(1) == labels).float().mean().item()


# --- graph interpolation --------------------------------------------------------------------------


def _clouds(count: int, seed: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 2
    centres = torch.zeros(2, 30)
    centres[:, 0] = torch.tensor([-1.6, 1.6])
    return centres[labels] + torch.randn(count, 30, generator=_generator(seed)), labels


def test_a_graph_of_unlabelled_images_makes_few_labels_go_further(planted_task: Task) -> None:
    task = replace(planted_task, decision=ONE_CLASS)
    features, labels = _clouds(6, 1)
    new, truth = _clouds(300, 2)
    others, _ = _clouds(400, 3)
    targets = F.one_hot(labels, 2).float()

    def measure(recipe: GraphInterpolation, unlabelled: Tensor | None) -> float:
        head = recipe.build_head(features, targets, task, unlabelled)
        return (head(new).argmax(1) == truth).float().mean().item()

    alone = measure(GraphInterpolation(own=1.0), others)
    assert measure(GraphInterpolation(own=0.5), others) > alone + 0.04
    assert measure(GraphInterpolation(own=0.3, rounds=3), others) > alone + 0.08
    torch.manual_seed(0)
    one = measure(GraphInterpolation(neighbours=50), None)  # more than there are
    assert one > 0.6


def test_an_image_is_mixed_with_its_nearest_node(planted_task: Task) -> None:
    task = replace(planted_task, decision=ONE_CLASS)
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0], [-0.9, 0.2]])
    targets = F.one_hot(torch.tensor([0, 0, 1, 1]), 2).float()
    head = GraphInterpolation(neighbours=1, own=0.25).build_head(features, targets, task)
    places = F.normalize(features - features.mean(0), dim=1)
    neighbours = places[[1, 0, 3, 2]]
    mixed = F.normalize(0.25 * places + 0.75 * neighbours, dim=1)
    means = torch.stack([mixed[:2].mean(0), mixed[2:].mean(0)])
    own = F.normalize(torch.tensor([[0.7, 0.1]]) - features.mean(0), dim=1)
    nearest = places[(own @ places.T).argmax(1)]
    point = F.normalize(0.25 * own + 0.75 * nearest, dim=1)
    expected = -(point[:, None] - means).square().sum(2)
    logits = head(torch.tensor([[0.7, 0.1]]))
    factor = 10 / (means[0] - means[1]).square().sum()
    torch.testing.assert_close(
        (logits[:, 0] - logits[:, 1]), factor * (expected[:, 0] - expected[:, 1])
    )


def test_each_class_by_itself_has_two_means(planted_task: Task) -> None:
    features, labels = _clouds(60, 1)
    targets = torch.stack([labels == 1, features[:, 1] > 0], 1).float()
    features[:, 1] += 3 * (targets[:, 1] * 2 - 1)
    task = replace(planted_task, decision=EACH_CLASS)
    head = GraphInterpolation(own=0.8).build_head(features, targets, task)
    assert ((head(features) > 0) == (targets > 0.5)).float().mean() > 0.9


# --- spatial attention ----------------------------------------------------------------------------


OPPONENTS = torch.tensor([[1.0, -0.5, -0.5], [-0.5, 1.0, -0.5], [-0.5, -0.5, 1.0]])


def _small_objects(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """A red or a green spot of nine pixels; the whole image has a faint tint of any colour."""
    generator = _generator(seed)
    labels = torch.arange(count) % 2
    tints = 0.06 * torch.rand(count, 3, 1, 1, generator=generator)
    images = 0.4 + tints.expand(-1, -1, SIDE, SIDE).clone()
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = torch.randint(SIDE - 3, (2,), generator=generator).tolist()
        image[label, row : row + 3, column : column + 3] = 0.8
    return images, labels


def test_attention_finds_small_objects(tmp_path: Path) -> None:
    """The classifier of colours is sure at the spot alone, so the tint of the rest fades."""
    classifier = _open_pooled(OPPONENTS, 3 * torch.eye(3))
    images, labels = _small_objects(80, 0)
    task = _make_task(classifier, images, labels, tmp_path)
    accuracies = []
    for recipes in ([], [SpatialAttention(power=0.0)], [SpatialAttention()]):
        training = prepare_training(
            make_network(classifier, 2, 0, scratch=False), task, recipes, PLAIN
        )
        training.network.eval()
        features = training.compute_features(images)
        right = (features[:, 0] > features[:, 1]) == (labels == 0)
        accuracies.append(right.float().mean().item())
    plain, flat, attended = accuracies
    assert plain == flat < 0.85
    assert attended > 0.95


def test_weights_of_positions_have_mean_one_and_fall_with_entropy() -> None:
    layer = AttendedMaps(nn.Identity(), torch.eye(3), torch.zeros(3), 1.0)
    maps = torch.zeros(1, 3, 2, 2)
    maps[0, 0, 0, 0], maps[0, 1, 0, 1] = 9.0, 1.0
    weights = layer.weigh_positions(maps)[0, 0]
    assert weights.mean().item() == pytest.approx(1)
    assert weights[0, 0] > weights[0, 1] > weights[1, 0] == weights[1, 1]
    chances = torch.tensor([1.0, 0.0, 0.0]).softmax(0)
    entropy = -(chances * chances.log()).sum() / torch.tensor(3.0).log()
    expected = (1 - entropy) / 1e-3
    assert (weights[0, 1] / weights[1, 1]).item() == pytest.approx(expected.item(), rel=1e-3)


def test_attention_needs_a_classifier_with_classes(
    planted_task: Task, backbone: Classifier
) -> None:
    for pretrained in (None, backbone):
        with pytest.raises(ConfigError, match="expected a classifier with classes of its own"):
            SpatialAttention().check_task(replace(planted_task, pretrained=pretrained))


def test_attention_needs_the_mean_of_a_map(tmp_path: Path) -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )
    classifier = open_classifier(module, size=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)
    images, labels = _small_objects(8, 0)
    task = _make_task(classifier, images, labels, tmp_path)
    with pytest.raises(ClassifierError, match="takes the mean of its last feature map"):
        prepare_training(
            make_network(classifier, 2, 0, scratch=False), task, [SpatialAttention()], PLAIN
        )


# --- explanation-guided training ------------------------------------------------------------------


def test_relevance_of_a_linear_layer_is_feature_times_weight() -> None:
    head = nn.Linear(4, 2)
    features = torch.rand(3, 4, generator=_generator())
    targets = F.one_hot(torch.tensor([0, 1, 1]), 2).float()
    relevance = compute_relevance(head, features.clone(), targets)
    raw = features * head.weight[[0, 1, 1]]
    torch.testing.assert_close(relevance, (raw / raw.abs().amax(1, keepdim=True)).detach())
    assert all(parameter.grad is None for parameter in head.parameters())
    maps = features[:, :, None, None].expand(-1, -1, 2, 3).clone()
    spread = compute_relevance(head, maps, targets)
    torch.testing.assert_close(spread.mean((2, 3)), relevance)


def test_relevant_features_learn_faster(tmp_path: Path) -> None:
    """The step of a weight grows with the relevance of its feature, and is small against it."""
    classifier = _open_pooled(torch.cat([OPPONENTS, torch.eye(3)]), torch.zeros(2, 6))
    images = 0.5 + 0.3 * torch.rand(1, 3, SIDE, SIDE, generator=_generator())
    task = _make_task(classifier, images, torch.tensor([1]), tmp_path)
    network = make_network(classifier, 2, 0, scratch=False)
    recipe = ExplanationGuided(weight=2.0)
    training = prepare_training(network, task, [recipe], PLAIN)
    step = TrainingStep(
        task, network, images, images, task.targets, None, _generator(), 0.0, training.draw_views
    )
    head = network.head
    assert isinstance(head, nn.Linear)
    (plain,) = torch.autograd.grad(
        task.compute_loss(step.outputs.logits, task.targets).sum(), head.weight, retain_graph=True
    )
    (guided,) = torch.autograd.grad(recipe.compute_losses(step)["weighed"].sum(), head.weight)
    relevance = compute_relevance(head, step.outputs.maps.detach(), task.targets)
    weighed = (step.outputs.maps * (1 + relevance)).mean((2, 3)) / step.outputs.features
    ratios = guided / plain
    expected = (weighed / weighed[:, :1]).expand(2, -1)
    torch.testing.assert_close(ratios / ratios[:, :1], expected, rtol=1e-3, atol=1e-4)
    positive = head.weight[1] > 0
    assert positive.any() and not positive.all()
    assert ratios[1][positive].min() > ratios[1][~positive].max()


# --- background exchange --------------------------------------------------------------------------


def _shortcuts(count: int, seed: int, *, swapped: bool) -> tuple[Tensor, Tensor]:
    """A red or a green square on a ground that is as bright as the class, or as the other one."""
    generator = _generator(seed)
    labels = torch.arange(count) % 2
    ground = torch.where((labels == 0) ^ swapped, 0.25, 0.65)[:, None, None, None]
    images = ground + 0.02 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    images[:, :, 6:11, 6:11] = 0.4
    images[torch.arange(count), labels, 6:11, 6:11] = 0.55
    return images, labels


class _Window(nn.Module):
    """Sees some pixels only; the others are grey."""

    def __init__(self, pixels: Tensor) -> None:
        super().__init__()
        self.register_buffer("pixels", pixels)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.pixels


@pytest.mark.parametrize("where", ["border", "centre"])
def test_a_network_that_uses_the_background_has_a_larger_loss(where: str, tmp_path: Path) -> None:
    """Two networks are right on all images: by the square's colour, and by the ground's level."""
    images, labels = _shortcuts(64, 0, swapped=False)
    inside = torch.zeros(SIDE, SIDE)
    inside[6:11, 6:11] = 1
    outside = torch.ones(SIDE, SIDE)
    outside[4:13, 4:13] = 0
    recipe = BackgroundExchange(object=where, size=0.5)  # type: ignore[arg-type]
    losses = {}
    for name, pixels, weights, head, bias in (
        ("object", inside, OPPONENTS, [[20.0, -20.0, 0.0], [-20.0, 20.0, 0.0]], 0.0),
        ("ground", outside, torch.full((3, 3), 1 / 3), [[-4.0] * 3, [4.0] * 3], 2.0),
    ):
        plain = _open_pooled(weights, torch.zeros(2, 3))
        module = nn.Sequential(_Window(pixels), *plain.module)  # type: ignore[misc]
        size: dict[str, Any] = {"size": SIDE, "mean": (0.5,) * 3, "std": (0.25,) * 3}
        classifier = open_classifier(module, classes=["a", "b"], **size)
        task = _make_task(classifier, images, labels, tmp_path)
        network = make_network(classifier, 2, 0, scratch=False)
        training = prepare_training(network, task, [recipe], PLAIN)
        with torch.no_grad():
            network.head.weight.copy_(torch.tensor(head))  # type: ignore[union-attr, operator]
            network.head.bias.copy_(torch.tensor([bias, -bias]))  # type: ignore[union-attr, operator]
        step = TrainingStep(
            task,
            network,
            images,
            images,
            task.targets,
            None,
            _generator(),
            0.0,
            training.draw_views,
        )
        own = task.compute_loss(step.outputs.logits, task.targets).mean().item()
        exchanged = recipe.compute_losses(step)["exchanged"].mean().item()
        losses[name] = own, exchanged
    assert losses["object"][0] < 0.3 and losses["ground"][0] < 0.3
    assert losses["object"][1] < 0.5
    assert losses["ground"][1] > 0.7


def test_objects_stay_and_backgrounds_change(tmp_path: Path) -> None:
    images, labels = _shortcuts(8, 0, swapped=False)
    classifier = _open_pooled(OPPONENTS, torch.zeros(2, 3))
    task = _make_task(classifier, images, labels, tmp_path)
    recipe = BackgroundExchange()
    network = make_network(classifier, 2, 0, scratch=False)
    prepare_training(network, task, [recipe], PLAIN)
    changed = recipe.exchange(network, images, _generator())
    difference = (changed - images).abs().mean(1)
    assert difference[:, 7:10, 7:10].max() < 0.05
    assert difference[:, :4].mean() > 0.1
    assert changed.min() >= -0.1 and changed.max() <= 1.1


def test_the_generator_works_against_the_classifier(tmp_path: Path) -> None:
    """A step of the generator alone raises the loss of the exchanged images."""
    images, labels = _shortcuts(16, 0, swapped=False)
    classifier = _open_pooled(OPPONENTS, torch.randn(2, 3, generator=_generator()))
    task = _make_task(classifier, images, labels, tmp_path)
    recipe = BackgroundExchange()
    network = make_network(classifier, 2, 0, scratch=False)
    training = prepare_training(network, task, [recipe], PLAIN)
    generator_parameters = list(network.parts[recipe.name].parameters())

    def compute_loss() -> Tensor:
        step = TrainingStep(
            task,
            network,
            images,
            images,
            task.targets,
            None,
            _generator(),
            0.0,
            training.draw_views,
        )
        return recipe.compute_losses(step)["exchanged"].mean()

    before = compute_loss()
    optimiser = torch.optim.SGD(generator_parameters, 0.5)
    for _ in range(5):
        optimiser.zero_grad()
        torch.autograd.backward(compute_loss())
        optimiser.step()
    assert compute_loss() > before


# --- colouring ------------------------------------------------------------------------------------


def _grey(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Dark and bright grey images."""
    labels = torch.arange(count) % 2
    levels = 0.35 + 0.3 * labels + 0.1 * torch.rand(count, generator=_generator(seed))
    return levels[:, None, None, None].expand(-1, 3, SIDE, SIDE).clone(), labels


def test_colours_show_grey_images_to_a_network_of_colours(tmp_path: Path) -> None:
    """Its features are differences of the channels, which a grey image does not have."""
    classifier = _open_pooled(OPPONENTS, torch.eye(3))
    images, labels = _grey(48, 0)
    task = _make_task(classifier, images, labels, tmp_path)
    blind = _train(classifier, task, [Frozen()], 80)
    assert _accuracy(blind, images, labels) <= 0.5
    coloured = _train(classifier, task, [Frozen(), Colouring()], 80)
    assert _accuracy(coloured, images, labels) > 0.9
    coloured.recipes[1].fold_network(coloured.network)
    assert coloured.network.kept_source is None
    other, truth = _grey(32, 5)
    second = _make_task(classifier, other, truth, tmp_path / "second")
    kept = Colouring(start=str(tmp_path), learnt=False)
    transferred = _train(classifier, second, [Frozen(), kept], 80)
    assert _accuracy(transferred, other, truth) > 0.9
    for name, value in coloured.network.front.state_dict().items():
        assert torch.equal(transferred.network.front.state_dict()[name], value)


def test_colouring_refuses_what_it_cannot_colour(tmp_path: Path) -> None:
    classifier = _open_pooled(OPPONENTS, torch.eye(3))
    images, labels = _grey(8, 0)
    task = _make_task(classifier, images, labels, tmp_path)
    Colouring().check_task(task)
    with pytest.raises(ConfigError, match="needs start=RUN"):
        Colouring(learnt=False).check_task(task)
    with pytest.raises(ConfigError, match=f"expected a run folder with {FILE}"):
        Colouring(start=str(tmp_path)).check_task(task)
    coloured = images.clone()
    coloured[:, 0] += 0.1
    with pytest.raises(ConfigError, match="expected grey images"):
        Colouring().check_task(replace(task, images=coloured))


# --- what is left ---------------------------------------------------------------------------------


GRAPH = "graph_interpolation:neighbours=3"
GROUPS = "auxiliary_targets:combine=true"


@pytest.fixture(scope="module")
def classifier_of_three() -> Classifier:
    """A tiny network of timm with classes, and several positions in its last map."""
    spec = InputSpec(size=(64, 64), mean=(0.5,) * 3, std=(0.25,) * 3)
    network = make_network(open_backbone("timm/test_resnet", spec, 0), 3, 0, scratch=False)
    return network.to_classifier(("a", "b", "c"), ONE_CLASS)


@pytest.fixture(scope="module")
def grey_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey images of three classes, eight of each."""
    folder = tmp_path_factory.mktemp("grey")
    for number in range(24):
        (folder / "abc"[number % 3]).mkdir(exist_ok=True)
        values = np.random.default_rng(number).integers(0, 255, (64, 64), dtype=np.uint8)
        Image.fromarray(values).save(folder / "abc"[number % 3] / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("recipes", "names"),
    [
        (["frozen", GRAPH], ["graph_interpolation"]),
        (
            ["spatial_attention", "explanation_guided", "background_exchange"],
            ["spatial_attention"],
        ),
        (["colouring"], ["colouring"]),
        ([GROUPS], ["auxiliary_targets"]),
        (["frozen", GROUPS, GRAPH], ["auxiliary_targets", "graph_interpolation"]),
        (
            ["frozen", "colouring", "spatial_attention", GRAPH],
            ["colouring", "graph_interpolation", "spatial_attention"],
        ),
    ],
)
def test_the_run_computes_what_was_trained(
    recipes: list[str],
    names: list[str],
    tmp_path: Path,
    classifier_of_three: Classifier,
    grey_folder: Path,
) -> None:
    """Its network is built again from the card, shows its layers, and can be trained further."""
    start = classifier_of_three
    trained = train_classifier(
        grey_folder, start, tmp_path / "run", recipes=recipes, steps=3, batch=8
    )
    images = torch.rand(2, 3, *start.size, generator=_generator())
    opened = open_classifier(tmp_path / "run" / "card.json")
    assert torch.equal(opened(images), trained.classifier(images))
    assert opened.fingerprint == trained.classifier.fingerprint
    described = NetworkSource(opened.network.source, opened.network.options, opened.network.input)
    for name in names:
        assert described.source == BUILDERS[name]
        described = find_inner(described)
    assert described.source == "timm/test_resnet"
    maps = methods.get("grad_cam")(opened, images, opened(images).argmax(1))
    assert maps.isfinite().all()

    again = make_network(opened, 5, 0, scratch=False).eval()
    before = make_network(trained.classifier, 5, 0, scratch=False).eval()
    with torch.no_grad():
        features = again.compute_outputs(start.normalise(images)).features
        expected_features = before.compute_outputs(start.normalise(images)).features
    torch.testing.assert_close(features, expected_features)
    kept = [name for name in names if name in ("colouring", "spatial_attention")]
    source = again.kept_source
    for name in kept:
        assert source is not None and source.source == BUILDERS[name]
        source = find_inner(source)
    assert source is not None and source.source == "timm/test_resnet"
    assert source.options["num_classes"] == 5
    new = make_network(opened, 5, 0, scratch=True)
    assert new.kept_source == again.kept_source
    card = save_classifier(again.to_classifier(tuple("abcde"), ONE_CLASS), tmp_path / "again")
    assert open_classifier(card)(images).shape == (2, 5)


def test_a_colouring_goes_on_where_it_was(
    tmp_path: Path, classifier_of_three: Classifier, grey_folder: Path
) -> None:
    """A second training with the recipe put another colouring in front of the first."""
    first, second = tmp_path / "first", tmp_path / "second"
    options: dict[str, Any] = {"steps": 3, "batch": 8}
    train_classifier(grey_folder, classifier_of_three, first, recipes=["colouring"], **options)
    train_classifier(
        grey_folder,
        str(first / "card.json"),
        second,
        recipes=["frozen", "colouring:learnt=false,start=" + str(first)],
        **options,
    )
    trained = open_classifier(second / "card.json").network
    assert find_inner(trained).source == "timm/test_resnet"
    weights = [load_file(folder / FILE) for folder in (first, second)]
    assert weights[0]["2.weight"].abs().max() > 0
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("auxiliary_targets", {"groups": [2, "x"]}, r"^classifier [^\n]*$"),
        ("auxiliary_targets", {"groups": [2, -1]}, "expected numbers, got options.groups.1 -1"),
        ("auxiliary_targets", {"groups": []}, "expected numbers, got options.groups.0 None"),
        ("auxiliary_targets", {"hidden": 10**8}, "more numbers than its file of weights can hold"),
        ("auxiliary_targets", {"head": "x"}, r"^classifier [^\n]*$"),
        ("colouring", {"library": "hf"}, "expected a library out of timm, torchvision, got hf"),
        ("colouring", {"library": "apercu", "model": "x"}, "expected a model out of auxiliary_"),
        ("spatial_attention", {"layer": "x"}, "timm/test_resnet has no layer x"),
        ("spatial_attention", {"scored": 10**8}, "more numbers than its file of weights can hold"),
        ("spatial_attention", {"scored": -1}, "expected numbers, got options.scored -1"),
        ("spatial_attention", {"channels": "x", "power": None}, r"^classifier [^\n]*$"),
        ("colouring", {"size": "wide"}, r"^classifier [^\n]*$"),
    ],
)
def test_a_card_that_describes_no_network_is_refused(
    name: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    described: dict[str, Any] = {
        "library": "timm",
        "model": "test_resnet",
        "options": {"num_classes": 2},
        "size": [16, 16],
    }
    if name == "spatial_attention":
        described |= {"layer": "layer4", "scored": 3, "channels": 64, "power": 1.0}
    if name == "auxiliary_targets":
        described |= {"head": "fc", "features": 64, "hidden": 4, "classes": 2, "groups": [2]}
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors")
    content = {"source": BUILDERS[name], "options": described | options, "weights": "w.safetensors"}
    card = tmp_path / "card.json"
    card.write_text(json.dumps(content | {"input": {"size": [16, 16]}}), encoding="utf-8")
    with pytest.raises(ClassifierError, match=message):
        open_classifier(card)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_network_that_ends_in_a_graph_is_built_again(
    library: str, backbone: Classifier, tmp_path: Path
) -> None:
    """Its layers were lost in an exported program, which shows no features and learns no more."""
    start = backbone
    if library == "torchvision":
        source = NetworkSource("torchvision/resnet18", {"num_classes": 3}, start.network.input)
        module = source.build(0).eval()
        start = Classifier(Network(source.source, module, "0", source.input), spec=source.source)
    network = make_network(start, 2, 0, scratch=False).eval()
    images = torch.rand(12, 3, *start.size, generator=_generator())
    task = _make_task(start, images, torch.arange(12) % 2, tmp_path)
    normalised = start.normalise(images)
    with torch.no_grad():
        features = network.compute_outputs(normalised).features
        head = GraphInterpolation(neighbours=3).build_head(features, task.targets, task)
        network.set_head(head.eval())
        before = network(normalised)
    network.add_to_logits(torch.tensor([0.0, 1.0]))
    made = network.to_classifier(("a", "b"), ONE_CLASS)
    torch.testing.assert_close(made(images) - before, torch.tensor([[0.0, 1.0]]).repeat(12, 1))
    opened = open_classifier(save_classifier(made, tmp_path / "saved"))
    assert opened.fingerprint == made.fingerprint
    assert torch.equal(opened(images), made(images))
    again = make_network(opened, 5, 0, scratch=False).eval()
    with torch.no_grad():
        outputs = again.compute_outputs(normalised)
    torch.testing.assert_close(outputs.features, features)
    assert outputs.logits.shape == (12, 5)
    assert again.to_classifier(tuple("abcde"), ONE_CLASS).network.source == start.network.source


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 10**9}, "more numbers than its file of weights can hold"),
        ({"classes": 10**8}, "more numbers than its file of weights can hold"),
        ({"neighbours": 0}, "neighbours from 1 to the 4 nodes, got 0.5 and 0"),
        ({"neighbours": 5}, "neighbours from 1 to the 4 nodes, got 0.5 and 5"),
        ({"own": -1.0}, "own from 0 to 1 .* got -1.0 and 3"),
        ({"library": "hf"}, "expected a library out of timm, torchvision, got hf"),
        ({"nodes": "many", "own": None}, r"^classifier [^\n]*$"),
        ({"features": 2.5}, r"^classifier [^\n]*$"),
        ({"neighbours": [3] * 99}, r"^classifier [^\n]*$"),
        ({"size": "wide"}, r"^classifier [^\n]*$"),
        ({"model": ["a"]}, r"^classifier [^\n]*$"),
        ({"head": 3}, r"^classifier [^\n]*$"),
        ({"options": [1]}, r"^classifier [^\n]*$"),
        ({"classes": -1}, r"numbers, got options\.classes -1$"),
    ],
)
def test_a_card_with_a_graph_takes_no_memory_that_its_weights_do_not_need(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """A graph of 10⁹ nodes was made before its numbers were counted."""
    described = {
        "library": "timm",
        "model": "test_resnet",
        "options": {"num_classes": 2},
        "size": [16, 16],
        "head": "fc",
        **{"nodes": 4, "features": 64, "classes": 2, "several": False},
        **{"neighbours": 3, "own": 0.5},
    }
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors")
    content = {"source": FACTORY, "options": described | options, "weights": "w.safetensors"}
    card = tmp_path / "card.json"
    card.write_text(json.dumps(content | {"input": {"size": [16, 16]}}), encoding="utf-8")
    with pytest.raises(ClassifierError, match=message):
        open_classifier(card)


def test_a_graph_in_a_network_that_nothing_describes_is_replaced_as_any_layer(
    backbone: Classifier, tmp_path: Path
) -> None:
    network = make_network(backbone, 2, 0, scratch=False).eval()
    images = torch.rand(6, 3, *backbone.size, generator=_generator())
    task = _make_task(backbone, images, torch.arange(6) % 2, tmp_path)
    with torch.no_grad():
        features = network.compute_outputs(backbone.normalise(images)).features
    network.set_head(GraphInterpolation(neighbours=3).build_head(features, task.targets, task))
    network.source = None
    start = network.to_classifier(("a", "b"), ONE_CLASS)
    with pytest.raises(ClassifierError, match="before its last layer"):
        make_network(start, 3, 0, scratch=False)

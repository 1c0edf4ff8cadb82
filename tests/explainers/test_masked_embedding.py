"""The class embedding from masked images: its sums, its masks, and that it finds the place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

import apercu
from apercu.classifiers import Classifier, open_classifier
from apercu.errors import ConfigError
from apercu.explainers.embedding_training import EmbeddingPhase
from apercu.explainers.encoder import choose_embedding
from apercu.explainers.mask.network import MaskNetwork
from apercu.explainers.mask.settings import MASK_PRESETS, MaskSettings
from apercu.explainers.masked_embedding import draw_masks, predict_kept_logits, query_classifier
from apercu.explainers.settings import MaskedEmbedding, RidgeEmbedding
from apercu.images import open_images
from apercu.networks.decoder import DecoderShape
from apercu.networks.encoder import Encoder
from apercu.networks.gate import ClassGate
from apercu.networks.graph_encoder import EncoderWithHead, GraphEncoder
from apercu.removal import Flat
from apercu.training.data import TrainingImages

SIDE, CELL = 32, 4
EMBEDDING = MaskedEmbedding(images=200, masks=3, steps=500, batch=32, width=16)


class Colours(nn.Module):
    """Classifier of red and green: the sum of each colour beyond the other one."""

    def forward(self, images: Tensor) -> Tensor:
        red, green = images[:, 0].mean((1, 2)), images[:, 1].mean((1, 2))
        return 40 * torch.stack([red - green, green - red], 1)


class Displaced(Encoder):
    """Colours of cells, each of which stands one cell to the right of its place.

    Args:
        scale: factor of all features.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.channels, self.strides = (6,), (CELL,)
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, images: Tensor) -> list[Tensor]:
        cells = nn.functional.avg_pool2d(images, CELL)
        return [self.scale * torch.cat([cells, cells.square()], 1).roll(1, 3)]


class Squares(TrainingImages):
    """Images with one red or green square of a cell, on grey."""

    def __init__(self, count: int, seed: int) -> None:
        generator = Generator().manual_seed(seed)
        cells = SIDE // CELL
        self.places = torch.randint(cells, (count, 2), generator=generator)
        self.colours = torch.randint(2, (count,), generator=generator)
        self.images = torch.full((count, 3, SIDE, SIDE), 0.5)
        for image, (row, column), colour in zip(
            self.images, self.places.tolist(), self.colours.tolist(), strict=True
        ):
            square = image[:, row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
            square.zero_()
            square[colour] = 1

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """The classifier; what is removed becomes grey, as all that is no square."""
    grey = Flat((0.5, 0.5, 0.5))
    monkeypatch.setattr("apercu.explainers.masked_embedding.Alternative", lambda: grey)
    return open_classifier(Colours(), size=SIDE, mean=0.0, std=1.0, classes=["red", "green"])


def _embed(
    classifier: Classifier, settings: Any, folder: Path, scale: float = 1.0
) -> tuple[MaskNetwork, list[str]]:
    torch.manual_seed(0)
    width = settings.width if isinstance(settings, MaskedEmbedding) else 0
    shape = DecoderShape(8, resolution=2)
    network = MaskNetwork(Displaced(scale), 2, shape, adapter_width=width)
    lines: list[str] = []
    images = Squares(240, seed=0)
    EmbeddingPhase(classifier, images, 0, folder, lines.append).run(network, settings)
    return network.eval(), lines


def _find_peaks(network: MaskNetwork, test: Squares) -> Tensor:
    """How often the gate has its peak in the cell of the square."""
    activation = network.gate.compute_activation(network.encode(test.images)[-1], test.colours)
    peaks = activation.flatten(1).argmax(1)
    columns = activation.shape[3]
    return (peaks == test.places[:, 0] * columns + test.places[:, 1]).float().mean()


@pytest.mark.parametrize("scale", [1.0, 1e5, 1e-6])
def test_masked_images_teach_where_the_evidence_is(
    scale: float, colours: Classifier, tmp_path: Path
) -> None:
    test = Squares(100, seed=1)
    plain, _ = _embed(colours, RidgeEmbedding(images=200), tmp_path / "plain")
    masked, lines = _embed(colours, EMBEDDING, tmp_path / "masked", scale)
    with torch.no_grad():
        assert _find_peaks(plain, test) < 0.1  # every peak is one cell beside the square
        assert _find_peaks(masked, test) > 0.7
    assert "predicts the classifier's top class in 100.0% of cases" in lines[-1]


def test_kept_logits_are_sums_over_cells() -> None:
    generator = Generator().manual_seed(0)
    gate = ClassGate(3, 5)
    gate.set_logit_units(0.7, 2.0)
    gate.bias.data = torch.randn(3, generator=generator)
    features = torch.randn(2, 5, 4, 3, generator=generator)
    masks = torch.rand(2, 6, 4, 3, generator=generator) < 0.4
    empty = torch.randn(1, 3, generator=generator)
    result = predict_kept_logits(gate, features, masks, empty)
    for image in range(2):
        for query in range(6):
            expected = torch.zeros(3)
            for row in range(4):
                for column in range(3):
                    if masks[image, query, row, column]:
                        cell = gate.embedding @ features[image, :, row, column] + gate.bias
                    else:
                        cell = empty[0]
                    expected += cell / 12
            torch.testing.assert_close(result[image, query], expected)
    whole = predict_kept_logits(gate, features, torch.ones_like(masks), empty)
    torch.testing.assert_close(whole[:, 0], gate.predict_logits(features))


def test_masks_keep_from_little_to_much_and_the_first_keeps_all() -> None:
    masks = draw_masks(200, 3, (7, 7), Generator().manual_seed(0))
    assert masks.shape == (200, 4, 7, 7)
    assert bool(((masks == 0) | (masks == 1)).all()) and bool((masks[:, 0] == 1).all())
    kept = masks[:, 1:].mean((2, 3))
    assert 0.4 < kept.mean() < 0.6
    assert (kept < 0.3).float().mean() > 0.1 and (kept > 0.7).float().mean() > 0.1
    again = draw_masks(200, 3, (7, 7), Generator().manual_seed(0))
    assert torch.equal(masks, again)


def test_each_query_is_the_classifiers_answer_for_what_its_mask_keeps(
    colours: Classifier, tmp_path: Path
) -> None:
    network = MaskNetwork(Displaced(), 2, DecoderShape(8, resolution=2), adapter_width=4)
    images = Squares(16, seed=2)
    work = EmbeddingPhase(colours, images, 0, tmp_path, lambda line: None)
    queries = query_classifier(network, work, EMBEDDING.model_copy(update={"images": 16}))
    assert queries.logits.shape == (16, 4, 2) and queries.masks.shape == (16, 4, 8, 8)
    assert queries.held_out.sum() == 8  # the last of two batches
    adapter = network.adapter
    assert adapter is not None
    features = queries.features.float() * adapter.deviation + adapter.mean
    assert queries.features.float().std() == pytest.approx(1, abs=0.05)
    for raw, masks, logits in zip(features, queries.masks, queries.logits, strict=True):
        cells = raw.roll(-1, 2)
        for mask, both in zip(masks, logits, strict=True):
            expected = 40 * ((cells[0] - cells[1]) * mask).mean()  # the classifier is linear
            torch.testing.assert_close(both, torch.stack([expected, -expected]), rtol=0, atol=2e-2)
    torch.testing.assert_close(queries.empty, torch.zeros(1, 2))


def test_a_transformer_gets_it_where_no_embedding_is_named() -> None:
    encoder = Displaced()
    lines: list[str] = []
    settings = MaskSettings()
    assert choose_embedding(settings, encoder, lines.append) is settings and not lines
    encoder.has_tokens = True
    chosen = choose_embedding(settings, encoder, lines.append)
    assert chosen.embedding == MaskedEmbedding() and "is a transformer" in lines[0]
    assert chosen.adapter_width == 128
    shorter = chosen.with_schedule(steps=11)
    assert shorter.embedding.steps == 24 and shorter.adapter_width == 128
    for named in (
        MASK_PRESETS.parse({"embedding": {"form": "answers"}}),
        MASK_PRESETS.presets["paper"],
        MaskSettings.model_validate(settings.model_dump()),  # of a run that was begun
    ):
        assert choose_embedding(named, encoder, lines.append) is named
    for other in (MASK_PRESETS.presets["light"], MASK_PRESETS.parse({"schedule": {"steps": 3}})):
        assert choose_embedding(other, encoder, lines.append).adapter_width
    few = choose_embedding(MASK_PRESETS.parse({"embedding": {"images": 5}}), encoder, lines.append)
    assert few.embedding == MaskedEmbedding(images=5)
    short = choose_embedding(settings.with_schedule(steps=11), encoder, lines.append)
    assert (short.adapter_width, short.embedding.steps) == (128, 15)


def test_an_encoder_that_learns_takes_no_adapter() -> None:
    with pytest.raises(ConfigError, match="`masked` needs frozen: true"):
        MASK_PRESETS.parse({"preset": "small", "embedding": {"form": "masked"}})
    masked = MASK_PRESETS.parse({"embedding": {"form": "masked"}})
    with pytest.raises(ConfigError, match="encoder: small is trained from scratch; an embedding"):
        masked.with_encoder("small")
    assert masked.with_encoder("timm/resnet18").adapter_width


@pytest.fixture(scope="module")
def transformer_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Classifier]:
    """A mask explainer of a tiny vision transformer, trained with nothing else said."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}
    module = timm.create_model("vit_tiny_patch16_224", num_classes=3, **options).eval()
    classifier = open_classifier(module, size=32, mean=0.5, std=0.5, classes=["a", "b", "c"])
    images = open_images("planted:size=32,images=24,classes=3,difficulty=0")
    run = tmp_path_factory.mktemp("transformer") / "run"
    lines: list[str] = []
    apercu.train(classifier, images, run, steps=3, batch=4, device="cpu", say=lines.append)
    assert "the encoder is a transformer" in lines[0]
    return run, classifier


def test_the_run_of_a_transformer_opens_with_its_adapter(
    transformer_run: tuple[Path, Classifier],
) -> None:
    run, classifier = transformer_run
    explainer = apercu.load_explainer(run)
    assert explainer.settings.embedding.form == "masked"
    network = explainer.network
    assert not network.adapter.training
    images = torch.rand(2, 3, 32, 32)
    raw, adapted = network.encoder(images)[-1], network.encode(images)[-1]
    assert (adapted - raw).abs().max() > 1e-4  # it has learned something
    logits, maps = EncoderWithHead(network.encoder, network.adapter)(images)
    torch.testing.assert_close(maps[-1], adapted)
    torch.testing.assert_close(logits, classifier(images), rtol=1e-4, atol=1e-4)
    assert isinstance(network.encoder, GraphEncoder)
    with pytest.raises(apercu.errors.RunError, match="finished training"):
        apercu.train(classifier, "planted:size=32,images=24", run, steps=3, resume=True)


def test_images_whose_features_need_too_much_memory_are_left_out(
    colours: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apercu.explainers.masked_embedding.MAX_KEPT_BYTES", 80 * 2 * 6 * 64)
    settings = EMBEDDING.model_copy(update={"steps": 2})
    _, lines = _embed(colours, settings, tmp_path)
    assert "embedding.images: 80, not 200" in lines[0]


def test_one_batch_of_images_is_too_few_to_hold_some_out(
    colours: Classifier, tmp_path: Path
) -> None:
    images = Squares(8, seed=0)
    network = MaskNetwork(Displaced(), 2, DecoderShape(8, resolution=2), adapter_width=4)
    lines: list[str] = []
    settings = EMBEDDING.model_copy(update={"steps": 2})
    EmbeddingPhase(colours, images, 0, tmp_path, lines.append).run(network, settings)
    assert "(too few to hold some out)" in lines[-1]

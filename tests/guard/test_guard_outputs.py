"""The signals of the logits, for each meaning that the numbers of a network can have."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.special import expit, logsumexp

import apercu
from apercu.classifiers.decisions import EACH_CLASS, ONE_CLASS
from apercu.classifiers.outputs import Output, OutputName
from apercu.guard.network import LEAST_SPREAD, NORMAL_QUARTILE, GuardNetwork
from apercu.guard.signals import CERTAINTY, ENERGY, KINDS, NOISE, fit_signal, list_logit_kinds
from apercu.guard.summaries import (
    Observation,
    measure_label_certainty,
    measure_label_uncertainty,
    measure_uncertainty,
    summarise_noise,
)
from apercu.verdicts import QUESTIONS

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-4.0, -3.0, -9.0], [30.0, 2.0, -20.0]])
LOGIT_SIGNALS = {
    ("logits", 3): ["certainty", "energy"],
    ("probabilities", 3): ["certainty", "uncertainty"],
    ("probability", 1): ["certainty", "uncertainty"],
    ("sigmoid", 1): ["certainty", "energy"],
    ("sigmoid", 3): ["label_certainty", "label_uncertainty"],
    ("sigmoid_probabilities", 1): ["certainty", "uncertainty"],
    ("sigmoid_probabilities", 3): ["label_certainty", "label_uncertainty"],
    ("value", 1): ["shifted_value", "unusual_value"],
}


@pytest.mark.parametrize(("name", "columns"), LOGIT_SIGNALS)
def test_each_meaning_has_a_signal_for_each_question(name: OutputName, columns: int) -> None:
    kinds = list_logit_kinds(Output(name=name, columns=columns))
    assert [kind.name for kind in kinds] == LOGIT_SIGNALS[name, columns]
    assert tuple(kind.question for kind in kinds) == QUESTIONS
    assert all(KINDS[kind.name] is kind for kind in kinds)
    assert {name for name, _ in LOGIT_SIGNALS} == set(get_args(OutputName)) - {"features"}


def test_signals_of_probabilities_and_labels_have_closed_forms() -> None:
    numbers = LOGITS.double().numpy()
    wrong = [logsumexp(np.sort(row)[:-1]) - row.max() for row in numbers]  # logit of 1 - max p
    assert measure_uncertainty(LOGITS).tolist() == pytest.approx(wrong)
    same = measure_uncertainty(LOGITS.log_softmax(1))  # however the network gives its numbers
    assert same.tolist() == pytest.approx(wrong, abs=1e-5)
    assert measure_label_certainty(LOGITS).tolist() == [2, 9, 30]
    chances = np.minimum(expit(numbers), expit(-numbers)).sum(1)
    assert measure_label_uncertainty(LOGITS).exp().tolist() == pytest.approx(chances, rel=1e-5)


@pytest.mark.parametrize("output", ["probabilities", "value"])
def test_an_image_is_unknown_where_its_number_is_unusual(output: str, tmp_path: Path) -> None:
    """The energy of probabilities is a rounding error; that of a value is its distance from 0."""

    def classify(images: torch.Tensor) -> np.ndarray:
        numbers = images.numpy().mean((1, 2, 3))[:, None]
        if output == "value":
            return numbers
        return np.concatenate([numbers, 1 - numbers], 1)

    generator = torch.Generator().manual_seed(0)
    levels = 0.8 + 0.02 * torch.randn(80, 1, 1, 1, generator=generator)
    noise = 0.01 * torch.randn(80, 1, 8, 8, generator=generator)
    honest = apercu.open_images(_write_pictures(tmp_path / "honest", levels + noise), channels=1)
    names, options = ["one", "two"], {}
    if output == "value":
        names, options = ["age"], {"value_range": (0.0, 1.6)}  # the usual value is in the middle
    box = apercu.open_classifier(
        classify, channels=1, size=8, output=output, classes=names, **options
    )
    guard = apercu.fit_guard(box, honest, tmp_path / "guard", false_alarms=0.1)
    usual, unusual = guard.check(torch.stack([honest[0].picture, honest[0].picture - 0.3]))
    assert (usual.alarms, usual.unknown and usual.unknown < 0.9) == ((), True)
    assert unusual.unknown == 1 and "unknown" in unusual.alarms
    again = apercu.load_guard(tmp_path / "guard", box).check(honest[0].picture[None])
    assert again == [usual]


def _write_pictures(folder: Path, images: torch.Tensor) -> Path:
    from PIL import Image

    folder.mkdir()
    for index, image in enumerate((images.clamp(0, 1) * 255).round().byte().numpy()):
        Image.fromarray(image[0]).save(folder / f"{index:03}.png")
    return folder


def test_a_signal_of_equal_numbers_does_not_drown_the_others() -> None:
    """A network that is sure of most images to the last digit has a quartile of 0."""
    generator = torch.Generator().manual_seed(1)
    energy = torch.where(torch.arange(100) < 80, -16.6, torch.linspace(-16, -6, 100))
    texture = torch.randn(100, generator=generator)
    signals = [fit_signal(each, torch.zeros(1, 1)) for each in (ENERGY, ENERGY, CERTAINTY)]
    network = GuardNetwork(signals, EACH_CLASS, 100)
    network.calibrate(torch.stack([energy, texture, torch.full((100,), 16.6)], 1))
    above = (energy + 16.6).square().mean().sqrt()
    assert network.spread[0].item() == pytest.approx(LEAST_SPREAD * above.item(), rel=1e-5)
    upper = (texture.quantile(0.75) - texture.median()) / NORMAL_QUARTILE
    assert network.spread[1].item() == pytest.approx(upper.item())
    assert network.spread[2].item() == pytest.approx(16.6e-5)
    standardised = (torch.tensor([-16.6, 80.0, 16.6]) - network.centre) / network.spread
    total = network.combine(standardised[None])[0, 1]
    assert total > network.ranks[1, -1]  # the texture is far from that of all clean images


@pytest.mark.parametrize(
    ("channels", "output"),
    [(1, "logits"), (2, "probability"), (5, "sigmoid_probabilities"), (3, "value")],
)
def test_a_trace_takes_any_number_of_images(channels: int, output: OutputName) -> None:
    kinds = [NOISE, *list_logit_kinds(Output(name=output))]

    def observe(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(count)
        images = torch.rand(count, channels, 9, 7, generator=generator)
        return images, images[:, 0, 0, :2]

    class Verdicts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            observation = Observation(*observe(30))
            summaries = [kind.summarise(observation) for kind in kinds]
            signals = [
                fit_signal(kind, one[:20]) for kind, one in zip(kinds, summaries, strict=True)
            ]
            self.network = GuardNetwork(signals, ONE_CLASS, 10)
            scores = [
                signal.measure(one[20:]) for signal, one in zip(signals, summaries, strict=True)
            ]
            self.network.calibrate(torch.stack(scores, 1))

        def forward(self, images: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            return self.network(Observation(images, logits))

    module, batch = Verdicts().eval(), torch.export.Dim("batch", min=1)
    summarise_noise(Observation(*observe(1)))  # fills a table
    program = torch.export.export(
        module, observe(2), dynamic_shapes=({0: batch}, {0: batch})
    ).module()
    for count in (1, 3):
        torch.testing.assert_close(program(*observe(count)), module(*observe(count)))

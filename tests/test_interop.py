"""Explainers and metrics in the form of Quantus, foolbox and torchmetrics."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from apercu import MaskExplainer, open_classifier
from apercu.errors import ConfigError
from apercu.interop import MeanScore, as_module, explain_func
from apercu.methods import Gradient
from apercu.metrics import box_iou, mean_area


def test_explain_func_gives_what_quantus_expects(tiny_run: Path) -> None:
    explainer = MaskExplainer.from_pretrained(tiny_run)
    inputs, targets = np.random.default_rng(0).random((2, 3, 32, 32)), np.array([0, 2])
    maps = explain_func(explainer)(model=None, inputs=inputs, targets=targets, device="cpu")
    expected = explainer.attribute(torch.tensor(inputs).float(), [0, 2])
    np.testing.assert_allclose(maps, expected[:, None].numpy())


def test_explain_func_of_a_method_needs_the_classifier(tiny_card: Path) -> None:
    classifier = open_classifier(tiny_card)
    images, targets = torch.rand(2, 3, 32, 32), torch.tensor([0, 2])
    maps = explain_func(Gradient(), classifier)(None, images.numpy(), targets.numpy())
    np.testing.assert_allclose(maps[:, 0], Gradient()(classifier, images, targets).numpy())
    with pytest.raises(ConfigError, match="needs the classifier"):
        explain_func(Gradient())


def test_mean_score_is_the_mean_over_batches_of_any_size() -> None:
    first, second = torch.rand(3, 4, 4), torch.rand(1, 4, 4)
    mean = MeanScore(mean_area)
    mean.update(first)
    mean.update(second)
    torch.testing.assert_close(mean.compute().float(), torch.cat([first, second]).mean())


def test_mean_score_resets() -> None:
    mean = MeanScore(box_iou)
    mean.update(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[0.0, 0, 1, 1]]))
    mean.reset()
    mean.update(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 2, 3, 3]]))
    assert mean.compute() == 0


ONE_OF_TWO = """
import datetime, torch
from apercu.interop import MeanScore
from apercu.metrics import mean_area
torch.distributed.init_process_group(
    "gloo", f"file://{meeting}", datetime.timedelta(minutes=4), rank=rank, world_size=2
)
mean = MeanScore(mean_area)
mean.update(torch.full((1 + 2 * rank, 4, 4), float(rank)))
print(mean.compute().item())
torch.distributed.destroy_process_group()
"""


def test_mean_score_is_the_mean_over_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One image of area 0 in this process, three of area 1 in the other."""
    meeting = str(tmp_path / "meeting")
    code = f"rank, meeting = 1, {meeting!r}\n{ONE_OF_TWO}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        exec(ONE_OF_TWO, {"rank": 0, "meeting": meeting})
        means = (capsys.readouterr().out, other.communicate(timeout=240)[0])
    assert [float(mean) for mean in means] == [0.75, 0.75]


def test_a_module_answers_as_the_classifier_and_hides_its_normalisation(tiny_card: Path) -> None:
    classifier = open_classifier(tiny_card)
    module = as_module(classifier)
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    logits = module(images)
    assert torch.equal(logits, classifier(images)) and not module.training
    (slopes,) = torch.autograd.grad(logits[:, 0].sum(), images)
    assert slopes.abs().sum() > 0
    assert torch.equal(module(images + 2), classifier(torch.ones_like(images)))
    assert next(module.parameters()).device == classifier.device

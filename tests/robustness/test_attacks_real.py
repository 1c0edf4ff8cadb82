"""Ours beside the toolbox's on a real classifier and photographs: equally many are fooled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from apercu import open_classifier
from apercu.images import open_images
from apercu.interop import as_module
from apercu.robustness.attacks import Attack, Fgsm, IFgsm, Pgd
from apercu.robustness.objectives import Untargeted

IMAGES, STEPS = 40, 5
EPSILON = 0.6 / 255
"""At which about half of the photographs are fooled, so that a weaker attack would show."""


def rivals(evasion: Any, classifier: Any) -> dict[str, tuple[Attack, Any]]:
    """Ours and theirs at equal settings."""
    settings = {"eps_step": EPSILON / 4, "max_iter": STEPS, "batch_size": IMAGES}
    walk = evasion.ProjectedGradientDescentPyTorch
    radius = EPSILON * np.sqrt(3 * 224 * 224)
    round_ = {**settings, "eps_step": radius / 4, "norm": 2, "eps": radius}
    return {
        "fgsm": (
            Fgsm(EPSILON),
            evasion.FastGradientMethod(classifier, eps=EPSILON, batch_size=IMAGES),
        ),
        "i_fgsm": (
            IFgsm(EPSILON, STEPS),
            walk(classifier, eps=EPSILON, num_random_init=0, verbose=False, **settings),
        ),
        "pgd": (
            Pgd(EPSILON, STEPS),
            walk(classifier, eps=EPSILON, num_random_init=1, verbose=False, **settings),
        ),
        "pgd_l2": (
            Pgd(EPSILON / 2, STEPS, norm="l2"),
            walk(
                classifier,
                num_random_init=1,
                verbose=False,
                **{**round_, "eps": radius / 2, "eps_step": radius / 8},
            ),
        ),
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_as_many_are_fooled_as_by_the_toolbox(apercu_data: Path) -> None:
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    classifier = open_classifier(apercu_data / "models" / "mobilenetv2_100.json")
    source = open_images(apercu_data / "data" / "imagenet-val")
    images = torch.stack([classifier.prepare(source[index].picture) for index in range(IMAGES)])
    with torch.no_grad():
        labels = classifier(images).argmax(1)
    behind = PyTorchClassifier(
        as_module(classifier), nn.CrossEntropyLoss(), (3, 224, 224), 1000, clip_values=(0, 1)
    )
    for name, (ours, theirs) in rivals(evasion, behind).items():
        shares = []
        generated = torch.from_numpy(theirs.generate(images.numpy(), labels.numpy()))
        for attacked in (ours(Untargeted(classifier, labels), images), generated):
            with torch.no_grad():
                shares.append(classifier(attacked.clamp(0, 1)).argmax(1) != labels)
        one, other = (share.float().mean().item() for share in shares)
        differ = (shares[0] != shares[1]).float().mean().item()
        spread = 1.96 * (max(differ - (one - other) ** 2, 1 / IMAGES) / IMAGES) ** 0.5
        assert 0.2 < one < 1, f"{name}: {one} fooled tells nothing apart"
        assert abs(one - other) <= spread, f"{name}: {one:.2f} fooled, the toolbox {other:.2f}"

"""Our PGD beside foolbox's and the Adversarial Robustness Toolbox's: time, and how many it fools.

    python benchmarks/attacks.py [--images 16] [--steps 10] [--epsilon 0.0157]

The same MobileNetV2 with random weights, images, budget, step and number of steps for all. The
rivals get the network as their users have it: as timm makes it, in evaluation mode, with its own
normalisation. Each starts at random, so the images differ and the shares of fooled ones should not.
Promised: at most 0.75 of the toolbox's time.
"""

from __future__ import annotations

import argparse
import importlib.util

import timm
import torch
from timing import compute_ratio, format_times, open_timm, report_missing, time_in_turns
from torch import nn
from torchvision.transforms import Normalize

from apercu.classifiers import Classifier
from apercu.methods.layers import get_open_module
from apercu.robustness.attacks import Pgd
from apercu.robustness.objectives import Untargeted

SIZE, LIMIT, STEP = 160, 0.75, 0.25


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--epsilon", type=float, default=4 / 255)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    for rival, package in (("foolbox", "foolbox"), ("art", "adversarial-robustness-toolbox")):
        if not importlib.util.find_spec(rival):
            return report_missing(package)
    import foolbox
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    classifier = open_timm("mobilenetv2_100", SIZE)
    images = torch.rand(given.images, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = classifier(images).argmax(1)
    network, step = build_timm_module(classifier), STEP * given.epsilon
    classes, loss = len(classifier.classes), nn.CrossEntropyLoss()
    toolbox = ProjectedGradientDescentPyTorch(
        PyTorchClassifier(network, loss, images[0].shape, classes, clip_values=(0, 1)),
        eps=given.epsilon,
        eps_step=step,
        max_iter=given.steps,
        num_random_init=1,
        batch_size=given.images,
        verbose=False,
    )
    rival = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=given.steps)
    model = foolbox.PyTorchModel(network, bounds=(0, 1))
    results: dict[str, torch.Tensor] = {}

    def attack_with_apercu() -> None:
        attack = Pgd(given.epsilon, given.steps, STEP)
        results["ours"] = attack(Untargeted(classifier, labels), images)

    def attack_with_toolbox() -> None:
        result = toolbox.generate(images.numpy(), labels.numpy())
        results["toolbox"] = torch.from_numpy(result)

    def attack_with_foolbox() -> None:
        results["foolbox"] = rival(model, images, labels, epsilons=given.epsilon)[1]

    calls = {
        "ours": attack_with_apercu,
        "toolbox": attack_with_toolbox,
        "foolbox": attack_with_foolbox,
    }
    rounds = time_in_turns(calls, given.repeats, classifier.device)
    for name, attacked in results.items():
        with torch.no_grad():
            fooled = (classifier(attacked.float()).argmax(1) != labels).float().mean()
        reach = (attacked - images).abs().max()
        print(
            f"{name:<8} {format_times(rounds[name])}, "
            f"fools {fooled:.0%}, at most {255 * reach:.2f}/255"
        )
    times = compute_ratio(rounds, "ours", "toolbox")
    print(
        f"PGD-{given.steps}: {times:.3f} of the toolbox's time (at most {LIMIT:.2f}), "
        f"{compute_ratio(rounds, 'ours', 'foolbox'):.3f} of foolbox's"
    )
    return 0 if times <= LIMIT else 1


def build_timm_module(classifier: Classifier) -> nn.Module:
    """Return the network of a classifier with its normalisation, its parameters trainable."""
    plain = timm.create_model("mobilenetv2_100").eval()
    plain.load_state_dict(get_open_module(classifier).state_dict())
    spec = classifier.network.input
    return nn.Sequential(Normalize(spec.mean, spec.std), plain).eval()


if __name__ == "__main__":
    raise SystemExit(main())

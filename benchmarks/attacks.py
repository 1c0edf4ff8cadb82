"""Our PGD beside foolbox's and the Adversarial Robustness Toolbox's: time, and how many it fools.

    python benchmarks/attacks.py [--images 16] [--steps 10] [--epsilon 0.0157]

The same MobileNetV2 with random weights, images, budget, step and number of steps for all. The
rivals get the network as their users have it: as timm makes it, in evaluation mode, with its own
normalisation. Each starts at random, so the images differ and the shares of fooled ones should not.
Promised: at most 0.75 of the toolbox's time.
"""

from __future__ import annotations

import argparse

import timm
import torch
from timing import by_turns, opened, ratio, shown
from torch import nn
from torchvision.transforms import Normalize

from apercu.classifiers import Classifier
from apercu.methods.layers import get_open_module
from apercu.robustness.attacks import Pgd
from apercu.robustness.objectives import Untargeted

SIZE, LIMIT, PACE = 160, 0.75, 0.25


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--epsilon", type=float, default=4 / 255)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    import foolbox
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    classifier = opened("mobilenetv2_100", SIZE)
    images = torch.rand(given.images, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = classifier(images).argmax(1)
    network, step = as_made(classifier), PACE * given.epsilon
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
    fools = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=given.steps)
    model = foolbox.PyTorchModel(network, bounds=(0, 1))
    results: dict[str, torch.Tensor] = {}

    def ours() -> None:
        attack = Pgd(given.epsilon, given.steps, PACE)
        results["ours"] = attack(Untargeted(classifier, labels), images)

    def art() -> None:
        result = toolbox.generate(images.numpy(), labels.numpy())
        results["toolbox"] = torch.from_numpy(result)

    def fool() -> None:
        results["foolbox"] = fools(model, images, labels, epsilons=given.epsilon)[1]

    calls = {"ours": ours, "toolbox": art, "foolbox": fool}
    rounds = by_turns(calls, given.repeats, classifier.device)
    for name, attacked in results.items():
        with torch.no_grad():
            fooled = (classifier(attacked.float()).argmax(1) != labels).float().mean()
        reach = (attacked - images).abs().max()
        print(f"{name:<8} {shown(rounds[name])}, fools {fooled:.0%}, at most {255 * reach:.2f}/255")
    times = ratio(rounds, "ours", "toolbox")
    print(
        f"PGD-{given.steps}: {times:.3f} of the toolbox's time (at most {LIMIT:.2f}), "
        f"{ratio(rounds, 'ours', 'foolbox'):.3f} of foolbox's"
    )
    return 0 if times <= LIMIT else 1


def as_made(classifier: Classifier) -> nn.Module:
    """The network of `opened` with its normalisation, and parameters that could be trained."""
    plain = timm.create_model("mobilenetv2_100").eval()
    plain.load_state_dict(get_open_module(classifier).state_dict())
    spec = classifier.network.input
    return nn.Sequential(Normalize(spec.mean, spec.std), plain).eval()


if __name__ == "__main__":
    raise SystemExit(main())

"""What Grad-CAM costs beyond one forward and one backward pass of the classifier.

    python benchmarks/grad_cam.py [--model NAME] [--batch N] [--device cuda]

Promised: at most 1.3 times a forward pass and the backward pass to the image. pytorch-grad-cam
stands beside it where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util

import torch
from timing import Call, compute_ratio, format_times, open_timm, time_in_turns

from apercu.methods import GradCam
from apercu.methods.layers import find_target_layers, get_layer, get_open_module

PROMISED = 1.3


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="resnet50", help="any classifier of timm")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.manual_seed(0)
    classifier = open_timm(given.model, given.size).to(given.device)
    images = torch.rand(given.batch, 3, given.size, given.size, device=given.device)
    with torch.no_grad():
        targets = classifier(images).argmax(dim=1)
    network, ready = get_open_module(classifier), classifier.normalise(images)

    def run_network() -> None:
        inputs = ready.clone().requires_grad_()
        torch.autograd.grad(network(inputs).gather(1, targets[:, None]).sum(), inputs)

    def explain_with_apercu() -> None:
        GradCam()(classifier, images, targets)

    def explain_with_grad_cam() -> None:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        layer = get_layer(classifier, find_target_layers(classifier, images).features)
        with GradCAM(model=network, target_layers=[layer]) as method:
            inputs = ready.clone().requires_grad_()  # its weights want no gradients
            method(inputs, [ClassifierOutputTarget(int(target)) for target in targets])

    calls: dict[str, Call] = {"forward + backward": run_network, "ours": explain_with_apercu}
    if importlib.util.find_spec("pytorch_grad_cam"):
        calls["pytorch-grad-cam"] = explain_with_grad_cam
    rounds = time_in_turns(calls, given.repeats, classifier.device)
    for name, seconds in rounds.items():
        times = compute_ratio(rounds, name, "forward + backward")
        print(f"{name:<18} {format_times(seconds)}  {times:5.2f} × forward + backward")
    return 0 if compute_ratio(rounds, "ours", "forward + backward") <= PROMISED else 1


if __name__ == "__main__":
    raise SystemExit(main())

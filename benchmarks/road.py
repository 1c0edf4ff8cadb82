"""Our ROAD beside pytorch-grad-cam's, where it is installed.

    python benchmarks/road.py [--images N] [--size PIXELS] [--model NAME] [--device cuda]

Both impute the same shares of pixels, most and least relevant first, and ask the same classifier;
pytorch-grad-cam solves one sparse system after the other on the CPU, we all of them at once on the
device. Promised: at least 5 times as fast. Scores are compared too; each draws noise of its own.
"""

from __future__ import annotations

import argparse
import importlib.util

import torch
from timing import Call, compute_ratio, format_times, open_timm, report_missing, time_in_turns
from torch import Tensor, nn

from apercu.classifiers import Classifier
from apercu.metrics import RoadSettings, road

PROMISED = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="mobilenetv2_100", help="any classifier of timm")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.manual_seed(0)
    classifier = open_timm(given.model, given.size).to(given.device)
    images, maps = make_smooth_images(given.images, given.size, classifier.device)
    with torch.no_grad():
        targets = classifier(images).argmax(dim=1)
    results: dict[str, Tensor] = {}

    def score_with_apercu() -> None:
        results["ours"] = road(classifier, images, targets, maps, RoadSettings()).cpu()

    def score_with_grad_cam() -> None:
        results["pytorch-grad-cam"] = compute_rival_road(classifier, images, targets, maps)

    calls: dict[str, Call] = {"ours": score_with_apercu}
    if importlib.util.find_spec("pytorch_grad_cam"):
        calls["pytorch-grad-cam"] = score_with_grad_cam
    rounds = time_in_turns(calls, given.repeats, classifier.device)
    for name, seconds in rounds.items():
        error = (results[name] - results["ours"]).abs().max().item()
        times = compute_ratio(rounds, name, "ours")
        print(f"{name:<17} {format_times(seconds)}  {times:6.2f} × ours  scores within {error:.3f}")
    if "pytorch-grad-cam" not in rounds:
        return report_missing("grad-cam")
    return 0 if compute_ratio(rounds, "pytorch-grad-cam", "ours") >= PROMISED else 1


def make_smooth_images(count: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return images and maps like photographs and explanations: large patches, little noise."""
    coarse = torch.rand(count, 4, 7, 7, device=device)
    fine = nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return fine[:, :3].contiguous(), fine[:, 3].contiguous()


def compute_rival_road(
    classifier: Classifier, images: Tensor, targets: Tensor, maps: Tensor
) -> Tensor:
    """Return the scores of pytorch-grad-cam, which takes normalised images; one per image."""
    from pytorch_grad_cam.metrics.road import ROADCombined
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    combined = ROADCombined(percentiles=[round(100 * share) for share in RoadSettings().fractions])
    chosen = [ClassifierOutputSoftmaxTarget(int(target)) for target in targets]
    with torch.no_grad():
        scores = combined(
            classifier.normalise(images), maps.cpu().numpy(), chosen, classifier.module
        )
    return torch.as_tensor(scores, dtype=torch.float32)


if __name__ == "__main__":
    raise SystemExit(main())

"""Makes the golden files anew, with the code that is installed: see README.md beside it.

Run it in this folder, with one thread: `OMP_NUM_THREADS=1 python make_golden.py`.
"""

# ruff: noqa: I001  (its imports are of that commit)

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image

FOLDER = Path(__file__).resolve().parent
PLANTED = "planted:size=32,images=24,classes=3,difficulty=0"
MANY = "planted:size=32,images=64,classes=3,difficulty=0"
OTHERS = "planted:size=32,images=30,classes=3,difficulty=0,seed=1"
CARD = ("--classifier", "classifier/card.json")
CPU = ("--device", "cpu")

SETTINGS = {
    "mask": "decoder: {width: 3}\n"
    "schedule: {steps: 4, batch: 4, rate: 0.02, averaging: 0.5, save_every: 2}\n",
    "small": "preset: small\n"
    "decoder: {width: 8, resolution: 4}\n"
    "embedding: {steps: 4, batch: 4}\n"
    "schedule: {steps: 2, batch: 4, rate: 0.02, averaging: 0.5}\n",
    "counterpart": "generators: {width: 8, resolution: 4}\n"
    "schedule: {steps: 4, batch: 4, rate: 0.02, averaging: 0.5}\n",
    "latent": "shape: {side: 32, code: 8, width: 8, reader: 16}\n"
    "path: {evidence: [10, 100], steps: 12}\n"
    "schedule: {steps: 4, batch: 4, rate: 0.01, averaging: 0.5}\n",
    "defence": "preset: hybrid\nschedule: {steps: 2, batch: 4, rate: 0.01, averaging: 0.5}\n",
    "pretext": "schedule: {steps: 2, batch: 4, rate: 0.01, averaging: 0.5}\n",
}
METHODS = (
    "gradient,grad_cam,grad_cam:augmented=2,lrp,occlusion:window=0.5,stride=0.25,"
    "gradient:smoothed=0.1,true_box,random"
)
METRICS = (
    "saliency_metric,localisation_error,iou,pointing_game,energy,dauc,iauc,average_drop,road,"
    "sparsity"
)


def train(kind: str, settings: str, out: str) -> list[str]:
    config = ("--config", f"settings/{settings}.yaml")
    return ["train", kind, *CARD, "--images", PLANTED, *config, "--out", out, *CPU]


COMMANDS = {
    "mask-own": train("mask", "mask", "runs/mask-own"),
    "mask-small": train("mask", "small", "runs/mask-small"),
    "counterpart": train("counterpart", "counterpart", "runs/counterpart"),
    "latent": train("latent", "latent", "runs/latent"),
    "begun": train("mask", "mask", "runs/begun"),
    "pretrained": [
        *("pretrain", "transformation", "--images", PLANTED, "--backbone", "backbone/card.json"),
        *("--config", "settings/pretext.yaml", "--size", "32", "--out", "pretrained", *CPU),
    ],
    "defended": [
        *("stress", "train", *CARD, "--images", PLANTED, "--config", "settings/defence.yaml"),
        *("--out", "defended", *CPU),
    ],
    "compare": [
        *("compare", *CARD, "--images", PLANTED, "--explainer", "runs/mask-own"),
        *("--methods", METHODS, "--metrics", METRICS, "--steps", "8", "--limit", "6"),
        *("--out", "compare", *CPU),
    ],
    "stress": [
        *("stress", *CARD, "--images", PLANTED, "--explainer", "runs/mask-own"),
        *("--attacks", "fgsm,pgd:steps=2,deepfool,margin_fgsm,map_fgsm"),
        *("--filters", "none,jpeg:quality=50", "--epsilons", "4/255,16/255"),
        *("--limit", "8", "--out", "stress", *CPU),
    ],
    "detect": [
        *("stress", "detect", *CARD, "--images", MANY, "--explainer", "runs/mask-own"),
        *("--attacks", "fgsm", "--epsilons", "64/255", "--looks", "map,stability:median,deep"),
        *("--detectors", "mahalanobis", "--out", "detect", *CPU),
    ],
    "features": [
        *("evaluate-features", "--network", "a=pretrained/card.json"),
        *("--images", PLANTED, "--test", OTHERS, "--heads", "linear,nearest"),
        *("--fractions", "0.25,1", "--draws", "2", "--out", "features", *CPU),
    ],
    "explain mask": [
        *("explain", "runs/mask-own", "pictures/0.jpg", "pictures/2.webp", "--target", "all"),
        *("--out", "explained-masks", *CPU),
    ],
    "explain counterpart": [
        *("explain", "runs/counterpart", "pictures/1.png", *CARD),
        *("--out", "explained-pairs", *CPU),
    ],
    "export": ["export", "runs/mask-own", "--no-combined", "--out", "exported"],
    "batch": [
        *("batch", "runs/mask-own", "pictures", "--level", "0.4", "--shard", "4", "--batch", "2"),
        *("--out", "maps", *CPU),
    ],
}

VICTIM = """
import os, signal
from apercu.training import module
note = module.MaskTraining.note
def die(self, *args):
    if self.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    note(self, *args)
module.MaskTraining.note = die
from apercu.cli import main
main(%r)
"""
"""A training that is killed after its checkpoint of two steps."""


def apercu(name: str) -> None:
    subprocess.run([sys.executable, "-m", "apercu", *COMMANDS[name]], check=True)


def make_classifier() -> None:
    from apercu.classifiers import save_classifier
    from apercu.demo.classifier import Lessons, train_classifier
    from apercu.images import Planted

    source = Planted(size=32, images=300, classes=3, difficulty=0)
    lessons = Lessons(epochs=12, batch=25, width=2)
    save_classifier(train_classifier(source, lessons, "cpu", lambda *_: None), "classifier")


def make_backbone() -> None:
    """A network of timm's with few channels, drawn at random."""
    from apercu.classifiers import ClassifierCard, InputSpec, classifier_of, save_classifier
    from apercu.classifiers.timm_source import create

    options = {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_classes": 0, "in_chans": 3}
    torch.manual_seed(0)
    module = create("test_convnext", {**options, "pretrained": False})
    card = ClassifierCard(
        source="timm/test_convnext",
        options=options,
        input=InputSpec(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3),
        output="features",
    )
    save_classifier(classifier_of(module, card), "backbone")


def make_pictures() -> None:
    """Smooth pictures of several sizes, and a file that is none."""
    Path("pictures").mkdir()
    for number, ending in enumerate(("jpg", "png", "webp", "png")):
        noise = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((48 - 4 * number, 36), Image.Resampling.BICUBIC)
        picture.save(f"pictures/{number}.{ending}")
    Path("pictures/4.png").write_bytes(b"no picture")


def begin_training() -> None:
    done = subprocess.run([sys.executable, "-c", VICTIM % COMMANDS["begun"]])
    assert done.returncode == -9
    path = Path("runs/begun/checkpoints/last.ckpt")
    stored = torch.load(path, weights_only=True)
    for state in stored["callbacks"].values():  # they tell where it was made
        for key, value in state.items():
            if isinstance(value, str):
                state[key] = value.replace(f"{FOLDER}/", "")
    torch.save(stored, path)


def tests() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_tests", FOLDER.parent / "test_golden.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(*words: str) -> tuple[int, str, str]:
    """What a command that is refused says."""
    from apercu.cli import main

    said, error = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(error), suppress(SystemExit):
        main(words)
    return 2, said.getvalue(), error.getvalue()


def save(name: str, found: dict[str, object]) -> None:
    Path("arrays").mkdir(exist_ok=True)
    np.savez_compressed(f"arrays/{name}.npz", **{k: np.asarray(v) for k, v in found.items()})


def write(name: str, content: object) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False, default=str)
    Path(name).write_text(text + "\n", encoding="utf-8")


def trim() -> None:
    """Leaves out what no test reads, and what depends on the moment."""
    for name in ("logs", "samples", "checkpoints"):
        for path in FOLDER.rglob(name):
            if path.relative_to(FOLDER).parts != ("runs", "begun", "checkpoints"):
                shutil.rmtree(path)
    for place in ("runs", "compare", "stress", "detect", "features", "explained-*"):
        for path in FOLDER.glob(f"{place}/**/*"):
            if path.suffix in (".png", ".html", ".md") or path.name == "table.csv":
                path.unlink()
    (FOLDER / "maps" / ".lock").unlink()
    for path in sorted(FOLDER.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def main() -> None:
    """Everything, from nothing."""
    for path in FOLDER.iterdir():
        if path.name not in ("make_golden.py", "README.md"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    torch.set_num_threads(1)
    write("commands.json", COMMANDS)
    Path("settings").mkdir()
    for name, text in SETTINGS.items():
        Path(f"settings/{name}.yaml").write_text(text)
    make_classifier()
    make_backbone()
    make_pictures()
    begin_training()
    for name in COMMANDS:
        if name != "begun":
            apercu(name)
    test = tests()
    images = test.shown(PLANTED, 2)
    save("images", {"planted": images})
    save("classifier", test.answered("classifier/card.json", images))
    for name in ("mask-own", "mask-small", "counterpart", "latent"):
        save(name, test.asked(f"runs/{name}", images))
    for name in ("pretrained", "defended"):
        save(name, test.answered(f"{name}/card.json", images))
    save("exported", test.run_by("exported", images.numpy()))
    shutil.rmtree("runs/mask-small")  # 4 MB; its command and its maps stay
    trim()
    write("cli.json", test.command_tree())
    write("names.json", test.words_known(command))
    write("presets.json", test.presets())


if __name__ == "__main__":
    main()

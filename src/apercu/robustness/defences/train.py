"""From the names of a classifier and of images to a defended classifier in a run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from apercu.classifiers import Classifier, open_classifier
from apercu.classifiers.trust import trust_files
from apercu.devices import enable_gradients
from apercu.errors import describe_interrupt
from apercu.images import ImageSource, check_images
from apercu.io import check_writable
from apercu.option_strings import check_seed
from apercu.progress import ProgressOption, open_progress
from apercu.robustness.backdoors.poisoning import PoisonedImages, parse_trigger
from apercu.robustness.defences.settings import DEFENCES, DefenceSettings
from apercu.robustness.defences.training import DefendedClassifier, fit_defence
from apercu.training.record import find_settings
from apercu.training.trainer import Hardware, Trainer


@enable_gradients()
def train_defence(
    classifier: Classifier | str | Path,
    images: ImageSource | str | Path,
    out: str | Path,
    *,
    config: DefenceSettings | Mapping[str, Any] | str | Path | None = None,
    steps: int | None = None,
    batch: int | None = None,
    poison: str | None = None,
    poison_fraction: float = 0.1,
    resume: bool = False,
    seed: int = 0,
    device: str = "auto",
    trust: bool = False,
    progress: ProgressOption = None,
    say: Callable[[str], None] = print,
) -> DefendedClassifier:
    """Train a classifier further against attacks, and leave it in a run folder with a card.

    >>> import apercu
    >>> defended = apercu.robustness.train_defence(  # doctest: +SKIP
    ...     "timm/resnet50", "photos/", "runs/hybrid", config="hybrid"
    ... )
    >>> logits = defended.classifier(images)  # doctest: +SKIP

    Args:
        classifier: the undefended classifier, or its SPEC; it stays as it is.
        images: the training images, or where they are; labels are only used where the settings
            say `wanted: labels`.
        out: the run folder.
        config: settings, a dictionary of them, a YAML file, or the name of a preset such as
            `hybrid` or `adversarial`; None takes `hybrid`, or for a begun training its own
            settings.
        steps: optimisation steps, where they differ from the settings.
        batch: images per step, where they differ from the settings.
        poison: trigger of a backdoor that is planted, such as `badnets` or `dct:targets=0/3`, to
            try methods against backdoors; the images need labels.
        poison_fraction: fraction of the images that the trigger marks, above 0 and below 1.
        resume: whether to continue a training that was begun in the folder, or with more steps one
            that was finished.
        seed: seed of every draw.
        device: `auto`, `cpu`, `cuda` or `mps`.
        trust: whether a card may name a factory, whose code is run.
        progress: whether to show how far the work is, or a function that receives the name of the
            work, how much of it is done, and how much there is; None shows it in notebooks only.
        say: receives one message at a time.

    Returns:
        The defended classifier, and what was measured before and after the training.

    Raises:
        ConfigError: a setting or the trigger is unknown, or does not fit the classifier.
        ClassifierError: the classifier cannot be trained further.
        ImagesError: the images cannot be opened, or labels are needed and there are none.
        UntrustedError: a card could run code, and is not trusted.
        RunError: the folder holds another training, or one that was begun and is not to be
            continued.
        OutputError: the folder cannot be written.
        WorkInterrupted: it was interrupted; the same call with `resume=True` goes on.
    """
    run = Path(out)
    check_seed(seed)
    check_writable(run)
    settings = find_settings(run, config, DEFENCES).with_schedule(steps=steps, batch=batch)
    check_images(images)
    trigger = None if poison is None else parse_trigger(poison)
    if not isinstance(classifier, Classifier):
        classifier = open_classifier(classifier, trust=trust)
    source = classifier.open_images(images)
    if poison is not None and trigger is not None:
        trigger.check_classifier(classifier)
        source = PoisonedImages(source, poison, classifier.size, poison_fraction, seed)
    kept = describe_interrupt(f"{run} keeps what is done; the same call with resume=True goes on")
    with kept, trust_files(trust), open_progress(progress) as report:
        trainer = Trainer(classifier, source, run, Hardware(device), seed, say, report)
        return fit_defence(settings, trainer, resume=resume)

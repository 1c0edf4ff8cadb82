"""A guard: says of each answer whether its image was tampered with or is unknown, and how sure it
is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

import apercu
from apercu.classifiers import Classifier
from apercu.devices import enable_gradients
from apercu.errors import NotFiniteError, RunError, first_line
from apercu.explainers.base import ImagesLike, TrainedExplainer, batch_images
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.run_folder import digest_run
from apercu.guard.network import GuardNetwork
from apercu.guard.observe import BATCH, FEWEST_LABELS, Observer
from apercu.guard.summaries import Observation
from apercu.io import (
    check_digests,
    describe_change,
    find_changed_file,
    is_file,
    is_folder,
    parse_json,
    write_file,
    write_hashes,
)
from apercu.types import Images, Logits, Maps
from apercu.verdicts import GUARD_FILES, GUARD_FOLDER, PassJudge, SignalWords, Trust, VerdictFormat
from apercu.weights import check_finite

GUARD, TENSORS = GUARD_FILES
"""Files of the folder of a guard."""
DIGESTS = "image_digests"
"""Name of the digests of the fitted images among the tensors."""


class GuardRecord(BaseModel):
    """The content of `guard.json`.

    Attributes:
        version: version of this format.
        apercu: version of apercu that wrote it.
        classifier: SPEC of the guarded classifier.
        fingerprint: fingerprint of that classifier.
        run: SHA-256 of the explainer whose encoder is observed; None for the classifier itself.
        signals: names of the signals, in order.
        false_alarms: fraction of clean images that may raise an alarm, for each question.
        calibrated: whether confidences are calibrated: by labels where `facts` has a temperature,
            else by the temperature of the card.
        images: SPEC of the clean images.
        fitted, held_out: number of images that signals were fitted to, and of the others.
        facts: what was measured on images that were held out, by name.
        left_out: names of images that could not be read, by the name of their source; not written
            where there are none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: Literal[1] = 1
    apercu: str = apercu.__version__
    classifier: str
    fingerprint: str
    run: str | None = None
    signals: tuple[str, ...] = Field(min_length=1)
    false_alarms: float = Field(0.05, gt=0, lt=0.5)
    calibrated: bool = False
    images: str = ""
    fitted: int = Field(ge=1)
    held_out: int = Field(ge=1)
    facts: dict[str, float] = {}
    left_out: dict[str, list[str]] = {}

    @model_serializer(mode="wrap")
    def _leave_out_empty(self, serialise: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Write no images that were left out where there are none, as in older guards."""
        content = serialise(self)
        if not self.left_out:
            del content["left_out"]
        return content


@dataclass(frozen=True, eq=False)
class Guard(PassJudge):
    """What is usual for a classifier, learnt from clean images alone.

    Args:
        record: what is written to `guard.json`.
        network: the fitted signals.
        observer: makes the one pass.
        digests: digests of all images that it was fitted to or calibrated with, as
            `digest_images` gives them; None in guards of older versions, which do not keep them.
    """

    record: GuardRecord
    network: GuardNetwork
    observer: Observer
    digests: Int64[Tensor, " images"] | None = None

    def check(self, images: ImagesLike) -> list[Trust]:
        """Return for each image whether the classifier's prediction may be believed.

        Args:
            images: images as `explainer.attribute` takes them: a tensor at the classifier's size,
                arrays, Pillow images or lists of these.

        Returns:
            One verdict per image.

        Raises:
            ImageError: the images have another size or number of channels, or are no numbers.
        """
        info = ClassifierInfo.from_classifier(self.observer.classifier)
        batch = batch_images(images, info)
        info.check_images(batch)
        verdicts: list[Trust] = []
        for part in torch.split(batch.float(), BATCH):
            verdicts += self.judge(self.observer(part))
        return verdicts

    def classify_each(self, images: Images) -> list[tuple[int, Trust] | str]:
        """Return for each prepared image its predicted class, and whether that may be believed.

        Returns:
            A class index with its verdict; why there is none, where logits are NaN or infinite.
        """
        try:
            observation = self.observer(images)
        except NotFiniteError as error:
            if len(images) == 1:
                return [str(error)]
            return [each for image in images for each in self.classify_each(image[None])]
        predicted = observation.logits.argmax(1).tolist()
        return [*zip(predicted, self.judge(observation), strict=True)]

    @torch.no_grad()
    def judge(self, observation: Observation) -> list[Trust]:
        """Return the verdicts on the images of a pass that was made already."""
        device = observation.images.device
        if self.network.ranks.device != device:
            self.network.to(device)
        return self.read_verdicts(self.network(observation))

    def judge_pass(
        self,
        images: Images,
        logits: Logits,
        features: list[Tensor],
        masks: Maps | None = None,
        *,
        shows_classifier: bool = False,
    ) -> list[Trust]:
        """Return whether the predictions of one pass may be believed.

        A guard that observes the explainer takes the pass as it is. One that was fitted without an
        explainer observes the classifier itself, and makes another pass for it unless this one
        shows the classifier's own layers.

        Args:
            images: prepared images, `batch × channels × height × width`.
            logits: logits of the classifier, `batch × classes`.
            features: what the encoder of the explainer gave besides.
            masks: masks of the predicted classes, `batch × height × width`; None where they were
                not made.
            shows_classifier: whether the features are those of the classifier's own layers; see
                `Predictor.shows_classifier`.

        Returns:
            One verdict per image.
        """
        if self.record.run is None and not shows_classifier:
            return self.judge(self.observer(images))
        with torch.no_grad():
            return self.judge(self.observer.complete(images, logits, features, masks))

    @cached_property
    def verdict_format(self) -> VerdictFormat:
        """How the numbers of the guard's network are read."""
        kinds = self.network.kinds
        return VerdictFormat(
            signals=tuple(
                SignalWords(name=kind.name, question=kind.question, phrase=kind.phrase)
                for kind in kinds
            ),
            false_alarms=self.record.false_alarms,
            calibrated=self.record.calibrated,
            held_out=self.network.ranks.shape[1],
        )

    def read_verdicts(self, verdicts: Float[Tensor, "batch columns"]) -> list[Trust]:
        """Return the verdicts that the numbers of the guard's network mean."""
        format = self.verdict_format
        return [format.read(row) for row in verdicts.float().cpu().tolist()]

    @property
    def digest(self) -> str:
        """A SHA-256 of what the guard has learnt, which its verdicts depend on."""
        sha = hashlib.sha256(self.record.model_dump_json().encode())
        for name, value in sorted(self.network.state_dict().items()):
            sha.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()

    @property
    def calibration_line(self) -> str:
        """How the confidence was calibrated, or why it was not."""
        facts, classifier = self.record.facts, self.observer.classifier
        if "temperature" in facts:
            return (
                f"calibration error of the confidence {facts['calibration_error']:.3f}, before "
                f"{facts['calibration_error_before']:.3f} (temperature {facts['temperature']:.2f}),"
                f" by chance {facts['calibration_error_by_chance']:.3f}"
            )
        if self.record.calibrated and classifier.output.temperature is not None:
            return (
                "the confidence is calibrated by the card's temperature "
                f"({classifier.output.temperature:.2f}) alone"
            )
        if classifier.output.name == "value":
            return "there is no confidence, as the classifier predicts a value"
        if classifier.decision.is_multiple:
            return "the confidence is not calibrated, as each class is decided by itself"
        if labels := round(facts.get("calibration_images", 0)):
            return (
                f"the confidence is not calibrated, as only {labels} of the {self.record.held_out} "
                f"images that were held out have a label that is a class, and {FEWEST_LABELS} are "
                "needed; take more images, or others with --calibration"
            )
        return "the confidence is not calibrated, as the images have no labels that are classes"

    @classmethod
    @enable_gradients()
    def load(
        cls,
        folder: str | Path,
        classifier: Classifier,
        explainer: TrainedExplainer[Any, Any] | None = None,
    ) -> Guard:
        """Open the folder of a guard for a classifier that is open.

        Args:
            folder: folder that `fit_guard` wrote.
            classifier: the classifier that it guards.
            explainer: the explainer whose encoder it observes, where it was fitted with one.

        Returns:
            The guard.

        Raises:
            RunError: the folder is no guard, is damaged, or belongs to another classifier or
                explainer.
        """
        folder = Path(folder)
        record = read_guard_record(folder)
        if record.fingerprint != classifier.fingerprint:
            raise RunError(
                f"{folder}: guards {record.classifier} (fingerprint {record.fingerprint[:12]}), "
                f"not {classifier.spec} ({classifier.fingerprint[:12]}); fit a guard for it"
            )
        if record.run is None:
            explainer = None
        elif explainer is None:
            raise RunError(
                f"{folder}: was fitted with an explainer, whose encoder it observes; give the "
                "same one"
            )
        elif digest_run(explainer) != record.run:
            raise RunError(
                f"{folder}: was fitted with another explainer; fit a guard with this one"
            )
        try:
            tensors = load_file(folder / TENSORS)
            check_finite(tensors, folder / TENSORS)
            digests = tensors.pop(DIGESTS, None)
            network = GuardNetwork.restore(tensors, record.signals, classifier.decision)
        except (OSError, SafetensorError, LookupError, RuntimeError, ValueError) as error:
            reason = first_line(error)
            raise RunError(f"{folder}: the guard is damaged ({reason}); fit it again") from error
        return cls(record, network, Observer(classifier, explainer), digests)

    def save(self, folder: str | Path) -> Path:
        """Write `guard.json` and `guard.safetensors`, and their hashes last.

        Args:
            folder: folder to write to; it is created.

        Returns:
            The path of `guard.json`.

        Raises:
            RunError: the folder holds a run or a saved classifier.
            OutputError: the folder cannot be written.
        """
        folder = Path(folder)
        check_digests(folder, GUARD_FILES, "a guard", str(folder / GUARD_FOLDER))
        state = {
            name: value.contiguous().cpu() for name, value in self.network.state_dict().items()
        }
        if self.digests is not None:
            state[DIGESTS] = self.digests
        write_file(folder / TENSORS, save(state))
        text = json.dumps(self.record.model_dump(mode="json"), indent=1)
        path = write_file(folder / GUARD, text + "\n")
        write_hashes(folder, (GUARD, TENSORS))
        return path

    def __repr__(self) -> str:
        return f"Guard({self.record.classifier}, {len(self.record.signals)} signals)"


def read_guard_record(folder: str | Path) -> GuardRecord:
    """Read `guard.json`, without opening the classifier or the tensors.

    Args:
        folder: folder of the guard.

    Returns:
        The record.

    Raises:
        RunError: the folder is no guard, or a file of it is damaged.
    """
    folder = Path(folder)
    if not is_file(folder / GUARD):
        reason = ""
        if is_file(folder):
            reason = ", as this is a file"
        elif not is_folder(folder):
            reason = ", as there is no such folder"
        raise RunError(
            f"{folder}: expected a guard, found no {GUARD}{reason}; fit one with apercu guard fit, "
            "or copy its folder there"
        )
    if changed := find_changed_file(folder, (GUARD, TENSORS)):
        raise RunError(f"{changed}: {describe_change(changed)}; fit it again")
    try:
        return GuardRecord.model_validate(parse_json((folder / GUARD).read_text("utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise RunError(f"{folder / GUARD}: the guard is damaged ({first_line(error)})") from error

"""Prepared images → explanations as JSON records: masks, or counterparts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers.names import TOP_INDEX
from apercu.deploy.export.page import DIGITS, FEW_CLASSES
from apercu.deploy.inference import InferenceEngine, Predictor
from apercu.deploy.serving.prepared_image import PreparedImage
from apercu.deploy.serving.requests import RequestOptions
from apercu.deploy.serving.served_explainer import (
    CaseSearcher,
    Record,
    ServedExplainer,
    TargetExplanation,
    TargetGroup,
    describe_map,
    make_examples,
    select_mask_targets,
    to_base64,
)
from apercu.errors import ApercuError, ConfigError, InputError, TargetError
from apercu.explainers.counterfactual import CounterfactualExplainer
from apercu.types import Images, Logits, Maps, Targets
from apercu.verdicts import PassJudge, Trust

TOP_CLASSES = 5
"""Classes that a response names, where there are more than `FEW_CLASSES`."""


@dataclass(frozen=True, eq=False)
class Explained:
    """An explained image, whose record is not yet written.

    Args:
        prepared: the image.
        probabilities: probabilities of all classes.
        targets: class indices.
        explanations: one for each target.
        prediction: all predicted classes where there may be several, or the value of a regression.
        cases: similar cases, as JSON can hold them; None where none were asked for.
        trust: whether the prediction may be believed; None without a guard.
    """

    prepared: PreparedImage
    probabilities: Float[Tensor, " classes"]
    targets: Sequence[int] = ()
    explanations: Sequence[TargetExplanation] = ()
    prediction: Record = field(default_factory=dict)
    cases: Record | None = None
    trust: Trust | None = None


class BatchExplainer(ABC):
    """Explains a batch of images.

    Args:
        served: the explainer, as clients see it.

    Attributes:
        guard: says of each prediction whether it may be believed; None without.
    """

    def __init__(self, served: ServedExplainer) -> None:
        self.served = served
        self.classes = served.names.names
        self.case_search: CaseSearcher | None = None
        self.guard: PassJudge | None = None

    def search_in(self, case_search: CaseSearcher) -> None:
        """Find similar cases, too, where clients ask for them."""
        self.case_search = case_search
        self.served = replace(self.served, cases=case_search.count)

    @torch.inference_mode()
    def __call__(self, batch: Sequence[PreparedImage]) -> list[Explained | ApercuError]:
        """Explain a batch: one result per image, or the error in its place."""
        images = torch.stack([prepared.image for prepared in batch])
        logits, features = self.read(images, [prepared.options for prepared in batch])
        images = images.to(logits.device)
        output = self.served.output
        probabilities = output.decision.probabilities(logits).cpu()
        predictions = [
            Explained(
                prepared,
                probabilities[row],
                prediction=self._describe_prediction(logits[row : row + 1].cpu()),
            )
            for row, prepared in enumerate(batch)
        ]
        results = self._add_explanations(predictions, images, logits, features)
        verdicts = self.judge(images, logits, features, _collect_masks(logits, results))
        for row, trust in enumerate(verdicts or ()):
            result = results[row]
            if isinstance(result, Explained):
                results[row] = replace(result, trust=trust)
        for row, prepared in enumerate(batch):
            result = results[row]
            if prepared.options.cases and isinstance(result, Explained):
                results[row] = self._add_cases(images[row : row + 1], result)
        return results

    def _add_explanations(
        self,
        predictions: Sequence[Explained],
        images: Images,
        logits: Logits,
        features: list[Tensor],
    ) -> list[Explained | ApercuError]:
        """Explain the targets of images that want maps, those with equally many targets together.

        A class that cannot be explained in an image, or a wrong option, is the error in its place.
        """
        results: list[Explained | ApercuError] = [*predictions]
        groups: dict[int, dict[int, Targets]] = {}
        for row, prediction in enumerate(predictions):
            options = prediction.prepared.options
            if options.format is None:
                continue
            try:
                targets = self.select_targets(options, logits[row].cpu())
                groups.setdefault(len(targets), {})[row] = targets
            except InputError as error:
                results[row] = error
        for group in groups.values():
            rows, stacked = list(group), torch.stack(list(group.values()))
            prepared = [predictions[row].prepared for row in rows]
            explanations = self.explain(
                TargetGroup(
                    images=images[rows],
                    options=[each.options for each in prepared],
                    sizes=[each.size for each in prepared],
                    logits=logits[rows],
                    features=[values[rows] for values in features],
                    targets=stacked.to(images.device),
                )
            )
            for row, targets, several in zip(rows, stacked.tolist(), explanations, strict=True):
                results[row] = replace(predictions[row], targets=targets, explanations=several)
        return results

    def judge(
        self, images: Images, logits: Logits, features: list[Tensor], masks: Maps | None
    ) -> list[Trust] | None:
        """Say of each prediction whether it may be believed; None without a guard."""
        if self.guard is None:
            return None
        return self.guard.judge_pass(images, logits, features, masks)

    def warm_up(self) -> None:
        """Explain one grey image, so that the first client does not wait for what loads late."""
        spec = self.served.input
        options = RequestOptions(top=min(2, len(self.classes)))
        grey = torch.full((spec.channels, *spec.size), 0.5)
        self([PreparedImage(grey, spec.size, options)])

    def write(self, explained: Explained) -> Record:
        """Return the record of an explained image, as JSON can hold it."""
        prepared = explained.prepared
        count = len(self.classes)
        if count > FEW_CLASSES:
            count = max(TOP_CLASSES, prepared.options.top)
        top = explained.probabilities.topk(count).indices.tolist()
        height, width = prepared.size
        record: Record = {
            "explainer": self.served.kind,
            "read_by": self.served.read_by,
            "size": {"width": width, "height": height},
            "frames": prepared.frames,
            "top": [self._name_class(index, explained) for index in top],
            "runner_up": self._name_class(top[1], explained) if count > 1 else None,
            **explained.prediction,
        }
        if explained.trust is not None:
            record["trust"] = explained.trust.to_record()
        if prepared.picture is not None:
            record["picture"] = to_base64(prepared.picture)
        if prepared.options.format is not None:
            record["answers"] = [
                self._name_class(index, explained) | explanation.write(prepared.options.format)
                for index, explanation in zip(
                    explained.targets, explained.explanations, strict=True
                )
            ]
        if explained.cases is not None:
            record["cases"] = explained.cases
        return record

    def _add_cases(self, image: Images, explained: Explained) -> Explained | ApercuError:
        """Return an explained image with its similar cases, or why there are none."""
        if self.case_search is None:
            return ConfigError("cases: there are none here; the server needs --among DIR for them")
        target = explained.targets[0] if explained.targets else None
        cases = self.case_search.find(image, target, explained.prepared.options.cases)
        return replace(explained, cases=cases)

    @abstractmethod
    def read(
        self, images: Images, options: Sequence[RequestOptions]
    ) -> tuple[Logits, list[Tensor]]:
        """Compute the logits, and what `explain` needs to know of each image.

        Args:
            images: the images of the batch, as the explainer takes them.
            options: how each is to be explained.

        Returns:
            Logits, `batch × classes`, and features, each with one row per image.
        """

    @abstractmethod
    def select_targets(self, options: RequestOptions, logits: Float[Tensor, " classes"]) -> Targets:
        """Select the classes to explain in an image.

        Raises:
            TargetError: a class that was asked for cannot be explained in this image.
            ConfigError: an option is given that this explainer does not have.
        """

    @abstractmethod
    def explain(self, group: TargetGroup) -> list[list[TargetExplanation]]:
        """Explain each target of each image."""

    def _describe_prediction(self, logits: Logits) -> Record:
        """Return all predicted classes of one image, or its value; nothing where one is sure."""
        output = self.served.output
        record: Record = {}
        if output.decision.is_multiple:
            predicted = output.decision.find_predicted(logits)[0].nonzero()[:, 0].tolist()
            order = sorted(predicted, key=lambda index: -float(logits[0, index]))
            record["predicted"] = [self.classes[index] for index in order]
        if (values := output.find_values(logits)) is not None:
            record["value"] = float(values[0])
        return record

    def _name_class(self, index: int, explained: Explained) -> Record:
        probability = round(float(explained.probabilities[index]), DIGITS)
        return {"class": self.classes[index], "index": index, "probability": probability}


def _collect_masks(logits: Logits, results: Sequence[Explained | ApercuError]) -> Maps | None:
    """Return the maps of the classes predicted most; None unless all of them were requested."""
    masks = []
    for index, result in zip(logits.argmax(1).tolist(), results, strict=True):
        if not isinstance(result, Explained) or index not in result.targets:
            return None
        masks.append(result.explanations[list(result.targets).index(index)].map)
    return torch.stack(masks).to(logits.device)


@final
class MaskBatchExplainer(BatchExplainer):
    """Explains by masks: a map for each target, and the box around it.

    Args:
        name: name of the run folder.
        engine: the engine of a run, or of an export.
    """

    def __init__(self, name: str, engine: InferenceEngine) -> None:
        info = engine.info
        super().__init__(
            ServedExplainer(
                name=name,
                kind=info.kind,
                classifier=info.classifier,
                names=engine.names,
                input=engine.input,
                output=engine.output,
                read_by=info.read_by,
                examples=make_examples(engine.input, engine.names),
            )
        )
        self.engine = engine

    def read(
        self, images: Images, options: Sequence[RequestOptions]
    ) -> tuple[Logits, list[Tensor]]:
        first = [(*one.targets, TOP_INDEX)[0] for one in options]
        return self.engine.predict_logits(images, torch.tensor(first))

    def select_targets(self, options: RequestOptions, logits: Float[Tensor, " classes"]) -> Targets:
        return select_mask_targets(self.served.output, options, logits)

    def judge(
        self, images: Images, logits: Logits, features: list[Tensor], masks: Maps | None
    ) -> list[Trust] | None:
        return self.engine.judge(images, logits, features, masks)

    def explain(self, group: TargetGroup) -> list[list[TargetExplanation]]:
        masks = self.engine.compute_masks(group.features, group.targets).cpu()
        return [
            [
                TargetExplanation(mask, describe_map(mask, options.level, size))
                for mask in masks_of_image
            ]
            for options, size, masks_of_image in zip(group.options, group.sizes, masks, strict=True)
        ]


@final
class CounterpartBatchExplainer(BatchExplainer):
    """Explains by counterparts: a similar and an adversarial image, and where they differ.

    Args:
        name: name of the run folder.
        predictor: predicts.
        explainer: makes the counterparts.
    """

    def __init__(
        self, name: str, predictor: Predictor, explainer: CounterfactualExplainer[Any, Any, Any]
    ) -> None:
        info = explainer.classifier_info
        super().__init__(
            ServedExplainer(
                name=name,
                kind=explainer.settings.explainer,
                classifier=info.spec,
                names=info.names,
                input=info.input,
                output=info.output,
                read_by=predictor.source,
                examples=make_examples(info.input, info.names),
            )
        )
        self.predictor = predictor
        self.explainer = explainer

    def read(
        self, images: Images, options: Sequence[RequestOptions]
    ) -> tuple[Logits, list[Tensor]]:
        return self.predictor(images)

    def select_targets(self, options: RequestOptions, logits: Float[Tensor, " classes"]) -> Targets:
        if options.only_predicted:
            raise TargetError(
                "target: expected a class that is not predicted, as a counterpart changes the "
                "image into it; name a class"
            )
        if options.level != RequestOptions.level:
            raise ConfigError(
                "level: only masks have a level, and this explainer makes counterparts; leave it "
                "out"
            )
        predicted, *others = logits.argsort(descending=True).tolist()
        if predicted in options.targets:
            raise TargetError(
                f"target: the predicted class is {self.classes[predicted]} already; choose another "
                "class"
            )
        return torch.tensor(options.targets or others[: options.top])

    def explain(self, group: TargetGroup) -> list[list[TargetExplanation]]:
        count = group.targets.shape[1]
        pairs = self.explainer.counterparts(
            group.images.repeat_interleave(count, 0),
            group.targets.flatten(),
            logits=group.logits.repeat_interleave(count, 0),
        )
        strips = pairs.strip
        explanations = []
        for row in range(len(pairs.maps)):
            target = int(pairs.target[row])
            fields: Record = {
                "seen": self.classes[int(pairs.predicted[row])],
                "change": round(float(pairs.maps[row].mean()), DIGITS),
                "largest_change": round(float(pairs.maps[row].max()), DIGITS),
            }
            if self.predictor.classifier is not None:
                probabilities = self.predictor.classifier.predict_probabilities(strips[:, row])
                predicted = probabilities.argmax(1).tolist()
                fields |= {
                    "probabilities": [round(p, DIGITS) for p in probabilities[:, target].tolist()],
                    "strip_classes": [self.classes[index] for index in predicted],
                    "kept": predicted[0] == int(pairs.predicted[row]),
                    "flipped": predicted[-1] == target,
                }
            explanations.append(
                TargetExplanation(pairs.maps[row].cpu(), fields, strips[:, row].cpu())
            )
        return [explanations[first : first + count] for first in range(0, len(explanations), count)]

"""Zero-shot classifiers: `clip/NAME_OR_FOLDER?texts=a photo of a cat,a photo of a dog`.

An image and a text model that were trained together, such as CLIP or SigLIP, from transformers. The
features of the texts are computed once. What remains is a linear layer over the features of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apercu.classifiers.card import ClassifierCard, InputSpec
from apercu.classifiers.names import ClassNames
from apercu.classifiers.network import Network
from apercu.classifiers.outputs import OutputName
from apercu.classifiers.sources.hf import (
    catch_errors,
    check_config_of_model,
    describe_config,
    find_model,
    load_model,
    make_config,
    read_options,
    read_processor,
)
from apercu.classifiers.sources.hf_network import StagedModule
from apercu.errors import ClassifierError, suggest_nearest
from apercu.extras import require_extra
from apercu.types import Images, Logits
from apercu.weights import digest_module, load_weights

CLIP_PREFIX = "clip/"
_KEYS = ("texts", "template")
_MODELS = "such as CLIP or SigLIP"


@dataclass(frozen=True)
class ZeroShotQuery:
    """What stands after `clip/`.

    Attributes:
        name: name of the model on the hub, or its folder.
        texts: one text per class.
        template: a text in which `{}` stands for the text of a class.
    """

    name: str
    texts: tuple[str, ...] = ()
    template: str = "{}"

    @classmethod
    def parse(cls, source: str) -> ZeroShotQuery:
        """Parse `clip/NAME?texts=a,b&template=a photo of a {}`, written as in a web address.

        Raises:
            ClassifierError: a key is unknown, or the template has no `{}`.
        """
        name, _, query = source.removeprefix(CLIP_PREFIX).partition("?")
        values: dict[str, str] = {}
        for key, value in parse_qsl(query, keep_blank_values=True):
            if key not in _KEYS:
                raise ClassifierError(
                    f"classifier {source}: expected texts and template after the question mark, "
                    f"got {key}{suggest_nearest(key, _KEYS)}"
                )
            values[key] = value
        texts = tuple(filter(None, (text.strip() for text in values.get("texts", "").split(","))))
        template = values.get("template", "{}")
        if "{}" not in template:
            raise ClassifierError(
                f"classifier {source}: expected a template with {{}} where the text of a class "
                f"stands, got {template!r}"
            )
        return cls(name, texts, template)


class ZeroShotClassifier(StagedModule):
    """The image half of a model of images and texts, and a linear layer of its texts.

    Args:
        model: a model of transformers with a `vision_model`.
        classes: number of classes.
    """

    def __init__(self, model: Any, classes: int) -> None:
        super().__init__()
        self.vision: nn.Module = model.vision_model
        projection = getattr(model, "visual_projection", None)
        self.projection: nn.Module = nn.Identity() if projection is None else projection
        width = getattr(projection, "out_features", None) or model.config.vision_config.hidden_size
        self.head = nn.Linear(width, classes)
        self.config = model.config.vision_config

    def forward(self, images: Images) -> Logits:
        """Return the scaled similarity of normalised images to each text."""
        return self._compute_logits(self.vision(pixel_values=images))

    def forward_with_states(self, images: Images) -> tuple[Logits, Any, Any]:
        output = self.vision(pixel_values=images, output_hidden_states=True)
        return self._compute_logits(output), output, self.config

    def _compute_logits(self, output: Any) -> Logits:
        features = self.projection(output.pooler_output)
        logits: Logits = self.head(F.normalize(features, dim=-1))
        return logits


def open_clip(card: ClassifierCard, names: ClassNames | None) -> Network:
    """Open `clip/NAME_OR_FOLDER?texts=…`, or a card with its weights.

    Args:
        card: description of the classifier.
        names: class names of the card, which are the texts where the source gives none.

    Returns:
        The network; its texts are its classes.

    Raises:
        ClassifierError: there are no texts, one is too long, or there is no such model.
        MissingExtraError: transformers is not installed.
    """
    require_extra("hf", f"classifier {card.source}")
    from transformers import AutoModel

    query, options = ZeroShotQuery.parse(card.source), read_options(card)
    texts = _choose_texts(query, names, card.source)
    spec: InputSpec | None = card.input
    if card.weights is not None and options.config is not None and spec is not None:
        with catch_errors(card.source):
            model = AutoModel.from_config(make_config(options.config))
        module = _build(model, card.source, len(texts))
        load_weights(module, card.weights)
    elif card.weights is not None:
        raise ClassifierError(
            f"classifier {card.source}: weights need `input` and `options.config`, as "
            "save_classifier writes them"
        )
    else:
        location = find_model(query.name, card.source)
        model = load_model(AutoModel, location, card.source)
        check_config_of_model(card.source, options, model.config)
        module = _build(model, card.source, len(texts))
        spec = spec or _read_input(location, card.source, model)
        sentences = [query.template.replace("{}", text) for text in texts]
        tokens = _read_tokens(location, card.source, model, sentences)
        images = torch.rand(1, spec.channels, *spec.size, generator=torch.Generator())
        with catch_errors(card.source, f"expected a model of images and texts, {_MODELS}"):
            _write_head(module, model, tokens, images)
    content = options.config or describe_config(model.config)
    output: OutputName = card.output
    if "output" not in card.model_fields_set and hasattr(model, "logit_bias"):
        output = "sigmoid"
    return Network(
        source=card.source,
        forward=module,
        digest=digest_module(module, CLIP_PREFIX, content),
        input=spec,
        output=output,
        names=ClassNames.of(texts),
        options={"config": content},
    )


def _choose_texts(query: ZeroShotQuery, names: ClassNames | None, source: str) -> tuple[str, ...]:
    """Return the texts of the query, or else the names of the card; two or more of them."""
    texts = query.texts or (() if names is None else names.names)
    if len(texts) < 2 or (names is not None and len(names.names) != len(texts)):
        raise ClassifierError(
            f"classifier {source}: expected two or more texts, one per class: "
            f"{CLIP_PREFIX}NAME?texts=a photo of a cat,a photo of a dog"
        )
    return texts


def _read_input(location: dict[str, Any], source: str, model: Any) -> InputSpec:
    """Return the input that the image processor of a model makes, with red first."""
    spec, is_reversed = read_processor(location, source, model.config.vision_config)
    if is_reversed:
        raise ClassifierError(
            f"classifier {source}: its model takes blue first, and expected is red first; choose "
            "another model"
        )
    return spec


def _build(model: Any, source: str, classes: int) -> ZeroShotClassifier:
    """Return the image half of a model; its linear layer has random weights."""
    if not isinstance(getattr(model, "vision_model", None), nn.Module):
        raise ClassifierError(
            f"classifier {source}: expected a model of images and texts, {_MODELS}, got "
            f"{type(model).__name__}"
        )
    with catch_errors(source, f"expected a model of images and texts, {_MODELS}"):
        return ZeroShotClassifier(model, classes)


def _read_tokens(
    location: dict[str, Any], source: str, model: Any, texts: Sequence[str]
) -> dict[str, Any]:
    """Return the tokens of the texts, as the model takes them."""
    from transformers import AutoTokenizer

    with catch_errors(source, "its tokeniser cannot be used"):
        longest = int(model.config.text_config.max_position_embeddings)
        tokenizer = AutoTokenizer.from_pretrained(**location)
        counts = [len(ids) for ids in tokenizer(list(texts))["input_ids"]]
        if max(counts) > longest:
            text = texts[counts.index(max(counts))]
            raise ClassifierError(
                f"classifier {source}: expected texts of at most {longest} tokens, got "
                f"{max(counts)} in {text!r}"
            )
        tokens = tokenizer(
            list(texts), padding="max_length", max_length=longest, return_tensors="pt"
        )
    return dict(tokens)


@torch.no_grad()
def _write_head(
    module: ZeroShotClassifier, model: Any, tokens: dict[str, Any], images: Images
) -> None:
    """Write the features of the texts, their scale and their bias into the linear layer.

    Raises:
        ValueError: the whole model gives the images other logits.
    """
    model.eval()
    features = model.get_text_features(**tokens)
    features = features if isinstance(features, Tensor) else features.pooler_output
    bias = getattr(model, "logit_bias", None)
    module.head.weight.copy_(F.normalize(features, dim=-1) * model.logit_scale.exp())
    module.head.bias.copy_(torch.zeros(1) if bias is None else bias)
    expected = model(pixel_values=images, **tokens).logits_per_image
    if not torch.allclose(module.eval()(images), expected, rtol=1e-3, atol=1e-3):
        raise ValueError("its logits are more than a product of image and text features")

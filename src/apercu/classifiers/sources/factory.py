"""Classifiers that a Python function makes: `package.module:factory`.

The factory is called with the card's options. It returns an `nn.Module`, or any callable that
takes images and answers without gradients. What the card does not say is read from attributes of
what it returned: `input` (an `InputSpec` or a dictionary like a card's; needed),
`classes` (a sequence of names), `output` and, for a plain callable, `fingerprint` (a text that
changes with its weights; else the factory's name and its options stand for them).
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError
from torch import nn

from apercu.classifiers.card import ClassifierCard, InputSpec, describe_mistakes
from apercu.classifiers.fingerprint import digest_module
from apercu.classifiers.names import ClassNames
from apercu.classifiers.network import BlackBox, Network
from apercu.classifiers.save import load_weights
from apercu.errors import ClassifierError, suggest_nearest


def open_factory(card: ClassifierCard) -> Network:
    """Calls the factory and reads what it says about its classifier.

    Raises:
        ClassifierError: no such module or factory, it fails, it returns no callable, or neither
            it nor the card says what the images are like.
    """
    try:
        made = _import_factory(card.source)(**card.options)
    except ClassifierError:
        raise
    except Exception as error:
        raise ClassifierError(f"classifier {card.source}: the factory fails: {error!r}") from error
    is_module = isinstance(made, nn.Module)
    if not callable(made):
        raise ClassifierError(
            f"classifier {card.source}: expected an nn.Module or a callable from the factory, "
            f"got {type(made).__name__}"
        )
    if card.weights is not None:
        if not is_module:
            raise ClassifierError(f"classifier {card.source}: a plain callable takes no weights")
        load_weights(made, card.weights)
    classes = getattr(made, "classes", None)
    return Network(
        source=card.source,
        forward=made if is_module else BlackBox(made),
        digest=_compute_digest(made, card),
        input=card.input or _read_input_attribute(made, card.source),
        output=getattr(made, "output", card.output),
        names=None if classes is None else ClassNames.of(map(str, classes)),
        options=card.options,
        differentiable=is_module,
    )


def _import_factory(source: str) -> Callable[..., Any]:
    name, _, attribute = source.partition(":")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ClassifierError(
            f"classifier {source}: no module named {error.name}; put its folder on PYTHONPATH"
        ) from None
    try:
        factory = getattr(module, attribute)
    except AttributeError:
        suggestion = suggest_nearest(attribute, vars(module))
        raise ClassifierError(
            f"classifier {source}: {name} has no {attribute}{suggestion}"
        ) from None
    if not callable(factory):
        raise ClassifierError(f"classifier {source}: {attribute} cannot be called")
    return factory


def _compute_digest(made: Any, card: ClassifierCard) -> str:
    if isinstance(made, nn.Module):
        return digest_module(made, card.source, card.options)
    stated = getattr(made, "fingerprint", "")
    described = json.dumps([card.source, card.options, str(stated)], sort_keys=True, default=str)
    return hashlib.sha256(described.encode()).hexdigest()


def _read_input_attribute(made: Any, source: str) -> InputSpec:
    stated = getattr(made, "input", None)
    if stated is None:
        raise ClassifierError(
            f"classifier {source}: it does not say what its images are like; give it an "
            "attribute `input`, or write a classifier card with `input`"
        )
    try:
        return InputSpec.model_validate(stated)
    except ValidationError as error:
        raise ClassifierError(
            f"classifier {source}: its attribute input: {'; '.join(describe_mistakes(error, InputSpec))}"
        ) from None

"""Classifiers that a Python function builds: `package.module:factory`, or `FILE.py:factory`.

A module is searched in the working directory first, since the factory was typed, or the file that
names it is trusted.

The factory is called with the card's options; in place of one, a module may be named, which is
copied. It returns an `nn.Module`, or any callable from images to outputs, which gives no gradients.
What the card does not say is read from attributes of the returned object: `input` (an `InputSpec`
or a dictionary like a card's; needed), `classes` (a list of names), `output` (a word as in a card)
and, for a plain callable, `fingerprint` (a text that changes with its weights; without it, the name
of the factory and its options are the identity).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from apercu.classifiers.card import ClassifierCard
from apercu.classifiers.network import Network
from apercu.classifiers.sources.module import (
    open_module,
    read_classes_attribute,
    read_input_attribute,
    read_output_attribute,
    unwrap_module,
)
from apercu.classifiers.sources.timm import warn_plain_pixels, warn_random
from apercu.classifiers.trust import OWN_FACTORIES, check_factory
from apercu.errors import ClassifierError, first_line
from apercu.own_code import import_attribute
from apercu.weights import FORMER_FACTORIES, load_weights


def open_factory(card: ClassifierCard) -> Network:
    """Call the factory and read what it says about its classifier.

    Args:
        card: description of the classifier; its source names the factory.

    Returns:
        The network.

    Raises:
        UntrustedError: a card names it that is not trusted.
        ClassifierError: there is no such module or factory, it fails or returns no callable, or
            neither it nor the card has an `input`.
    """
    check_factory(card.source, card.options)
    built = _build(card)
    own = read_input_attribute(built, card.source)
    warn_plain_pixels(card, own)
    spec = card.input or own
    if spec is None:
        raise ClassifierError(
            f"classifier {card.source}: it does not say what its images are like; give it an "
            "attribute `input`, or write a classifier card with `input`"
        )
    changes: dict[str, Any] = {"input": spec, "classes": None}
    output = read_output_attribute(built, card.source)
    if output is not None and "output" not in card.model_fields_set:
        changes["output"] = output
    names = None if card.classes else read_classes_attribute(built, card.source)
    if isinstance(built, nn.Module):
        built = unwrap_module(built).float()
    return open_module(built, card.model_copy(update=changes), names)


def _build(card: ClassifierCard) -> Callable[..., Any]:
    """Call the factory, and load the weights that the card names."""
    is_random = card.source in OWN_FACTORIES and card.weights is None
    if is_random:
        torch.manual_seed(0)
    try:
        factory = _import_factory(card.source)
        is_module = isinstance(factory, nn.Module) and not card.options
        built = copy.deepcopy(factory) if is_module else factory(**card.options)
    except ClassifierError:
        raise
    except TypeError as error:
        raise ClassifierError(
            f"classifier {card.source}: the factory fails: {_describe(error)}; expected a function "
            "that takes the options of the card, if any, and returns the network"
        ) from error
    except Exception as error:
        raise ClassifierError(
            f"classifier {card.source}: the factory fails: {_describe(error)}"
        ) from error
    if not callable(built):
        raise ClassifierError(
            f"classifier {card.source}: expected an nn.Module or a callable from the factory, "
            f"got {type(built).__name__}"
        )
    if card.weights is not None:
        if not isinstance(built, nn.Module):
            raise ClassifierError(f"classifier {card.source}: a plain callable takes no weights")
        load_weights(unwrap_module(built), card.weights)
    elif is_random:
        warn_random(card.source, "its card names no `weights`")
    return built


def _describe(error: Exception) -> str:
    """Return the type of an error and its first line."""
    return f"{type(error).__name__}({first_line(error)!r})"


def _import_factory(source: str) -> Callable[..., Any]:
    """Import the factory that a source names, by its present or a former name."""
    present = FORMER_FACTORIES.get(source, source)
    factory = import_attribute(
        present, f"classifier {source}", search_here=source not in OWN_FACTORIES
    )
    if not callable(factory):
        attribute = present.rpartition(":")[2]
        raise ClassifierError(f"classifier {source}: {attribute} cannot be called")
    return factory

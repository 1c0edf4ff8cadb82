"""Networks that are in memory already."""

from __future__ import annotations

from torch import nn

from apercu.classifiers.card import ClassifierCard
from apercu.classifiers.fingerprint import digest_module
from apercu.classifiers.names import ClassNames
from apercu.classifiers.network import Network
from apercu.errors import ClassifierError


def open_module(
    module: nn.Module, card: ClassifierCard, names: ClassNames | None = None
) -> Network:
    """Describe a module by a card.

    Args:
        module: network from normalised images to the output that the card names.
        card: description of the module, with `input`; its `source` and `options` say how to build
            such a module again, and its `classes` are a list. The weights are the module's.
        names: class names; those of the card if None.

    Returns:
        The module with its description.

    Raises:
        ClassifierError: the card has no `input`, or names a file of classes.
    """
    if card.input is None or isinstance(card.classes, str):
        raise ClassifierError(
            f"classifier {card.source}: a module in memory needs a card with `input`, and with "
            "`classes` as a list if it has names"
        )
    if names is None and card.classes is not None:
        names = ClassNames.of(card.classes)
    return Network(
        source=card.source,
        forward=module,
        digest=digest_module(module, card.source, card.options),
        input=card.input,
        output=card.output,
        names=names,
        options=card.options,
    )

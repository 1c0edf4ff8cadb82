"""Backdoors: triggers and poisoned images as a test bed, and what finds and removes them."""

from __future__ import annotations

from apercu.robustness.backdoors.badnets import BadNets
from apercu.robustness.backdoors.base import Trigger
from apercu.robustness.backdoors.dct import Dct
from apercu.robustness.backdoors.poisoning import PoisonedImages, parse_trigger

__all__ = ["BadNets", "Dct", "PoisonedImages", "Trigger", "parse_trigger"]

"""The objectives of masks: four terms, in the forms that were published and in our own."""

from apercu.explainers.mask.objectives.base import MaskBatch, MaskObjective, Terms
from apercu.explainers.mask.objectives.extent_and_core import ExtentAndCore
from apercu.explainers.mask.objectives.published import Printed, Released

__all__ = ["ExtentAndCore", "MaskBatch", "MaskObjective", "Printed", "Released", "Terms"]

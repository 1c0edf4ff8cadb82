"""What a mask is trained for: four terms, in the forms that were published and in our own."""

from apercu.training.objectives.base import Objective, Question, Terms
from apercu.training.objectives.dial import Dial
from apercu.training.objectives.printed import Printed
from apercu.training.objectives.released import Released

__all__ = ["Dial", "Objective", "Printed", "Question", "Released", "Terms"]

"""No defence: what the others are compared with."""

from __future__ import annotations

from typing import Literal, final

from apercu.robustness.defences.base import Defence, Lesson
from apercu.types import Images, Scores


@final
class Standard(Defence):
    """Honest images alone."""

    form: Literal["standard"] = "standard"

    def terms(self, lesson: Lesson) -> dict[str, Scores]:
        return {"honest": lesson.loss(lesson.learns(lesson.images))}

    def hard(self, lesson: Lesson) -> Images:
        return lesson.images

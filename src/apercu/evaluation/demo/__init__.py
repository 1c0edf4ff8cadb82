"""The whole story on the planted set: a classifier, its explainer, and how it compares."""

from __future__ import annotations

from apercu.evaluation.demo_stages import Demo

__all__ = ["Demo"]

"""Recipes for learning from few labels: one file each, composable where that makes sense."""

from __future__ import annotations

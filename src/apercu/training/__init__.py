"""Objectives and the fit of the trained explainers."""

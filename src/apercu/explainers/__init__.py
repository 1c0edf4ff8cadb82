"""Explainers that are trained for a classifier, one folder for each kind."""

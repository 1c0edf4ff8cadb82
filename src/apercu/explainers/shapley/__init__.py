"""Shapley."""

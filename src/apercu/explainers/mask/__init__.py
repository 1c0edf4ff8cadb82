"""Mask."""

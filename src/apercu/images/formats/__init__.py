"""Decoders of picture files, one module per format."""

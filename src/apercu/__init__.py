"""See what an image classifier looks at, in one forward pass."""

__version__ = "0.1.0"

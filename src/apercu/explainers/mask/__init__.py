"""The mask explainer: the evidence for a class as a mask, in one forward pass."""

"""The counterpart explainer: a similar image that keeps the decision, and one that does not."""

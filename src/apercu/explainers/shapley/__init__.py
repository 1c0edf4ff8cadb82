"""The Shapley explainer: what each cell of an image adds to a class, in one forward pass."""

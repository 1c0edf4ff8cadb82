"""The latent explainer: a path of images from one decision to another, through codes."""

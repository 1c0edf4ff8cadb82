"""How the autoencoder and the reader of latent paths are trained."""

"""The trained networks: encoders, the class gate, the U-Net's decoder."""

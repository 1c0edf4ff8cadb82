"""The blocks that trained networks share: encoders, the class gate, the decoders of a U-Net."""

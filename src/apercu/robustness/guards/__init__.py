"""How often guards are wrong on clean images, and which attacked and unknown ones they find."""

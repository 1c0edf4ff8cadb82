"""Learning from images without labels, and what it is worth where labels are few."""

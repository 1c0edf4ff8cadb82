"""How fast a classifier breaks, and whether anything helps."""

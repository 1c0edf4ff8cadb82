"""How counterparts are trained: their objective, their judges, one step."""

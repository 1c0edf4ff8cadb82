"""An explainer behind HTTP: a web process, worker processes that explain, and a page."""

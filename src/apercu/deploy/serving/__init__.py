"""An explainer behind HTTP: LitServe's batching and workers, a guard in front, a page at `/`."""

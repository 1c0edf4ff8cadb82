"""The sources of classifiers: one module per kind of SPEC, and networks in memory."""

"""``make batch-demo``: an archive of the bundled slices, annotated with kills on the way, verified, compared.

Knows nothing itself; begin with ``__main__``.
"""

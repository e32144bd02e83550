"""A Triton server without a container, for the demo and the tests.

Begin with ``server``; ``install`` completes what ``make env-triton`` unpacked, and ``shim`` runs in Triton's
own Python.
"""

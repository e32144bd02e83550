"""Whether results agree: with recordings, between precisions, between two evaluations.

Begin with ``parity``. ``drift`` compares precisions, ``gate`` two evaluations. It runs serving's own classes;
it may not import checkpoints, bundles' writers or commands.
"""

"""A checkpoint in the published layout: read, built into networks, or made at random.

Begin with ``published``, then ``model``. It may not import graphs, bundles or commands.
"""

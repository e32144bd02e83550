"""The vision half as TensorRT plans.

Begin with ``build``; ``compiler`` is the one seam to TensorRT, which is imported only when it builds.
Checkpoints and commands may not be imported.
"""

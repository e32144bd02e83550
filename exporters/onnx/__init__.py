"""Networks as ONNX graphs: traced, exported, stored in half precision, compared node by node.

Begin with ``graphs``, what is traced, then ``export``. It may not import checkpoints, bundles or commands.
"""

"""The vision half: its engines.

Begin with ``interface``, the tensors of its two graphs, then ``onnx``. Engines implement
``serving.ports.VisionEngine``: they may not import the flow (``serving.orchestrator``, ``wave``, ``geometry``),
the language half or stores, nor one another.
"""

"""The language half: its engines, and the process that serves one of them.

Begin with ``onnx``, the engine to read first. ``vllm_engine`` is the other; ``remote`` asks a process of its
own, which ``__main__`` builds, ``server`` and ``service`` run. Engines implement
``serving.ports.LanguageEngine``: they may not import the flow (``serving.orchestrator``, ``wave``, ``prompt``),
the vision half or stores, nor one another. torch and vLLM are imported by ``vllm_core`` and ``plugin`` alone.
"""

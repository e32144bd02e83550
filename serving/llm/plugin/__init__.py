"""What runs inside vLLM: MediRound's model for it, and the tap that lets features out.

Begin with ``register``, which vLLM calls; then ``model`` and ``tap``. vLLM loads this in processes of its own,
so nothing else of serving may be imported.
"""

"""Stores: image embeddings and sessions.

Begin with ``sessions``, then ``embeddings``. They implement ``serving.ports.SessionStore`` and
``EmbeddingStore``: they may not import the flow, engines, gRPC or one another.
"""

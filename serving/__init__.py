"""MediRound serving: the orchestrator, its engines and its gRPC service.

Importing it silences ONNX Runtime: since 1.32 its Linux build gives this machine an id and tells a server of its
maker's of each session, from the moment it is imported, and only the environment stops it.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

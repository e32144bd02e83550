"""MediRound serving: the orchestrator, its engines and its gRPC service."""

"""How many rounds a second one orchestrator can do when no engine makes it wait. Begin with ``__main__``."""

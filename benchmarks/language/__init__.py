"""Benchmark of the language half alone, on vLLM."""

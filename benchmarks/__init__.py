"""Benchmarks of the service against the published protocol; see docs/performance.md."""

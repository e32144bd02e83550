"""What a run measured: figures, verdicts, and how both are written.

Begin with ``model``, the report as values; ``statistics`` computes them, ``write`` makes the files. Recordings
may be imported, not what runs the load (``loadtest.run``, ``loadtest.sweep``).
"""

"""Metrics of both processes, and how they are shown.

Begin with ``metrics``, where each is declared; ``recorder`` counts events, ``collector`` reads current state,
``exposition`` and ``status`` show both. Composition roots alone import this package. It knows events and
values; it may not import engines, stores or gRPC.
"""

"""The public contract, ``mediround.v1``: from messages to the domain and back.

Begin with ``service``: one method per call, each a few steps of the modules beside it (``requests``, ``openings``,
``upload``, ``responses``, ``request_log``); ``sessions`` has the methods beside rounds. ``serving.__main__`` alone
imports this package. It calls the orchestrator, and may not import engines, stores or metrics.
"""

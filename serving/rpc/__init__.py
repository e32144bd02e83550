"""gRPC as both processes serve it: server, error boundary, status table, settings.

Begin with ``server``, then ``interceptor``. Each process brings its own service (``serving.api``,
``serving.llm``); neither may be imported here, nor may what a call does.
"""

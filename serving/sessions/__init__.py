"""What happens to sessions beside their rounds, and what a request holds of one while it works.

Begin with ``keeper``: open, resume, read, undo, branch, amend, close. ``embedding`` holds an image's embedding for
the rounds of one request; ``encode_on_open`` and ``crops`` work ahead of questions. May not import the
orchestrator, engines, stores or gRPC.
"""

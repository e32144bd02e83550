"""Volumes: a template's dialogue on the frames of a stack.

``segment_stack`` and ``segment_stack_async`` are the way in. Knows stacks, templates and the client. Does not know
how a stack is found, or what is written of the results.
"""

"""The model's networks in plain torch, under the published state-dict names.

Begin with ``language`` for the language half, ``sam_decoder`` for the vision half. Torch is all they need:
files, graphs and checkpoints may not be imported.
"""

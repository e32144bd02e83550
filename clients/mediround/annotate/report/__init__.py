"""A run as a folder of HTML that loads nothing from elsewhere: contact sheet, details, a reader's verdicts.

Begin with ``writing``. No place, name or identifier of a patient stands in it, unless it is asked for.
"""

"""What is made of a run's index, as often as it is wanted: masks as PNG, COCO JSON, label maps, DICOM SEG.

Each takes results in the manifest's order, and writes the same bytes for the same results.
"""

"""A viewer's check: OHIF opens a study with our segmentations, and what it draws is compared with the masks."""

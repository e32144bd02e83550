"""Variations of a view: image and labels stay together, and a mirrored image has its sides exchanged."""

from __future__ import annotations

import numpy as np
import pytest

from training.targets import Head, index
from training.views import clean, swap_sides, varied

LEFT, RIGHT, BRAIN = (np.uint32(1 << index(name)) for name in ("left insula", "right insula", "brain"))


@pytest.fixture(scope="module")
def head() -> Head:
    """A bright ball on the patient's left, labelled as it looks."""
    x, y, z = np.ogrid[:181, :217, :9]
    ball = ((x - 50) ** 2 + (y - 110) ** 2 < 30**2) & (z >= 0)
    image = np.where(ball, 200, 20).astype(np.uint8)
    return Head(image, image, np.where(ball, LEFT | BRAIN, np.uint32(0)).astype(np.uint32))


def test_sides_are_exchanged_and_the_midline_stays() -> None:
    labels = np.array([[LEFT, RIGHT, LEFT | BRAIN, 0]], np.uint32)
    assert swap_sides(labels).tolist() == [[RIGHT, LEFT, RIGHT | BRAIN, 0]]


def test_the_patients_left_is_on_the_images_right(head: Head) -> None:
    columns = np.nonzero(clean(head, 4).labels & LEFT)[1]
    assert columns.min() > 217 // 2


@pytest.mark.parametrize("seed", range(6))
def test_labels_follow_the_image_and_name_the_side_that_is_seen(head: Head, seed: int) -> None:
    view = varied(head, 4, np.random.default_rng(seed))
    brain = (view.labels & BRAIN) > 0
    bright = view.image > (float(view.image[brain].mean()) + float(view.image[~brain].mean())) / 2
    overlap = 2 * np.count_nonzero(brain & bright) / (np.count_nonzero(brain) + np.count_nonzero(bright))
    assert overlap > 0.9
    on_the_right = np.nonzero(brain)[1].mean() > 217 / 2
    assert (view.labels[brain] & (LEFT if on_the_right else RIGHT)).all()

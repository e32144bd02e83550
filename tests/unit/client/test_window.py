"""``mediround.window``: DICOM's formulas by hand-worked values; one result however the values are held."""

from __future__ import annotations

import numpy as np
import pytest

from mediround import InvalidArgument
from mediround.window import LookupTable, Rescale, StoredValues, Window, used_bits


def grey(values: list[float], voi: Window | LookupTable, **meaning: object) -> list[int]:
    return StoredValues(**meaning).grey(np.asarray(values, np.int16), voi).tolist()  # type: ignore[arg-type]


def test_linear_ends_where_the_standard_says() -> None:
    """PS3.3 C.11.2.1.2, its own example: center 2048, width 4096 maps 0 to the lowest and 4095 to the highest."""
    window = Window(2048, 4096)

    assert grey([-1, 0, 4095, 4096], window) == [0, 0, 255, 255]
    assert grey([1, 2047, 4094], window) == [0, 127, 255]
    assert grey([2050 - 2048 + 8], Window(8, 16)) == [170]  # ((10 - 7.5) / 15 + 0.5) * 255


def test_linear_of_width_1_is_a_threshold() -> None:
    """Its second example: center 2048, width 1: up to 2047 the lowest, from 2048 the highest."""
    assert grey([2047, 2048], Window(2048, 1)) == [0, 255]


def test_linear_exact_and_sigmoid() -> None:
    assert grey([0, 50, 100], Window(50, 100, "LINEAR_EXACT")) == [0, 128, 255]
    assert grey([-1000, 50, 75, 1000], Window(50, 100, "SIGMOID")) == [0, 128, 186, 255]  # 255 / (1 + exp(-1))
    assert grey([-32768, 32767], Window(0, 0.001, "SIGMOID")) == [0, 255]  # its exponential is infinite


def test_rescale_comes_first_inversion_after_and_padding_is_black() -> None:
    window = Window(50, 100, "LINEAR_EXACT")

    assert grey([0, 20, 40], window, modality=Rescale(2.5, 0)) == [0, 128, 255]
    assert grey([0, 20, 40], window, modality=Rescale(2.5, 0), inverted=True) == [255, 127, 0]
    assert grey([-2001, -2000, -1999, 0], window, padding=(-2000, -1999), inverted=True) == [255, 0, 0, 255]


def test_tables_clip_at_their_ends() -> None:
    table = LookupTable(10, np.array([0, 4, 15]), 4)

    assert grey([-5, 10, 11, 12, 500], table) == [0, 0, 68, 255, 255]
    assert grey([10, 11, 12], Window(7.5, 15, "LINEAR_EXACT"), modality=table) == [0, 68, 255]


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("signed", [True, False])
def test_the_table_of_16_bits_and_the_formula_agree(function: str, signed: bool) -> None:
    """int32 and float64 go by the formula, 8 and 16 bits by a table of it."""
    random = np.random.default_rng(3)
    low, high = (-32768, 32768) if signed else (0, 65536)
    stored = random.integers(low, high, (64, 65), endpoint=False)
    window = Window(123.4, 5000.6, function)  # type: ignore[arg-type]
    values = StoredValues(Rescale(1.7, -300), (5, 900), inverted=True)

    by_table = values.grey(stored.astype(np.int16 if signed else np.uint16)[:, ::2], window)

    assert np.array_equal(by_table, values.grey(stored.astype(np.int32)[:, ::2], window))
    assert np.array_equal(by_table, values.grey(stored.astype(np.float64)[:, ::2], window))


def test_values_that_are_no_numbers_do_not_spread() -> None:
    stored = np.array([np.nan, np.inf, -np.inf, 50.0])

    assert StoredValues().grey(stored, Window(50, 100)).tolist() == [0, 255, 0, 129]
    assert StoredValues().percentile_window(np.full(9, np.nan)) == Window(0, 1)


def test_percentiles_leave_out_padding_and_a_flat_image_is_shown() -> None:
    stored = np.r_[np.full(5000, -2000), np.arange(1001)].astype(np.int16)
    window = StoredValues(Rescale(-2, 0), (-2000, -2000)).percentile_window(stored)

    assert window == Window(-1000, 1980, "LINEAR_EXACT")  # the values 5 and 995, times -2
    assert StoredValues().percentile_window(np.full((4, 4), 7, np.uint16)) == Window(7, 1)


def test_bits_that_are_not_stored_are_cut_off() -> None:
    assert used_bits(np.array([0xF7FF, 0x0800, 0x1005], np.uint16), 12, 11).tolist() == [0x7FF, 0x800, 5]
    assert used_bits(np.array([0x0FFF, 0x07FF], np.uint16).view(np.int16), 12, 11).tolist() == [-1, 0x7FF]
    assert used_bits(np.array([0xFFF7], np.uint16), 12, 15).tolist() == [0xFFF]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((float("nan"), 1), "window.center"),
        (("40", 1), "window.center"),
        ((0, float("inf")), "window.width"),
        ((0, 0.5), "window.width"),
        ((0, -1, "SIGMOID"), "window.width"),
        ((0, True), "window.width"),
        ((0, 1, "linear"), "window.function"),
    ],
)
def test_what_is_no_window_is_refused(arguments: tuple[object, ...], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Window(*arguments)  # type: ignore[arg-type]

    assert caught.value.violations[0].field == field


def test_a_slope_of_0_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"window\.slope: must be a finite number other than 0"):
        Rescale(0)

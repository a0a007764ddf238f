"""Counts of progress are as large as what was done: no line tells 0 of what is not nothing."""

import pytest

from shards.progress import PIXELS, in_words, progress


@pytest.mark.parametrize(
    ("count", "unit", "words"),
    [
        (1, PIXELS, "1 pixels"),
        (30_000, PIXELS, "30,000 pixels"),
        (99_999, PIXELS, "99,999 pixels"),
        (100_000, PIXELS, "0.1 megapixels"),
        (2_345_678_901, PIXELS, "2,345.7 megapixels"),
        (1234.4, "chips", "1,234 chips"),
    ],
)
def test_many_pixels_are_told_in_millions(count: float, unit: str, words: str) -> None:
    assert in_words(count, unit) == words


@pytest.mark.parametrize(
    ("total", "done", "words"),
    [(4096, 64, "64 of 4,096 pixels, "), (4_000_000, 64, "0.0 of 4.0 megapixels, ")],
)
def test_both_numbers_of_a_line_have_its_unit(
    total: int, done: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("predict", total, PIXELS) as advance:
        advance(done)
    line = capsys.readouterr().err
    assert line.startswith(f"predict: {words}")
    assert "pixels/s, " in line

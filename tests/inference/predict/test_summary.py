"""The summary of a prediction says that reading is slow only where it is, and then what to do."""

import pytest

from inference.predict.summary import Summary

SLOW = Summary(megapixels=100.0, seconds=50.0, predicting_waited=0.4, reading_waited=0.1)


def test_slow_reading_is_named_with_what_to_do() -> None:
    first, second = str(SLOW).splitlines()
    assert (
        first == "0 maps made, 0 there before, 0 scenes failed; 100.0 megapixels in 50 s (2.0 megapixels/s)"
    )
    assert second.startswith("reading is slow: the model waited for pixels 40% of its time; copy the scenes ")
    assert second.endswith(" --workers N")


@pytest.mark.parametrize("well", [{"predicting_waited": 0.1}, {"reading_waited": 0.8}, {"seconds": 5.0}])
def test_nothing_is_said_where_all_is_well(well: dict[str, float]) -> None:
    summary = Summary(**{**vars(SLOW), **well})
    assert len(str(summary).splitlines()) == 1

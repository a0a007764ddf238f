"""The state that a run has left when it fails by its numbers or its data, and what can be done with it.

with naming_last_state(out):    # outermost: states that are being written are complete when it looks
    fit.run(callback)
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from shards.errors import DatasetChangedError, DatasetError, InputError
from shards.format.manifest import understood
from shards.storage.objects import exists, join
from trainer.run_folder.state_parts import START_OVER, STATE, read_about


@contextmanager
def naming_last_state(out: str) -> Iterator[None]:
    """Add to an error about a number or a dataset what the run at `out` can be resumed from."""
    try:
        yield
    except DatasetChangedError as error:
        error.add_note(
            "a run goes on with the split that it began with: split so again and give --resume auto, or "
            "choose another --out"
        )
        raise
    except (FloatingPointError, DatasetError) as error:
        with suppress(InputError):  # storage that fails now must not hide the error
            error.add_note(last_state(out, same=isinstance(error, DatasetError)))
        raise


def last_state(out: str, same: bool = False) -> str:
    """Say which state the run at `out` has, and how it can go on.

    Args:
        out: the run's folder.
        same: whether the same options can succeed, once the data are mended.

    Raises:
        InputError: its state cannot be read.
    """
    url = join(out, STATE)
    if not exists(url):
        if same:
            return f"no state was saved in {out} yet: --resume auto begins there once that is mended"
        return f"no state was saved in {out} yet: choose another --out, or delete it first"
    with understood(url, START_OVER):
        step = read_about(out)["position"]["step"]
    state = f"the last state, after step {step}, is {url}: --resume auto continues from it"
    if same:
        return f"{state} once that is mended"
    return (
        f"{state}, also with another --on-nonfinite; other options, such as a lower --learning-rate, need "
        "another --out"
    )

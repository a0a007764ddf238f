"""Batches on their way to a device: a thread reads them ahead into memory that is used again and again.

There is no GPU: `SlowLink` stands for one, whose transfers run beside the process, and spoils used memory.

- Every batch arrives with its own bytes, whatever the batches' sizes, and memory is asked for only to grow.
- Memory that is used again too early, or read after its transfer, would show.
- An error comes after the batches before it; closing early ends the thread.
- A training has the same losses, states and scores bit for bit, also with stored tokens, and goes on after a
  stop as if there had been none.
"""

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from regressors import small_config, write_dataset
from slow_link import SPOILT, SlowLink, Transfer
from stopped_runs import Stopped, Stopper, assert_equal_states

import trainer.data.feed
import trainer.fit.loop
from shards.errors import DatasetError
from shards.read.arena import Memory
from shards.read.dataset import Batch, Dataset, open_dataset
from trainer.commands.train import new_fit
from trainer.config import TrainConfig
from trainer.data.feed import AHEAD, Fed, feed
from trainer.data.step_inputs import never_empty
from trainer.data.transfers import BUFFERS, Buffers
from trainer.devices.ranks import Ranks
from trainer.run_folder.state import restore, state_of
from trainer.run_folder.state_parts import StoredState

CPU = torch.device("cpu")
THREAD = "treeline-prefetch"


def slow(nbytes: int) -> float:
    """A millisecond, and more for each tenth transfer or so: the thread overtakes."""
    return 0.004 if nbytes % 10 == 0 else 0.001


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("chips"), chips=22, val_share=0.2)


def batches_of_changing_size(dataset: Dataset, memory: Memory | None = None) -> Iterator[Batch]:
    """120 batches of 0 to 22 chips."""
    generator = np.random.default_rng(3)
    chips = dataset.chips("all")
    for _ in range(120):
        order = generator.permutation(chips)[: generator.integers(chips.size + 1)]
        yield from dataset.batches(order, max(1, order.size), memory=memory)


def bytes_of(fed: Fed) -> tuple[list[int], bytes, bytes]:
    return fed.batch.chips.tolist(), fed.image_BCHW.numpy().tobytes(), fed.height_BHW.numpy().tobytes()


def running() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == THREAD]


# --- bytes ---


@pytest.mark.parametrize("gathers", [True, False], ids=["gathered there", "copied there"])
def test_every_batch_arrives_with_its_own_bytes(dataset: Dataset, gathers: bool) -> None:
    link = SlowLink(slow)
    buffers = Buffers(link)
    memory = buffers.memory if gathers else None
    met = list(batches_of_changing_size(dataset))
    arrived = feed(batches_of_changing_size(dataset, memory), dataset.schema, CPU, buffers=buffers)
    for batch, fed in itertools.zip_longest(met, arrived):
        expected = batch.chips.tolist(), batch.image_BCHW.tobytes(), batch.height_BHW.tobytes()
        assert bytes_of(fed) == expected
        assert fed.batch.rows_BS.size == fed.batch.image_BCHW.size == 0  # other batches' bytes are there
    assert link.sent_by == {THREAD}
    assert len(link.pinned) < len(met) / 4  # buffers only grow
    assert max(link.pinned) == max(batch.rows_BS.nbytes for batch in met)
    assert not running()


class Hasty(Buffers):
    """Uses its memory again without waiting for the transfer."""

    def memory(self, rows: int, span: int) -> Any:
        self._done = [None] * len(self._done)
        return super().memory(rows, span)


def test_memory_that_is_used_again_too_early_shows(dataset: Dataset) -> None:
    buffers = Hasty(SlowLink(lambda nbytes: 0.002))
    met = batches_of_changing_size(dataset)
    arrived = feed(batches_of_changing_size(dataset, buffers.memory), dataset.schema, CPU, buffers=buffers)
    assert any(
        batch.image_BCHW.tobytes() != bytes_of(fed)[1] for batch, fed in zip(met, arrived, strict=True)
    )


def test_a_device_that_does_not_wait_for_its_transfer_shows(dataset: Dataset) -> None:
    class Impatient(SlowLink):
        def arrive(self, rows_BS: torch.Tensor, done: Transfer) -> None:
            pass

    buffers = Buffers(Impatient(lambda nbytes: 0.01))
    batches = dataset.batches(dataset.chips("all"), 4, memory=buffers.memory)
    first = next(arrived := feed(batches, dataset.schema, CPU, buffers=buffers))
    assert (first.image_BCHW.flatten().view(torch.uint8) == SPOILT).all()
    arrived.close()


def test_what_goes_beside_a_batch_arrives_with_it(dataset: Dataset) -> None:
    def numbers(batch: Batch, memory: Memory | None) -> Any:
        rows_B8 = np.zeros((len(batch.chips), 8), np.uint8) if memory is None else memory(len(batch.chips), 8)
        rows_B8[:] = batch.chips.astype(np.int64)[:, None].view(np.uint8)
        return rows_B8

    for buffers in (None, Buffers(SlowLink(slow))):
        for fed in feed(batches_of_changing_size(dataset), dataset.schema, CPU, numbers, buffers):
            assert fed.others_BT is not None
            assert fed.others_BT.view(torch.int64)[:, 0].tolist() == fed.batch.chips.tolist()


def test_a_stand_in_is_a_chip_seen_before_without_its_height(dataset: Dataset) -> None:
    """Though the memory of the batch that it comes from has been used again."""
    chips = dataset.chips("all")
    buffers = Buffers(SlowLink(slow))

    def batches(memory: Memory | None) -> Iterator[Batch]:
        for order in (chips[3:7], chips[:0], chips[:0], chips[:2]):
            yield from dataset.batches(order, 4, memory=memory) if order.size else [nothing(dataset)]

    read = never_empty(batches(buffers.memory), dataset.schema, chips)
    _, *stand_ins, last = feed(read, dataset.schema, CPU, buffers=buffers)
    image_1CHW = dataset.gather(chips[3:4]).image_BCHW
    for fed in stand_ins:
        assert fed.batch.stands_in
        assert fed.batch.chips.tolist() == [3]
        assert fed.image_BCHW.numpy().tobytes() == image_1CHW.tobytes()
        assert fed.height_BHW.isnan().all()
    assert last.batch.chips.tolist() == [0, 1]


def nothing(dataset: Dataset) -> Batch:
    """This rank's part of a short batch, which is empty."""
    return dataset.gather(dataset.chips("all")[:0])


# --- the thread ---


def test_a_thread_reads_ahead_but_not_without_end(dataset: Dataset) -> None:
    chips, link = dataset.chips("all"), SlowLink()
    buffers = Buffers(link)
    asked = threading.Semaphore(0)
    count = 0

    def batches() -> Iterator[Batch]:
        nonlocal count
        for batch in dataset.batches(np.tile(chips, 5), 2, memory=buffers.memory):
            count += 1
            asked.release()
            yield batch

    arrived = feed(batches(), dataset.schema, CPU, buffers=buffers)
    next(arrived)
    for _ in range(1 + AHEAD + 1):  # the one in use, those that wait, and the one that finds no room
        assert asked.acquire(timeout=60)
    assert not asked.acquire(timeout=0.2)
    arrived.close()
    assert count == 1 + AHEAD + 1
    assert len(link.pinned) == BUFFERS  # all batches have one size
    assert not running()


def test_an_error_comes_after_the_batches_before_it(tmp_path: Path) -> None:
    written = write_dataset(tmp_path, chips=24)
    last = tmp_path / written.manifest.shards[-1].name
    data = bytearray(last.read_bytes())
    data[5_000] ^= 1
    last.write_bytes(data)
    dataset, met = open_dataset(written.url), [list[list[int]](), list[list[int]]()]
    for chips_of, buffers in zip(met, (None, Buffers(SlowLink(slow))), strict=True):
        batches = dataset.batches(dataset.chips("all"), 4, memory=buffers.memory if buffers else None)
        arrived = feed(batches, dataset.schema, CPU, buffers=buffers)
        with pytest.raises(DatasetError, match=last.name) as error:
            chips_of.extend(fed.batch.chips.tolist() for fed in arrived)
        assert "treeline verify" in "".join(error.value.__notes__)
    assert met[0] == met[1] != []
    assert not running()


# --- training ---


@pytest.fixture
def by_thread(monkeypatch: pytest.MonkeyPatch) -> list[SlowLink]:
    """From now on batches go through buffers; returns the links."""
    links = list[SlowLink]()

    def buffers_for(device: torch.device) -> Buffers:
        links.append(SlowLink(slow))
        return Buffers(links[-1])

    for module in (trainer.data.feed, trainer.fit.loop):
        monkeypatch.setattr(module, "buffers_for", buffers_for)
    return links


def training(dataset: Dataset, backbone: Path, tokens: Path | None) -> TrainConfig:
    small: dict[str, Any] = {"decoder": "linear", "decoder_widths": (), "tune": "frozen", "batch_size": 4}
    stored = {"token_store": str(tokens), "token_variants": 8} if tokens else {}
    return small_config(dataset, backbone, **small, **stored)


@pytest.mark.parametrize("has_tokens", [False, True], ids=["chips", "tokens"])
def test_a_training_is_the_same_and_goes_on_where_it_was(
    dataset: Dataset,
    backbone: Path,
    tmp_path: Path,
    has_tokens: bool,
    request: pytest.FixtureRequest,
) -> None:
    config = training(dataset, backbone, tmp_path / "tokens" if has_tokens else None)
    whole, undisturbed = new_fit(config, Ranks()), Stopper()
    whole.run(undisturbed)
    links = request.getfixturevalue("by_thread")
    for at in (2, whole.steps_per_epoch + 1):  # batches ahead are read by then
        stopper, rest = Stopper(at, tmp_path), Stopper()
        with pytest.raises(Stopped):
            new_fit(config, Ranks()).run(stopper)
        assert not running()
        again = new_fit(config, Ranks())
        with StoredState(str(tmp_path)) as state:
            restore(again, state)
        again.run(rest)
        assert stopper.losses + rest.losses == undisturbed.losses
        assert again.records == whole.records
        assert_equal_states(state_of(again), state_of(whole))
    assert set[str]().union(*(link.sent_by for link in links)) == {THREAD}
    assert not running()

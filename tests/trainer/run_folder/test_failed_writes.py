"""A write that fails in the background is told at the next step, with the name of its object."""

import resource
from concurrent.futures import wait
from pathlib import Path
from threading import Event

import pytest
from in_process import treeline
from regressors import local_backbone, small_config, write_dataset

from shards.storage.objects import publish
from trainer.commands.train import new_fit
from trainer.devices.ranks import Ranks
from trainer.fit.loop import Fit
from trainer.run_folder.background import Background
from trainer.run_folder.state_callback import StateCallback
from trainer.run_folder.state_parts import StateWriter


class Watching(StateCallback):
    """Counts steps, and lets what is being written fail before the next one."""

    steps = 0

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        self.steps += 1
        super().after_step(fit, chips, loss)
        if self._background._last:
            wait([self._background._last])


def test_a_failed_state_ends_the_run_at_the_next_step(tmp_path: Path) -> None:
    """States are due after steps 2, 4 and 6; the first one cannot be written."""
    dataset, backbone = write_dataset(tmp_path / "chips", 48), local_backbone(tmp_path / "backbone")
    fit = new_fit(small_config(dataset, backbone, epochs=1), Ranks())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state").write_text("where a folder should be")
    callback = Watching(states=StateWriter(str(tmp_path / "run")), checkpoint_steps=2)
    with pytest.raises(OSError, match=f"{tmp_path}/run/state"), callback:
        fit.run(callback)
    assert callback.steps == 3


def test_a_look_does_not_wait() -> None:
    go, waited = Event(), list[bool]()
    with Background() as background:
        background.do(lambda: waited.append(go.wait(60)))
        background.look()
        assert not waited
        go.set()
        background.wait()
        background.look()
    assert waited == [True]


@pytest.mark.parametrize("size", [10_000, 0])
def test_a_full_disk_names_the_object(tmp_path: Path, size: int) -> None:
    """A limit on the size of files fails as a full disk does; a folder in its place fails at the end."""
    url = tmp_path / "run" / "epoch-0001" / "model.safetensors"
    if not size:
        (url / "there").mkdir(parents=True)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=f"{url}'") as caught:
            publish(str(url), bytes(size))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    if size:
        assert ".treeline-" not in str(caught.value)


def test_the_command_names_it_on_one_line(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "chips", 24)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "epoch-0001").write_text("where a folder should be")
    done = treeline(
        *(
            "train",
            "--data",
            dataset.url,
            "--out",
            str(tmp_path / "run"),
            "--recipe",
            "tiny",
            "--epochs",
            "3",
        ),
        *("--decoder-widths", "8", "8", "8", "8", "--batch-size", "4"),
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("treeline: failed: ")
    assert f"{tmp_path}/run/epoch-0001" in last
    assert "epoch 3" not in done.stderr, "it does not go on to the end"

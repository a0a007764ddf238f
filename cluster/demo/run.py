"""`treeline demo OUT`: the whole job on a synthetic landscape, from scenes on disk to a report.

OUT/scenes/train, OUT/scenes/unseen    images and height rasters
OUT/chips, OUT/chips-unseen            datasets
OUT/run                                training, with its checkpoints
OUT/evaluation                         scores on the unseen scenes
OUT/maps                               canopy height maps of the unseen scenes
OUT/report.html
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cluster.config import DemoConfig
from cluster.demo.report import write_report
from cluster.jobs.connection import connected
from inference.config import PredictConfig
from inference.predict.in_process import InProcess
from inference.predict.on_ray import OnRay
from inference.predict.run import predict
from ingest.config import ScenesConfig
from ingest.scenes.scenes_source import ScenesSource
from ingest.synthetic.landscape import write_scene
from ingest.work.run import ingest
from shards.errors import InputError
from shards.progress import progress
from shards.storage.objects import check_writable, is_local, local_path
from trainer.commands.evaluate import evaluate
from trainer.commands.train_on_ray import launch
from trainer.config import EvaluateConfig, TrainConfig
from trainer.score.evaluation import write_evaluation

Result = TypeVar("Result")


@dataclass
class Steps:
    """Runner of steps, one after another."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that each step took, by name."""

    def do(self, name: str, work: Callable[[], Result]) -> Result:
        """Announce the step, do its work, and note the time it took."""
        print(f"[{len(self.seconds) + 1}] {name}", file=sys.stderr, flush=True)
        start = time.monotonic()
        result = work()
        self.seconds[name] = time.monotonic() - start
        return result


def run_demo(config: DemoConfig) -> str:
    """Do everything; return the scores and the path of the report.

    Raises:
        InputError: OUT is not an empty or new local folder.
    """
    out = _empty_folder(config.out)
    steps = Steps()
    steps.do("synthetic scenes", lambda: _write_scenes(config, out))
    for group, chips, val_share in (("train", "chips", 0.2), ("unseen", "chips-unseen", 0.0)):
        folder = out / "scenes" / group
        images, heights = (f"{folder}/WV02_*.tif",), (f"{folder}/lidar_*.tif",)
        options = ScenesConfig(
            images=images, heights=heights, out=str(out / chips), shares=(1 - val_share, val_share)
        )
        source = ScenesSource(options)
        steps.do(f"ingest {group} scenes", lambda s=source, o=options: ingest(s, o))  # type: ignore[misc]
    training = TrainConfig.of(
        str(out / "chips"), str(out / "run"), seed=config.seed, epochs=config.epochs, workers=config.workers
    )
    with connected(config.workers):
        steps.do("train", lambda: launch(training))
        unseen = EvaluateConfig(training.out, str(out / "chips-unseen"), split="all")
        evaluation = steps.do("evaluate on unseen scenes", lambda: evaluate(unseen))
        write_evaluation(str(out / "evaluation"), evaluation)
        scenes = (f"{out}/scenes/unseen/WV02_*.tif",)
        mapping = PredictConfig(scenes, training.out, str(out / "maps"), workers=config.workers)
        engine = OnRay(mapping) if config.workers else InProcess()
        maps = steps.do("predict unseen scenes", lambda: predict(mapping, engine).maps)
    report = steps.do("report", lambda: write_report(out, evaluation, maps, steps.seconds))
    total = sum(steps.seconds.values())
    return f"{evaluation.table()}\n{total:.0f} seconds in all; look at {report}"


def _empty_folder(url: str) -> Path:
    if not is_local(url):
        raise InputError(f"{url}: the demo writes to a local folder")
    folder = local_path(url)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{url}: is not empty; choose another folder, or delete it first")
    check_writable(url)
    return folder


def _write_scenes(config: DemoConfig, out: Path) -> None:
    total = config.train_scenes + config.unseen_scenes
    with progress("landscape", total, "scenes") as advance:
        for number in range(total):
            folder = out / "scenes" / ("train" if number < config.train_scenes else "unseen")
            folder.mkdir(parents=True, exist_ok=True)
            write_scene(folder, number, config.seed, (config.scene_size, config.scene_size))
            advance(1)

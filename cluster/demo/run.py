"""`treeline demo OUT`: the whole job on a synthetic landscape, from scenes on disk to a report.

OUT/scenes/train, OUT/scenes/unseen    images and height rasters
OUT/chips, OUT/chips-unseen            datasets
OUT/run                                training, with its checkpoints
OUT/evaluation                         scores on the unseen scenes
OUT/maps                               canopy height maps of the unseen scenes
OUT/report.html
"""

from pathlib import Path

from cluster.config import DemoConfig
from cluster.demo.report import write_report
from cluster.demo.steps import Steps, empty_folder
from cluster.jobs.connection import connected
from inference.config import PredictConfig
from inference.predict.in_process import InProcess
from inference.predict.on_ray import OnRay
from inference.predict.run import predict
from ingest.config import ScenesConfig
from ingest.scenes.scenes_source import ScenesSource
from ingest.synthetic.landscape import write_scene
from ingest.work.run import ingest
from shards.progress import progress
from trainer.commands.train_on_ray import launch
from trainer.config import EvaluateConfig, TrainConfig
from trainer.devices.cards import chosen_here
from trainer.devices.choice import Wanted
from trainer.evaluate.heights import evaluate
from trainer.score.evaluation import write_evaluation


def run_demo(config: DemoConfig) -> str:
    """Do everything; return the scores and the path of the report.

    Raises:
        InputError: OUT is not an empty or new local folder.
    """
    out = empty_folder(config.out)
    steps = Steps()
    steps.do("synthetic scenes", lambda: _write_scenes(config, out))
    for group, chips, val_share in (("train", "chips", 0.2), ("unseen", "chips-unseen", 0.0)):
        folder = out / "scenes" / group
        images, heights = (f"{folder}/WV02_*.tif",), (f"{folder}/lidar_*.tif",)
        options = ScenesConfig(
            images=images,
            heights=heights,
            out=str(out / chips),
            split_by="key",  # unseen scenes are the test
            shares=(1 - val_share, val_share),
        )
        source = ScenesSource(options)
        steps.do(f"ingest {group} scenes", lambda s=source, o=options: ingest(s, o))  # type: ignore[misc]
    # There may be fewer GPUs than workers.
    device: Wanted = "cpu" if config.workers else "auto"
    training = TrainConfig.of(
        str(out / "chips"),
        str(out / "run"),
        seed=config.seed,
        epochs=config.epochs,
        workers=config.workers,
        device=device,
    )
    with connected(config.workers):
        steps.do("train", lambda: launch(training))
        unseen = EvaluateConfig(training.out, str(out / "chips-unseen"), split="all")
        evaluation = steps.do("evaluate on unseen scenes", lambda: evaluate(unseen))
        write_evaluation(str(out / "evaluation"), evaluation)
        scenes = (f"{out}/scenes/unseen/WV02_*.tif",)
        mapping = PredictConfig(
            scenes, training.out, str(out / "maps"), workers=config.workers, device=device
        )
        engine = OnRay(mapping) if config.workers else InProcess(chosen_here(mapping.device))
        maps = steps.do("predict unseen scenes", lambda: predict(mapping, engine).maps)
    report = steps.do("report", lambda: write_report(out, maps, steps))
    return f"{evaluation.table()}\n{steps.total:.0f} seconds in all; look at {report}"


def _write_scenes(config: DemoConfig, out: Path) -> None:
    total = config.train_scenes + config.unseen_scenes
    with progress("landscape", total, "scenes") as advance:
        for number in range(total):
            folder = out / "scenes" / ("train" if number < config.train_scenes else "unseen")
            folder.mkdir(parents=True, exist_ok=True)
            write_scene(folder, number, config.seed, (config.scene_size, config.scene_size))
            advance(1)

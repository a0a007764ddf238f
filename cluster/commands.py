"""Functions of the commands: each calls a stage, imported only then, and prints its result."""

from collections.abc import Callable, Sequence, Set
from contextlib import ExitStack
from typing import TYPE_CHECKING

from cluster import last_lines
from shards.said import tell

if TYPE_CHECKING:
    from cluster.config import DemoConfig, StepsConfig, SubmitConfig
    from inference.config import (
        AttentionConfig,
        DistancesConfig,
        EmbedConfig,
        MosaicConfig,
        PredictConfig,
        ReportConfig,
        ViewConfig,
    )
    from inference.embed.engine import Engine as EmbedEngine
    from inference.predict.engine import Engine
    from ingest.chips.source import CommandSource
    from ingest.config import (
        HuggingFaceConfig,
        IngestConfig,
        LabelsConfig,
        PairsConfig,
        ScenesConfig,
        SourceConfig,
        SyntheticConfig,
        TarsConfig,
    )
    from shards.config import ConvertConfig, InspectConfig, SplitConfig, VerifyConfig
    from trainer.config import EvaluateConfig, ImportConfig, SweepConfig, TrainConfig
    from trainer.devices.choice import Wanted
    from trainer.matrix_config import MatrixConfig
    from trainer.pretrain_config import ExportConfig, PretrainConfig


def demo(config: "DemoConfig") -> None:
    """Run everything on a synthetic landscape."""
    if config.sar:
        from cluster.demo.sar import run_sar_demo

        tell(run_sar_demo(config))
        return

    from cluster.demo.run import run_demo

    tell(run_demo(config))


def ingest_pairs(config: "PairsConfig") -> None:
    """Make a dataset from folders of chips."""
    from ingest.files.pairs_source import PairsSource

    _ingest(PairsSource(config), config)


def ingest_huggingface(config: "HuggingFaceConfig") -> None:
    """Make a dataset from a Hugging Face dataset."""
    from ingest.files.huggingface_source import HuggingFaceSource

    _ingest(HuggingFaceSource(config), config)


def ingest_scenes(config: "ScenesConfig") -> None:
    """Make a dataset from images and height rasters."""
    from ingest.scenes.scenes_source import ScenesSource

    _ingest(ScenesSource(config), config)


def ingest_synthetic(config: "SyntheticConfig") -> None:
    """Make a dataset from a synthetic landscape."""
    from ingest.synthetic.sar_source import SarSource
    from ingest.synthetic.synthetic_source import SyntheticSource

    _ingest(SarSource(config) if config.sar else SyntheticSource(config), config)


def ingest_source(config: "SourceConfig") -> None:
    """Make a dataset from a source of the user's own."""
    from ingest.chips.own_source import OwnSource

    source = OwnSource(config)
    _ = source.schema  # imports it: a mistake is found before workers start
    _ingest(source, config)


def _ingest(source: "CommandSource", config: "IngestConfig") -> None:
    from cluster.jobs.connection import connected
    from ingest.work.run import ingest

    summary = ingest(source, config, lambda: connected(config.workers)).summary
    _say(summary, last_lines.after_ingest(config.out))


def _say(summary: str, last: Sequence[str] = ()) -> None:
    """Print what came out and the last lines of a command."""
    if text := last_lines.to_print("\n".join([summary, *last])):
        tell(text)


def ingest_tars(config: "TarsConfig") -> None:
    """Make a dataset of WebDataset tars as they are."""
    from ingest.files.tars import ingest_tars

    done = ingest_tars(config)
    counts = ", ".join(f"{count:,} {split}" for split, count in done.manifest.splits.items() if count)
    tell(f"{config.data}: {counts}; rejected: {done.rejected}")
    for said in done.left_out:
        tell(f"left out: {said}")
    if not done.manifest.samples("val"):
        tell("note: nothing is held out for validation; see --val")
    _say(*last_lines.after_ingest(config.data))


def ingest_labels(config: "LabelsConfig") -> None:
    """Label the chips of a dataset with what rasters show there."""
    from ingest.labels.run import label_chips

    _say(label_chips(config), last_lines.after_labels(config.data, config.column, config.mean))


def inspect(config: "InspectConfig") -> None:
    """Show what a dataset holds."""
    from shards.commands.inspect import inspect
    from shards.read.dataset import open_dataset

    dataset = open_dataset(config.data)
    _say(inspect(config, dataset), last_lines.readiness(dataset))


def verify(config: "VerifyConfig") -> int:
    """Check everything in a folder of ours; return 1 if there are problems."""
    from cluster.verifying import summary, verify_any

    problems, left, is_dataset = verify_any(config)
    last = last_lines.after_verify(config.data, problems) if is_dataset or problems else []
    _say(summary(config.data, problems, left), last)
    return 1 if problems else 0


def split(config: "SplitConfig", given: Set[str]) -> None:
    """Hold out other chips of a dataset, or count bands; `given` are the options that the user named."""
    from shards.commands.resplit import resplit

    _say(resplit(config, given), last_lines.ready_to_train(config.data))


def convert(config: "ConvertConfig") -> None:
    """Write a dataset in the other format."""
    from shards.commands.convert import convert

    manifest = convert(config)
    count = sum(shard.samples for shard in manifest.shards)
    size = f"{sum(shard.nbytes for shard in manifest.shards) / 1e6:,.1f} MB"
    said = f"{config.out}: {count:,} chips in {len(manifest.shards):,} shards, {size}"
    _say(f"{said}, fingerprint {manifest.fingerprint}", last_lines.after_convert(config.out))


def train(config: "TrainConfig", given: Set[str]) -> None:
    """Train a regressor on a dataset; `given` are the options that the user named."""
    from cluster.jobs.connection import connected
    from trainer.commands.last_lines import after_training
    from trainer.commands.train_on_ray import launch

    launch(config, given, lambda: connected(config.worker_range[1], _gpu_here(config.device)))
    _say(after_training(config))


def pretrain(config: "PretrainConfig", given: Set[str]) -> None:
    """Pre-train a backbone; `given` are the options that the user named."""
    from cluster.jobs.connection import connected
    from trainer.commands.last_lines import after_pretraining
    from trainer.commands.train_on_ray import launch_pretraining

    launch_pretraining(config, given, lambda: connected(config.worker_range[1], _gpu_here(config.device)))
    _say(after_pretraining(config))


def _gpu_here(wanted: "Wanted") -> Callable[[], object] | None:
    """Return a check that a cluster of this machine alone has a GPU, if one is wanted."""

    def check() -> None:
        from trainer.devices.cards import chosen_here

        chosen_here("gpu")

    return check if wanted == "gpu" else None


def export(config: "ExportConfig") -> None:
    """Write the backbone of a pre-training run to a folder of its own."""
    from trainer.commands.export import export
    from trainer.model.pretrained import is_pretrained

    said = export(config)
    _say(said, last_lines.after_export(config, is_pretrained(config.out)))


def sweep(config: "SweepConfig") -> None:
    """Find training options that suit a dataset."""
    from cluster.jobs.connection import connected
    from cluster.options import FILE, parse
    from trainer.commands.last_lines import after_sweep
    from trainer.commands.sweep import BEST, check_sweep, sweep, table, trials_here
    from trainer.config import TrainConfig
    from trainer.devices.cards import chosen_here, computes
    from trainer.devices.choice_on_ray import chosen_on_ray

    file = [f"--{FILE}", config.train_config] if config.train_config else []
    base = parse(TrainConfig, [*file, "--data", config.data, "--out", config.out], "treeline train")
    wanted = base.device if config.device == "auto" else config.device
    precision = config.precision or base.fit.precision
    base = base.with_options(precision=precision)
    if config.workers:
        check_sweep(config, base, None)  # before Ray starts, which takes longer
    with connected(config.workers, _gpu_here(wanted)):
        if config.workers:
            from trainer.commands.sweep_on_ray import trials_on_ray

            choice = chosen_on_ray(wanted, config.workers, precision=precision)
            trials = sweep(config, base, trials_on_ray, choice.device, choice.computes)
        else:
            device = chosen_here(wanted, precision)
            trials = sweep(config, base, trials_here, device, computes(precision, device))
    tell(table(trials))
    _say(after_sweep(config, BEST))


def matrix(config: "MatrixConfig") -> int:
    """Train in each region and test in all; return 1 if a cell failed."""
    from cluster.jobs.connection import connected
    from cluster.options import FILE, parse, read_options
    from trainer.commands.matrix import PAGE, cells_here, check_matrix, matrix
    from trainer.config import TrainConfig
    from trainer.devices.cards import chosen_here, computes
    from trainer.devices.choice_on_ray import chosen_on_ray

    file = [f"--{FILE}", config.train_config] if config.train_config else []
    places = ["--data", next(iter(config.data), ""), "--out", config.out]
    # What the file's options depend on: a head is for tiles, a rank for adapters.
    tune = next((mode for mode in ("lora", "last", "all") if mode in config.tune), "frozen")
    places += ["--task", config.task, "--tune", tune]
    places += ["--label", config.label] if config.label else []
    base = parse(TrainConfig, [*file, *places], "treeline train")
    named = read_options(config.train_config, TrainConfig, "treeline train") if file else {}
    precision = config.precision or base.fit.precision
    base = base.with_options(precision=precision)
    device = None if config.workers else chosen_here(config.device, precision)
    plan, datasets = check_matrix(config, base, named, device)
    with connected(config.workers, _gpu_here(config.device)):
        if device is None:
            from trainer.commands.matrix_on_ray import cells_on_ray

            choice = chosen_on_ray(config.device, config.workers, precision=precision)
            choice.computes.say()
            results = matrix(plan, datasets, cells_on_ray, choice.device)
        else:
            computes(precision, device).say()
            results = matrix(plan, datasets, cells_here, device)
    tell(results.table())
    _say(f"{config.out}/{PAGE}", last_lines.after_matrix(config))
    return 1 if results.failed else 0


def import_(config: "ImportConfig") -> None:
    """Make a checkpoint of weights trained elsewhere."""
    from trainer.commands.import_weights import import_checkpoint

    _say(import_checkpoint(config), last_lines.after_import(config))


def evaluate(config: "EvaluateConfig") -> None:
    """Score a model on chips, or maps."""
    scores_maps = config.scores_maps  # refuses wrong options before the imports, which take seconds

    from shards.storage.objects import check_writable
    from trainer.evaluate.run import AnyEvaluation, evaluate_any, write_any

    if config.out:
        check_writable(config.out)
    evaluation: AnyEvaluation
    if scores_maps:
        from inference.config import MapScoreConfig
        from inference.score.score_maps import score_maps

        evaluation = score_maps(MapScoreConfig.of(config))
    else:
        evaluation = evaluate_any(config)
    tell(evaluation.table())
    if config.out:
        write_any(config.out, evaluation)
    if not scores_maps:
        from trainer.commands.last_lines import after_evaluation

        _say(after_evaluation(config, evaluation.verdict), last_lines.after_scores(config))


def predict(config: "PredictConfig") -> int:
    """Make maps of scenes; return 1 if a scene failed, 2 if there is no map because all are refused."""
    from cluster.jobs.connection import connected
    from inference.predict.run import predict

    with ExitStack() as stack:

        def engine() -> "Engine":
            if config.workers:
                stack.enter_context(connected(config.workers, _gpu_here(config.device)))
                from inference.predict.on_ray import OnRay

                return OnRay(config)
            from inference.predict.in_process import InProcess
            from trainer.devices.cards import chosen_here

            return InProcess(chosen_here(config.device, config.precision))

        summary = predict(config, engine)
    maps = list(summary.maps.values())
    _say("\n".join([*maps, str(summary)]), last_lines.after_prediction(config, maps))
    if summary.failed and not summary.maps and all(failed.is_refused for failed in summary.failed):
        return 2
    return 1 if summary.failed else 0


def embed(config: "EmbedConfig") -> None:
    """Describe tiles by vectors of an encoder."""
    from cluster.jobs.connection import connected
    from inference.embed.run import embed

    with ExitStack() as stack:

        def engine() -> "EmbedEngine":
            if config.workers:
                stack.enter_context(connected(config.workers, _gpu_here(config.device)))
                from inference.embed.on_ray import OnRay

                return OnRay(config)
            from inference.embed.in_process import InProcess
            from trainer.devices.cards import chosen_here

            return InProcess(chosen_here(config.device, config.precision))

        said = embed(config, engine)
    _say(said, last_lines.after_embedding(config))


def distances(config: "DistancesConfig") -> None:
    """Measure how far regions lie apart in embeddings."""
    from inference.distances.run import distances

    _say(distances(config), last_lines.after_distances(config))


def mosaic(config: "MosaicConfig") -> None:
    """Merge overlapping maps into one."""
    from inference.mosaic.run import mosaic

    _say(mosaic(config), last_lines.after_mosaic(config.out))


def report(config: "ReportConfig") -> None:
    """Show a run and its maps on one page."""
    from inference.report.run import report

    _say(report(config))


def view(config: "ViewConfig") -> None:
    """Show maps in a browser, until Ctrl-C."""
    from inference.view.run import view

    view(config)


def attention(config: "AttentionConfig") -> None:
    """Draw and measure where a backbone's class token looks."""
    from inference.attention.run import attention

    _say(attention(config), last_lines.after_attention(config))


def run(config: "StepsConfig", given: Set[str]) -> int:
    """Run the steps of a file; return the exit code of the one that failed, or 0.

    `given` are the options that the user named.
    """
    from cluster.steps.run import run_steps

    return run_steps(config, given)


def submit(config: "SubmitConfig", command: list[str]) -> int:
    """Run a command as a Ray job; return its exit code."""
    from cluster.jobs.submit import submit

    return submit(config, command)

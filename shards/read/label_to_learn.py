"""What a dataset has labels for, as options of `treeline train`, and what a backbone is used for on it."""

from shards.format.manifest import Manifest


def label_options(manifest: Manifest) -> tuple[str, ...] | None:
    """Return the options of `treeline train` that learn a dataset's labels; None if it has none.

    Those of its pixels come first, else the last one that `treeline ingest labels` added. () means heights.
    """
    if manifest.schema.class_names:
        return ("--task", "pixel-class")
    if manifest.schema.label:
        return ()
    if not manifest.labels:
        return None
    name = [*manifest.labels][-1]
    is_number = manifest.labels[name].get("config", {}).get("mean")
    return ("--task", "tile-value" if is_number else "tile-class", "--label", name)


def use_of_backbone(manifest: Manifest, data: str, run: str) -> tuple[str, ...]:
    """Return the words of the command that uses a pre-training: train on a dataset's labels, or else embed.

    Args:
        manifest: the dataset's.
        data: its place.
        run: folder of the pre-training.
    """
    learns, out = label_options(manifest), run.rstrip("/")
    if learns is None:
        return ("embed", data, "--checkpoint", run, "--out", f"{out}-embeddings")
    return ("train", "--data", data, *learns, "--backbone", run, "--out", f"{out}-trained")

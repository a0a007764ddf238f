"""What a dataset has labels for, as options of `treeline train`."""

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

"""Tell a step's own files from others at its place, by the names that its command gives to files.

Only these are removed when a step is made anew: whoever puts a file into the folder of a dataset or of a run
finds it there afterwards. Commands that replace their own result are not here: nothing is removed for them.
"""

import re
from collections.abc import Iterable

from inference.maps.style import style_url
from inference.scenes.scene_list import MAP_ENDINGS
from shards.format.file_names import is_of_a_dataset
from shards.format.manifest import JOURNAL, MANIFEST, UNFINISHED
from trainer.run_folder.run_files import CHECKPOINT_FILE, RUN_FILE

_BEING_WRITTEN = re.compile(r"\.treeline-[0-9a-f]{16}-(?=[^/]+$)")
"""What stands before a file's name while it is being written (shards.storage.objects.staged)."""
_DATASET = rf"{re.escape(MANIFEST)}|{re.escape(UNFINISHED)}|{re.escape(JOURNAL)}/.+"
"""Files of a dataset, beside those that `shards.format.file_names` names."""
_MAP = "|".join(re.escape(ending.removesuffix(".tif")) for ending in MAP_ENDINGS)
_PATTERNS = {
    "pretrain": RUN_FILE,
    "train": RUN_FILE,
    "import": CHECKPOINT_FILE,
    "export": (
        rf"{CHECKPOINT_FILE}|treeline\.json|model-\d+-of-\d+\.safetensors|model\.safetensors\.index\.json"
    ),
    "sweep": rf"sweep\.json|best\.yaml|trial-\d+/{RUN_FILE}",
    "matrix": (
        r"matrix\.(yaml|json)|predictions\.parquet|index\.html|cells/\d{4}-[\w-]+\.parquet"
        rf"|runs/\d{{4}}-[\w-]+/{RUN_FILE}"
    ),
    "predict": rf"predict\.json|failed\.json|\.predict/.+|[^/]+({_MAP})\.(tif|png|json|qml)",
    "mosaic": "",  # the place is the file
    "embed": r"plan\.json|embeddings\.json|part-\d+\.parquet",
    # Its pictures have names that a user's may have, too; without attention.json it replaces them.
    "attention": r"attention\.json|index\.html|[^/]+\.(attention|components)\.tif",
}
"""Names below the place, by command; of datasets, see `own_files`."""


def own_files(command: str, names: Iterable[str]) -> list[str]:
    """Return those of the names that only the command gives to files, relative to its place."""
    if command == "convert" or command.startswith("ingest "):
        return [name for name in names if is_of_a_dataset(_written(name)) or _is(_DATASET, name)]
    return [name for name in names if _is(_PATTERNS[command], name)]


def files_beside(command: str, place: str) -> list[str]:
    """Return the URLs of the files that a command writes beside the one at `place`."""
    return [style_url(place)] if command == "mosaic" else []


def _is(pattern: str, name: str) -> bool:
    return re.fullmatch(pattern, _written(name)) is not None


def _written(name: str) -> str:
    """Return the name that a file has once it is written."""
    return _BEING_WRITTEN.sub("", name)

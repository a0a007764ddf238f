"""Names of the files of a run and of its checkpoints, and the removal of these alone."""

import re

from shards.storage.objects import find_files, join, remove_empty_folders, remove_file, remove_unfinished
from trainer.weights.run_checkpoints import CHECKPOINTS

CHECKPOINT_FILE = r"((model|rest)\.safetensors|(config|statistics|metrics|backbone)\.json)"
"""Pattern of the name of a file of a checkpoint, relative to the checkpoint's folder."""
RUN_FILE = (
    rf"(epoch-\d+/{CHECKPOINT_FILE}|state/step-[^/]+/\d+-\d+\.safetensors|state\.json|config\.yaml"
    rf"|{re.escape(CHECKPOINTS)}|metrics\.jsonl|validation\.json|mlflow\.json|failed\.json|failing-\d+\.json"
    r"|backbone-[0-9a-f]{16}\.safetensors|tensorboard/events\.out\.tfevents\..+)"
)
"""Pattern of the name of a file of a run, relative to the run's folder."""


def remove_run(url: str) -> None:
    """Remove the run in the folder `url`, and nothing else that lies there; no process may write it."""
    remove_unfinished(url)
    for name in find_files(url):
        if re.fullmatch(RUN_FILE, name):
            remove_file(join(url, name))
    remove_empty_folders(url)

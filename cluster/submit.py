"""`treeline submit -- COMMAND`: the same command as a job of a Ray cluster.

The five packages travel with the job; the cluster's machines have the dependencies. Only the command line
is sent: credentials are those of the cluster's machines, and none is put into the job.
"""

import asyncio
import os
import shlex
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import shards
from cluster import cli
from cluster.config import SubmitConfig
from cluster.options import without_file
from cluster.ray_session import use_token_if_there_is_one
from shards.errors import InputError
from shards.version import COMMIT, commit

PACKAGES = ("shards", "ingest", "trainer", "inference", "cluster")
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
PLACES = (
    *("data", "out", "checkpoint", "backbone", "weights", "cache", "table", "token_store"),
    *("images", "heights", "ground", "mask", "scenes"),
)
"""Options whose values are paths or URLs."""


def submit(config: SubmitConfig, command: list[str]) -> int:
    """Send the job; returns its exit code, or 0 at once without waiting.

    Raises:
        InputError: the command is wrong (found here, before it is sent), or no cluster answers.
    """
    command = with_absolute_paths(command)
    address = config.address or os.environ.get("RAY_API_SERVER_ADDRESS", DEFAULT_ADDRESS)
    use_token_if_there_is_one()
    from ray.job_submission import JobStatus, JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
    except ConnectionError as error:
        raise InputError(
            f"{address}: no Ray cluster answers; start one (ray start --head) or give --address"
        ) from error
    with tempfile.TemporaryDirectory(prefix="treeline-job-") as folder:
        _copy_packages(Path(folder))
        job = client.submit_job(
            entrypoint=shlex.join(["python", "-m", "cluster.cli", *command]),
            runtime_env={"working_dir": folder, "env_vars": {COMMIT: commit()}},
        )
    print(f"job {job} at {address}", file=sys.stderr)
    if not config.wait:
        return 0
    asyncio.run(_show_log(client, job))
    status = client.get_job_status(job)
    print(f"job {job}: {status}", file=sys.stderr)
    return 0 if status == JobStatus.SUCCEEDED else 1


def with_absolute_paths(command: list[str]) -> list[str]:
    """The command, checked as it would be here, with local paths that mean the same in any folder.

    Raises:
        InputError: it is not a command, or not one that a cluster can do.
    """
    name, arguments = cli.split_command(command)
    if name not in cli.COMMANDS or name == "submit":
        raise InputError(
            "nothing to run; give a command after --: treeline submit -- train --data ... --out ..."
        )
    values = {k: v for k, v in asdict(cli.parse(name, arguments)).items() if k in PLACES}
    every = {text for value in values.values() for text in ([value] if isinstance(value, str) else value)}
    every.add(without_file(arguments)[0] or "")
    return [_absolute(word) if word in every and word != values.get("backbone") else word for word in command]


def _absolute(place: str) -> str:
    return place if not place or urlsplit(place).scheme else os.path.abspath(place)


def _copy_packages(folder: Path) -> None:
    """The packages, from wherever they are installed, and nothing that lies beside them."""
    root = Path(shards.__file__).parent.parent
    for package in PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))


async def _show_log(client: Any, job: str) -> None:
    async for text in client.tail_job_logs(job):
        print(text, end="", flush=True)

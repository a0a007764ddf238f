"""`treeline submit -- COMMAND`: the same command as a job of a Ray cluster.

The five packages and treeline.py travel with the job; the cluster's machines must have the dependencies.
The command's options are read and checked here. Those that flags or the user's own file name travel as a
file, with absolute places; so do the steps of `treeline run`. Defaults and recipes apply on the cluster as
they do here. The job carries no credentials: the cluster's machines use their own.
"""

import asyncio
import os
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import shards
from cluster import cli
from cluster.config import StepsConfig, SubmitConfig
from cluster.jobs.connection import use_token_if_there_is_one
from cluster.options import FILE, read_options
from cluster.steps.steps_file import read_steps
from shards.addresses import check_address
from shards.errors import InputError
from shards.own_parts import own_paths, own_paths_among
from shards.roles import OptionsFile, flag_of, roles, with_absolute_places
from shards.said import say
from shards.version import COMMIT, commit

PACKAGES = ("shards", "ingest", "trainer", "inference", "cluster")
FRONT = "treeline.py"
"""Module that Python code imports, also where a job runs it."""
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
OPTIONS = "options.yaml"
"""File of a job's options, beside the packages in the job's folder."""
STEPS = "steps.yaml"
"""File of a job's steps, beside that."""


@dataclass(frozen=True)
class Job:
    """A command that means the same in any folder."""

    command: list[str]
    """Command and arguments, without `treeline`."""
    files: dict[str, dict[str, Any]]
    """Files of options for the folder that the command runs in, by name."""
    own_parts: list[str]
    """Lines that say what the cluster's machines must be able to import."""

    def write_files(self, folder: Path) -> None:
        """Write the files of options into `folder`."""
        for name, options in self.files.items():
            plain = {
                key: list(value) if isinstance(value, tuple) else value for key, value in options.items()
            }
            (folder / name).write_text(yaml.safe_dump(plain, sort_keys=False))


def submit(config: SubmitConfig, command: list[str]) -> int:
    """Send the job; return its exit code, or 0 at once if it is not to wait.

    Raises:
        InputError: the command is wrong (checked before it is sent), or no cluster answers.
    """
    job = job_of(command)
    for line in job.own_parts:
        say(line)
    address = config.address or os.environ.get("RAY_API_SERVER_ADDRESS", DEFAULT_ADDRESS)
    check_address(address, "RAY_API_SERVER_ADDRESS", "ray")  # a flag was looked at before
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
        job.write_files(Path(folder))
        name = client.submit_job(
            entrypoint=shlex.join(["python", "-m", "cluster.cli", *job.command]),
            runtime_env={"working_dir": folder, "env_vars": {COMMIT: commit()}},
        )
    say(f"job {name} at {address}", of="")
    if not config.wait:
        return 0
    asyncio.run(_show_log(client, name))
    status = client.get_job_status(name)
    say(f"job {name}: {status}", of="")
    return 0 if status == JobStatus.SUCCEEDED else 1


def job_of(command: list[str]) -> Job:
    """Check the command as if it ran here, and make it mean the same in any folder.

    Raises:
        InputError: the command is unknown or cannot be submitted, or an option is wrong.
    """
    name, arguments = cli.split_command(command)
    if name not in cli.COMMANDS or name == "submit":
        raise InputError(
            "nothing to run; give a command after --: treeline submit -- train --data ... --out ..."
        )
    if name == "view":
        raise InputError("view shows maps in a browser here; run it here, maps on S3 included")
    config, named = cli.parsed(name, arguments)
    options = with_absolute_places(type(config), named)
    files, own = {OPTIONS: options}, own_paths(config)
    if isinstance(config, StepsConfig) and config.file:
        steps = read_steps(config.file)
        for step in steps.steps:
            own |= own_paths(step.config)
        files[STEPS] = steps.resolved()
        options["file"] = STEPS
    for option, role in roles(type(config), OptionsFile).items():
        if options.get(option):
            inner = read_options(options[option], role.options, f"treeline {name}")
            own |= own_paths_among(role.options, inner)
            options[option] = f"{option}.yaml"
            files[options[option]] = with_absolute_places(role.options, inner)
    lines = [
        f"{flag_of(option)} {path}: the job carries Treeline alone, so the cluster's workers must be able to "
        f"import {path.rpartition('.')[0]}; install it there"
        for path, option in own.items()
    ]
    return Job([*name.split(), f"--{FILE}", OPTIONS], files, lines)


def _copy_packages(folder: Path) -> None:
    """Copy the packages from wherever they are installed, without what lies beside them."""
    root = Path(shards.__file__).parent.parent
    for package in PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / FRONT, folder / FRONT)


async def _show_log(client: Any, job: str) -> None:
    async for text in client.tail_job_logs(job):
        print(text, end="", flush=True)  # noqa: T201 - the job's own log, as it comes

"""The log of a run's options and numbers on an MLflow tracking server.

with MlflowLog(uri, out, options) as log:
    log.add(numbers, epoch)

A background thread talks to MLflow. A slow or lost server holds nothing up, and gets what it missed when it
is back. A resumed run continues the same MLflow run, whose id is kept in the run's folder:

    mlflow.json     the server's address and the run's id

Credentials come from the environment alone (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD or
MLFLOW_TRACKING_TOKEN), as does the experiment's name (MLFLOW_EXPERIMENT_NAME; default: treeline).
"""

import importlib.util
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from shards.addresses import check_address
from shards.errors import InputError, one_line
from shards.format.manifest import read_json, understood, write_json
from shards.said import say
from shards.storage.objects import exists, join

RUN = "mlflow.json"
EXPERIMENT = "treeline"
_MOST_CHARACTERS = 500
"""Characters of an option's value that MLflow's servers of version 2 accept."""
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # By default MLflow reports its use to its makers.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
"""Environment variables for MLflow, unless the user set them. With MLflow's own defaults a lost server would
hold up the end of a run for minutes."""


def check_mlflow(uri: str) -> None:
    """Find the user's mistakes before anything starts, without contacting the server.

    Raises:
        InputError: the address cannot be used or holds credentials, or MLflow is not installed.
    """
    check_address(uri, "--mlflow", "mlflow")
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https", "sqlite"):
        raise InputError(f"--mlflow {uri}: give http://HOST:PORT, https://... or sqlite:///FILE")
    needed = {"mlflow": "treeline[mlflow]"} | ({"sqlalchemy": "mlflow"} if parts.scheme == "sqlite" else {})
    for module, package in needed.items():
        if importlib.util.find_spec(module) is None:
            raise InputError(f"--mlflow {uri}: MLflow is not installed; pip install '{package}'")


class MlflowLog:
    """Log of one MLflow run, which opens when the first numbers come."""

    def __init__(self, uri: str, out: str, options: dict[str, Any]) -> None:
        """Args:
        uri: address of the tracking server, or sqlite:///FILE.
        out: the training run's folder, which names the MLflow run.
        options: options of the run, logged once.

        Raises:
            InputError: see check_mlflow.
        """
        check_mlflow(uri)
        self._uri, self._out, self._options = uri, out, options
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        self._client: Any = None
        self._run_id, self._options_sent = "", False
        self._unsent: list[tuple[str, float, int, int]] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="treeline-mlflow")
        self._last: Future[None] | None = None
        self._warned = False

    def __enter__(self) -> "MlflowLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = "FINISHED" if kind is None else "KILLED" if kind is KeyboardInterrupt else "FAILED"
        last = self._pool.submit(self._try_to_send, ended)
        self._pool.shutdown(wait=True)
        if error is None:
            last.result()

    def add(self, numbers: dict[str, Any], epoch: int) -> None:
        """Log the numbers among `numbers` for this epoch; they are sent soon."""
        now = int(time.time() * 1000)
        self._unsent += [
            (name, float(value), now, epoch)
            for name, value in numbers.items()
            if isinstance(value, int | float) and name != "epoch"
        ]
        if self._last is None or self._last.done():
            if self._last is not None:
                self._last.result()  # any error but the server's ends the run
            self._last = self._pool.submit(self._try_to_send, "RUNNING")

    def _try_to_send(self, status: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._send(status)
        except (MlflowException, OSError) as error:
            if not self._warned:
                self._warned = True
                why = one_line(error)
                say(f"MLflow at {self._uri} cannot be reached; training continues: {why[:300]}")

    def _send(self, status: str) -> None:
        """Send everything that is unsent, and the run's status."""
        from mlflow.entities import Metric, Param

        if not self._run_id:
            self._run_id = self._open()
        if not self._options_sent:
            params = [Param(option, str(value)[:_MOST_CHARACTERS]) for option, value in self._options.items()]
            self._client.log_batch(self._run_id, params=params)  # MLflow accepts the same ones again
            self._options_sent = True
        while self._unsent:
            some = self._unsent[:1000]  # the most that MLflow takes at once
            self._client.log_batch(self._run_id, metrics=[Metric(*metric) for metric in some])
            del self._unsent[: len(some)]
        if status != "RUNNING":
            self._client.update_run(self._run_id, status=status)

    def _open(self) -> str:
        """Return the id of the MLflow run in our run's folder, or of a new one."""
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(self._uri)
        url = join(self._out, RUN)
        if exists(url):
            with understood(url, "delete it to begin another MLflow run"):
                known = read_json(url)
                uri, run_id = str(known["uri"]), str(known["run_id"])
            if uri == self._uri:
                self._client.update_run(run_id, status="RUNNING")
                self._options_sent = True
                return run_id
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        run_id = str(self._client.create_run(number, run_name=self._out).info.run_id)
        # At once, so that a run that fails after this resumes this MLflow run, not another one.
        write_json(url, {"uri": self._uri, "run_id": run_id})
        return run_id

"""The options and numbers of a run, also on an MLflow tracking server.

with MlflowLog(uri, out, options) as log:
    log.add(numbers, epoch)

MLflow is asked in a thread of its own: a server that is slow or lost holds nothing up, and what it missed is
sent when it is back. A run that goes on does so under the same MLflow run, whose id is kept beside it:

    mlflow.json     the server's address and the run's id

Credentials come from the environment alone (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD or
MLFLOW_TRACKING_TOKEN), as does the experiment's name (MLFLOW_EXPERIMENT_NAME; default: treeline).
"""

import importlib.util
import json
import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from shards.errors import InputError
from shards.storage.objects import exists, join, publish, read_bytes

RUN = "mlflow.json"
EXPERIMENT = "treeline"
_MOST_CHARACTERS = 500
"""Of an option's value: what MLflow's servers of version 2 take."""
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # Otherwise MLflow reports its use to its makers.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
"""MLflow's own defaults would hold up the end of a run for minutes; what the environment says counts more."""


def check_mlflow(uri: str) -> None:
    """Find the user's mistakes before anything starts; nothing is asked of the server.

    Raises:
        InputError: no address that can be used, one with credentials, or no MLflow.
    """
    parts = urlsplit(uri)
    if "@" in parts.netloc:
        raise InputError(
            "--mlflow: credentials do not belong in the address; put them into MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD"
        )
    if parts.scheme not in ("http", "https", "sqlite"):
        raise InputError(f"--mlflow {uri}: give http://HOST:PORT, https://... or sqlite:///FILE")
    needed = {"mlflow": "treeline[mlflow]"} | ({"sqlalchemy": "mlflow"} if parts.scheme == "sqlite" else {})
    for module, package in needed.items():
        if importlib.util.find_spec(module) is None:
            raise InputError(f"--mlflow {uri}: MLflow is not installed; pip install '{package}'")


class MlflowLog:
    """One MLflow run, opened when the first numbers come."""

    def __init__(self, uri: str, out: str, options: dict[str, Any]) -> None:
        """Args:
        uri: of the tracking server, or sqlite:///FILE.
        out: the training run's folder; names the MLflow run.
        options: those of the run; logged once.

        Raises:
            InputError: see check_mlflow.
        """
        check_mlflow(uri)
        self._uri, self._out, self._options = uri, out, options
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        self._client: Any = None
        self._run_id, self._told = "", False
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
        """What is a number of `numbers` is logged for this epoch, soon."""
        now = int(time.time() * 1000)
        self._unsent += [
            (name, float(value), now, epoch)
            for name, value in numbers.items()
            if isinstance(value, int | float) and name != "epoch"
        ]
        if self._last is None or self._last.done():
            if self._last is not None:
                self._last.result()  # what is no failure of the server's ends the run
            self._last = self._pool.submit(self._try_to_send, "RUNNING")

    def _try_to_send(self, status: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._send(status)
        except (MlflowException, OSError) as error:
            if not self._warned:
                self._warned = True
                why = " ".join(str(error).split())
                print(
                    f"treeline: MLflow at {self._uri} cannot be reached; training goes on: {why[:300]}",
                    file=sys.stderr,
                    flush=True,
                )

    def _send(self, status: str) -> None:
        """All that is unsent, and how the run is."""
        from mlflow.entities import Metric, Param

        if not self._run_id:
            self._run_id = self._open()
        if not self._told:
            params = [Param(option, str(value)[:_MOST_CHARACTERS]) for option, value in self._options.items()]
            self._client.log_batch(self._run_id, params=params)  # the same ones again are no mistake
            self._told = True
        while self._unsent:
            some = self._unsent[:1000]  # as many as MLflow takes at once
            self._client.log_batch(self._run_id, metrics=[Metric(*metric) for metric in some])
            del self._unsent[: len(some)]
        if status != "RUNNING":
            self._client.update_run(self._run_id, status=status)

    def _open(self) -> str:
        """The id of the run that is beside ours, or of a new one."""
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(self._uri)
        url = join(self._out, RUN)
        if exists(url):
            known = json.loads(read_bytes(url))
            if known["uri"] == self._uri:
                self._client.update_run(known["run_id"], status="RUNNING")
                self._told = True
                return str(known["run_id"])
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        run_id = str(self._client.create_run(number, run_name=self._out).info.run_id)
        # At once: what fails after it goes on with this run, not with another one.
        publish(url, json.dumps({"uri": self._uri, "run_id": run_id}).encode())
        return run_id

"""A model on the hub that cannot be had is one line, soon: what is wrong, and what to do.

A local server stands for the hub, in a process that is told its address before it imports the hub's client.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import create_server
from threading import Thread

import pytest
from huggingface_hub import constants
from in_process import treeline
from regressors import write_dataset

ROOT = Path(__file__).parents[3]
NAME = "facebook/dinov3-vitl16-pretrain-sat493m"
ASK = (
    "from shards.errors import InputError\n"
    "from trainer.model import hub\n"
    "hub.ANSWER_SECONDS = hub.MOST_SECONDS = 0.5 * ({slow} or 20)\n"
    "try:\n"
    "    print(hub.is_on_hub({name!r}, 'it'))\n"
    "except InputError as error:\n"
    "    print(error)\n"
)


@contextmanager
def hub(code: int, **headers: str) -> Iterator[str]:
    """The address of a hub that answers every question in one way."""

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def asked(address: str, folder: Path, name: str = NAME, slow: int = 0, **more: str) -> tuple[str, str]:
    """What is printed to both ends by a process that asks the hub at `address`."""
    mine = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env = mine | {"HF_ENDPOINT": address, "HF_HOME": str(folder), "NO_PROXY": "127.0.0.1"} | more
    command = [sys.executable, "-c", ASK.format(name=name, slow=slow)]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.rstrip("\n"), done.stderr


@pytest.mark.parametrize(
    ("code", "headers", "token", "said"),
    [
        (200, {"X-Repo-Commit": "0" * 40}, "", ("True",)),
        (401, {"X-Error-Code": "GatedRepo"}, "", ("gated: accept its licence at {page}", "none is set")),
        (
            403,
            {"X-Error-Code": "GatedRepo"},
            "hf_x",
            ("gated", "HF_TOKEN", "the one that is set has no access"),
        ),
        (401, {}, "", ("the hub refuses the model (401): accept its licence at {page}", "HF_TOKEN")),
        (404, {"X-Error-Code": "RepoNotFound"}, "", ("no such model on the hub",)),
        (403, {}, "hf_x", ("the hub refuses the model (403)", "HF_TOKEN")),
        (503, {}, "", ("cannot be asked: ", "503")),
    ],
)
def test_what_the_hub_answers_is_said_in_one_line(
    code: int, headers: dict[str, str], token: str, said: tuple[str, ...], tmp_path: Path
) -> None:
    with hub(code, **headers) as address:
        out, error = asked(address, tmp_path, **({"HF_TOKEN": token} if token else {}))
    assert not error, "nothing of the library's own"
    assert "\n" not in out
    for words in said:
        assert words.format(page=f"{address}/{NAME}") in out
    if code != 200:
        assert out.startswith("it: ")
        assert "or give the folder of a copy" in out


def test_a_hub_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        out, error = asked(address, tmp_path, slow=1)
        # A proxy that swallows everything is the same.
        behind, _ = asked("http://hub.invalid", tmp_path, slow=1, http_proxy=address, NO_PROXY="")
    assert not error
    for said in (out, behind):
        assert "no such folder, and the hub (http://" in said
        assert "if the model is gated, accept its licence at http://" in said
        assert "HF_TOKEN" in said


def test_what_is_in_the_cache_needs_no_hub(tmp_path: Path) -> None:
    model = tmp_path / "hub" / f"models--{NAME.replace('/', '--')}"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40)
    (model / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (model / "snapshots" / ("0" * 40) / "config.json").write_text("{}")
    assert asked("http://127.0.0.1:1", tmp_path) == ("False", "")
    with hub(200, X_Repo_Commit="0" * 40) as address:
        assert asked(address, tmp_path, HF_HUB_OFFLINE="1") == ("False", "")
        assert asked(address, tmp_path) == ("True", "")


@pytest.mark.parametrize("name", ["a b", "no:name"])
def test_what_no_hub_can_have_is_asked_of_none(name: str, tmp_path: Path) -> None:
    out, _ = asked("http://127.0.0.1:1", tmp_path, name=name)
    assert out == "it: no such folder, and no name that the hub can have"


@pytest.mark.parametrize("command", ["train", "pretrain", "import"])
def test_without_a_network_each_command_says_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    write_dataset(tmp_path / "chips", 6)
    named = (NAME,) if command == "import" else ("--backbone", NAME)
    bands = ("--bands", "red", "green", "blue")
    done = treeline(command, *named, *bands, "--data", "chips", "--out", "run", folder=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    subject = " ".join(named)
    assert line.startswith(
        f"treeline: {subject}: no such folder, no copy is in this machine's cache, and HF_"
    )
    for words in (f"accept its licence at {constants.ENDPOINT}/{NAME}", "HF_TOKEN", "folder of a copy"):
        assert words in line
    assert not [path for path in (tmp_path / "run").glob("**/*") if path.is_file()]

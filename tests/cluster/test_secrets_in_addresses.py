"""An address with a password is refused by every command, and never repeated."""

from pathlib import Path

import pytest

from cluster.cli import COMMANDS, options_of, parse
from shards.addresses import Address, check_address
from shards.errors import InputError
from shards.nested import options_of as options_in
from shards.roles import Place, flag_of, roles

FITTING = {"to": "tar", "chips": 4}
"""Values of required options that take no text."""
PLACES = [
    (command, name)
    for command in COMMANDS
    for kind in (Place, Address)
    for name in roles(options_of(command), kind)
    if name != "background"
]


@pytest.mark.parametrize(("command", "name"), sorted(set(PLACES)))
def test_every_option_that_is_an_address_refuses_one_with_a_password(
    command: str, name: str, tmp_path: Path
) -> None:
    file = tmp_path / "options.yaml"
    option = options_in(options_of(command))[name]
    is_many = str(option.kind).startswith("tuple")
    value = "NAME=s3://me:hunter2@bucket/x" if _after_name(command, name) else "s3://me:hunter2@bucket/x"
    required = {
        other: FITTING.get(other, "x")
        for other, one in options_in(options_of(command)).items()
        if "MISSING" in repr(one.default)
    }
    if command == "ingest labels":
        required["mean"] = True
    file.write_text(_yaml(required | {name: [value] if is_many else value}, command))
    with pytest.raises(InputError) as refused:
        parse(command, ["--config", str(file)])
    said = str(refused.value)
    assert "hunter2" not in said
    assert f"{flag_of(name)}: a user or password does not belong in an address" in said


def _after_name(command: str, name: str) -> bool:
    role = roles(options_of(command), Place).get(name)
    return bool(role and role.after_name)


def _yaml(values: dict[str, object], command: str) -> str:
    lines = []
    for name, value in values.items():
        is_many = str(options_in(options_of(command))[name].kind).startswith("tuple")
        lines.append(f"{name}: {[value] if is_many and not isinstance(value, list) else value}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("address", "user", "belongs"),
    [
        ("s3://key:hunter2@bucket", "", "AWS_ACCESS_KEY_ID"),
        ("http://me:hunter2@host", "mlflow", "MLFLOW_TRACKING_USERNAME"),
        ("http://host?token=hunter2", "mlflow", "MLFLOW_TRACKING_TOKEN"),
        ("http://hunter2@host:8265", "ray", "RAY_AUTH_TOKEN"),
        ("https://hunter2@huggingface.co/x", "hub", "HF_TOKEN"),
        ("gs://hunter2@x", "", "docs/security.md"),
    ],
)
def test_it_says_where_the_secret_belongs(address: str, user: str, belongs: str) -> None:
    with pytest.raises(InputError, match=belongs) as refused:
        check_address(address, user=user)
    assert "hunter2" not in str(refused.value)


def test_tiles_of_a_background_may_need_a_key() -> None:
    config = parse("view", ["map.tif", "--background", "https://tiles/{z}/{x}/{y}.png?key=1"])
    assert config.background.endswith("?key=1")
    with pytest.raises(InputError, match="a user or password"):
        parse("view", ["map.tif", "--background", "https://me:hunter2@tiles/{z}/{x}/{y}.png"])


def test_the_cluster_of_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.config import SubmitConfig
    from cluster.jobs.submit import submit

    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://me:hunter2@127.0.0.1:1")
    with pytest.raises(InputError, match="RAY_API_SERVER_ADDRESS: a user or password") as refused:
        submit(SubmitConfig(), ["inspect", "chips"])
    assert "hunter2" not in str(refused.value)

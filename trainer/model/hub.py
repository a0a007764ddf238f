"""Whether the Hugging Face hub has a model, asked once, with a limit of seconds, before anything is loaded.

transformers alone asks for each of several files, each again and again with longer and longer pauses: over a
minute where there is no network, with advice for its own users.
"""

import threading

from huggingface_hub import constants, get_hf_file_metadata, get_token, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is that of its client
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils.logging import set_verbosity_error

from shards.errors import InputError, one_line

ASKED = "config.json"
"""File that every model of transformers has."""
ANSWER_SECONDS = 4.0
"""Seconds for the connection, and again for the answer."""
MOST_SECONDS = 6.0
"""Seconds in all: names may be looked up, and proxies asked, without a limit of their own."""
NO_ACCESS = (401, 403)
"""Answers of a server to which one must be known."""
OR_A_FOLDER = "or give the folder of a copy"
MOST_SAID = 100
"""Letters of a library's error that are shown."""


def is_on_hub(name: str, subject: str) -> bool:
    """Ask the hub for a model, unless HF_HUB_OFFLINE is set.

    Args:
        name: OWNER/MODEL.
        subject: what the user gave, which the error begins with.

    Returns:
        False: only the copy in this machine's cache can be used.

    Raises:
        InputError: the model cannot be had; says why, and what to do.
    """
    set_verbosity_error()  # its warnings name its own options
    try:
        why = _why_not(name)
        is_cached = isinstance(try_to_load_from_cache(name, ASKED), str)
    except HFValidationError as error:
        raise InputError(f"{subject}: no such folder, and no name that the hub can have") from error
    if why and not is_cached:
        raise InputError(f"{subject}: {why}")
    return not why


def not_in_cache(subject: str) -> str:
    """Say that a copy in the cache is not whole."""
    return f"{subject}: its copy in this machine's cache is not whole; load it with a network, {OR_A_FOLDER}"


def _why_not(name: str) -> str:
    """Return why a model cannot be had from the hub, and what to do; "" if it can."""
    page = f"{constants.ENDPOINT}/{name}"
    licence = f"accept its licence at {page}, and set HF_TOKEN to a token of yours"
    if constants.is_offline_mode():
        return (
            "no such folder, no copy is in this machine's cache, and HF_HUB_OFFLINE forbids to ask the hub; "
            f"unset it (if the model is gated: {licence}), {OR_A_FOLDER}"
        )
    answer = _answer(name)
    match answer:
        case None:
            return ""
        case GatedRepoError():
            token = "the one that is set has no access" if get_token() else "none is set"
            return f"the model is gated: {licence} ({token}), {OR_A_FOLDER}"
        case RepositoryNotFoundError():
            return (
                "no such folder, and no such model on the hub, or a private one that needs HF_TOKEN; check "
                f"the name, {OR_A_FOLDER}"
            )
        case HfHubHTTPError() if answer.response.status_code in NO_ACCESS:
            return f"the hub refuses the model ({answer.response.status_code}): {licence}, {OR_A_FOLDER}"
        case TimeoutError():
            said = f"did not answer within {MOST_SECONDS:g} s"
        case _:
            said = f"cannot be asked: {one_line(answer)[:MOST_SAID]}"
    return (
        f"no such folder, and the hub ({constants.ENDPOINT}) {said}; if the model is gated, {licence}; load "
        f"it where there is a network, {OR_A_FOLDER}"
    )


def _answer(name: str) -> Exception | None:
    """Return the error with which the hub answers; None if the model is there."""
    answers: list[Exception | None] = []
    url = hf_hub_url(name, ASKED)

    def ask() -> None:
        try:
            get_hf_file_metadata(url, timeout=ANSWER_SECONDS)
        except (HTTPError, OSError, ValueError) as error:
            answers.append(error)
        else:
            answers.append(None)

    # A daemon, so that a question that nobody answers does not keep the process alive.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(MOST_SECONDS)
    return answers[0] if answers else TimeoutError()

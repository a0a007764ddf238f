"""Addresses that hold no secrets: whatever is stored, shown or logged may name them."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from shards.errors import InputError
from shards.foreign_text import visible

GDAL = "/vsi"
"""Start of the names that GDAL has for its own file systems."""
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^\s/?#]*)([^\s]*)")
_ELSEWHERE = "the environment, where the program that uses it looks for it (docs/security.md)"
_BELONGS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or in a profile (AWS_PROFILE)",
    "mlflow": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or in MLFLOW_TRACKING_TOKEN",
    "ray": "RAY_AUTH_TOKEN, or in the file ~/.ray/auth_token",
    "hub": "HF_TOKEN",
}


@dataclass(frozen=True)
class Address:
    """The option is the address of a server that is asked for something else than files."""

    user: str = ""
    """User of the address, see `check_address`; it says where credentials belong."""
    query: bool = False
    """Whether a query may be part of it, since it is neither stored nor shown."""


def check_address(address: str, named: str = "", user: str = "", query: bool = False) -> None:
    """Refuse an address that holds a user or a password, or a query with values.

    Args:
        address: a text that may hold URLs; a path is let through.
        named: what names it, for the message; by default the address itself.
        user: who uses it, where its scheme does not say so: mlflow, ray or hub.
        query: whether a query is part of it: the address is neither stored nor shown.

    Raises:
        InputError: says where credentials belong.
    """
    if "://" not in address:
        return
    for scheme, host, rest in _ADDRESS.findall(address):
        has_user = "@" in host
        has_query = not query and scheme.lower() != "s3" and "=" in urlsplit(rest).query
        if has_user or has_query:
            what = "user or password" if has_user else "query with values, which may be a token,"
            where = _BELONGS.get(user or scheme.lower(), _ELSEWHERE)
            raise InputError(
                f"{named or visible(address)}: a {what} does not belong in an address; put it in {where}"
            )

"""GDAL's names and options for URLs: the same places, and the same access to S3 as boto3 has."""

import os
from urllib.parse import urlsplit

from shards.errors import InputError
from shards.storage.objects import is_local, local_path
from shards.storage.s3 import S3FileSystem, endpoint_url


def gdal_path(url: str) -> str:
    """What GDAL calls `url`: a path, or /vsis3/... for s3://..."""
    if is_local(url):
        return str(local_path(url))
    if not url.startswith("s3://"):
        raise InputError(f"{url}: rasters are read from local paths and s3:// only")
    return f"/vsis3/{url.removeprefix('s3://')}"


def gdal_options(url: str) -> dict[str, str]:
    """What GDAL must be told to open `url` as boto3 would: it has other names for an endpoint."""
    if is_local(url):
        return {}
    # GDAL keeps what it read, also that nothing was there: without this, an object written again under its
    # name is the old one for as long as the process lives.
    options = {
        "CPL_VSIL_CURL_NON_CACHED": "/vsis3/",
        # As often as boto3 is told to; by itself GDAL gives up at the first error.
        "GDAL_HTTP_MAX_RETRY": str(S3FileSystem.attempts - 1),
        "GDAL_HTTP_RETRY_DELAY": "0.5",
    }
    endpoint = urlsplit(endpoint_url())
    # AWS's own hosts GDAL finds by itself, and an endpoint that was given in GDAL's own words is kept.
    if not (endpoint.hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn")) and (
        "AWS_S3_ENDPOINT" not in os.environ
    ):
        options["AWS_S3_ENDPOINT"] = f"{endpoint.netloc}{endpoint.path}".rstrip("/")
        options["AWS_HTTPS"] = "NO" if endpoint.scheme == "http" else "YES"
        options["AWS_VIRTUAL_HOSTING"] = "FALSE"  # as boto3 does with an endpoint of one's own
    return options

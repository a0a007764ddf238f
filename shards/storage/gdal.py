"""GDAL's names and options for URLs: the same places, and the same access to S3 as boto3 has."""

import os
from urllib.parse import urlsplit

from shards.addresses import GDAL, check_address
from shards.errors import InputError
from shards.storage.objects import is_local, local_path
from shards.storage.s3 import S3FileSystem, endpoint_url

# GDAL reads it when a virtual raster's function is called: such a function never runs, whoever set it.
os.environ["GDAL_VRT_ENABLE_PYTHON"] = "NO"


def gdal_path(url: str) -> str:
    """Return GDAL's name for `url`: a path, or /vsis3/... for s3://...

    Raises:
        InputError: GDAL is not set up for such a URL.
    """
    if is_local(url):
        if url.startswith(GDAL):
            raise InputError(f"{url}: rasters are read from local paths and s3:// only")
        return str(local_path(url))
    check_address(url)
    if not url.startswith("s3://"):
        raise InputError(f"{url}: rasters are read from local paths and s3:// only")
    return f"/vsis3/{url.removeprefix('s3://')}"


def gdal_options(url: str) -> dict[str, str]:
    """Return the options with which GDAL opens `url` as boto3 would; it has its own names for an endpoint."""
    # .aux.xml may name another file to be read: see shards.raster.sidecars.
    alone = {"GDAL_PAM_ENABLED": "NO"}
    if is_local(url):
        return alone
    # By default GDAL keeps what it read, even that nothing was there: an object that is written again would
    # stay the old one as long as the process lives.
    options = {
        **alone,
        "CPL_VSIL_CURL_NON_CACHED": "/vsis3/",
        # As many tries as boto3 makes; by default GDAL gives up at the first error.
        "GDAL_HTTP_MAX_RETRY": str(S3FileSystem.attempts - 1),
        "GDAL_HTTP_RETRY_DELAY": "0.5",
    }
    endpoint = urlsplit(endpoint_url())
    # GDAL finds AWS's own hosts by itself, and an endpoint that the user gave in GDAL's own variable is kept.
    if not (endpoint.hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn")) and (
        "AWS_S3_ENDPOINT" not in os.environ
    ):
        options["AWS_S3_ENDPOINT"] = f"{endpoint.netloc}{endpoint.path}".rstrip("/")
        options["AWS_HTTPS"] = "NO" if endpoint.scheme == "http" else "YES"
        options["AWS_VIRTUAL_HOSTING"] = "FALSE"  # as boto3 does with a custom endpoint
    return options

"""Finishing of a map: overviews, then a copy as a Cloud-Optimised GeoTIFF.

GDAL cannot be interrupted in either, and keeps Python from meeting signals while it builds overviews. So a
large map is finished by a process of its own, which can be ended:

    python -P cloud_optimised.py < settings, as JSON, and then nothing: it ends itself with its parent
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass

import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError  # GDAL's errors have no public name
from rasterio.enums import Resampling
from rasterio.errors import RasterioError

LARGE = 1 << 24
"""Pixels of all bands from which a map is finished by another process; fewer take about five seconds."""
CHECK_SECONDS = 0.1
"""Time between two looks whether the map is still wanted."""


@dataclass(frozen=True)
class Finish:
    """Last steps of writing a map: overviews, colours, compression."""

    tiles: str
    """Path of the tiled GeoTIFF with all pixels; it gets the overviews."""
    path: str
    """Path of the file to write."""
    overviews: tuple[int, ...]
    """Factors by which overviews are coarser."""
    resampling: str
    """Method of making overviews: "average" or "mode"."""
    tile: int
    """Rows and columns of a tile."""
    level: int
    """Level of compression."""

    def run(self) -> None:
        """Finish the map in this process."""
        with rasterio.Env(GDAL_TIFF_OVR_BLOCKSIZE=self.tile, SPARSE_OK_OVERVIEW="YES"):
            # For several bands the COG driver's own overviews take memory that grows with the map.
            with rasterio.open(self.tiles, "r+") as target:
                target.build_overviews(self.overviews, Resampling[self.resampling])
            rasterio.shutil.copy(
                self.tiles,
                self.path,
                driver="COG",
                compress="deflate",
                level=self.level,
                predictor="yes",
                blocksize=self.tile,
                overview_resampling=self.resampling,
                bigtiff="IF_SAFER",
            )

    def run_apart(self, is_wanted: Callable[[], bool]) -> None:
        """Finish the map in a process of its own, which is ended once the map is no longer wanted.

        Raises:
            OSError: it could not.
        """
        command = [sys.executable, "-P", __file__]
        pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
        with subprocess.Popen(  # noqa: S603 - this file, by this Python
            command, text=True, **pipes
        ) as process:  # type: ignore[call-overload]
            try:
                process.stdin.write(json.dumps(asdict(self)) + "\n")
                process.stdin.flush()
                while process.poll() is None:
                    if not is_wanted():
                        raise OSError("was stopped")
                    try:
                        process.wait(CHECK_SECONDS)
                    except subprocess.TimeoutExpired:
                        continue
            finally:
                process.kill()
            if process.returncode:
                raise OSError(process.stderr.read().strip().rpartition("\n")[2] or "its process was ended")


def _end_with_parent() -> None:
    """End this process when the other end of its input is closed."""
    os.read(sys.stdin.fileno(), 1)  # not sys.stdin, whose lock this process could not take at its own end
    os._exit(1)


def main() -> None:
    """Finish the map that a line of standard input describes."""
    settings = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        Finish(**settings).run()
    except (RasterioError, CPLE_BaseError, OSError) as error:
        sys.exit(" ".join(str(error.__cause__ or error).split()))


if __name__ == "__main__":
    main()

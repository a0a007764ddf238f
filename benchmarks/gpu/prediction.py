"""Time of a block of a map by number of windows, and the search for that number."""

import time
from collections.abc import Iterator

from benchmarks.gpu.bench import SMALL, Bench, Finding, at_most
from benchmarks.gpu.maps import map_of, scene_of


def block_speed(bench: Bench) -> Iterator[Finding]:
    """Measure a block, beside the passes of the model alone."""
    import torch

    from inference.predict.block import predict_windows
    from inference.predict.map_options import MapOptions
    from inference.tiling.windows import Span, WindowGrid
    from trainer.model.frozen_backbone import placed_on

    side = bench.of_size(2048, 128)
    image_CHW = scene_of(side)
    grid = WindowGrid(64, 32)
    windows = len(grid.starts(Span(0, side), side)) ** 2
    regressor = placed_on(bench.regressor(bench.large), bench.fast, bench.device)
    for batch in (32, 256, 1024) if not bench.tiny else (8,):
        method = MapOptions(grid, batch_size=batch, precision=bench.fast)
        whole = bench.seconds(lambda m=method: map_of(regressor, image_CHW, side, m), 2)
        stored_BCHW = (
            torch.from_numpy(image_CHW[None, :, :64, :64]).expand(batch, -1, -1, -1).to(bench.device)
        )
        alone = bench.seconds(lambda m=method, s=stored_BCHW: predict_windows(regressor, s, m), 3)
        outside = 1 - alone * -(-windows // batch) / whole
        yield Finding(f"block of {side}, {batch} windows at a time", side**2 / 1e6 / whole, "Mpx/s")
        yield Finding(f"block of {side}, {batch} windows: outside the model", 100 * max(0.0, outside), "%")
    small = bench.regressor({**SMALL, "num_hidden_layers": 1})
    method = MapOptions(grid, batch_size=bench.of_size(1024, 8))
    map_of(small, image_CHW, side, method)
    begun = time.process_time()
    map_of(small, image_CHW, side, method)
    bench.finish()
    used = (time.process_time() - begun) * 1e3
    what = f"block of {side} with a backbone of one block: processor's time on the host"
    yield at_most(what, used, 40, "ms") if bench.on_gpu else Finding(what, used, "ms")


def batch_search(bench: Bench) -> Iterator[Finding]:
    """Search for the number of windows, for small and large windows and two decoders."""
    from inference.predict.block_tasks import MapJob
    from inference.predict.map_content import MapContent
    from inference.predict.map_options import MapOptions
    from inference.predict.predictor import batch_size_that_fits
    from inference.tiling.windows import WindowGrid
    from trainer.model.height_checkpoint import Checkpoint, load_checkpoint
    from trainer.score.baselines import Baselines

    for decoder in ("detail", "dpt"):
        regressor = bench.regressor(bench.large, decoder=decoder)
        url = str(bench.folder / f"checkpoint-{decoder}")
        trained_on = {"data": "chips", "fingerprint": "0123456789abcdef", "treeline": "0"}
        Checkpoint(regressor.cpu(), trained_on, {"epoch": 1}, Baselines(1.0, (0.0,) * 5, 1)).save(url)
        for window in (64, 256):
            options = MapOptions(WindowGrid(window, window // 2), precision=bench.fast)
            fingerprint = load_checkpoint(url).fingerprint
            job = MapJob(
                url, fingerprint, regressor.schema, options, MapContent(), (), "", 2048, bench.device.type
            )
            begun = time.perf_counter()
            found = batch_size_that_fits(job) if bench.on_gpu else options.batch_size
            seconds = time.perf_counter() - begun
            yield Finding(
                f"{decoder}, windows of {window}: number found in {seconds:.0f} s", found, "windows"
            )

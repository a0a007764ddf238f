"""An ingest from beginning to end: plan it, do what is missing, and assemble the dataset.

Meanwhile OUT/.ingest holds plan.json, which describes what is being made, and a part for each complete shard.
Whatever stops the ingest, the same command resumes it, and the same bytes come out. In the end only the
dataset is left.
"""

from collections import Counter
from collections.abc import Container, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.chips.attributes import with_known_names
from ingest.chips.check import Rules
from ingest.chips.source import CommandSource
from ingest.config import IngestConfig, made_by
from ingest.work.begun import FINISH, PLAN, as_it_began, differ, read_begun, taken
from ingest.work.plan import IngestPlan, Present, ShardPlan, ShardTask, make_plan
from ingest.work.same_unit import refuse_other_unit
from ingest.work.schema import schema_to_make
from ingest.work.summary import CountsBefore, advice, said_again, summary
from ingest.work.task import PARTS, Cluster, TaskContext, do_task, part_name
from shards.errors import DatasetError, InputError, NothingToKeepError
from shards.format.file_names import refuse_foreign, remove_old_files, remove_unlisted_shards
from shards.format.manifest import JOURNAL, MANIFEST, SPLITS, Manifest, read_manifest, write_json
from shards.progress import progress
from shards.raster.finding import FINDINGS, Found, OnMismatch, noted_by_code, say_findings
from shards.read.dataset import Dataset
from shards.said import say
from shards.storage.inside import check_inside
from shards.storage.objects import (
    check_writable,
    exists,
    find_files,
    join,
    missing_folders,
    read_bytes,
    remove_folder,
    remove_new_folders,
    remove_unfinished,
    sizes_of,
    stem_of,
)
from shards.storage.one_writer import one_writer
from shards.write.assembly import Assembly, Layout
from shards.write.finished_shard import FinishedShard, rejected_table
from shards.write.split_rule import SplitRule, refuse_missing

SAID_EVERY = 256
"""Candidates between two updates of the progress bar."""


@dataclass(frozen=True)
class Ingested:
    """A dataset, and a summary of how it was made."""

    manifest: Manifest
    summary: str


def ingest(source: CommandSource, config: IngestConfig, cluster: Cluster = lambda: nullcontext()) -> Ingested:
    """Make the dataset at `config.out`, or resume making it.

    Args:
        source: the chips.
        config: the options.
        cluster: connects to the cluster that --workers need, once the work is planned; default: this is done.

    Raises:
        InputError: there is nothing to read, no chip is kept, a share of the split would get no chip,
            `config.out` is taken, or (strict) a chip would be rejected.
        OSError: storage failed; the same call resumes.
    """
    if not config.out:
        raise InputError("--out: is empty; give a folder or s3://...")
    check_writable(config.out)
    new_folders = missing_folders(config.out)
    with one_writer(config.out):
        return _ingest(source, config, new_folders, cluster)


def _ingest(
    source: CommandSource, config: IngestConfig, new_folders: list[str], cluster: Cluster
) -> Ingested:
    """Make the dataset at a place that only this process writes; remove `new_folders` if none comes."""
    asked, config = config, as_it_began(config)
    if config != asked:
        source = source.begun_with(config)
    base = _base(config)
    schema = schema_to_make(source.schema, config, base)
    candidates = source.candidates()
    candidates = replace(
        candidates, table=with_known_names(candidates.table, _attributes_there(config, base))
    )
    # The plan compares requests, and a request's derived bands and scales are among its options.
    plan = make_plan(candidates, source.schema, config, _present(config, base))
    if base is not None and base.made_by.get("request") == plan.request and not config.restart:
        return _done_before(config, base)
    if base is not None and not config.append:
        raise taken(config, base)
    if config.strict and plan.refused:
        key, reason, detail = plan.refused[0]
        raise InputError(f"{key}: {reason}: {detail}; nothing written (--strict)")
    unfinished = "" if config.restart else _unfinished(config.out)
    if base is None and schema.label and not unfinished:
        _refuse_missing(plan)
    findings: Found = {}
    if unfinished != plan.fingerprint:
        findings = candidates.findings()
        if base is not None:
            refuse_other_unit(config, base, findings)
        say_findings(findings, candidates.on_mismatch, "note")
    layout = Layout(schema, "tar", plan.shard_chips, _joined(config, base, plan))
    rules = Rules(config.min_valid, config.min_height)
    context = TaskContext(
        source, config.out, layout, rules, config.registration, config.strict, plan.fingerprint
    )
    _begin(config, plan, base, noted_by_code(findings))
    pa.default_memory_pool().release_unused()  # listing and planning needed it for a moment
    try:
        with cluster():
            _do_what_is_missing(config, context, plan)
        if base is None:  # its rows are read, and take as much memory as the index
            plan = replace(plan, table=plan.table.schema.empty_table())
        return _assemble(config, layout, plan, base, candidates.on_mismatch)
    except NothingToKeepError:
        _discard(config.out, base)
        remove_new_folders(new_folders)
        raise
    except BaseException as error:
        error.add_note("complete shards are kept: the same command resumes from there")
        raise


def _tars(out: str) -> dict[str, int]:
    """Return the sizes in bytes of the shards in storage, by name."""
    return {
        f"{split}/{name}": nbytes for split in SPLITS for name, nbytes in sizes_of(join(out, split)).items()
    }


def _base(config: IngestConfig) -> Manifest | None:
    """Read the manifest of the dataset at --out, if there is one."""
    if not exists(join(config.out, MANIFEST)):
        if config.append:
            here = "an unfinished" if exists(join(config.out, PLAN)) else "no"
            raise InputError(f"{config.out}: {here} dataset here to add to; leave out --append to make it")
        return None
    base = read_manifest(config.out)
    # Refuse before listing, which can take long.
    if not config.append and differ(config, base):
        raise taken(config, base)
    return base


def _attributes_there(config: IngestConfig, base: Manifest | None) -> Container[str] | None:
    """Return the names of the attributes at --out; None for an ingest that began with former names alone."""
    if exists(join(config.out, PLAN)) and not config.restart:
        try:
            return read_begun(config.out).attributes
        except InputError:  # as in `ingest.work.begun`
            return ()
    return base.attributes if base else ()


def _present(config: IngestConfig, base: Manifest | None) -> Present:
    """Describe the dataset that --append adds to; empty without --append."""
    if base is None or not config.append:
        return Present()
    if base.shard_format != "tar":
        raise InputError(
            f"{config.out}: holds {base.shard_format} shards, to which nothing can be added; "
            "convert it to tar first (treeline convert)"
        )
    keys = Dataset(config.out, base).index["key"].to_pylist()
    numbers = {split: [int(stem_of(shard.name)) for shard in base.shards_of(split)] for split in SPLITS}
    return Present(
        frozenset(keys),
        SplitRule.from_json(base.split_rule) if base.split_rule else None,
        Counter({split: 1 + max(taken, default=-1) for split, taken in numbers.items()}),
        base.fingerprint,
    )


def _joined(config: IngestConfig, base: Manifest | None, plan: IngestPlan) -> dict[str, str]:
    """Join the attributes of the present dataset and of the added chips."""
    old = base.attributes if base else {}
    for name, kind in plan.attributes.items():
        if old.get(name, kind) != kind:
            raise InputError(
                f"{config.out}: its attribute {name} is {old[name]}, the new one is {kind}; rename one"
            )
    return old | plan.attributes


def _done_before(config: IngestConfig, base: Manifest) -> Ingested:
    """Return the dataset, which is complete already, and remove what a killed process left beside it."""
    if config.strict and base.rejected:
        raise InputError(
            f"{config.out}: was made without --strict, and chips were refused; see rejected.parquet"
        )
    # Otherwise an --append is unfinished, and be it one whose plan is damaged.
    with suppress(InputError):
        if _unfinished(config.out) in ("", base.made_by.get("plan")):
            _discard(config.out, base)
    counts = ", ".join(f"{count:,} {split}" for split, count in base.splits.items() if count)
    return Ingested(base, f"{config.out}: is complete already, from the same files and options: {counts}")


def _begin(
    config: IngestConfig, plan: IngestPlan, base: Manifest | None, findings: dict[str, list[str]]
) -> None:
    """Write plan.json to the journal, unless it is there; refuse an unfinished ingest of another plan."""
    url = join(config.out, PLAN)
    if exists(url):
        if not config.restart:
            if _unfinished(config.out) == plan.fingerprint:
                remove_unfinished(config.out)
                return
            raise InputError(
                f"{config.out}: holds an unfinished ingest of other files or options ({url}); {FINISH}"
            )
        _discard(config.out, base)
    elif base is None:
        refuse_foreign(config.out)
    begun: dict[str, Any] = {"fingerprint": plan.fingerprint, "shards": sum(1 for _ in plan.shards())}
    begun |= {FINDINGS: findings} if findings else {}
    check_inside(config.out, PLAN)
    write_json(url, {**begun, "attributes": plan.attributes, **made_by(config)})


def _refuse_missing(plan: IngestPlan) -> None:
    """Refuse a plan in which a share above 0 gets no chip.

    Raises:
        InputError: names the share, and what to do.
    """
    splits = (split for shard in plan.shards() for split in [shard.split] * shard.rows.size)
    refuse_missing(plan.rule, splits, plan.table["scene"].to_pylist())


def _unfinished(out: str) -> str:
    """Return the fingerprint of the plan of an unfinished ingest; "" if there is none.

    Raises:
        InputError: the plan is damaged, so that nobody knows what is unfinished.
    """
    return read_begun(out).fingerprint if exists(join(out, PLAN)) else ""


def _discard(out: str, dataset: Manifest | None) -> None:
    """Remove all that is not `dataset`'s: the journal, its shards, old indexes, half-written files."""
    remove_unfinished(out)
    listed: set[str] = set()
    if dataset is not None:
        listed = {stored.name for shard in dataset.shards for stored in shard.objects}
        listed |= {stored.name for stored in dataset.files.values()}
    remove_unlisted_shards(out, listed)
    remove_old_files(out, dataset)
    # Last: as long as there is a journal, everything else here is known to be ours.
    remove_folder(join(out, JOURNAL))


def _do_what_is_missing(config: IngestConfig, context: TaskContext, plan: IngestPlan) -> None:
    missing = list(_missing(config.out, plan))
    total = sum(shard.rows.size for task in missing for shard in task)
    if done := plan.table.num_rows - total:
        say(f"ingest: resumes; {done:,} of {plan.table.num_rows:,} chips are done", of="")
    read, refused = 0, Counter[str]()

    with progress("ingest", total, "chips") as advance:

        def show(count: int) -> None:
            advance(count, f"kept {read - refused.total():,}, rejected {refused.total():,}")

        if config.workers:
            from ingest.work.on_ray import do_on_ray

            for count, reasons in do_on_ray(context, _with_tables(plan, missing), config.workers):
                read, refused = read + count, refused + reasons
                show(count)
            return

        unsaid = 0

        def tell(count: int, reasons: Counter[str]) -> None:
            nonlocal read, unsaid
            read, unsaid = read + count, unsaid + count
            refused.update(reasons)
            if unsaid >= SAID_EVERY:
                show(unsaid)
                unsaid = 0

        for table, task in _with_tables(plan, missing):
            do_task(context, table, task, tell)
        show(unsaid)


def _missing(out: str, plan: IngestPlan) -> Iterator[ShardTask]:
    """Yield the tasks that are not done, each with its missing shards only."""
    parts = set(find_files(join(out, PARTS)))
    tars = _tars(out) if parts else {}

    def is_done(shard: ShardPlan) -> bool:
        return part_name(shard, plan.fingerprint) in parts and _is_as_its_part(out, plan, shard, tars)

    for task in plan.tasks:
        if left := tuple(shard for shard in task if not is_done(shard)):
            yield left


def _is_as_its_part(out: str, plan: IngestPlan, shard: ShardPlan, tars: dict[str, int]) -> bool:
    """Tell whether a shard has the size that its part records.

    A machine that stopped may have lost what was not yet on disk.
    """
    try:
        listed = _part(out, plan, shard).shard
    except DatasetError:
        return False
    return listed is None or tars.get(listed.name) == listed.nbytes


def _with_tables(plan: IngestPlan, tasks: list[ShardTask]) -> Iterator[tuple[pa.Table, ShardTask]]:
    """Yield each task with its rows of the plan's table, and with rows counted from 0 in that."""
    for task in tasks:
        rows = np.sort(np.concatenate([shard.rows for shard in task]))
        counted = tuple(replace(shard, rows=np.searchsorted(rows, shard.rows)) for shard in task)
        yield _alone(plan.table.take(rows)), counted


def _alone(table: pa.Table) -> pa.Table:
    """Drop dictionary values that the table does not use: it may travel far."""
    for place, column in enumerate(table.schema):
        if pa.types.is_dictionary(column.type):
            values = table.column(place).cast(column.type.value_type).dictionary_encode()
            table = table.set_column(place, column.name, values)
    return table


def _part(out: str, plan: IngestPlan, shard: ShardPlan) -> FinishedShard:
    url = join(out, PARTS, part_name(shard, plan.fingerprint))
    return FinishedShard.from_bytes(read_bytes(url), url)


def _assemble(
    config: IngestConfig, layout: Layout, plan: IngestPlan, base: Manifest | None, on_mismatch: OnMismatch
) -> Ingested:
    """Assemble the dataset from the parts, and remove the journal."""
    with Assembly(config.out, layout, base) as assembly:
        before = CountsBefore()
        if base is not None:
            assembly.refuse(_still_refused(config, base, plan))
            before = CountsBefore(assembly.kept, Counter(assembly.rejected))
            assembly.first_rejected.clear()
        assembly.refuse(rejected_table([refused._asdict() for refused in plan.refused]))
        for shard in plan.shards():
            assembly.add(_part(config.out, plan, shard))
        if config.strict and assembly.rejected != before.refused:
            # An earlier run without --strict refused chips, and this one resumed it.
            said = assembly.describe_rejected()
            raise NothingToKeepError(f"{config.out}: {said}; nothing written (--strict)")
        record = {**made_by(config), "request": plan.request, "plan": plan.fingerprint}
        if findings := read_begun(config.out).findings:
            record[FINDINGS] = findings
        if base is not None:
            record["before"] = base.made_by
        manifest = assembly.finish(record, plan.rule.to_json())
        _discard(config.out, manifest)
        lines = [config.out, *summary(plan, assembly, manifest, before), *advice(plan, manifest, config.out)]
        lines += said_again(config.out, manifest) if on_mismatch != "ignore" else []
        return Ingested(manifest, "\n".join(lines))


def _still_refused(config: IngestConfig, base: Manifest, plan: IngestPlan) -> pa.Table:
    """Return the chips that were refused before and are not tried again."""
    table = Dataset(config.out, base).rejected
    tried = pa.array(
        [*plan.table["key"].to_pylist(), *(refused.key for refused in plan.refused)], pa.string()
    )
    return table.filter(pc.invert(pc.is_in(table["key"], tried)))

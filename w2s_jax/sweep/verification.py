"""Reads every byte of a run directory and says what is wrong with it."""

import io
from typing import Any

from w2s_jax.errors import StoreError, W2SError
from w2s_jax.sweep.grid import Config
from w2s_jax.sweep.locations import Location, find, is_remote, location, read
from w2s_jax.sweep.parts import DAMAGED, part_files, read_part
from w2s_jax.sweep.store import read_manifest


def verify_run(run: str | Location) -> list[str]:
    """Checks a run directory: manifest, parts, and each row against its key.

    Args:
        run: the directory that ``--out`` named, or its URL.

    Returns:
        One line for each defect; none where all is well. Parts that an earlier run has set aside
        are no defects, nor are rows that are not there: the same sweep computes them.

    Raises:
        StoreError: if the directory holds no sweep that can be read at all.
    """
    manifest = read_manifest(run)
    defects, seen = [], {}
    for part in part_files(location(run) / "rows"):
        try:
            rows = read_part(part)
        except (StoreError, FileNotFoundError) as error:
            defects.append(str(error))
            continue
        for row in rows.to_dict("records"):
            problem = _problem(row, manifest["pairs"])
            if problem:
                defects.append(f"{part}: row {row.get('key')}: {problem}")
            if row.get("key") in seen:
                defects.append(f"{part}: row {row['key']} is in {seen[row['key']].name} too")
            seen[row.get("key")] = part
    return defects


def count_rows(run: str | Location) -> tuple[int, int, int]:
    """Parts, rows in them, and parts that were set aside."""
    import pyarrow.parquet as pq

    folder = location(run) / "rows"
    parts = part_files(folder)
    local = not is_remote(folder)
    rows = sum(
        pq.read_metadata(part if local else io.BytesIO(read(part))).num_rows for part in parts
    )
    return len(parts), rows, len(find(folder, f"*{DAMAGED}"))


def _problem(row: dict[str, Any], pairs: dict[str, Any]) -> str | None:
    pair = str(row.get("pair"))
    fingerprints = str(row.get("teacher_fingerprint")), str(row.get("student_fingerprint"))
    pinned = pairs.get(pair)
    if pinned is None:
        return f"its pair {pair!r} is none of the run's"
    if fingerprints != (pinned["teacher"], pinned["student"]):
        return "its features are not those of the run"
    try:
        key = Config.from_row(row).key({pair: fingerprints})
    except (W2SError, TypeError, ValueError, KeyError) as error:
        return f"its settings cannot be read ({error})"
    if key != row["key"]:
        return f"its settings give the key {key}"
    for name in ("student_accuracy", "student_status"):
        if row.get(name) is None or row[name] != row[name]:
            return f"{name} is missing"
    return None

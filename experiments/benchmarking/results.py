"""The JSON of a run: what machine and software it was, and one entry a case."""

import datetime
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

from .processes import slowing_variables

FORMAT_VERSION = 1


def cpu_name() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """The machine, before any case."""
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return {
        "cpu": cpu_name(),
        "cores": num_cores(),
        "memory_gib": memory,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "unset_for_all_solvers": slowing_variables(),
    }


def new_result() -> dict[str, Any]:
    """A result without cases."""
    return {
        "format_version": FORMAT_VERSION,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": None,
        "machine": machine(),
        "how": (
            "Every solver has a process of its own with the problem loaded. After a warm-up "
            "(compilation; quoted as warm_up_s) all take turns in rounds; speeds are distinct "
            "heads per second, median and range over the rounds. A peer that was given a subset "
            "(quoted_per_head) was measured on a random one that takes all penalties in turn, and "
            "its speed stands for all heads. gap is (F - F*) / F* in float64, F* from a tight "
            "float64 solve; unproven_max is how far F* may lie above the true minimum. For chains, "
            "peers were timed on sampled_heads of each kind, given draws, scaled features and "
            "pseudolabels, and extrapolated to all distinct heads. Useful flops are 4 n d k passes;"
            " peak is the fastest GEMM of any round at the same shape. memory_mib is resident "
            "memory with that of child processes, before the first solve and at its peak."
        ),
        "cases": [],
    }


def add_case(result: dict[str, Any], entry: dict[str, Any]) -> None:
    """Adds a case, and learns from its solvers which device the engine ran on."""
    result["cases"].append(entry)
    software = entry["solvers"]["engine"].get("software")
    if software:
        cpu, here = software["jax_platform"] == "cpu", result["machine"]
        name = f"{here['cpu']}, {here['cores']} cores" if cpu else software["jax_device"]
        result["device"] = name


def file_name(result: dict[str, Any]) -> str:
    """Device and date, fit for a file.

    >>> file_name({"device": "NVIDIA H100 80GB HBM3", "date": "2026-01-31"})
    'nvidia-h100-80gb-hbm3-2026-01-31.json'
    """
    slug = re.sub(r"[^a-z0-9]+", "-", str(result["device"] or "unknown").lower()).strip("-")
    return f"{slug}-{result['date']}.json"


def save(result: dict[str, Any], out: str) -> Path:
    """Writes a result to a .json file, or under its own name into a folder; never half.

    Cases that the file has and the result has not stay in the file.
    """
    path = Path(out) if out.endswith(".json") else Path(out) / file_name(result)
    if path.exists():
        names = {case["case"] for case in result["cases"]}
        earlier = [case for case in load(str(path))["cases"] if case["case"] not in names]
        result = {**result, "cases": earlier + result["cases"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(path)
    return path


def load(path: str) -> dict[str, Any]:
    """Reads a result.

    Raises:
        ValueError: where it is none.
    """
    try:
        result = json.loads(Path(path).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"cannot read the result {path}: {error}") from None
    if not isinstance(result, dict) or result.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{path} is no result of experiments/benchmark.py of this version")
    return result

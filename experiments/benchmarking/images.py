"""Images per second beside torch and transformers: same images, weights, precision and cores.

Loading (read, decode, resize, crop) and the networks' forward pass are measured apart, each solver
in a process of its own, taking turns in rounds.
"""

import datetime
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .measure import Say, spread
from .processes import Worker, WorkerError, environment
from .results import add_case, file_name, new_result, save

KIND = "images"
SOLVERS = ("engine", "transformers")
HOW = (
    "Every solver has a process of its own with weights and images ready, and as many threads as "
    "there are cores. After a warm-up all take turns in rounds; speeds are images per second, "
    "median and range over the rounds. load: read, decode, resize and crop JPEG files; engine by "
    "Grain in threads, transformers by torch's DataLoader, with a process a core, and the "
    "published processor, which normalises as well. forward: float32 features of preprocessed "
    "images in memory, in batches; torch in both memory layouts, the faster one counts. engine_is_"
    "faster_by is the ratio of medians. difference: largest difference of features, by the largest "
    "feature. Weights are random."
)


class ImageTask(NamedTuple):
    """What is measured.

    Attributes:
        backbone: Name of the network.
        num_images: Images in all.
        batch_size: Images a call of the network.
        seed: Of weights and crops.
    """

    backbone: str
    num_images: int
    batch_size: int
    seed: int


def write_task(folder: Path, task: ImageTask) -> None:
    """Weights, JPEG files of crops of two photographs, and what our preprocessing makes of them."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    from w2s_jax.backbones.registry import find_spec

    from .images_torch import save_random

    save_random(folder / "weights", task.backbone, task.seed)
    (folder / "photos").mkdir()
    rng, photos = np.random.default_rng(task.seed), load_sample_images().images
    preprocessing, pixels = find_spec(task.backbone).preprocessing, []
    for number in range(task.num_images):
        photo = photos[number % len(photos)]
        top, left = rng.integers(0, photo.shape[0] - 375), rng.integers(0, photo.shape[1] - 500)
        path = folder / "photos" / f"{number:05d}.jpg"
        Image.fromarray(photo[top : top + 375, left : left + 500]).save(path, quality=90)
        pixels.append(preprocessing(path))
    np.save(folder / "pixels.npy", np.stack(pixels))
    np.savez(folder / "task.npz", backbone=task.backbone, batch_size=task.batch_size)


def measure(
    backbones: Sequence[str],
    num_images: int,
    batch_size: int,
    *,
    repeats: int,
    seed: int,
    limit: float,
    out: str,
    say: Say,
) -> tuple[dict[str, Any], Path]:
    """Measures network by network; the result is saved after each.

    Args:
        backbones: Names of networks.
        num_images: Images in all.
        batch_size: Images a call of a network.
        repeats: Rounds.
        seed: Of weights and images.
        limit: Seconds that one call of a solver may take.
        out: A .json file, or a folder for images-DEVICE-DATE.json.
        say: Takes lines about the progress.

    Returns:
        The result, and where it is.

    Raises:
        ValueError: torch or transformers is not installed, or a network has no reference.
    """
    from .images_torch import check_known

    check_known(backbones)
    result = new_result() | {"how": HOW}
    path = Path(out)
    for name in backbones:
        task = ImageTask(name, num_images, batch_size, seed)
        add_case(result, _run(task, repeats, limit, say))
        path = Path(out) if out.endswith(".json") else Path(out) / f"images-{file_name(result)}"
        path = save(result, str(path))
    return result, path


def _run(task: ImageTask, repeats: int, limit: float, say: Say) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "task"
        folder.mkdir()
        write_task(folder, task)
        entry: dict[str, Any] = {
            "workload": KIND,
            "case": f"{KIND}_{task.backbone}",
            "kind": KIND,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "task": task._asdict(),
            "load_average_before": list(os.getloadavg()),
        }
        workers, found = {}, {}
        try:
            for name in SOLVERS:
                (Path(scratch) / name).mkdir()
                workers[name] = Worker(Path(scratch) / name, environment(Path(scratch) / name))
                arguments = {"solver": name, "folder": str(folder), "units": []}
                found[name] = workers[name].ask("start", limit, kind=KIND, **arguments)
            laps = _rounds(workers, repeats, limit, lambda text: say(f"{task.backbone}: {text}"))
            for name, worker in workers.items():
                told = worker.ask("finish", limit, out=str(folder / f"{name}.npz"))
                found[name] |= {"memory_mib": told["memory_mib"], "status": "ok"}
        except (WorkerError, KeyError) as error:
            raise ValueError(f"{task.backbone} was not measured: {error}") from error
        finally:
            for worker in workers.values():
                worker.stop()
        entry |= {"solvers": found, "load_average_after": list(os.getloadavg())}
        features = [np.load(folder / f"{name}.npz")["features"] for name in SOLVERS]
        entry["difference"] = float(
            np.abs(features[0] - features[1]).max() / np.abs(features).max()
        )
        relate(entry, laps)
        return entry


def _rounds(workers: dict[str, Worker], repeats: int, limit: float, say: Say) -> dict[str, list]:
    for worker in workers.values():
        worker.ask("solve", limit)
    laps: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for number in range(repeats):
        names = list(workers)
        for name in names[:: 1 if number % 2 == 0 else -1]:
            laps[name].append(workers[name].ask("solve", limit)["laps"])
        say(f"round {number + 1} of {repeats}")
    return laps


def relate(entry: dict[str, Any], laps: dict[str, list[dict[str, float]]]) -> None:
    """Adds images per second of every part to a case, and how many times faster the engine is.

    Args:
        entry: The case.
        laps: Solver to the seconds of its parts in every round; of several forward passes
            ("forward", "forward_...") that with the lowest median counts.
    """
    count = entry["task"]["num_images"]
    for name, rounds in laps.items():
        solver = entry["solvers"][name]
        for part in rounds[0]:
            solver[f"{part}_images_per_s"] = spread([count / lap[part] for lap in rounds])
        forwards = [part for part in rounds[0] if part.startswith("forward")]
        solver["fastest_forward"] = max(
            forwards, key=lambda part, s=solver: s[f"{part}_images_per_s"]["median"]
        )
    engine, peer = (entry["solvers"][name] for name in SOLVERS)
    entry["engine_is_faster_by"] = {
        part: engine[f"{ours}_images_per_s"]["median"] / peer[f"{theirs}_images_per_s"]["median"]
        for part, ours, theirs in (
            ("load", "load", "load"),
            ("forward", engine["fastest_forward"], peer["fastest_forward"]),
        )
    }


def render(result: dict[str, Any]) -> str:
    """A table of the result, as markdown."""
    lines = [
        "| network | part | w2s_jax | transformers | faster by |",
        "| --- | --- | --- | --- | --- |",
    ]
    for case in result["cases"]:
        engine, peer = (case["solvers"][name] for name in SOLVERS)
        for part, ratio in case["engine_is_faster_by"].items():
            speeds = []
            for solver in (engine, peer):
                key = part if part == "load" else solver["fastest_forward"]
                speed = solver[f"{key}_images_per_s"]
                speeds.append(f"{speed['median']:.3g} ({speed['min']:.3g}–{speed['max']:.3g})")
            name = case["task"]["backbone"]
            lines.append(f"| {name} | {part} | {' | '.join(speeds)} | {ratio:.2f} |")
    return "\n".join(lines)

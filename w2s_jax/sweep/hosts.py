"""One grid on several processes: each computes the chunks that are its own.

Which chunk belongs to which process follows from the whole plan alone, so that processes that start
at different times, or again after a kill, agree without talking. JAX's coordination service brings
them together and tells each its number; nothing else is exchanged.
"""

import dataclasses
import signal

import jax

from w2s_jax.errors import GridError
from w2s_jax.sweep.planning import Plan

_MONTH = 30 * 24 * 3600


@dataclasses.dataclass(frozen=True)
class Process:
    """One of the processes that share a run.

    Attributes:
        index: its number, from 0.
        count: how many there are.
    """

    index: int
    count: int

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.count == 1

    def suffix(self) -> str:
        """What its own files in a run directory end with; nothing for the first."""
        return f"-{self.index}" if self.index else ""


def this_process() -> Process:
    """The process that runs this, as ``jax.distributed`` has it."""
    return Process(jax.process_index(), jax.process_count())


def join(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the processes of a run; before anything else uses JAX.

    Args:
        coordinator: ``host:port`` of process 0; with all None, Slurm, Open MPI or a TPU pod tells.
        num_processes: how many there are.
        process_id: number of this one.

    Raises:
        GridError: for numbers that make no sense, or where the others cannot be found.
    """
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise GridError("give coordinator, num_processes and process_id together, or none of them")
    if num_processes is not None and process_id is not None:
        if not 0 <= process_id < num_processes:
            raise GridError(
                f"process_id must lie in [0, {num_processes}), found {process_id}; processes are "
                "numbered from 0"
            )
    try:
        # Signals are the run's own, and no process has to wait for the others' share at the end.
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(
            coordinator, num_processes, process_id, shutdown_timeout_seconds=_MONTH
        )
    except (RuntimeError, ValueError) as error:
        raise GridError(
            f"the processes of this run did not come together ({error}); check the coordinator's "
            "address and that all of them were started, or, where no cluster tells who they are, "
            "give coordinator, num_processes and process_id"
        ) from error


def let_go() -> None:
    """Lets Ctrl-C and SIGTERM end this process at once while it waits, at its end, for the others.

    JAX's coordination service ends with process 0, and the others with it, so all wait for all; one
    that was killed is missed for a minute or two.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def own_share(plan: Plan, process: Process) -> Plan:
    """The chunks of a plan that a process computes, in the company they were planned in."""
    groups, number = [], 0
    for group in plan.groups:
        own = []
        for chunk in group.chunks:
            if number % process.count == process.index:
                own.append(chunk)
            number += 1
        if own:
            groups.append(dataclasses.replace(group, chunks=tuple(own)))
    return Plan(plan.pairs, tuple(groups))

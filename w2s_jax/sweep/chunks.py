"""Chunks of a plan: configurations that share a draw, made once for all seeds that repeat them."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from w2s_jax.methods import get_method
from w2s_jax.pipeline import Request, count_heads
from w2s_jax.splits import Request as DrawRequest
from w2s_jax.sweep.grid import Config, Place, hash_key, hyperparameters_of

TeacherKey = tuple[float | None, int | None, int, float | None]


def draw_request(config: Config) -> DrawRequest:
    """The rows that a configuration asks for."""
    return DrawRequest(
        eta_l=config.eta_l,
        n_labelled=config.n_labelled,
        eta_u=config.eta_u,
        n_unlabelled=config.n_unlabelled,
        n_validation=config.n_validation,
    )


def teacher_key(config: Config) -> TeacherKey:
    """What distinguishes the teachers of one group: labelled rows and penalty."""
    return config.eta_l, config.n_labelled, config.n_validation, config.teacher_l2


@dataclasses.dataclass(frozen=True, eq=False)
class Pattern:
    """What chunks that differ by pair, feature scaling, class prior and seed only have in common.

    Attributes:
        configs: of one of these chunks, in grid order.
    """

    configs: tuple[Config, ...]

    @cached_property
    def teachers(self) -> tuple[TeacherKey, ...]:
        """Distinct teachers, in order of first appearance."""
        return tuple(dict.fromkeys(map(teacher_key, self.configs)))

    @cached_property
    def draw_requests(self) -> tuple[DrawRequest, ...]:
        """Distinct draws, in order of first appearance; they share their unlabelled rows."""
        of_teachers = {teacher_key(c)[:3]: c for c in self.configs}
        return tuple(draw_request(c) for c in of_teachers.values())

    @cached_property
    def student_l2(self) -> Float[np.ndarray, " m"]:
        """Distinct penalties of students, one ceiling each."""
        return np.unique([config.student_l2 for config in self.configs])

    @cached_property
    def num_heads(self) -> int:
        """Distinct heads of students, all rounds."""
        return count_heads(self.requests[0])

    @cached_property
    def requests(self) -> tuple[list[Request], list[Int[np.ndarray, " h"]]]:
        """One request per method and options, of one seed, and the configurations it serves."""
        index = {key: i for i, key in enumerate(self.teachers)}
        names = {m: tuple(sorted(get_method(m).options)) for m in {c.method for c in self.configs}}
        members: dict[tuple[Any, ...], list[int]] = {}
        for i, config in enumerate(self.configs):
            options = tuple([getattr(config, name) for name in names[config.method]])
            members.setdefault((config.method, options), []).append(i)
        requests, served = [], []
        for (name, values), positions in members.items():
            chosen = [self.configs[i] for i in positions]
            method, options = get_method(name), dict(zip(names[name], values, strict=True))
            read = hyperparameters_of(method, tuple(options.items()))
            requests.append(
                Request(
                    method,
                    options,
                    np.array([index[teacher_key(c)] for c in chosen]),
                    {n: np.array([getattr(c, n) for c in chosen], np.float64) for n in read},
                )
            )
            served.append(np.array(positions))
        return requests, served

    @cached_property
    def key_pieces(self) -> list[tuple[str, ...]]:
        """Of every configuration, what its key is made of beside its place."""
        return [config.key_pieces() for config in self.configs]


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Configurations that share one draw of unlabelled rows; the unit of work and of commit.

    Attributes:
        pattern: the configurations, but for their place.
        place: pair, feature scaling, class prior and seed.
    """

    pattern: Pattern
    place: Place

    @property
    def configs(self) -> tuple[Config, ...]:
        """In grid order; made anew at every call, so that a plan of millions holds none."""
        if self.pattern.configs[0].place == self.place:
            return self.pattern.configs
        here = self.place._asdict()
        return tuple(dataclasses.replace(config, **here) for config in self.pattern.configs)

    def keys(self, fingerprints: Mapping[str, tuple[str, str]]) -> list[str]:
        """Keys of all configurations (see `Config.key`), without making them."""
        values = self.place.key_values(fingerprints)
        return [hash_key(pieces, values) for pieces in self.pattern.key_pieces]

    @property
    def num_configs(self) -> int:
        """Result rows."""
        return len(self.pattern.configs)

    @property
    def eta_u(self) -> float | None:
        """Minority fraction of the unlabelled rows; None where they truly are unlabelled."""
        return self.pattern.configs[0].eta_u

    @property
    def n_unlabelled(self) -> int:
        """Unlabelled rows."""
        return self.pattern.configs[0].n_unlabelled

    @property
    def teachers(self) -> tuple[TeacherKey, ...]:
        """Distinct teachers, in order of first appearance."""
        return self.pattern.teachers

    @property
    def student_l2(self) -> Float[np.ndarray, " m"]:
        """Distinct penalties of students, one ceiling each."""
        return self.pattern.student_l2

    def requests(self) -> tuple[list[Request], list[Int[np.ndarray, " h"]]]:
        """One request per method and options, and the configurations it serves."""
        requests, served = self.pattern.requests
        return [self._here(request) for request in requests], served

    def _here(self, request: Request) -> Request:
        """A request of the pattern with this chunk's seed, where its method reads one."""
        values = request.hyperparameters
        if "seed" not in values:
            return request
        seeds = np.full_like(values["seed"], self.place.seed)
        return dataclasses.replace(request, hyperparameters={**values, "seed": seeds})


@dataclasses.dataclass(frozen=True)
class Group:
    """Chunks that share features, scaling, class prior and seed, and so their teachers.

    Attributes:
        pair: name of the pair.
        feature_scaling: of both sides.
        class_prior: of the draws.
        seed: of the draws.
        chunks: those to run.
        company: all that were planned together, those with rows already included.
    """

    pair: str
    feature_scaling: str
    class_prior: str
    seed: int
    chunks: tuple[Chunk, ...]
    company: tuple[Chunk, ...]

    @cached_property
    def teachers(self) -> tuple[TeacherKey, ...]:
        """Distinct teachers of the whole company."""
        return tuple(dict.fromkeys(key for chunk in self.company for key in chunk.teachers))

    @cached_property
    def draw_requests(self) -> tuple[DrawRequest, ...]:
        """Distinct draws of the whole company, chunk by chunk."""
        of_chunks = (chunk.pattern.draw_requests for chunk in self.company)
        return tuple(dict.fromkeys(request for requests in of_chunks for request in requests))

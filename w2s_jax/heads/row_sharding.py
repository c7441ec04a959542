"""Features whose rows are dealt out to several devices: row i lies on device i mod D.

Dealt out like cards, so that the rows of one split or class, which may be neighbours, are on all
devices. Rows that heads train on, or predict, stay where they are: a product is taken on each
device's own rows, and only sums over rows and logits travel. No device ever holds another's rows.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from w2s_jax.heads.buckets import row_bucket

AXIS = "rows"
CHUNK_ROWS = 1024  # of which means and mean squares are taken at a time


def row_mesh(devices: Sequence[Any]) -> Mesh:
    """The mesh of some devices that share rows."""
    return Mesh(np.array(devices), (AXIS,))


def mesh_of(x: Array) -> Mesh | None:
    """The devices among which the rows of `x` are dealt out; None where one has them all."""
    sharding = x.sharding
    if isinstance(sharding, NamedSharding) and AXIS in sharding.mesh.axis_names:
        mesh = sharding.mesh
        return mesh if isinstance(mesh, Mesh) else None
    return None


def num_shards(x: Array) -> int:
    """Devices among which the rows of `x` are dealt out."""
    mesh = mesh_of(x)
    return 1 if mesh is None else mesh.size


def along_rows(ndim: int, axis: int = -1) -> P:
    """The specification of an array of which one axis is that of rows."""
    names: list[str | None] = [None] * ndim
    names[axis] = AXIS
    return P(*names)


def on_own_rows(function: Callable[..., Any], mesh: Mesh, specs: Any, out: Any) -> Any:
    """A function that each device applies to its own rows."""
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)


def rows_in_chunks(
    x: Float[Array, "all r"], rows: Int[Array, " n"], chunk: int
) -> tuple[Float[Array, "m r"], ...]:
    """Some rows in chunks of `chunk`, which divides their number."""
    parts = rows.reshape(-1, chunk)
    return tuple(x.at[part].get(mode="promise_in_bounds") for part in parts)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DealtRows:
    """Some rows of dealt-out features, and the slots in which each device keeps its own.

    It stands in for their indices: a device's slots are padded to a bucket, m of D in all.

    Attributes:
      own: index of each slot's row among those of its device ``[D m]``.
      source: which of the n rows each slot has ``[D m]``.
      filled: whether a slot has a row ``[D m]``.
      slot: where each row is; of padding, any ``[n]``.
      most: rows of the device that has the most.
      mesh: the devices.
    """

    own: Int[Array | np.ndarray, " s"]
    source: Int[Array | np.ndarray, " s"]
    filled: Bool[Array | np.ndarray, " s"]
    slot: Int[Array | np.ndarray, " n"]
    most: Int[Array | np.ndarray, ""]
    mesh: Mesh = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the indices it stands for."""
        return self.slot.shape

    @property
    def slots_per_device(self) -> int:
        """Slots of each device, m."""
        return len(self.own) // self.mesh.size

    def in_chunks(self, x: Float[Array, "all r"], chunk: int) -> tuple[Float[Array, "s r"], ...]:
        """Each device's rows in chunks of its own, side by side."""

        def gather(x: Array, own: Array) -> tuple[Array, ...]:
            return rows_in_chunks(x, own, chunk)

        specs = along_rows(2, 0), along_rows(1)
        return on_own_rows(gather, self.mesh, specs, along_rows(2, 0))(x, self.own)

    def arrange(self, leaf: Array) -> Array:
        """Values of rows, along the last axis, in slots; an empty slot's mean nothing."""
        sharding = NamedSharding(self.mesh, along_rows(leaf.ndim))
        return jax.lax.with_sharding_constraint(leaf[..., self.source], sharding)

    def apply(
        self, function: Callable[[Array, Array], Array], params: Array, x: Float[Array, "all r"]
    ) -> Array:
        """``function(params, rows)``, whose last axis is of rows, in the rows' order.

        Each device evaluates it on its own rows; the values, not the rows, are brought together.
        """

        def on_device(params: Array, x: Array, own: Array) -> Array:
            values = function(params, x.at[own].get(mode="promise_in_bounds"))
            return jax.lax.all_gather(values, AXIS, axis=values.ndim - 1, tiled=True)

        specs = P(), along_rows(2, 0), along_rows(1)
        return on_own_rows(on_device, self.mesh, specs, P())(params, x, self.own)[..., self.slot]


def place_rows(
    x: Float[Array, "all r"], rows: Int[Array | np.ndarray, " n"], num_rows: int | None = None
) -> DealtRows | Int[Array | np.ndarray, " n"]:
    """Row indices as the solver and `logits_on_rows` take them.

    Args:
      x: features; where one device has them all, `rows` come back as they are.
      rows: indices of rows.
      num_rows: how many are real, the first ones; default all.
    """
    mesh = mesh_of(x)
    if mesh is None:
        return rows
    real = np.asarray(rows)[:num_rows]
    devices = mesh.size
    owner = real % devices
    counts = np.bincount(owner, minlength=devices)
    size = row_bucket(int(counts.max()))
    source = np.argsort(owner, kind="stable").astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    slots = owner[source] * size + np.arange(len(real)) - starts[owner[source]]
    own, from_ = np.zeros((2, devices * size), np.int32)
    filled, slot = np.zeros(devices * size, bool), np.zeros(len(rows), np.int32)
    own[slots], from_[slots], filled[slots] = real[source] // devices, source, True
    slot[source] = slots
    return DealtRows(own, from_, filled, slot, np.array(counts.max(), np.int32), mesh)


@functools.partial(jax.jit, donate_argnums=0)
def _write(buffer: Array, part: Array, start: Int[Array, ""]) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(buffer, part, start, axis=0)


def deal_out(
    blocks: Iterable[np.ndarray], num_rows: int, num_features: int, dtype: DTypeLike, mesh: Mesh
) -> Float[Array, "all r"]:
    """Brings rows to their devices block by block, so that nothing else ever holds them all.

    Args:
      blocks: rows in order; the sizes of all but the last are multiples of the devices' number.
      num_rows: of all blocks; padded with zeros up to a multiple of the devices' number.
      num_features: of each row.
      dtype: of the result.
      mesh: the devices.
    """
    devices = list(mesh.devices.flat)
    shape = -(-num_rows // len(devices)), num_features
    buffers = [jnp.zeros(shape, dtype, device=device) for device in devices]
    start = 0
    for block in blocks:
        for number, device in enumerate(devices):
            own = block[number :: len(devices)]
            if len(own):
                part = jax.device_put(np.ascontiguousarray(own, dtype), device)
                place = np.int32(start // len(devices))
                buffers[number] = _write(buffers[number], part, place)
        start += len(block)
    whole = shape[0] * len(devices), num_features
    sharding = NamedSharding(mesh, along_rows(2, 0))
    return jax.make_array_from_single_device_arrays(whole, sharding, buffers)


def moments(
    x: Float[Array, "all r"],
    rows: Int[Array, " n"] | DealtRows,
    shares: Float[Array, "#h n"],
    *,
    center: bool,
) -> tuple[Float[Array, " r"], Float[Array, "#h r"], Float[Array, "#h r"]]:
    """Weighted means and mean squares of the features of some rows.

    The mean over all heads comes first, so that little cancels when each takes off its own.

    Args:
      x: features.
      rows: the rows, or the slots they are in.
      shares: weights that sum to one, or are all zero, in slots where rows have any.
      center: else all means are taken to be zero.

    Returns:
      The mean over all heads, how far each head's mean is from it, and mean squares about the
      head's mean.
    """

    def over_chunks(x: Array, own: Array, shares: Array) -> tuple[Array, Array, Array]:
        num_rows, num_features = len(own), x.shape[1]
        chunk = num_rows if num_rows <= 2 * CHUNK_ROWS else math.gcd(num_rows, CHUNK_ROWS)
        own = own.reshape(-1, chunk)

        def weighted_sums(functions: Sequence[Callable[[Array], Array]], by: Array) -> list[Array]:
            parts = by.reshape(len(by), -1, chunk)

            def add(i: Array, totals: list[Array]) -> list[Array]:
                some = x.at[own[i]].get(mode="promise_in_bounds")
                return [
                    total
                    + jnp.matmul(parts[:, i], function(some), precision=jax.lax.Precision.HIGHEST)
                    for function, total in zip(functions, totals, strict=True)
                ]

            none = jnp.zeros((len(by), num_features), x.dtype)
            totals = jax.lax.fori_loop(0, len(own), add, [none for _ in functions])
            return jax.lax.psum(totals, AXIS) if isinstance(rows, DealtRows) else totals

        def square(some: Array) -> Array:  # zero times infinity is none
            return jnp.minimum(jnp.square(some), jnp.finfo(x.dtype).max)

        if not center:
            none = jnp.zeros((len(shares), num_features), x.dtype)
            return none[0], none, weighted_sums([square], shares)[0]
        of_all = jnp.sum(shares, axis=0, keepdims=True)
        weight = jnp.sum(of_all)
        weight = jax.lax.psum(weight, AXIS) if isinstance(rows, DealtRows) else weight
        shift = weighted_sums([lambda some: some], of_all)[0][0] / jnp.maximum(weight, 1)
        away, spread = weighted_sums(
            [lambda some: some - shift, lambda some: square(some - shift)], shares
        )
        return shift, away, jnp.maximum(spread - away**2, jnp.finfo(x.dtype).eps * spread)

    if not isinstance(rows, DealtRows):
        return over_chunks(x, rows, shares)
    specs = along_rows(2, 0), along_rows(1), along_rows(2)
    return on_own_rows(over_chunks, rows.mesh, specs, P())(x, jnp.asarray(rows.own), shares)

"""Sorting and merging of row ids without a loop over rows."""

import numpy as np


def sort_order(strings: np.ndarray) -> np.ndarray:
    """Indices [n] that sort unicode strings [n] by code point; equal strings keep their order.

    Latin-1 strings, nearly all ids, are packed eight characters to an integer, which sorts two to
    four times faster than comparing them character by character.

    >>> sort_order(np.array(["b", "a10", "a1"])).tolist()
    [2, 1, 0]
    """
    width = strings.dtype.itemsize // 4
    codes = np.ascontiguousarray(strings).astype(strings.dtype.newbyteorder("="), copy=False)
    codes = codes.view(np.uint32).reshape(len(strings), width)
    if codes.max(initial=0) > 255:
        return np.argsort(strings, kind="stable")
    packed = np.zeros((len(strings), -(-width // 8) * 8), np.uint8)
    packed[:, :width] = codes
    # Big-endian, so that integers compare as the strings do; the end of a string is zero.
    words = packed.view(">u8").astype(np.uint64).T
    varying = [word for word in words if (word != word[0]).any()]
    if not varying:
        return np.arange(len(strings))
    return np.lexsort(varying[::-1])


def common_rows(
    left: np.ndarray, right: np.ndarray, left_order: np.ndarray, right_order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `left` and of `right`, unique strings, that hold the same string, sorted by it.

    Args:
        left: [n] unicode, unique.
        right: [k] unicode, unique.
        left_order: [n] what sorts `left`.
        right_order: [k] what sorts `right`.

    >>> left, right = np.array(["b", "a", "c"]), np.array(["d", "c", "b"])
    >>> common_rows(left, right, sort_order(left), sort_order(right))
    (array([0, 2]), array([2, 1]))
    """
    left_sorted, right_sorted = left[left_order], right[right_order]
    if np.array_equal(left_sorted, right_sorted):
        return left_order, right_order
    # Two sorted runs one after the other: the stable sort merges them in linear time, and a
    # common string ends up as two neighbours, the left one first.
    merged = np.concatenate([left_sorted, right_sorted])
    order = np.argsort(merged, kind="stable")
    merged = merged[order]
    twin = np.flatnonzero(merged[1:] == merged[:-1])
    return left_order[order[twin]], right_order[order[twin + 1] - len(left)]

"""What a method's code is, for stores that must not mix the rows of two definitions."""

import ast
import functools
import hashlib
import inspect
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_CONSTANTS = (bool, int, float, complex, str, bytes, type(None))
_CODE = types.FunctionType | type


def source_digest(function: Callable[..., Any]) -> str | None:
    """A hash of a function's code and of all in its module that it uses, directly or not.

    That is functions, classes and their members, numbers and texts, also in lists, tuples, sets and
    dicts, under decorators that set ``__wrapped__`` (`jax.jit`, `functools.cache`), and in a
    `functools.partial`. Comments, docstrings and layout do not count. Nor does code of other
    modules and of decorators.

    Returns:
        The hash; None where the source is not to be had, as in a Python prompt.
    """
    own = list(_flat("", function))
    module = next((value.__module__ for _, value in own if isinstance(value, _CODE)), None)
    seen: dict[str, str] = {}
    waiting: list[Any] = []

    def note(owner: str, uses: Iterable[tuple[str, Any]]) -> None:
        for used, found in uses:
            if _is_code_of(module, found):
                waiting.append(found)
            elif isinstance(found, _CONSTANTS):
                seen[f"{owner}.{used}"] = repr(found)

    note("", own)
    if not waiting:
        return None
    while waiting:
        value = waiting.pop()
        name = value.__qualname__
        if name in seen:
            continue
        try:
            seen[name] = _normalised(inspect.getsource(value))
        except (OSError, TypeError):
            return None
        note(name, _used(value))
    text = "\n".join(f"{name}: {seen[name]}" for name in sorted(seen))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _is_code_of(module: str | None, value: Any) -> bool:
    return isinstance(value, _CODE) and value.__module__ == module


def _used(value: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of the globals and enclosing variables that code refers to."""
    if isinstance(value, type):
        yield from _used_by_members(value)
        return
    value = inspect.unwrap(value)
    if not isinstance(value, types.FunctionType):  # a decorated one of another kind
        return
    code = [value.__code__]
    while code:
        own = code.pop()
        code += [constant for constant in own.co_consts if isinstance(constant, types.CodeType)]
        for name in own.co_names:
            if name in value.__globals__:
                yield from _flat(name, value.__globals__[name])
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        try:
            content = cell.cell_contents
        except ValueError:  # not set yet
            continue
        yield from _flat(name, content)


def _used_by_members(cls: type) -> Iterator[tuple[str, Any]]:
    """What the methods of a class use, and functions and classes that it holds."""
    for name, member in vars(cls).items():
        if isinstance(member, types.FunctionType):
            yield from _used(member)
            if _is_code_of(cls.__module__, member) and not _within(cls, member):
                yield name, member
        elif not isinstance(member, dict) or not name.startswith("__"):  # no annotations
            for used, found in _flat(name, member):
                if not _is_code_of(cls.__module__, found):
                    continue
                if _within(cls, found):  # and so its source
                    yield from _used(found)
                else:
                    yield used, found


def _within(cls: type, value: Any) -> bool:
    return value.__qualname__.startswith(f"{cls.__qualname__}.")


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A value without decorators, or the elements of one that holds others."""
    if isinstance(value, dict):
        for key, element in value.items():
            yield from _flat(f"{name}[{key!r}]", element)
    elif isinstance(value, list | tuple):
        for i, element in enumerate(value):
            yield from _flat(f"{name}[{i}]", element)
    elif isinstance(value, set | frozenset):
        for element in value:
            yield from _flat(f"{name}[{_text(element)}]", element)
    elif isinstance(value, functools.partial | functools.partialmethod):
        yield f"{name}.func", getattr(value.func, "__name__", None)
        for part in ("func", "args", "keywords"):
            yield from _flat(f"{name}.{part}", getattr(value, part))
    elif isinstance(value, property):
        for part in ("fget", "fset", "fdel"):
            yield from _flat(f"{name}.{part}", getattr(value, part))
    elif isinstance(value, functools.cached_property):
        yield from _flat(name, value.func)
    elif isinstance(value, types.MethodType):
        yield from _flat(name, value.__func__)
        yield from _flat(f"{name}.__self__", value.__self__)
    elif not isinstance(value, type) and hasattr(value, "__wrapped__"):
        yield from _flat(name, inspect.unwrap(value))
    else:
        yield name, value


def _text(value: Any) -> str:
    """Like repr, but of sets always in one order."""
    if isinstance(value, frozenset):
        return f"{{{', '.join(sorted(map(_text, value)))}}}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_text, value))})"
    return repr(value)


def _normalised(source: str) -> str:
    try:
        tree = ast.parse(textwrap.dedent(source))
    except SyntaxError:  # a lambda within an expression
        return source.strip()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.unparse(tree)  # unlike ast.dump, the same in all versions of Python

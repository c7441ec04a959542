"""What a method's code is, for stores that must not mix the rows of two definitions."""

import ast
import functools
import hashlib
import inspect
import textwrap
import types
from collections.abc import Callable, Iterator
from typing import Any

_CONSTANTS = (bool, int, float, complex, str, bytes, type(None))


def source_digest(function: Callable[..., Any]) -> str | None:
    """A hash of a function's code and of all in its module that it uses, directly or not.

    That is functions, classes, numbers and texts, also in lists and dicts. Comments, docstrings and
    layout do not count. Nor does code of other modules and of decorators.

    Returns:
        The hash; None where the source is not to be had, as in a Python prompt.
    """
    while isinstance(function, functools.partial):
        function = function.func
    seen: dict[str, str] = {}
    waiting: list[Any] = [inspect.unwrap(function)]
    module = waiting[0].__module__
    while waiting:
        value = waiting.pop()
        name = value.__qualname__
        if name in seen:
            continue
        try:
            seen[name] = _normalised(inspect.getsource(value))
        except (OSError, TypeError):
            return None
        for used, found in _used(value):
            if getattr(found, "__module__", None) == module and isinstance(
                found, types.FunctionType | type
            ):
                waiting.append(found)
            elif isinstance(found, _CONSTANTS):
                seen[f"{name}.{used}"] = repr(found)
    text = "\n".join(f"{name}: {seen[name]}" for name in sorted(seen))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _used(value: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of the globals and enclosing variables that code refers to."""
    if isinstance(value, type):
        for member in vars(value).values():
            if isinstance(member, types.FunctionType):
                yield from _used(member)
        return
    value = inspect.unwrap(value)
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


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A value, or the elements of one that is a list, a tuple or a dict."""
    if isinstance(value, dict | list | tuple):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, element in pairs:
            yield from _flat(f"{name}[{key!r}]", element)
    else:
        yield name, value


def _normalised(source: str) -> str:
    try:
        tree = ast.parse(textwrap.dedent(source))
    except SyntaxError:  # a lambda within an expression
        return source.strip()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.unparse(tree)  # unlike ast.dump, the same in all versions of Python

"""Tables, figures and a page from result rows alone.

Names are imported on first use, so that `import w2s_jax.report` loads neither pandas nor
matplotlib.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from w2s_jax.report.correctness import accuracy_at
    from w2s_jax.report.frame import ReportError
    from w2s_jax.report.page import write_report
    from w2s_jax.report.selection import select_l2
    from w2s_jax.report.statistics import two_way_interval
    from w2s_jax.report.tables import oracle_improvement, relative_improvement, setting_table
    from w2s_jax.report.text import format_table

__all__ = [
    "ReportError",
    "accuracy_at",
    "format_table",
    "oracle_improvement",
    "relative_improvement",
    "select_l2",
    "setting_table",
    "two_way_interval",
    "write_report",
]

_MODULES = {
    "ReportError": "frame",
    "accuracy_at": "correctness",
    "format_table": "text",
    "oracle_improvement": "tables",
    "relative_improvement": "tables",
    "select_l2": "selection",
    "setting_table": "tables",
    "two_way_interval": "statistics",
    "write_report": "page",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

"""Pages from the templates of this folder."""

from pathlib import Path
from typing import Any

import jinja2


def render(template: str, **values: Any) -> str:
    """The text of a page; a value that the template wants and nobody gives is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("w2s_jax.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(**values)


def write_page(folder: Path, template: str, **values: Any) -> Path:
    """Writes ``index.html``, whole or not at all, and returns its path."""
    page, scratch = folder / "index.html", folder / ".index.html"
    scratch.write_text(render(template, **values), encoding="utf-8")
    scratch.replace(page)
    return page

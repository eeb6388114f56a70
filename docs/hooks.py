"""Adds pages to the site and checks the result; MkDocs calls these functions while it builds."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
BORROWED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are written outside of docs/, and a page for each module that the navigation names."""
    for source, page in BORROWED.items():
        files.append(File.generated(config, page, content=relink((ROOT / source).read_text())))
    for program in sorted((ROOT / "examples").glob("*.py")):
        content = f"---\nhide: [toc]\n---\n\n# {program.name}\n\n```python\n{program.read_text()}```\n"
        files.append(File.generated(config, f"examples/{program.stem}.md", content=content))
    modules = set(re.findall(r"api/([\w.]+)\.md", str(config.nav))) - {"index"}
    for module in modules:
        content = f"---\ntitle: snnkern.{module}\n---\n\n::: snnkern.{module}\n"
        files.append(File.generated(config, f"api/{module}.md", content=content))
    files.append(File.generated(config, "api/index.md", content=public_names(modules)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turns links to programs and to files of the root, which work in the repository, into links to their pages."""
    for source, page in BORROWED.items():
        markdown = markdown.replace(f"](../{source})", f"]({page})")
    return re.sub(r"\]\(\.\./examples/(\w+)\.py\)", r"](examples/\1.md)", markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Sets the indices on the page of the mathematics, such as x_1 and 2^{L-1}; Markdown has no signs for them."""
    return set_indices(html) if page.file.src_uri == "semantics.md" else html


def on_post_build(config: Any) -> None:
    """Refuses a site that loads anything from elsewhere when it is read."""
    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix in (".html", ".css") and (found := external_loads(path.read_text())):
            raise PluginError(f"{path} loads {', '.join(found)}")


def relink(markdown: str) -> str:
    """Turns the links of a file in the root into links of a page."""
    for source, page in BORROWED.items():
        markdown = markdown.replace(f"]({source}", f"]({page}")
    return markdown.replace("](docs/", "](").replace("](examples/", "](../examples/")


def public_names(modules: Collection[str]) -> str:
    """The page of all public names of `snnkern`; it describes those that no page of a module describes."""
    package = griffe.load("snnkern", search_paths=[ROOT])
    rows, rest = [], []
    for name in map(str, package.exports):
        found = package[name].final_target if package[name].is_alias else package[name]
        summary = found.docstring.value.partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        rows.append(f"| [`{name}`][{found.canonical_path}] | {summary} |")
        if found.module.path.removeprefix("snnkern.") not in modules:
            rest.append(f"::: snnkern.{name}\n    options: {{heading_level: 2}}\n")
    return "\n".join(["# API", "", "The public names of `snnkern`:", "", "| name | |", "|---|---|", *rows, "", *rest])


def set_indices(html: str) -> str:
    """Turns indices and exponents of single letters and of digits into HTML, outside of code."""
    parts = re.split(r"(<pre.*?</pre>|<code.*?</code>|<[^>]+>)", html, flags=re.DOTALL)
    for tag, sign in (("sub", "_"), ("sup", r"\^")):
        pattern = rf"(?<![A-Za-z])([A-Za-zα-ωΑ-Ω0-9]|</sub>){sign}(?:\{{([^}}]+)\}}|([A-Za-z0-9]))"
        parts[::2] = [re.sub(pattern, rf"\1<{tag}>\2\3</{tag}>", text) for text in parts[::2]]
    return "".join(parts)


def external_loads(text: str) -> list[str]:
    """Lists what a page or a style sheet loads from other servers; links for the reader are not among it."""
    tags = (
        r"<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?(?:src|data)=[\"']?((?:https?:)?//[^\"'\s>]+)"
    )
    sheets = (
        r"<link\b(?=[^>]*rel=[\"']?(?:stylesheet|preconnect|preload|icon))[^>]*?href=[\"']?((?:https?:)?//[^\"'\s>]+)"
    )
    styles = r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)"
    return [match for pattern in (tags, sheets, styles) for match in re.findall(pattern, text)]

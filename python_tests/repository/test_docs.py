"""What README and docs show is true of the code: programs run, command lines parse, links lead somewhere."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from pathlib import Path

import pytest
from support import ROOT
from support.builders import load_module
from support.drawing import skipped_where_nothing_draws

import snnkern

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
RUN = ("README.md", "getting-started.md")  # whose programs are quick
every_page = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def command_lines(page: Path) -> list[list[str]]:
    """The words of every command in the page's indented blocks and in its fenced ones of no language."""
    text = page.read_text().replace("\\\n", " ")
    shown = [*re.findall(r"^ {4}.*", text, flags=re.MULTILINE), *blocks(page, "")]
    lines = [line.strip() for line in "\n".join(shown).splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(("snnkern ", "make ", "python "))]


def quick(function, **fewer):
    """The function, which does less than it is asked to: the arguments are checked all the same."""
    signature = inspect.signature(function)

    def run(*arguments, **options):
        signature.bind(*arguments, **options)
        return function(*arguments, **options | fewer)

    return run


@pytest.mark.parametrize("name", RUN)
def test_programs_run(name, tmp_path, monkeypatch, capsys):
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    monkeypatch.chdir(tmp_path)
    collect = snnkern.collect
    monkeypatch.setattr(snnkern, "collect", quick(collect, steps=500))
    monkeypatch.setattr(snnkern, "evaluate", quick(snnkern.evaluate, episodes=1))
    (page,) = (page for page in PAGES if page.name == name)
    names: dict[str, object] = {}
    programs = blocks(page, "python")
    seen = [program for program in programs if '"dm_control/' in program]
    for program in programs:
        if program not in seen:
            exec(compile(program, str(page), "exec"), names)
    assert re.search(r"tensor\(\[\[[\d, ]+\],\n\s*\[[\d, ]+\]\]\)\n$", capsys.readouterr().out)
    monkeypatch.setattr(snnkern, "collect", quick(collect, steps=20))  # frames are drawn slowly
    with skipped_where_nothing_draws():
        exec(compile("".join(seen), str(page), "exec"), names)


@every_page
def test_blocks_are_what_they_say(page):
    for program in blocks(page, "python"):
        compile(program, str(page), "exec")
    for text in blocks(page, "json"):
        json.loads(text)
    if tables := blocks(page, "toml"):
        tomllib = pytest.importorskip("tomllib", reason="this Python reads no TOML")
        for text in tables:
            tomllib.loads(text)


@every_page
def test_links_lead_to_files_of_the_repository(page):
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@every_page
def test_command_lines_exist(page):
    typer = pytest.importorskip("typer", reason="typer is not installed: pip install 'snnkern[cli]'")
    from snnkern.cli.app import app

    group = typer.main.get_command(app)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for program, *arguments in command_lines(page):
        if program == "make":
            assert arguments[0] in targets
        elif program == "python":
            script = "" if arguments[0] == "-m" else (ROOT / arguments[0]).read_text()
            for option in re.findall(r"^--([\w-]+)", "\n".join(arguments if script else ()), flags=re.MULTILINE):
                assert re.search(rf'"--{option}"|\b{option.replace("-", "_")}: ', script), option  # or Typer makes it
        else:
            context = group.make_context("snnkern", arguments[:1])
            name, verb, _ = group.resolve_command(context, arguments[:1])
            verb.make_context(name, arguments[1:], parent=context)  # parses, and runs nothing
    for verb, *options in (span.split() for span in re.findall(r"`snnkern ([^`]+)`", page.read_text())):
        known = {name for option in group.commands[verb].params for name in option.opts}
        assert {option for option in options if option.startswith("--")} <= known


def test_pages_have_command_lines():
    assert sum(len(command_lines(page)) for page in PAGES) > 20  # else they are not found where they stand


def test_every_example_is_in_the_gallery_and_short():
    gallery = (ROOT / "docs" / "gallery.md").read_text()
    programs = sorted((ROOT / "examples").glob("*.py"))
    assert [program.name for program in programs if f"(../examples/{program.name})" not in gallery] == []
    lengths = {program.name: len(program.read_text().splitlines()) for program in programs}
    assert {name for name, length in lengths.items() if length > 40} == {"train_actor.py", "train_td3.py"}


@pytest.fixture(scope="module")
def hooks():
    for name in ("mkdocs", "griffe"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'snnkern[docs]'")
    return load_module(ROOT / "docs" / "hooks.py")


class TestSite:
    """What the site's build does by itself; that it builds, and that its links and anchors hold, `make docs` says."""

    @pytest.mark.parametrize(
        "loads",
        [
            '<script src="https://elsewhere.org/a.js">',
            "<script async src=//elsewhere.org/a.js>",
            '<link rel="stylesheet" href="https://elsewhere.org/a.css">',
            '<link href="http://elsewhere.org" rel=preconnect>',
            '<img alt="" src="https://elsewhere.org/a.png">',
            "a { background: url('https://elsewhere.org/a.png') }",
            '@import "//elsewhere.org/a.css";',
        ],
    )
    def test_what_is_loaded_from_elsewhere_is_found(self, hooks, loads):
        assert len(hooks.external_loads(loads)) == 1

    def test_links_and_files_of_the_site_are_not(self, hooks):
        page = '<a href="https://elsewhere.org">there</a><script src="a.js"></script><link rel=stylesheet href=a.css>'
        assert hooks.external_loads(page + "<style>a { background: url(a.png) }</style>") == []

    def test_a_site_that_loads_from_elsewhere_is_refused(self, hooks, tmp_path):
        (tmp_path / "page.html").write_text('<img src="https://elsewhere.org/a.png">')
        with pytest.raises(hooks.PluginError, match=r"page\.html loads https://elsewhere\.org"):
            hooks.on_post_build(type("Config", (), {"site_dir": tmp_path}))

    @pytest.mark.parametrize(
        ("plain", "html"),
        [
            ("λ_{L−1} = θ / 2^j", "λ<sub>L−1</sub> = θ / 2<sup>j</sup>"),
            ("u_T − u_0", "u<sub>T</sub> − u<sub>0</sub>"),
            ("<code>x_1</code> max_action <pre>s_t</pre>", "<code>x_1</code> max_action <pre>s_t</pre>"),
            ('<a href="#u_0">u</a>', '<a href="#u_0">u</a>'),
        ],
    )
    def test_indices(self, hooks, plain, html):
        assert hooks.set_indices(plain) == html

    def test_links_of_the_root_are_those_of_its_pages(self, hooks):
        links = "[a](docs/a.md) [b](CONTRIBUTING.md) [c](examples/c.py) ![d](docs/d.png)"
        assert hooks.relink(links) == "[a](a.md) [b](contributing.md) [c](../examples/c.py) ![d](d.png)"

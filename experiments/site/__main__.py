"""The documentation as pages that need no server: the library by module, tutorials, figures, benchmarks.

    pip install '.[docs]'
    python -m experiments.site --out site         # then open site/index.html

The library's pages are pdoc's, from the docstrings, with its search; one lists all names by concept, and one
has the equations that their docstrings cite by number (`equations` sets them). The first page is the README,
and each tutorial is its own script in prose and code. Colours follow the reader's
system, light or dark; looked at in Chromium 150 at 1,280 and 390 pixels in both (2026-11-29). Building fails
where a link leads nowhere (`broken_links`).
"""

import argparse
import html
import html.parser
import importlib
import inspect
import pathlib
import pkgutil
import re
import shutil
import sys
import urllib.parse
import warnings

from experiments.site import equations

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HERE = pathlib.Path(__file__).parent
TUTORIALS = ROOT / "experiments" / "tutorials"
PAGES = {
    "index": "jaxdiff",
    "concepts": "Concepts",
    "mathematics": "Mathematics",
    "tutorials": "Tutorials",
    "gallery": "Figures",
    "benchmarks": "What was measured",
}

CONCEPTS = ("noising", "denoising", "learning", "models", "data", "sampling", "maps", "densities", "laws")
CONCEPTS += ("theory", "guidance", "inverse", "particles", "jumps", "running", "typing")


def main(out: pathlib.Path) -> None:
    """Build the site into out, which is made anew. Raises RuntimeError where a link leads nowhere."""
    import pdoc
    import pdoc.extract
    import pdoc.render

    import jaxdiff

    if out.exists():
        shutil.rmtree(out)
    pdoc.render.configure(template_directory=HERE, footer_text="jaxdiff", search=True)
    with warnings.catch_warnings():  # of names that are imported for type checkers only
        warnings.filterwarnings("ignore", message="Error parsing type annotation")
        known = pdoc.extract.walk_specs(["jaxdiff"])  # of the others, under their short names, too
        flat = (item for item in map(jaxdiff.__dict__.get, jaxdiff.__all__) if inspect.ismodule(item))
        others = sorted({item.__name__ for item in flat} - set(known))
        pdoc.pdoc("jaxdiff", *others, output_directory=out)
    for page in (*out.rglob("*.html"), out / "search.js"):
        _tidy(page)
    figures = sorted((ROOT / "experiments").rglob("*.png")) + sorted((ROOT / "benchmarks").glob("*.png"))
    for figure in figures:
        shutil.copy(figure, _name(out, figure))
    scripts = sorted(TUTORIALS.glob("[0-9]*.py"))
    said = dict(re.findall(r"^    (\d\d_\w+) +(.+)$", (TUTORIALS / "__init__.py").read_text(), re.MULTILINE))
    index = [f"- [{_title(script)}]({script.stem}.html): {said[script.stem]}" for script in scripts]
    gallery = [
        f"## {_caption(figure)}\n\n[![{_caption(figure)}]({name})]({name})"
        for figure in figures
        for name in (_name(out, figure).name,)
    ]
    _write(out, "index", _linked(out, ROOT / "README.md"))
    _write(out, "concepts", concepts())
    _write(out, "mathematics", mathematics())
    _write(out, "tutorials", "# Tutorials\n\n" + "\n".join(index))
    _write(out, "gallery", "# Figures\n\n" + "\n\n".join(gallery))
    _write(out, "benchmarks", _linked(out, ROOT / "benchmarks" / "README.md"))
    for script in scripts:
        _write(out, script.stem, tutorial(script.read_text()))
    broken = broken_links(out)
    if broken:
        raise RuntimeError("links that lead nowhere: " + ", ".join(broken[:20]))


def concepts() -> str:
    """All public names by the package that they are of, with their first sentences, as Markdown."""
    import jaxdiff

    parts = ["# Concepts"]
    for concept in CONCEPTS:
        rows = [f"## {concept}", "", _summary(importlib.import_module(f"jaxdiff.{concept}")), ""]
        rows += ["| | |", "|---|---|"]
        for name in jaxdiff.__all__:
            item = getattr(jaxdiff, name)
            module = item.__name__ if inspect.ismodule(item) else getattr(item, "__module__", None) or ""
            if module.split(".")[:2] == ["jaxdiff", concept] and item.__doc__:
                own = inspect.ismodule(item)
                page = f"{module.replace('.', '/')}.html" if own else f"jaxdiff.html#{name}"
                rows.append(f"| [{name}]({page}) | {_summary(item)} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def mathematics() -> str:
    """What the library's modules say of themselves where they have equations, as Markdown."""
    import jaxdiff

    parts = ["# Mathematics", "Equations that a docstring cites by number are those of its module, here."]
    for concept in CONCEPTS:
        package = importlib.import_module(f"jaxdiff.{concept}")
        modules = [package]
        for found in pkgutil.walk_packages(getattr(package, "__path__", ()), f"{package.__name__}."):
            modules.append(importlib.import_module(found.name))
        for module in modules:
            text = inspect.getdoc(module) or ""
            if not any(map(equations.is_formula, _INDENTED.findall(text))):
                continue
            own = [
                f"[{name}](jaxdiff.html#{name})"
                for name in jaxdiff.__all__
                if getattr(getattr(jaxdiff, name), "__module__", None) == module.__name__
            ]
            heading = f"## {module.__name__.removeprefix('jaxdiff.')}"
            parts += [heading, _escaped(text), *([f"Names: {', '.join(own)}"] if own else [])]
    return "\n\n".join(parts)


_INDENTED = re.compile(r"(?:^    .*\n?)+", re.MULTILINE)


def _escaped(docstring: str) -> str:
    """A docstring whose stars are not Markdown's."""
    lines = docstring.splitlines()
    return "\n".join(
        line if line.startswith("    ") else re.sub(r"(?<!\w)\*(?!\w)|(?<=\w)\*(?=\w)", "&#42;", line)
        for line in lines
    )


def _summary(item: object) -> str:
    """The first sentences of a docstring, in a cell of a table, where no letter is Markdown's."""
    words = html.escape(" ".join((item.__doc__ or "").split("\n\n")[0].split()))
    words = re.sub(r"[|*_]", lambda match: f"&#{ord(match[0])};", words)
    return re.sub(r"(`+)(.+?)\1", r"<code>\2</code>", words)


def tutorial(script: str) -> str:
    """A script of cells, in percent format, as Markdown."""
    parts = []
    for cell in re.split(r"^# %%", script, flags=re.MULTILINE)[1:]:
        kind, _, body = cell.partition("\n")
        if "[markdown]" in kind:
            parts.append("\n".join(line.removeprefix("#").removeprefix(" ") for line in body.splitlines()))
        elif body.strip():
            parts.append(f"```python\n{body.strip()}\n```")
    return "\n\n".join(parts)


def broken_links(site: pathlib.Path) -> list[str]:
    """Links between the site's own pages, and to places on them, that lead nowhere."""
    pages = {page.relative_to(site): _Links(page.read_text()) for page in site.rglob("*.html")}
    broken = []
    for page, found in pages.items():
        for link in found.links:
            target = urllib.parse.urlsplit(link)
            if target.scheme or target.netloc or link.startswith("data:"):
                continue
            path = (site / page.parent / urllib.parse.unquote(target.path)).resolve()
            if target.path and not path.exists():
                broken.append(f"{page}: {link}")
                continue
            place = pages.get(path.relative_to(site.resolve())) if target.path else found
            if target.fragment and place is not None and target.fragment not in place.places:
                broken.append(f"{page}: {link}")
    return broken


class _Links(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.places.add(value)


def _tidy(page: pathlib.Path) -> None:
    """pdoc's page without links to what it does not show, names of jax's insides, and what tuples say."""
    text = page.read_text()
    # In the index of the search quotation marks are escaped.
    dot = r"<span class=\1o\1>\.</span>"
    inside = rf"<span class=(\\?\")n\1>jax</span>(?:{dot}<span class=\1n\1>(?:jaxlib|_jax)</span>){{2}}{dot}"
    text = re.sub(inside, "", text).replace("jax.jaxlib._jax.Array", "Array")
    later = r"<span class=\"n\">ForwardRef</span><span class=\"p\">\(</span><span class=\"s1\">\W*(?:#39;)?"
    text = re.sub(later + r"(\w+)[^<]*</span><span class=\"p\">\)</span>", r'<span class="n">\1</span>', text)
    text = re.sub(r"<p>(Alias for field number|Create new instance of) [^<]*</p>", "", text)
    places = _Links(text).places
    kept = lambda match: match[0] if match[1] in places else ""  # noqa: E731
    text = re.sub(r' href="#([^"]+)"', kept, text)
    page.write_text(equations.rendered(equations.in_prose(text)) if page.suffix == ".html" else text)


def _linked(out: pathlib.Path, path: pathlib.Path) -> str:
    """Markdown whose links to files of the repository lead to their pages, or are plain words."""
    text = path.read_text()
    pages = {"benchmarks/README.md": "benchmarks.html", "experiments/tutorials/__init__.py": "tutorials.html"}

    def page(match: re.Match[str]) -> str:
        words, target = match.groups()
        if target in pages:
            return f"[{words}]({pages[target]})"
        if target.endswith(".png"):
            return f"[{words}]({_name(out, (path.parent / target).resolve()).name})"
        return match.group(0) if ":" in target else words

    return re.sub(r"\[([^\]]*)\]\(([^)]*)\)", page, text)


def _write(out: pathlib.Path, name: str, markdown: str) -> None:
    import markdown2

    body = markdown2.markdown(
        markdown, extras=["code-friendly", "fenced-code-blocks", "tables", "header-ids"]
    )
    body = equations.rendered(equations.in_prose(body) if name == "mathematics" else body)
    title = html.escape(PAGES.get(name, name.replace("_", " ")))
    links = "".join(f'<a href="{page}.html">{html.escape(words)}</a>' for page, words in PAGES.items())
    style = "".join((HERE / sheet).read_text() for sheet in ("theme.css", "page.css"))
    (out / f"{name}.html").write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<style>{style}</style></head><body class="pdoc"><nav>{links}<a href="jaxdiff.html">The library</a>'
        f"</nav><main>{body}</main></body></html>\n"
    )


def _name(out: pathlib.Path, figure: pathlib.Path) -> pathlib.Path:
    return out / "-".join(figure.relative_to(ROOT).parts)


def _caption(figure: pathlib.Path) -> str:
    return " ".join(figure.relative_to(ROOT).with_suffix("").parts[1:]).replace("figure", "").strip()


def _title(script: pathlib.Path) -> str:
    heading = re.search(r"^# # (.+)$", script.read_text(), re.MULTILINE)
    return heading[1] if heading else script.stem


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m experiments.site",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("site"))
    flags = parser.parse_args()
    try:
        main(flags.out)
    except ImportError as error:
        parser.exit(2, f"{parser.prog}: {error}; pip install '.[docs]' has what it takes.\n")
    print(f"written to {flags.out}/index.html", file=sys.stderr)

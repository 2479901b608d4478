"""The docstrings' formulas, which are written to be read in a terminal, as a page shows them.

    x_t = alpha(t) data + sigma(t) noise    (1)

becomes a row of a table with Greek letters, indices below, exponents above and its number at the right; two
spaces or more, which align columns in a terminal, part cells. What is Python stays code, and a table of bars
becomes one.
"""

import ast
import html
import itertools
import re
import textwrap

_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi omega"
)
_LETTERS: dict[str, str] = dict(zip(_GREEK.split(), "αβγδεζηθκλμνξπρστφχψω", strict=True))
_LETTERS |= {"Gamma": "Γ", "Delta": "Δ", "Lambda": "Λ", "Sigma": "Σ", "Phi": "Φ", "Psi": "Ψ", "Omega": "Ω"}
_LETTERS |= {"sum": "∑", "int": "∫", "prod": "∏", "sqrt": "√", "grad": "∇", "infinity": "∞"}
_SIGNS = {"<=": "≤", ">=": "≥", "!=": "≠", "->": "→", "'": "′", "-": "−", "*": "·"}
_NAME = rf"(?!(?:{_GREEK.replace(' ', '|')})_)[A-Za-z]{{3,}}(?:_[a-z]{{2,}})+"
_TOKEN = re.compile(
    rf"(?P<code>`+[^`]+`+|{_NAME})|(?P<word>[A-Za-z]+)"
    r"|(?P<mark>[_^])(?P<group>\{[^{}]*\}|\([^()]*\)|-?[A-Za-z0-9/]+\*?|[*+-])"
    r"|(?P<sign><=|>=|!=|->|'|(?<![A-Za-z])-|-(?![A-Za-z])|(?<= )\*(?= ))|(?P<other>.)",
    re.DOTALL,
)
_POWER = r"\^(?:\{[^{}]*\}|\([^()]*\)|-?[a-z0-9]+)"
_INLINE = re.compile(
    rf"(?<![\w.])(?:(?:{_GREEK.replace(' ', '|')})(?![A-Za-z(])|[A-Za-z](?=_[A-Za-z0-9{{]|\^))"
    rf"(?:_(?:\{{[^{{}}]*\}}|[A-Za-z0-9](?!\w)))?(?:{_POWER})?(?!\w)|(?<=[|)\]]){_POWER}(?!\w)"
)
_FORMULA = re.compile(r"=|<=|->|~|\^")
_LONE = re.compile(r"(?<=\S) {2,}([-+]) {2,}")  # an operator between wide spaces parts no cells
_NUMBER = re.compile(r"\s+(\(\d+\))\.?$")


def rendered(page: str) -> str:
    """A page of HTML whose plain blocks of code are set, where they are formulas or tables."""

    def block(match: re.Match[str]) -> str:
        text = html.unescape(re.sub(r"<[^>]*>", "", match[1]))
        lines = [line for line in textwrap.dedent(text).splitlines() if line.strip()]
        if not is_formula(text) and not all(map(_is_bar, lines)):
            return match[0]
        runs = itertools.groupby(lines, _is_bar)
        return "".join(_bars(list(run)) if bars else _equations(list(run)) for bars, run in runs)

    code = r"<pre>(?:<span></span>)?<code>(.*?)</code></pre>"
    colored = rf'<div class="pdoc-code codehilite">\s*{code}\s*</div>'
    for pattern in (colored, code):
        page = re.sub(pattern, block, page, flags=re.DOTALL)
    return page


def in_prose(page: str) -> str:
    """A page of HTML whose paragraphs' Greek letters, indices and exponents are set, outside of code."""

    def paragraph(match: re.Match[str]) -> str:
        parts = re.split(r"(<code>.*?</code>|<a .*?</a>|<[^>]*>)", match[0], flags=re.DOTALL)
        parts[::2] = [_INLINE.sub(lambda own: typeset(own[0]), part) for part in parts[::2]]
        return "".join(parts)

    return re.sub(r"<(p|li)>.*?</\1>", paragraph, page, flags=re.DOTALL)


def is_formula(text: str) -> bool:
    """Whether a block is mathematics: it says that something is equal, and Python cannot read it."""
    if ">>>" in text or not _FORMULA.search(text):
        return False
    try:
        ast.parse(textwrap.dedent(text))
    except SyntaxError:
        return True
    return False


def typeset(formula: str) -> str:
    """One line of a formula as HTML.

    >>> typeset("E|x_t|^2 <= sigma_{k+1}^(1/2)")
    '<i>E</i>|<i>x</i><sub><i>t</i></sub>|<sup>2</sup> ≤ σ<sub><i>k</i>+1</sub><sup>1/2</sup>'
    """
    found = []
    for match in _TOKEN.finditer(formula):
        if match["mark"]:
            tag, inside = {"_": "sub", "^": "sup"}[match["mark"]], match["group"]
            bare = inside[1:-1] if inside[0] in "{(" else inside
            found.append(f"<{tag}>{typeset(bare)}</{tag}>")
        elif match["code"]:
            found.append(f"<code>{html.escape(match['code'].strip('`'))}</code>")
        elif match["word"]:
            word = match["word"]
            found.append(f"<i>{word}</i>" if len(word) == 1 else _LETTERS.get(word, word))
        else:
            found.append(_SIGNS.get(match["sign"] or "") or html.escape(match["other"] or "", quote=False))
    return "".join(found)


def _is_bar(line: str) -> bool:
    return line.lstrip().startswith("|") and line.rstrip().endswith("|")


def _equations(lines: list[str]) -> str:
    numbers = [match[1] if (match := _NUMBER.search(line)) else "" for line in lines]
    bodies = [_LONE.sub(r" \1 ", _NUMBER.sub("", line)) for line in lines]
    places = {body.find("=") for body in bodies}
    if len(bodies) > 1 and len(places) == 1 and places != {-1}:
        (place,) = places  # where all equate, in one column
        cells = [[body[:place].rstrip(), *re.split(r" {2,}", body[place:])] for body in bodies]
    else:
        cells = [re.split(r"(?<=\S) {2,}", body) for body in bodies]
    width = max(map(len, cells))
    rows = []
    for row, number in zip(cells, numbers, strict=True):
        indent = len(row[0]) - len(row[0].lstrip())
        first = f'<td style="padding-left:{indent / 2:g}em">' if indent else "<td>"
        said = "<td>".join(f"{typeset(cell.strip())}</td>" for cell in row)
        rows.append(
            f'<tr>{first}{said}<td class="number" colspan="{width + 1 - len(row)}">{number}</td></tr>'
        )
    return f'<table class="equations">{"".join(rows)}</table>'


def _bars(lines: list[str]) -> str:
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    rows = [row for row in rows if not all(set(cell) <= set("-: ") for cell in row)]
    head, *body = ("".join(f"<td>{typeset(cell)}</td>" for cell in row) for row in rows)
    return (
        f'<table class="bars"><thead><tr>{head.replace("td>", "th>")}</tr></thead>'
        f"<tbody>{''.join(f'<tr>{row}</tr>' for row in body)}</tbody></table>"
    )

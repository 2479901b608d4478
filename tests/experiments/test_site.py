"""The site is built whole, and its own judge of links sees what is broken."""

import re

import pytest

import jaxdiff
from experiments.site import __main__ as site
from experiments.site import equations


def test_links_that_lead_nowhere_are_seen(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here">1</a><a href="b.html#there">2</a><a href="#x">3</a>'
    )
    (tmp_path / "b.html").write_text(
        '<p id="here"><a href="a.html">4</a><img src="c.png"><a href="https://x.y">5</a>'
    )
    assert sorted(site.broken_links(tmp_path)) == ["a.html: #x", "a.html: b.html#there", "b.html: c.png"]


def test_a_script_of_cells_is_prose_and_code():
    script = (
        '"""Doc."""\n\n# %% [markdown]\n# # A title\n#\n# Words.\n# %%\nx = 1\n\n# %% [markdown]\n# More.\n'
    )
    assert site.tutorial(script) == "# A title\n\nWords.\n\n```python\nx = 1\n```\n\nMore."


def test_every_public_name_is_of_a_concept():
    """But for a number, an alias, and what only writers of laws ask for."""
    page = site.concepts()
    named = re.findall(r"^\| \[(\w+)\]\((.+)\) \| \S", page, re.MULTILINE)
    assert len(dict(named)) == len(named)
    assert set(jaxdiff.__all__) - dict(named).keys() == {
        "EXIT_INTERRUPTED",
        "Predictor",
        "__version__",
        "pytree",
    }
    assert dict(named)["times"] == "jaxdiff/noising/times.html"
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == list(site.CONCEPTS)
    assert "`" not in page
    assert "sigma_min" not in page  # letters that are Markdown's are written out


def test_equations_that_a_name_cites_are_on_the_page_of_mathematics():
    page = site.mathematics()
    headings = re.findall(r"^## (\S+)$", page, re.MULTILINE)
    citing = re.compile(r"\beqs?\. \(\d+\)(?! (?:of|in))")
    for name in jaxdiff.__all__:
        item = getattr(jaxdiff, name)
        module = getattr(item, "__module__", None) or ""
        own = module.removeprefix("jaxdiff.")
        if citing.search(item.__doc__ or "") and own != module:
            assert {own, own.rpartition(".")[0]} & {*headings}, name  # its package's, where that has them
    assert "[log_density](" not in page.split("## densities.flow")[1].split("## ")[0]
    assert "[probability_flow](jaxdiff.html#probability_flow)" in page


def test_formulas_are_set_and_code_stays_code():
    set_ = equations.typeset("E|x_t|^2 <= sigma_{k+1}^(1/2) - log_prob(x)")
    assert set_ == (
        "<i>E</i>|<i>x</i><sub><i>t</i></sub>|<sup>2</sup> ≤ σ<sub><i>k</i>+1</sub><sup>1/2</sup>"
        " − <code>log_prob</code>(<i>x</i>)"
    )
    page = (
        "<pre><code>m   = n_s + 1   (3)\ny_g = 2,   if a &lt; b\n</code></pre>"
        "<pre><code>| a | b |\n|---|---|\n| 1 | x^2 |\n</code></pre>"
    )
    made = equations.rendered(page)
    assert (
        '<td><i>m</i></td><td>= <i>n</i><sub><i>s</i></sub> + 1</td><td class="number" colspan="2">(3)'
        in made
    )
    assert "<td>if <i>a</i> &lt; <i>b</i></td>" in made
    assert "<th><i>a</i></th><th><i>b</i></th>" in made
    assert "<td><i>x</i><sup>2</sup></td></tr></tbody>" in made
    assert "pre" not in made
    for code in (">>> x_t = 1", "x_t = f(alpha, beta)", "def f(x): return x ** 2"):
        assert equations.rendered(f"<pre><code>{code}</code></pre>") == f"<pre><code>{code}</code></pre>"
    # In prose what may be a name stays as it is.
    prose = equations.in_prose(
        "<p>x_t, |u|^2 and alpha_s, not t_min, alpha(t) or <code>x_t</code>: x^2</p> x_t"
    )
    assert prose == (
        "<p><i>x</i><sub><i>t</i></sub>, |u|<sup>2</sup> and α<sub><i>s</i></sub>, not t_min, alpha(t) or "
        "<code>x_t</code>: <i>x</i><sup>2</sup></p> x_t"
    )


@pytest.mark.slow
def test_the_site_is_built_without_a_broken_link(tmp_path):
    out = tmp_path / "site"
    site.main(out)
    assert not site.broken_links(out)
    assert "dpm_solver_pp" in (out / "jaxdiff.html").read_text()
    assert "| measured" not in (out / "benchmarks.html").read_text()  # a table is a table
    for name in site.PAGES:
        assert "<nav>" in (out / f"{name}.html").read_text()
    assert "prefers-color-scheme:dark" in (out / "jaxdiff.html").read_text()
    times, models = ((out / "jaxdiff" / page).read_text() for page in ("noising/times.html", "models.html"))
    assert '<a href="../../tutorials.html">Tutorials</a>' in times
    assert "power_grid" in times
    assert 'id="UNet.channels"' in models
    assert 'id="UNet.parent"' not in models  # every module's
    assert 'class="equations"' in (out / "mathematics.html").read_text()
    assert "_jax" not in (out / "search.js").read_text()  # its own name is Array

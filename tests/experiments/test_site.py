"""The site is built whole, and its own judge of links sees what is broken."""

import re

import pytest

import jaxdiff
from experiments.site import __main__ as site


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
    assert "_jax" not in (out / "search.js").read_text()  # its own name is Array

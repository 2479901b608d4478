"""The README's code runs as printed, and does what it says."""

import pathlib
import re

import jax
import numpy as np

import jaxdiff as jd

README = (pathlib.Path(jd.__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def run(block):
    # rank promotion is the tests' own rule, not one that users live under
    names = {}
    with jax.numpy_rank_promotion("allow"):
        exec(compile(block, "README.md", "exec"), names)
    return names


def test_two_moons_in_twelve_lines():
    block = next(b for b in BLOCKS if "two_moons" in b)
    assert len([line for line in block.splitlines() if line.strip()]) <= 12
    samples = run(block)["samples"]
    truth = jd.data.two_moons(jax.random.key(1), 4000)
    distance = jd.metrics.sliced_wasserstein(jax.random.key(2), samples, truth, num_projections=100)
    floor = jd.metrics.sliced_wasserstein(jax.random.key(2), truth[:2000], truth[2000:], num_projections=100)
    assert distance < 0.1, (distance, floor)  # the moons are 1.7 by 1; N(0, I) is at .5


def test_score_errors_in_one_call():
    names = run(next(b for b in BLOCKS if "score_error" in b))
    errors = np.asarray(names["errors"])
    assert errors.shape == (3, 4, 5)
    assert (errors > 0).all()
    assert (errors[..., -1] < errors[..., 0]).all()  # noise makes every law a Gaussian
    one = names["error"](jax.random.split(jax.random.key(1), 4)[2], 10.0)
    np.testing.assert_allclose(errors[1, 2], one, rtol=1e-4)


def test_a_late_start(capsys):
    names = run(next(b for b in BLOCKS if "choose_horizon" in b))
    assert "<- least total" in capsys.readouterr().out
    truth = names["truth"].sample(jax.random.key(1), 2000)
    distance = jd.metrics.energy_distance(names["samples"], truth)
    assert abs(distance.value) < 4 * distance.standard_error + 0.002
    assert float(names["choice"].times[0]) < 80 / 10

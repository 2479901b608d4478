"""The README's code runs as printed, and does what it says."""

import pathlib
import re

import jax
import numpy as np
import pytest

import jaxdiff as jd

README = (pathlib.Path(jd.__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def run(block):
    # rank promotion is the tests' own rule, not one that users live under
    names = {}
    with jax.numpy_rank_promotion("allow"):
        exec(compile(block, "README.md", "exec"), names)
    return names


def block_with(words, *, fewer=None):
    block = next(b for b in BLOCKS if words in b)
    return block if fewer is None else re.sub(r"num_steps=\d+", f"num_steps={fewer}", block)


def num_lines(block):
    return len([line for line in block.splitlines() if line.strip()])


@pytest.mark.slow  # the next one is the same program, on many devices
def test_two_moons_in_ten_lines():
    block = block_with("two_moons")
    assert num_lines(block) <= 11  # and the imports
    samples = run(block)["samples"]
    truth = jd.data.two_moons(jax.random.key(1), 4000)
    distance = jd.metrics.sliced_wasserstein(jax.random.key(2), samples, truth, num_projections=100)
    floor = jd.metrics.sliced_wasserstein(jax.random.key(2), truth[:2000], truth[2000:], num_projections=100)
    assert distance < 0.1, (distance, floor)  # the moons are 1.7 by 1; N(0, I) is at .5


@pytest.mark.slow
def test_the_same_bootstrapped_in_four_lines():
    """The average is not listened to before its step; listened to, it makes another network."""
    block = block_with("half_noise_loss")
    assert num_lines(block) == 4
    program = block_with("two_moons", fewer=3).replace("width=64", "width=8")
    data, init, train = program[: program.index("def loss")], *re.findall(r"^state = .*$", program, re.M)
    late, early = (
        run("\n".join([data, init, block.replace("200", start), train]))["state"].params
        for start in ("200", "0")
    )
    moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (late, early)), strict=True)]
    assert 0 < max(moved) < 0.1


@pytest.mark.slow
def test_the_same_on_many_devices():
    lines = block_with("two_moons", fewer=3).replace("width=64", "width=8").splitlines()
    before = "\n".join(line for line in lines if not re.match("(state|step|samples) ?[,=]", line))
    many = run(f"{before}\n{block_with('data_parallel', fewer=3)}")
    one = run("\n".join(lines[:-1]))
    assert len(many["state"].step.sharding.device_set) == 8
    for a, b in zip(jax.tree.leaves(many["state"].params), jax.tree.leaves(one["state"].params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_hole_is_filled_by_the_posterior():
    """What is kept is kept to the noise that it was seen through; the hole is not all alike."""
    block = block_with("inverse.mask", fewer=20)
    assert num_lines(block) <= 12
    names = run(block)
    images, filled, kept = (np.asarray(names[name]) for name in ("images", "filled", "kept"))
    assert np.abs(filled - images[0])[:, kept].mean() < 0.1
    assert 0.1 < filled[:, ~kept].std(0).mean() < images[:, ~kept].std()

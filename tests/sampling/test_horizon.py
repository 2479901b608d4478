"""The choice of a horizon against the oracle's, jitted and not, and what it refuses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import compilations

import jaxdiff as jd
from jaxdiff.laws.shaped import Shaped
from jaxdiff.models import SplineCoupling
from jaxdiff.sampling import horizon, starts

KARRAS = jd.Karras()


def between(denoise, t_min, t_max):
    """The denoiser where it knows these times only."""
    return dataclasses.replace(denoise, t_min=t_min, t_max=t_max)


@pytest.mark.parametrize(
    ("sampler", "num_steps"),
    [(jd.Heun(), 2), (jd.dpm_solver_pp(), 4), (jd.ancestral(), 4)],
    ids=["heun", "dpm", "ddpm"],
)
def test_the_choice_is_nearly_the_best_for_the_sampler_that_is_used(sampler, num_steps):
    """In four calls, within 25 % of the least that an oracle finds who draws from the law and judges in NumPy."""
    rng = np.random.default_rng(2)
    law = jd.GaussianMixture(jnp.full(4, 0.25), rng.standard_normal((4, 2)), jnp.full(4, 0.02))
    denoise, data = law.denoiser(KARRAS), law.sample(jax.random.key(0), 2000)
    options = {"num_steps": num_steps, "sampler": sampler, "horizons": [0.3, 1.0, 3.0, 10.0]}
    choice = jd.choose_horizon(jax.random.key(1), starts.gaussian(), denoise, data, **options)
    angles = np.pi * np.arange(16) / 16
    directions = np.stack([np.cos(angles), np.sin(angles)])
    fresh = np.sort(np.asarray(law.sample(jax.random.key(2), 8000)) @ directions, axis=0)

    def oracle(start, times):
        x = start.sample(jax.random.key(3), 8000)
        x = np.asarray(jd.integrate(jax.random.key(4), denoise, x, times, sampler=sampler))
        return np.sqrt(np.mean((np.sort(x @ directions, axis=0) - fresh) ** 2))

    found = [
        oracle(jd.fit_start(jax.random.key(5), starts.gaussian(), data, KARRAS, t), times)
        for t, grids in zip(options["horizons"], choice.candidates.times, strict=True)
        for times in (
            *grids,
            jd.times.to_clean(KARRAS, jd.times.power_grid(num_steps - 1, t_max=t, t_min=0.02, rho=7)),
        )
    ]
    assert oracle(choice.start, choice.times) < 1.25 * min(found)
    assert np.median(found) > 1.5 * min(found)  # so the choice means something


def test_distances_are_those_of_gaussian_data():
    """Euler's method takes N(0, 1 + T^2) to a variance in closed form, whose root's error is the distance."""
    law = jd.Gaussian(jnp.zeros(3), 1.0)
    data = law.sample(jax.random.key(0), 4000)
    choice = jd.choose_horizon(
        jax.random.key(1),
        starts.gaussian(),
        law.denoiser(KARRAS),
        data,
        num_steps=4,
        sampler=jd.DDIM(),
        horizons=[0.5, 2.0, 8.0],
    )
    tried = choice.candidates
    grids = np.asarray(tried.times, np.float64)
    high, low = grids[..., :-1], grids[..., 1:]
    std = np.sqrt(1 + grids[..., 0] ** 2) * np.prod((1 + high * low) / (1 + high**2), axis=-1)
    np.testing.assert_allclose(tried.distance, np.abs(1 - std), atol=0.05)
    # The best grids of horizons are told apart: from 2,000 samples, .03 would read .075.
    np.testing.assert_allclose(tried.distance.min(1), np.abs(1 - std).min(1), atol=0.028)
    np.testing.assert_allclose(tried.no_steps, np.sqrt(1 + grids[:, 0, 0] ** 2) - 1, rtol=0.05, atol=0.05)
    np.testing.assert_allclose(tried.from_data, np.min(np.abs(1 - std), axis=1), atol=0.05)
    assert np.abs(1 - std).max() > 0.5
    horizon, grid = np.unravel_index(np.argmin(tried.distance), tried.distance.shape)
    np.testing.assert_array_equal(choice.times, tried.times[horizon, grid])
    assert float(choice.t_max) == grids[horizon, 0, 0]


@pytest.mark.parametrize("schedule", [KARRAS, jd.RectifiedFlow()], ids=["karras", "rectified"])
def test_the_grids_are_powers_to_no_noise_and_even_in_log_snr(schedule):
    """In the ratio of noise to signal, whatever the schedule; and none but the last has less than t_min."""
    for num_steps, last in ((4, 0.01), (1, 0.01), (12, 0.1)):
        ends = [t if schedule == KARRAS else t / (1 + t) for t in (last, 3.0)]
        grids = np.asarray(horizon._grids(schedule, 2.0, ends[1], ends[0], num_steps), np.float64)
        assert (np.diff(grids) < 0).all()
        np.testing.assert_array_equal(grids[:, -1], 0)
        ratios = (grids if schedule == KARRAS else grids / (1 - grids))[:, :-1]
        assert ratios.min() > 0.999 * last
        if num_steps == 4:
            powers = 3 * (1 - np.arange(4) / 4) ** np.array([[1], [1.5], [2], [3], [5]])
            np.testing.assert_allclose(ratios[:4], powers[:4], rtol=1e-3)
            np.testing.assert_allclose(ratios[4, -1], 0.01, rtol=1e-3)  # where 3 / 4^5 would be below it
            np.testing.assert_allclose(ratios[5:, -1], [0.02, 0.08, 0.2], rtol=1e-3)
            np.testing.assert_allclose(ratios[5:, 1] ** 2, ratios[5:, 0] * ratios[5:, 2], rtol=1e-3)


LAW = jd.GaussianMixture(jnp.array([0.3, 0.7]), jnp.array([[-1.5, 0.0], [1.0, 0.5]]), jnp.array([0.1, 0.2]))
PURE = {
    "gaussian": starts.gaussian(),
    "mixture": starts.gaussian_mixture(2, num_restarts=1, num_iterations=5),
}
FEW = {"num_samples": 64, "num_steps": 3}


@pytest.mark.parametrize("name", PURE)
def test_it_is_one_program_under_jit(name):
    """The same choice as eagerly; and a second eager call, with a new key and data, compiles nothing."""
    data = LAW.sample(jax.random.key(0), 400)

    def choose(seed, data):
        return jd.choose_horizon(
            jax.random.key(seed),
            PURE[name],
            LAW.denoiser(KARRAS),
            data,
            num_steps=8,
            sampler=jd.Heun(),
            horizons=[0.5, 1.0, 4.0],
            num_samples=64,
        )

    eager, jitted = choose(1, data), jax.jit(choose)(1, data)
    assert str(eager) == eager.table()
    for field in ("t_max", "times", "candidates"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-3, atol=1e-4),
            getattr(eager, field),
            getattr(jitted, field),
        )
    np.testing.assert_allclose(jitted.start.log_prob(data), eager.start.log_prob(data), rtol=1e-2, atol=1e-2)
    others = data + 0.01
    assert compilations(lambda: choose(2, others)) == 0


@pytest.mark.parametrize("reference", ["model", "data"])
def test_rows_held_out_are_not_fitted(monkeypatch, reference):
    """Nor returned: the law that was tried is. Against the model's own samples none need to be held out."""
    data, gaussian, seen, judged = LAW.sample(jax.random.key(0), 60), starts.gaussian(), [], []
    make_trial = horizon.make_trial

    def watched_fit(key, rows, schedule, t):
        seen.append(np.asarray(rows))
        return gaussian.fit(key, rows, schedule, t)

    def watched(key, denoise, data, *rest):
        judged.append(np.asarray(data))
        return make_trial(key, denoise, data, *rest)

    monkeypatch.setattr(horizon, "make_trial", watched)
    choice = jd.choose_horizon(
        jax.random.key(1),
        gaussian._replace(fit=watched_fit),
        LAW.denoiser(KARRAS),
        data,
        horizons=[0.5, 1.0],
        reference=reference,
        **FEW,
    )
    rows, (judging,) = {tuple(row) for row in np.asarray(data).tolist()}, judged
    held = {tuple(row) for row in judging.tolist()}
    assert len(held) == (12 if reference == "data" else 60)
    assert len(judging) == 60  # again and again, at most num_samples
    assert len(seen) == 2
    for fitted in seen:
        assert {tuple(row) for row in fitted.tolist()} == (rows - held if reference == "data" else rows)
    np.testing.assert_allclose(choice.start.mean, seen[0].mean(0), rtol=1e-5)


def test_a_network_s_error_counts_against_the_data_only():
    """A denoiser that is off by a shift: its own samples are as it says, and far from the data."""
    law = jd.Gaussian(jnp.zeros(2), 1.0)
    wrong = jd.Gaussian(jnp.full(2, 3.0), 1.0).denoiser(KARRAS)
    data = law.sample(jax.random.key(0), 1000)

    def least(reference):
        choice = jd.choose_horizon(
            jax.random.key(1),
            starts.gaussian(),
            wrong,
            data,
            num_steps=8,
            horizons=[0.2, 20.0],
            reference=reference,
            num_samples=256,
        )
        return choice.candidates.distance.min(axis=1)

    # The steps from a noise of .2 move samples by 3 (1 - (1 / 1.04)^(1/2)), and those from 20 by 2.85. So few
    # random projections see a shift to 4 % or so.
    np.testing.assert_allclose(least("model"), [3 - 3 * 0.0194, 0.15], atol=0.25)
    np.testing.assert_allclose(least("data"), [0.0194 * 3, 2.85], atol=0.25)


@pytest.mark.slow
def test_default_horizons_double_where_there_is_room():
    """Of the noise in units of the data, under any schedule; else closer, inside what the denoiser knows."""
    law = jd.Gaussian(jnp.zeros(2), 4.0)
    data = law.sample(jax.random.key(0), 50)

    def horizons(denoise):
        choice = jd.choose_horizon(jax.random.key(1), starts.gaussian(), denoise, data, **FEW)
        return np.asarray(choice.candidates.t_max, np.float64)

    wanted = 2 * 0.25 * 2.0 ** np.arange(8)
    np.testing.assert_allclose(horizons(law.denoiser(KARRAS)), wanted, rtol=1e-4)
    t = horizons(law.denoiser(jd.RectifiedFlow()))
    np.testing.assert_allclose(t / (1 - t), wanted, rtol=1e-3)
    close = horizons(between(law.denoiser(KARRAS), 0.1, 5.0))
    np.testing.assert_allclose(close, 0.25 * 20 ** (np.arange(1, 9) / 9), rtol=1e-4)


@pytest.mark.slow
def test_images_and_their_conditions():
    """The choice for rows of vectors is that for images of the same entries; and a condition goes by row."""
    data, key = LAW.sample(jax.random.key(0), 60), jax.random.key(1)
    options = {**FEW, "horizons": [0.5, 2.0]}
    flat = jd.choose_horizon(key, starts.gaussian(), LAW.denoiser(KARRAS), data, **options)
    images = data.reshape(60, 1, 2)
    law = Shaped(LAW, (1, 2))
    shaped = jd.choose_horizon(key, starts.gaussian(), law.denoiser(KARRAS), images, **options)
    assert shaped.start.shape == (1, 2)
    for a, b in zip(flat.candidates, shaped.candidates, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)

    # Moved by rows, data and denoiser together: what is asked of row i must be asked under its condition.
    shift = 5.0 * (-1.0) ** jnp.arange(60.0)[:, None]
    inner = LAW.denoiser(KARRAS)

    def conditional(x, t, shift):
        answer = inner(x - shift, t)
        return jd.Denoised(answer.data + shift, answer.noise)

    denoise = jd.as_denoiser(conditional, KARRAS, shape=(2,), scale=5.0).given(shift)
    for reference in ("model", "data"):
        moved = jd.choose_horizon(
            key, starts.isotropic(), denoise, data + shift, reference=reference, **options
        )
        assert (
            moved.candidates.from_data[0] < 0.6
        )  # that of rows under each other's condition would be above 2


def test_of_several_families_the_nearest_start_wins_whatever_their_order():
    """Two modes in two calls: a mixture of two is exact at any horizon, and a Gaussian at none that is short.

    Each row of the candidates is what its family alone has.
    """
    law = jd.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [0.01, 0.01])
    denoise, data, key = law.denoiser(KARRAS), law.sample(jax.random.key(0), 300), jax.random.key(1)
    families = [PURE["gaussian"], starts.gaussian_mixture(2, num_restarts=1)]
    options = {"num_steps": 2, "horizons": [0.1, 2.0], "num_samples": 200}
    alone = [jd.choose_horizon(key, family, denoise, data, **options) for family in families]
    for order in ([0, 1], [1, 0]):
        both = jd.choose_horizon(key, [families[i] for i in order], denoise, data, **options)
        assert isinstance(both.start, jd.GaussianMixture)
        assert int(both.family) == order.index(1)
        np.testing.assert_array_equal(both.candidates.family, [0, 0, 1, 1])
        for field in ("t_max", "times", "distance", "from_data", "no_steps"):
            wanted = np.concatenate([getattr(alone[i].candidates, field) for i in order])
            np.testing.assert_array_equal(getattr(both.candidates, field), wanted, err_msg=field)
        np.testing.assert_array_equal(both.times, alone[1].times)
        least = int(np.argmin(both.candidates.distance.min(1)))
        head, *rows = both.table().splitlines()[:-1]
        assert head.split()[0] == "family"
        assert [row.split()[0] for row in rows] == ["0", "0", "1", "1"]
        assert [i for i, row in enumerate(rows) if row.endswith("<- the least")] == [least]
    with pytest.raises(ValueError, match="family must be one or, outside of jit, more, got 2"):
        jax.jit(lambda key: jd.choose_horizon(key, families, denoise, data, **options))(key)
    with pytest.raises(ValueError, match="family must be one or, outside of jit, more, got 0"):
        jd.choose_horizon(key, [], denoise, data, **options)


@pytest.mark.slow
def test_a_flow_is_chosen():
    data, model = LAW.sample(jax.random.key(0), 200), SplineCoupling(num_layers=1, width=8, num_blocks=1)
    family = starts.flow(model, num_steps=4, batch_size=16, evaluate_every=2)
    choice = jd.choose_horizon(
        jax.random.key(1), family, LAW.denoiser(KARRAS), data, horizons=[0.5, 1.0], **FEW
    )
    assert isinstance(choice.start, jd.Flow)
    assert np.isfinite(choice.candidates.distance).all()


def test_traced_horizons_out_of_range_answer_nan():
    data = LAW.sample(jax.random.key(0), 50)

    @jax.jit
    def choose(horizons):
        choice = jd.choose_horizon(
            jax.random.key(1), starts.gaussian(), LAW.denoiser(KARRAS), data, horizons=horizons, **FEW
        )
        return choice.t_max, choice.times, choice.start.mean

    assert all(np.isfinite(answer).all() for answer in choose(jnp.array([2.0, 1.0])))
    for wrong in ([1.0, 200.0], [1e-4, 1.0]):
        assert all(np.isnan(answer).all() for answer in choose(jnp.array(wrong))), wrong


def test_the_table_holds_dips_if_they_are_given():
    data = LAW.sample(jax.random.key(0), 50)

    def choose(key):
        return jd.choose_horizon(
            key, starts.gaussian(), LAW.denoiser(KARRAS), data, horizons=[0.5, 1.0, 2.0], **FEW
        )

    choice = choose(jax.random.key(1))
    table = choice.table([3.0, -0.1, -2.0]).splitlines()
    assert table[0].split() == ["t_max", "last", "t", "distance", "from", "data", "no", "steps", "dip"]
    assert [float(line.split()[5]) for line in table[1:4]] == [3.0, -0.1, -2.0]
    assert [line.endswith("<- the least") for line in table[1:4]] == [
        t == choice.t_max for t in (0.5, 1.0, 2.0)
    ]
    assert table[-1] == (
        "sliced W_2, 3 steps; the first horizon without a second mode, by the dip, is t_max = 1"
    )
    assert choice.table([1.0, 1.0, 1.0]).endswith("is none of these")
    with pytest.raises(ValueError, match=r"dip_scores must have shape \(3,\), got \(2,\)"):
        choice.table([1.0, 2.0])
    with pytest.raises(ValueError, match="traced"):
        jax.jit(lambda key: choose(key).table())(jax.random.key(1))
    assert jax.jit(lambda key: len(str(choose(key))))(jax.random.key(1)) > 0


def test_with_labels_a_start_for_each_is_tried():
    """One Gaussian a label is exact at any horizon, so the nearest is nearly best; one for all is not, at .1."""
    labels = np.arange(400) % 2
    one = jd.Labelled([jd.Gaussian([m], 0.01) for m in (-1.0, 1.0)])
    data = one.given(labels).sample(jax.random.key(0), 400)
    options = {"num_steps": 4, "horizons": [0.1, 2.0], "num_samples": 400}
    denoise = one.denoiser(KARRAS)
    choose = functools.partial(jd.choose_horizon, jax.random.key(1), starts.gaussian())
    with_labels = choose(denoise, data, labels=labels, **options)
    bound = choose(denoise.given(labels), data, **options)
    assert float(with_labels.candidates.distance[0].min()) < 0.05
    assert (
        float(bound.candidates.distance[0].min()) > 0.5
    )  # each row starts from the wrong label as often as not
    start = with_labels.start
    np.testing.assert_allclose(start.law(0).mean, -start.law(1).mean, atol=0.05)
    with pytest.raises(ValueError, match="labels must be known"):
        jax.jit(lambda labels: choose(denoise, data, labels=labels, **options))(labels)


def test_bad_input():
    law = jd.Gaussian(jnp.zeros(2), 1.0)
    data = law.sample(jax.random.key(0), 20)

    denoise = between(law.denoiser(KARRAS), 0.1, 10.0)

    def choose(data=data, horizons=(1.0,), denoise=denoise, **options):
        options = {"num_steps": 4, **options}
        family = options.pop("family", starts.gaussian())
        return jd.choose_horizon(jax.random.key(0), family, denoise, data, horizons=horizons, **options)

    with pytest.raises(ValueError, match=r"horizons must lie between 0.1 and 10, .*got \[1.0, 20.0\]"):
        choose(horizons=(1.0, 20.0))
    with pytest.raises(ValueError, match="horizons must lie"):
        choose(horizons=(0.1, 1.0))
    with pytest.raises(ValueError, match="horizons must lie"):
        choose(horizons=())
    with pytest.raises(ValueError, match="held_out must leave at least 2 rows"):
        choose(held_out=0.01, reference="data")
    with pytest.raises(ValueError, match="reference must be"):
        choose(reference="score")
    with pytest.raises(TypeError, match="sampler must be a sampler"):
        choose(sampler=jd.Heun)
    with pytest.raises(ValueError, match=r"data must have shape \(n, 2\)"):
        choose(data=jnp.zeros((4, 2, 2)))
    with pytest.raises(ValueError, match="non-finite"):
        choose(data=data.at[0, 0].set(jnp.inf))
    with pytest.raises(ValueError, match="t must be below t_max"):
        choose(family=starts.early(starts.gaussian(), 0.5), horizons=(0.4, 1.0))
    with pytest.raises(TypeError, match="family must be a Family"):
        choose(family=starts.gaussian)
    broken = jd.as_denoiser(
        lambda x, t: jd.Denoised(x, x * jnp.nan), KARRAS, shape=(2,), t_min=0.1, t_max=10.0
    )
    with pytest.raises(ValueError, match="the distance of each candidate has 8 non-finite"):
        choose(denoise=broken)

"""The choice of a horizon against the oracle's, jitted and not, and what it refuses."""

import dataclasses

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


def random_law(d, heavy):
    """A mixture of three Gaussian or Student t components in d dimensions."""
    rng = np.random.default_rng(d)
    weights = jnp.asarray(rng.dirichlet(np.full(3, 3.0)), jnp.float32)
    means = rng.uniform(0.5, 2) * rng.standard_normal((3, d))
    roots = rng.standard_normal((3, d, d)) / d**0.5
    covariances = 0.5 * roots @ roots.swapaxes(1, 2) + 0.05 * np.eye(d)
    weights, means, covariances = weights / weights.sum(), jnp.asarray(means), jnp.asarray(covariances)
    if heavy:
        return jd.StudentTMixture(weights, means, covariances, 4.0)
    return jd.GaussianMixture(weights, means, covariances)


@pytest.mark.parametrize(("d", "heavy"), [(2, False), (5, True), (50, False)])
def test_the_horizon_is_nearly_the_best_one(d, heavy):
    """Within 20 % of the least divergence that an oracle, who knows the law, finds among the horizons."""
    law = random_law(d, heavy)
    family, horizons = starts.gaussian(), [0.5, 1.0, 2.0, 8.0]
    data, denoise = law.sample(jax.random.key(0), 1000), between(law.denoiser(KARRAS), 0.05, 80.0)
    choice = jd.choose_horizon(
        jax.random.key(1), family, denoise, data, num_steps=20, horizons=horizons[::-1]
    )
    fresh = law.sample(jax.random.key(2), 1000)

    @jax.jit
    def oracle(start, times):
        budget = jd.kl_budget(jax.random.key(3), denoise, law, start, times)
        first = jd.initialization_error(jax.random.key(4), denoise, start, fresh, times[0])
        return first.value + budget.discretization.value

    pilot = jd.score_curvature(
        jax.random.key(5), denoise, fresh, jd.times.log_snr_grid(KARRAS, 31, t_max=8.0, t_min=0.05)
    )
    totals = {}
    for t in horizons:
        start = jd.fit_start(jax.random.key(6), family, data, KARRAS, t)
        totals[t] = float(oracle(start, jd.optimal_grid(pilot, 20, t_max=t, t_min=0.05)))
    assert totals[float(choice.t_max)] < 1.2 * min(totals.values())
    # The wrong end would be much worse, so the choice means something.
    assert max(totals.values()) > 2 * min(totals.values())
    assert choice.times.shape == (21,)
    np.testing.assert_array_equal(choice.candidates.t_max, horizons)
    assert float(choice.times[0]) == pytest.approx(float(choice.t_max))
    assert float(choice.times[-1]) == pytest.approx(0.05)
    table = str(choice).splitlines()
    assert len(table) == len(horizons) + 2
    marked = [line for line in table if line.endswith("<- shortest within an error of the least")]
    assert marked == [table[1 + horizons.index(float(choice.t_max))]]


def test_a_family_without_denoiser_is_measured_by_a_reference():
    """The Gaussian family in disguise: its error by way of a mixture is that of the Gaussian itself."""
    law = jd.GaussianMixture(
        jnp.array([0.3, 0.7]), jnp.array([[-1.5, 0.0], [1.0, 0.5]]), jnp.array([0.1, 0.2])
    )

    @jd.pytree
    @dataclasses.dataclass(frozen=True, eq=False)
    class OnlyDensity:
        law: jd.Gaussian

        @property
        def shape(self):
            return self.law.shape

        def sample(self, key, n):
            return self.law.sample(key, n)

        def log_prob(self, x):
            return self.law.log_prob(x)

    gaussian = starts.gaussian()
    hidden = gaussian._replace(fit=lambda *arguments: OnlyDensity(gaussian.fit(*arguments)))
    mixture = starts.gaussian_mixture(2, num_restarts=2, num_iterations=30)

    def choose(family, **options):
        data = law.sample(jax.random.key(0), 4000)
        denoise = between(law.denoiser(KARRAS), 0.05, 40.0)
        return jd.choose_horizon(
            jax.random.key(1), family, denoise, data, num_steps=10, horizons=[0.5, 1.0], **options
        )

    seen, known = choose(hidden, reference=mixture).candidates, choose(gaussian).candidates
    error = np.hypot(seen.standard_error, known.standard_error)
    assert (error < 0.4 * known.initialization).all()
    assert (abs(seen.initialization - known.initialization) < 3 * error).all()
    with pytest.raises(ValueError, match=r"OnlyDensity, has no denoiser.*pass reference="):
        choose(hidden)


LAW = jd.GaussianMixture(jnp.array([0.3, 0.7]), jnp.array([[-1.5, 0.0], [1.0, 0.5]]), jnp.array([0.1, 0.2]))
PURE = {
    "plain": starts.plain(),
    "isotropic": starts.isotropic(),
    "gaussian": starts.gaussian(),
    "mixture": starts.gaussian_mixture(2, num_restarts=1, num_iterations=5),
    "student": starts.student_t_mixture(2, num_restarts=1, num_iterations=5),
    "early": starts.early(starts.gaussian(), 0.1),
}


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
            horizons=[0.5, 1.0, 4.0],
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


def test_rows_held_out_are_not_fitted(monkeypatch):
    """At each horizon a law is fitted to the rows that do not judge it; that of the answer, to all."""
    data, gaussian, seen, judged = LAW.sample(jax.random.key(0), 60), starts.gaussian(), [], []
    costs = horizon._costs

    def watched_fit(key, rows, schedule, t):
        seen.append(np.asarray(rows))
        return gaussian.fit(key, rows, schedule, t)

    def watched_costs(key, denoise, data, held, *rest):
        judged.append(np.asarray(data)[np.asarray(held)])
        return costs(key, denoise, data, held, *rest)

    monkeypatch.setattr(horizon, "_costs", watched_costs)
    jd.choose_horizon(
        jax.random.key(1),
        gaussian._replace(fit=watched_fit),
        LAW.denoiser(KARRAS),
        data,
        num_steps=4,
        horizons=[0.5, 1.0],
    )
    everything, (held,) = {tuple(row) for row in np.asarray(data).tolist()}, judged
    held = {tuple(row) for row in held.tolist()}
    assert len(held) == 12
    for rows in seen[:2]:
        assert {tuple(row) for row in rows.tolist()} == everything - held
    assert {tuple(row) for row in seen[2].tolist()} == everything


def test_the_shortest_within_an_error_of_the_least_is_taken():
    """Of near horizons and few rows, where the least total is often a longer one's by chance."""
    horizons, longer = [0.5, 0.6, 0.7, 0.8, 0.9], 0
    for seed in (0, 3):
        data = LAW.sample(jax.random.key(seed), 60)
        choice = jd.choose_horizon(
            jax.random.key(seed),
            starts.gaussian(),
            LAW.denoiser(KARRAS),
            data,
            num_steps=10,
            horizons=horizons,
        )
        total, error = np.asarray(choice.candidates.total), np.asarray(choice.candidates.standard_error)
        least = np.argmin(total)
        shortest = np.flatnonzero(total <= total[least] + error[least])[0]
        assert float(choice.t_max) == pytest.approx(horizons[shortest])
        longer += least > shortest
    assert longer > 0


def test_default_horizons_double_where_there_is_room():
    """Of the noise in units of the data, under any schedule; else closer, inside what the denoiser knows."""
    law = jd.Gaussian(jnp.zeros(2), 4.0)
    data = law.sample(jax.random.key(0), 50)

    def horizons(denoise):
        choice = jd.choose_horizon(jax.random.key(1), starts.gaussian(), denoise, data, num_steps=4)
        return np.asarray(choice.candidates.t_max, np.float64)

    wanted = 2 * 0.25 * 2.0 ** np.arange(8)
    np.testing.assert_allclose(horizons(law.denoiser(KARRAS)), wanted, rtol=1e-4)
    t = horizons(law.denoiser(jd.RectifiedFlow()))
    np.testing.assert_allclose(t / (1 - t), wanted, rtol=1e-3)
    close = horizons(between(law.denoiser(KARRAS), 0.1, 5.0))
    np.testing.assert_allclose(close, 0.25 * 20 ** (np.arange(1, 9) / 9), rtol=1e-4)


def test_images_and_their_conditions():
    """The choice for rows of vectors is that for images of the same entries; and a condition goes by row."""
    data, key = LAW.sample(jax.random.key(0), 60), jax.random.key(1)
    options = {"num_steps": 5, "horizons": [0.5, 2.0]}
    flat = jd.choose_horizon(key, starts.gaussian(), LAW.denoiser(KARRAS), data, **options)
    images = data.reshape(60, 1, 2)
    law = Shaped(LAW, (1, 2))
    shaped = jd.choose_horizon(key, starts.gaussian(), law.denoiser(KARRAS), images, **options)
    assert shaped.start.shape == (1, 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), flat.candidates, shaped.candidates)

    # Moved by rows, data and denoiser together: what is asked of row i must be asked under its condition.
    shift = 5.0 * jnp.arange(60.0)[:, None]
    inner = LAW.denoiser(KARRAS)

    def conditional(x, t, shift):
        answer = inner(x - shift, t)
        return jd.Denoised(answer.data + shift, answer.noise)

    denoise = jd.as_denoiser(conditional, KARRAS, shape=(2,), scale=inner.scale).given(shift)
    moved = jd.choose_horizon(
        key, starts.isotropic(), denoise, data + shift, num_steps=5, horizons=[0.5, 2.0]
    )
    np.testing.assert_allclose(moved.candidates.discretization, flat.candidates.discretization, rtol=1e-2)


def test_a_flow_is_chosen_by_a_reference():
    data, model = LAW.sample(jax.random.key(0), 200), SplineCoupling(num_layers=1, width=8, num_blocks=1)
    family = starts.flow(model, num_steps=4, batch_size=16, evaluate_every=2)
    choice = jd.choose_horizon(
        jax.random.key(1),
        family,
        LAW.denoiser(KARRAS),
        data,
        num_steps=5,
        horizons=[0.5, 1.0],
        reference=starts.gaussian(),
    )
    assert isinstance(choice.start, jd.Flow)
    assert np.isfinite(choice.candidates.total).all()
    with pytest.raises(ValueError, match=r"Flow, has no denoiser"):
        jd.choose_horizon(jax.random.key(1), family, LAW.denoiser(KARRAS), data, num_steps=5, horizons=[0.5])


def test_traced_horizons_out_of_range_answer_nan():
    data = LAW.sample(jax.random.key(0), 50)

    @jax.jit
    def choose(horizons):
        choice = jd.choose_horizon(
            jax.random.key(1), starts.gaussian(), LAW.denoiser(KARRAS), data, num_steps=4, horizons=horizons
        )
        return choice.t_max, choice.times, choice.start.mean

    assert all(np.isfinite(answer).all() for answer in choose(jnp.array([2.0, 1.0])))
    for wrong in ([1.0, 200.0], [1e-4, 1.0]):
        assert all(np.isnan(answer).all() for answer in choose(jnp.array(wrong))), wrong


def test_the_table_holds_dips_if_they_are_given():
    data = LAW.sample(jax.random.key(0), 50)

    def choose(key):
        return jd.choose_horizon(
            key, starts.gaussian(), LAW.denoiser(KARRAS), data, num_steps=4, horizons=[0.5, 1.0, 2.0]
        )

    choice = choose(jax.random.key(1))
    table = choice.table([3.0, -0.1, -2.0]).splitlines()
    assert table[0].split() == ["t_max", "E_init", "+-", "d*/2n", "E_disc", "total", "dip"]
    assert [float(line.split()[6]) for line in table[1:4]] == [3.0, -0.1, -2.0]
    assert table[-1] == ("nats, 4 steps; the first horizon without a second mode, by the dip, is t_max = 1")
    assert choice.table([1.0, 1.0, 1.0]).endswith("is none of these")
    with pytest.raises(ValueError, match=r"dip_scores must have shape \(3,\), got \(2,\)"):
        choice.table([1.0, 2.0])
    with pytest.raises(ValueError, match="traced"):
        jax.jit(lambda key: choose(key).table())(jax.random.key(1))
    assert jax.jit(lambda key: len(str(choose(key))))(jax.random.key(1)) > 0


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
        choose(held_out=0.01)
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
    with pytest.raises(ValueError, match="the total of each horizon has 1 non-finite"):
        choose(denoise=broken)

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import CASES, NAMES, few_of, interior

from jaxdiff.denoising import prediction as p
from jaxdiff.denoising.network import make_denoiser
from jaxdiff.learning import weights
from jaxdiff.learning.losses import regression_loss
from jaxdiff.typing import Denoised

ROWS = {"data": p.data, "noise": p.noise, "score": p.score, "v": p.v, "flow": p.flow, "edm": p.EDM(0.6)}


def pairs_of(name):
    """Of rows: all under one schedule; under the others each once as the first and once as the second."""
    if name == "rectified_flow":
        return list(itertools.product(ROWS.values(), repeat=2))
    return list(itertools.pairwise([*ROWS.values(), *ROWS.values()][: len(ROWS) + 1]))


def predictions(case, data, noise, t):
    """Every prediction from its definition, in NumPy."""
    alpha, sigma = case.alpha(t), case.sigma(t)
    h = 1e-5 * t
    alpha_dot = (case.alpha(t + h) - case.alpha(t - h)) / (2 * h)
    sigma_dot = (case.sigma(t + h) - case.sigma(t - h)) / (2 * h)
    s = np.sqrt(alpha**2 * 0.36 + sigma**2)
    x = alpha * data + sigma * noise
    return {
        "data": data,
        "noise": noise,
        "score": -noise / sigma,
        "v": alpha * noise - sigma * data,
        "flow": alpha_dot * data + sigma_dot * noise,
        # EDM: data = c_skip x + c_out F, with the schedule's scale taken off (table 1 of the paper)
        "edm": (data - 0.36 * alpha / s**2 * x) / (sigma * 0.6 / s),
    }


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_the_named_ones(name, float64):
    case = CASES[name]
    rng = np.random.default_rng(0)
    data, noise = rng.standard_normal((2, 5))
    t = interior(case)[4]
    for row, wanted in predictions(case, data, noise, t).items():
        got = p.read(ROWS[row].row, case.schedule, Denoised(jnp.asarray(data), jnp.asarray(noise)), t)
        np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=2e-6, err_msg=row)


@pytest.mark.parametrize("name", few_of(NAMES, ["vp", "rectified_flow"]))
def test_every_row_converts_to_every_other(name, float64):
    """From the true pair through one row to another: relative error under 1e-12 where the rows determine it."""
    case = CASES[name]
    rng = np.random.default_rng(1)
    truth = Denoised(*jnp.asarray(rng.standard_normal((2, 16))))
    pairs = pairs_of(name)

    @jax.jit  # one program for all pairs and times
    def converted(t):
        x = case.schedule.alpha(t) * truth.data + case.schedule.sigma(t) * truth.noise
        given = {row: p.read(row.row, case.schedule, truth, t) for row in ROWS.values()}
        wanted = [given[row] for _, row in pairs]
        got = [
            p.convert(case.schedule, given[source], x, t, source=source, target=target)
            for source, target in pairs
        ]
        solved = [p.solve(row.row, case.schedule, y, x, t) for row, y in given.items()]
        return [jnp.stack(rows) for rows in (got, wanted)], jax.tree.map(
            lambda *rows: jnp.stack(rows), *solved
        )

    for t in interior(case, 3):
        if 2 * abs(np.log(case.alpha(t) / case.sigma(t))) > 6:
            continue  # a fragile row amplifies rounding by 1/det beyond this; that is what det says
        (got, wanted), solved = converted(t)
        error = np.linalg.norm(got - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
        assert error.max() < 1e-12
        for values, true in zip(solved, truth, strict=True):
            np.testing.assert_allclose(values, np.tile(true, (len(ROWS), 1)), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", few_of(NAMES, ["vp", "rectified_flow"]))
def test_losses_convert_by_the_row_weight(name, float64):
    """A loss in one row, weighted in another, is the squared error after converting the prediction."""
    case = CASES[name]
    rng = np.random.default_rng(2)
    data, noise, prediction = jnp.asarray(rng.standard_normal((3, 2, 4)))
    t = interior(case)[4]
    x = case.schedule.alpha(t) * data + case.schedule.sigma(t) * noise
    target = Denoised(data, noise)
    shape, ends = (4,), {"t_min": case.t_min, "t_max": case.t_max}

    @jax.jit  # one program for all pairs
    def losses():
        pairs = []
        for source, weight in pairs_of(name):
            network = make_denoiser(
                lambda params, x, t: prediction, None, case.schedule, shape=shape, prediction=source, **ends
            )
            got = regression_loss(network, x, target, t, weight=weight.row)
            # the network's own prediction: what is left after the skip of its row
            converted = p.convert(case.schedule, prediction, x, t, source=source, target=weight)
            wanted = jnp.sum((converted - p.read(weight.row, case.schedule, target, t)) ** 2, axis=1)
            pairs.append((got, wanted))
        return jnp.asarray(pairs)

    answers = losses()
    np.testing.assert_allclose(answers[:, 0], answers[:, 1], rtol=1e-8)


def test_score_from_the_network_keeps_precision():
    """The reason for keeping both parts: at sigma = 1e-3 the noise read from the network is good to 1e-6."""
    case = CASES["karras"]
    rng = np.random.default_rng(3)
    data, noise = rng.standard_normal((2, 64))
    t = 1e-3
    x = jnp.asarray(data + t * noise, jnp.float32)
    exact = p.read(ROWS["edm"].row, case.schedule, Denoised(jnp.float32(data), jnp.float32(noise)), t)
    solved = p.solve(ROWS["edm"].row, case.schedule, exact, x, t)
    through_data = (x - solved.data) / t
    assert np.abs(solved.noise - noise).max() < 2e-6
    assert np.abs(through_data - noise).max() > 2e-5


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_the_named_ones(name, float64):
    case = CASES[name]
    t = interior(case)[3]
    snr = (case.alpha(t) / case.sigma(t)) ** 2
    h = 1e-5 * t

    def level(t):
        return 2 * np.log(case.alpha(t) / case.sigma(t))

    slope = (level(t + h) - level(t - h)) / (2 * h)
    np.testing.assert_allclose(weights.likelihood(case.schedule, t)[1] ** 2, -slope / 2, rtol=1e-5)
    np.testing.assert_allclose(weights.min_snr(5.0)(case.schedule, t)[0] ** 2, min(snr, 5.0), rtol=1e-6)
    np.testing.assert_allclose(
        weights.sigmoid(-1.0)(case.schedule, t)[1] ** 2, 1 / (1 + np.exp(1.0 + level(t))), rtol=1e-6
    )
    edm = p.error_scale(case.schedule, t, source=p.data.row, target=ROWS["edm"].row)
    relative = case.sigma(t) / case.alpha(t)
    # EDM's weight (sigma^2 + std^2) / (sigma std)^2 on the data error, at the noise level sigma / alpha
    np.testing.assert_allclose(edm**2, (relative**2 + 0.36) / (relative * 0.6) ** 2, rtol=1e-6)


def test_sigmoid_weight_does_not_underflow():
    assert float(weights.sigmoid()(CASES["karras"].schedule, jnp.float32(1e-30))[1]) > 0


def test_edm_inputs_have_unit_variance_and_forget_the_schedule(float64):
    """The same (x / alpha, sigma / alpha) is shown alike under every schedule."""
    rng = np.random.default_rng(4)
    normalized = jnp.asarray(rng.standard_normal(8))
    shown = []
    for name in ("vp", "karras", "rectified_flow", "ou"):
        case = CASES[name]
        low, high = case.t_min, case.t_max
        for _ in range(200):  # the time at which sigma / alpha = 0.8
            middle = (low + high) / 2
            low, high = (middle, high) if case.sigma(middle) < 0.8 * case.alpha(middle) else (low, middle)
        x = case.schedule.alpha(low) * normalized
        shown.append(ROWS["edm"].inputs(case.schedule, x, low))
    for x, level in shown:
        np.testing.assert_allclose(x, normalized / np.sqrt(0.36 + 0.64), rtol=1e-7)
        np.testing.assert_allclose(level, np.log(0.8) / 4, rtol=1e-7)


def test_edm_stays_finite_at_both_ends():
    for t in (0.0, 1.0):
        x, level = p.EDM(0.5).inputs(CASES["rectified_flow"].schedule, jnp.ones(3), t)
        assert np.isfinite(x).all()
        assert np.isfinite(level)
        assert np.isfinite(p.determinant(p.EDM(0.5).row, CASES["rectified_flow"].schedule, t))


def test_rows_map_over_times():
    case = CASES["vp"]
    t = jnp.linspace(0.1, 0.9, 5)
    batched = jax.vmap(lambda t: jnp.stack(ROWS["edm"].row(case.schedule, t)))(t)
    single = jnp.stack([jnp.stack(ROWS["edm"].row(case.schedule, u)) for u in t])
    np.testing.assert_allclose(batched, single, rtol=1e-6)

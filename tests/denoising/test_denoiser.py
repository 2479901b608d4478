import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracles import CASES, NAMES, few_of, gaussian_denoiser, interior

from jaxdiff.denoising import prediction
from jaxdiff.denoising.network import make_denoiser as make
from jaxdiff.guidance.classifier_free import guided
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.mixture import GaussianMixture
from jaxdiff.noising.process import log_snr

ROWS = ("data", "noise", "score", "v", "flow", "edm")


def row(name):
    return prediction.EDM(0.6) if name == "edm" else getattr(prediction, name)


def make_denoiser(predict, params, case, shape=(3,), **options):
    """Over the case's own range of times."""
    options = {"t_min": case.t_min, "t_max": case.t_max, **options}
    return make(predict, params, case.schedule, shape=shape, **options)


@pytest.mark.parametrize("name", few_of(NAMES))
def test_a_perfect_network_is_the_exact_denoiser_in_every_row(name, float64):
    """The oracle's answer, read in a row by a bare function, comes back as the oracle; t scalar and (batch,)."""
    case = CASES[name]
    schedule, exact = case.schedule, gaussian_denoiser(case.schedule, 0.3, 0.8, (3,))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)))
    t = jnp.asarray(interior(case, 4))
    for name in ROWS:
        chosen = row(name)

        def predict(params, shown, shown_t, chosen=chosen):
            del params, shown, shown_t
            return jax.vmap(lambda e, t: prediction.read(chosen.row, schedule, e, t))(exact(x, t), t)

        denoise = make_denoiser(predict, None, case, prediction=chosen)
        for got, wanted in zip(denoise(x, t), exact(x, t), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-8)

        def predict_at(params, shown, shown_t, chosen=chosen):
            del params, shown, shown_t
            return prediction.read(chosen.row, schedule, exact(x, t[1]), t[1])

        denoise = make_denoiser(predict_at, None, case, prediction=chosen)
        for got, wanted in zip(denoise(x, t[1]), exact(x, t[1]), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", few_of(NAMES))
def test_a_silent_edm_network_is_the_denoiser_of_its_gaussian(name, float64):
    case = CASES[name]
    x, t = jnp.asarray(np.random.default_rng(1).standard_normal((4, 3))), jnp.asarray(interior(case, 4))
    denoise = make_denoiser(lambda p, x, t: 0 * x, None, case, prediction=prediction.EDM(0.6))
    for got, wanted in zip(
        denoise(x, t), gaussian_denoiser(case.schedule, 0.0, 0.36, (3,))(x, t), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", few_of(NAMES))
def test_a_silent_network_leaves_the_reference(name, float64):
    case = CASES[name]
    reference = GaussianMixture(
        jnp.asarray([0.3, 0.7]), jnp.asarray([[1.0, 0.0], [-1.0, 0.5]]), jnp.asarray([0.1, 0.2])
    )
    x, t = jnp.asarray(np.random.default_rng(2).standard_normal((5, 2))), interior(case)[3]
    exact = reference.denoiser(case.schedule)(x, t)
    for name in ROWS:
        silent = make_denoiser(
            lambda p, x, t: 0 * x, None, case, (2,), prediction=row(name), reference=reference
        )
        for got, wanted in zip(silent(x, t), exact, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-12)
        # whatever the network adds, (data, noise) still make up x
        loud = make_denoiser(
            lambda p, x, t: jnp.sin(3 * x),
            None,
            case,
            (2,),
            prediction=row(name),
            reference=reference,
        )(x, t)
        rebuilt = case.schedule.alpha(t) * loud.data + case.schedule.sigma(t) * loud.noise
        np.testing.assert_allclose(rebuilt, x, rtol=1e-7, atol=1e-7)
        assert np.abs(loud.data - exact.data).max() > 1e-6


def test_a_network_trained_under_one_schedule_serves_under_another(float64):
    """EDM's network knows (x / alpha, sigma / alpha) only, so its denoiser moves between schedules."""
    vp, karras = CASES["vp"], CASES["karras"]
    x, t = jnp.asarray(np.random.default_rng(3).standard_normal((4, 3))), 0.4
    level = vp.sigma(t) / vp.alpha(t)

    def predict(params, x, t):
        return jnp.tanh(x) + t[:, None]

    here = make_denoiser(predict, None, vp)(x, t)
    there = make_denoiser(predict, None, karras)(x / vp.alpha(t), level)
    np.testing.assert_allclose(here.data, there.data, rtol=1e-9)
    np.testing.assert_allclose(here.noise, there.noise, rtol=1e-9)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, t):
        return nn.Dense(x.shape[-1])(jnp.concatenate([x, t[:, None]], -1))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, t):
        return self.dense(jnp.concatenate([x, t[:, None]], -1))


def linen_predictor():
    network = Linen()
    params = network.init(jax.random.key(0), jnp.zeros((1, 3)), jnp.zeros(1))
    return network.apply, params, params["params"]["Dense_0"]["kernel"]


def nnx_predictor():
    graph, params = nnx.split(Nnx(nnx.Rngs(0)))
    return lambda params, x, t: nnx.merge(graph, params)(x, t), params, params["dense"]["kernel"][...]


def bare_predictor():
    kernel = jax.random.normal(jax.random.key(1), (4, 3))
    return lambda params, x, t: jnp.concatenate([x, t[:, None]], -1) @ params, kernel, kernel


@pytest.mark.parametrize("make", [linen_predictor, nnx_predictor, bare_predictor])
def test_linen_nnx_and_bare_functions_serve(make):
    """One affine network, three ways: the denoiser is the closed form in its kernel, and gradients reach it."""
    predict, params, kernel = make()
    case, x, t = CASES["karras"], jax.random.normal(jax.random.key(2), (5, 3)), 0.7
    got = make_denoiser(predict, params, case)(x, t)
    s = np.sqrt(1 + t**2)
    shown = np.concatenate([np.asarray(x) / s, np.full((5, 1), np.log(t) / 4)], axis=1)
    wanted = np.asarray(x) / s**2 + t / s * (shown @ np.asarray(kernel))
    np.testing.assert_allclose(got.data, wanted, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda p: make_denoiser(predict, p, case)(x, t).data.sum())(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_a_bfloat16_network_leaves_the_rest_in_float32():
    case, x = CASES["karras"]._replace(t_min=1e-3), jax.random.normal(jax.random.key(0), (64, 8))
    low = make_denoiser(lambda p, x, t: jnp.tanh(x).astype(jnp.bfloat16), None, case, (8,))(x, 1e-3)
    high = make_denoiser(lambda p, x, t: jnp.tanh(x), None, case, (8,))(x, 1e-3)
    assert low.noise.dtype == jnp.float32
    # data = skip + sigma p: the network's relative error of 2^-8 is scaled down by sigma
    assert 0 < np.abs(low.data - high.data).max() < 1e-3 * 2**-8


def test_guidance_interpolates_and_extrapolates(float64):
    """Between two Gaussian classes the guided score is exact: it is linear in the classes' scores."""
    schedule, x = CASES["karras"].schedule, jnp.asarray(np.random.default_rng(5).standard_normal((6, 2)))
    a, b = (Gaussian(jnp.full(2, m), 0.5).denoiser(schedule) for m in (1.0, -1.0))
    for scale in (0.0, 1.0, 3.0):
        got = guided(a, scale, unconditional=b)(x, 0.8)
        # equal covariances: the guided law is a Gaussian with an extrapolated mean
        wanted = gaussian_denoiser(schedule, -1.0 + 2.0 * scale, 0.5, (2,))(x, 0.8)
        np.testing.assert_allclose(got.data, wanted.data, rtol=1e-12)
        np.testing.assert_allclose(got.noise, wanted.noise, rtol=1e-12)


def test_a_wrong_answer_is_refused():
    denoise = make_denoiser(lambda p, x, t: x[:, :2], None, CASES["karras"])
    with pytest.raises(ValueError, match=r"shape of x, \(4, 3\), but answered \(4, 2\)"):
        denoise(jnp.ones((4, 3)), 0.5)


def test_a_denoiser_goes_through_jit_vmap_and_grad_as_an_argument():
    case, traces = CASES["karras"], []

    def predict(params, x, t):
        traces.append(None)
        return params * x

    @jax.jit
    def run(denoise, x):
        return denoise(x, 0.7).data

    x = jax.random.normal(jax.random.key(0), (5, 3))
    denoisers = [make_denoiser(predict, jnp.asarray(p), case) for p in (0.3, -0.8)]
    answers = [run(denoise, x) for denoise in denoisers]
    assert len(traces) == 1  # new parameters are no new program
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *denoisers)
    np.testing.assert_allclose(jax.vmap(run, (0, None))(stacked, x), jnp.stack(answers), rtol=1e-6)
    slope = jax.grad(lambda denoise: run(denoise, x).sum())(denoisers[0]).estimate.params
    # data = skip + (sigma / s) (p x / s), linear in the parameter
    np.testing.assert_allclose(slope, 0.7 / (1 + 0.49) * x.sum(), rtol=1e-5)
    assert repr(denoisers[0].schedule) == "Karras()"


def test_working_ranges_move_with_the_scale():
    """In units of the data, under every schedule whose noise goes on for as long: Karras' .002 to 80 of them."""
    for name in NAMES:
        schedule = CASES[name].schedule
        law = Gaussian(jnp.zeros(2), 0.1**2).denoiser(schedule)
        low, high = (float(t) for t in law.working_range)
        for end, wanted in zip((low, high), schedule.working_range, strict=True):
            if schedule.t_min < end < schedule.t_max and np.isfinite(log_snr(schedule, wanted)):
                np.testing.assert_allclose(
                    log_snr(schedule, end) + 2 * np.log(0.1), log_snr(schedule, wanted), atol=0.02
                )
        trained = make_denoiser(lambda p, x, t: x, None, CASES[name], scale=0.1)
        low, high = trained.working_range
        assert low == CASES[name].t_min
        if CASES[name].t_max < schedule.t_max:
            assert high == CASES[name].t_max
    karras = Gaussian(jnp.zeros(2), 4.0).denoiser(CASES["karras"].schedule)
    np.testing.assert_allclose(karras.working_range, (0.004, 160), rtol=1e-5)


def test_traced_times_out_of_range_are_not_a_number():
    denoise = make_denoiser(lambda p, x, t: 0 * x, None, CASES["karras"])
    run = jax.jit(lambda t: denoise(jnp.ones((3, 3)), t).data)
    assert np.isfinite(run(80.0)).all()
    assert np.isfinite(run(0.002)).all()
    assert np.isnan(run(80.1)).all()
    assert np.isnan(run(0.0019)).all()
    some = run(jnp.asarray([1.0, 90.0, 2.0]))
    np.testing.assert_array_equal(np.isnan(some[:, 0]), [False, True, False])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("name", ROWS)
def test_the_precision_of_x_is_kept(name, dtype):
    """In 16 bits the answer is that of float32 rounded: all that is scaled is scaled in float32."""
    case = CASES["karras"]
    x = jax.random.normal(jax.random.key(0), (64, 3)).astype(dtype)
    denoise = make_denoiser(lambda p, x, t: jnp.tanh(x), None, case, prediction=row(name))
    for t in (0.01, 1.0, 50.0):
        got, wanted = denoise(x, t), denoise(x.astype(jnp.float32), t)
        for part, exact in zip(got, wanted, strict=True):
            assert part.dtype == dtype
            scale = float(jnp.abs(exact).max())
            np.testing.assert_allclose(
                part.astype(jnp.float32), exact, rtol=0.02, atol=4 * float(jnp.finfo(dtype).eps) * scale
            )

"""A generator of p(data | x_t), in one call, by score distillation from a teacher that is exact.

Of data noised twice, to x_t and to z_s, the teacher's denoiser is one call of the prior's
(`denoising_posterior`). So a generator G(x_t, t, e), e ~ N(0, I), is distilled at all noise levels at once,
without any trajectory: noise-conditional variational score distillation, arXiv 2506.09416. Its draws are
those of a posterior, where a map of the flow answers one point for each x_t; renoised, they are samples of
the data, and by turns with an observation of its posterior (`split_gibbs`).

    def loss(params, key, data):
        generator = inverse.PosteriorGenerator(network(params["generator"]))     # shown e as a condition
        t = times.log_snr_uniform(...).t                                         # where it will be called
        own, fake = inverse.posterior_distillation_losses(
            key, generator, teacher, network(params["fake"]), data, t            # shown x_t and t as one
        )
        return (own + fake).mean()
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff._numerics.pytrees import pytree
from jaxdiff._numerics.randomness import noise_like, per_row
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import Denoiser, check_agree, check_denoiser
from jaxdiff.inverse.denoising_posterior import denoising_posterior
from jaxdiff.learning.losses import regression_loss, times_about
from jaxdiff.learning.targets import denoising_target
from jaxdiff.maps.distillation import score_difference_loss
from jaxdiff.maps.sampling import begun
from jaxdiff.noising.process import log_snr, perturb
from jaxdiff.typing import Array, Key, Schedule, StartLaw, Time


@pytree
@dataclass(frozen=True, eq=False)
class PosteriorGenerator:
    """``generator(key, x, t) -> data``: for each row of x, (batch, *shape), one draw of p(data | x_t = x).

    t is a scalar or (batch,); row i depends on (key, i) and its own x and t only. Made of a denoiser whose
    network is shown noise, of x's shape, as its condition; what it answers for the data is the draw. A
    network of the type EDM that answers that noise is exact for data of N(0, scale^2 I): it begins near.
    Raises TypeError for what is no denoiser, and as the denoiser does.

    >>> denoise = jd.make_denoiser(lambda params, x, t, noise: noise, None, jd.Karras(), shape=(1,))
    >>> draws = jd.inverse.PosteriorGenerator(denoise)(jax.random.key(0), jnp.full((10_000, 1), 4.0), 1.0)
    >>> round(float(draws.mean()), 1), round(float(draws.var()), 1)  # N(x / 2, 1 / 2)
    (2.0, 0.5)
    """

    denoiser: Denoiser

    def __post_init__(self) -> None:
        check_denoiser("denoiser", self.denoiser)

    def __call__(self, key: Key, x: Array, t: Time) -> Array:
        checks.key(key)
        checks.batch("x", x, t)
        return self.denoiser.given(noise_like(key, x))(x, t).data


def posterior_distillation_losses(
    key: Key, generator: PosteriorGenerator, teacher: Denoiser, fake: Denoiser, data: Array, t: Time
) -> tuple[Array, Array]:
    """The generator's loss and the fake denoiser's, each (batch,): their sum trains both in one step.

    Of data noised to x_t a draw, noised to z_s, is seen by `denoising_posterior` of the teacher and of the
    fake. The generator's gradient is that of `score_difference_loss`, over the posterior variance of data
    that are isotropic; the fake's loss is that of EDM, where both noisings together are. Levels of s are
    spread about that posterior's standard deviation as those of `denoising_loss` about the scale.

    fake: a denoiser whose network is shown as its condition, beside the one point that both noisings make,
        what it would be shown of x_t and t: a pair, (batch, *shape) and (batch,). One that does not look at
        it and has the teacher's parameters is the teacher, which is where to begin.
    data: (batch, *shape). t: at which the generator will be called, scalar or (batch,).

    Nothing is differentiated through the teacher. Raises TypeError for what is no key, generator or denoiser
    and for integer data, ValueError for NaN, for data of another shape or scale, for denoisers that do not
    agree, and for times that one of them does not know.
    """
    checks.key(key)
    check_generator("generator", generator)
    for name, denoise in (("teacher", teacher), ("fake", fake)):
        check_denoiser(name, denoise)
        check_agree(name, denoise, "generator", generator.denoiser)
    checks.batch("data", data, t)
    checks.finite("data", data)
    teacher.check_shape("data", data)
    teacher.check_scale("data", data)
    for denoise in (teacher, fake, generator.denoiser):
        denoise.check_times("t", t)
    return _losses(key, generator, teacher, fake, jnp.asarray(data), t)


@compiled
def _losses(
    key: Key, generator: PosteriorGenerator, teacher: Denoiser, fake: Denoiser, data: Array, t: Time
) -> tuple[Array, Array]:
    schedule, scale = teacher.schedule, jax.lax.stop_gradient(teacher.scale)
    x_key, own_key, time_key, z_key = jax.random.split(key, 4)
    t = jnp.broadcast_to(single(t), data.shape[:1])
    x, _ = denoising_target(x_key, schedule, data, t)
    draws = generator(own_key, x, t)
    seen = jax.vmap(lambda x, t: fake.prediction.inputs(schedule, x, t))(x, t)
    real, made = denoising_posterior(teacher, x, t), denoising_posterior(fake.given(seen), x, t)
    snr = jax.vmap(lambda t: jnp.exp(log_snr(schedule, t)))
    precision = 1 / scale**2 + snr(t)
    s = _spread(time_key, teacher, 1 / jnp.sqrt(precision))
    z, target = denoising_target(z_key, schedule, jax.lax.stop_gradient(draws), s)
    own = score_difference_loss(draws, z, real, made, s)
    error = regression_loss(made, z, target, s, weight=prediction.data.row)
    return precision * own, (precision + snr(s)) * error


def _spread(key: Key, denoise: Denoiser, about: Array) -> Array:
    """A time of noise about each level of sigma / alpha, (n,), spread as those of `denoising_loss`."""
    u = per_row(key, len(about), lambda key: jax.random.uniform(key, (1,)))
    return jax.vmap(lambda u, about: times_about(u, denoise, about))(u, about)[:, 0]


def sample_generator(
    key: Key,
    generator: PosteriorGenerator,
    n: int,
    *,
    num_calls: int | None = None,
    times: Array | None = None,
    start: StartLaw | None = None,
) -> Array:
    """n samples of the data, shape (n, *shape), by a call or a few, with noise put back between.

    Point i depends on (key, i) only. num_calls, times and start are those of `sample_map`, and so are the
    errors. An exact generator has the data's law with any number of calls.

    >>> denoise = jd.make_denoiser(lambda params, x, t, noise: noise, None, jd.Karras(), shape=(1,))
    >>> generator = jd.inverse.PosteriorGenerator(denoise)
    >>> samples = jd.inverse.sample_generator(jax.random.key(0), generator, 10_000, num_calls=2)
    >>> round(float(samples.std()), 1)
    1.0
    """
    checks.key(key)
    check_generator("generator", generator)
    start_key, key = jax.random.split(key)
    x, times = begun(start_key, generator.denoiser, n, num_calls=num_calls, times=times, start=start)
    return _sample(key, generator, x, times)


@jax.jit
def _sample(key: Key, generator: PosteriorGenerator, x: Array, times: Array) -> Array:
    schedule: Schedule = generator.denoiser.schedule
    times = jnp.where(jnp.all(times[:-1] > times[1:]), times, jnp.nan)

    def call(x: Array, step: tuple[Array, Array, Array]) -> tuple[Array, None]:
        k, t, s = step
        own_key, noise_key = jax.random.split(jax.random.fold_in(key, k))
        data = generator(own_key, x, t)
        noise = noise_like(noise_key, data)
        return jax.vmap(lambda data, noise: perturb(schedule, data, noise, s))(data, noise), None

    return jax.lax.scan(call, x, (jnp.arange(len(times) - 1), times[:-1], times[1:]))[0]


def check_generator(name: str, value: object) -> None:
    """Raise TypeError unless value is a PosteriorGenerator."""
    if not isinstance(value, PosteriorGenerator):
        raise TypeError(
            f"{name} must be a PosteriorGenerator, got {checks.described(value)}; it is made of a denoiser "
            "whose network is shown noise as its condition."
        )

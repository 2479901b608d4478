"""Distillation by scores: a generator whose law, noised, is brought to a teacher's.

Samples of a generator, noised to x_t, have a law q_t. A denoiser that is trained on them, the *fake* one,
knows its score; the teacher knows that of p_t; and by score = (alpha D - x) / sigma^2

    d KL(q_t || p_t) = E[ (alpha^2 / sigma^2) (D_fake - D_teacher)(x_t, t) . d samples ]                  (1)

so that nothing is differentiated but the generator, and it never sees the data: variational score
distillation (Wang et al. 2023, arXiv 2305.16213), DMD (Yin et al. 2023, arXiv 2311.18828; 2405.14867). Any
function is a generator. Of a flow map with its own fake denoiser, both trained by one step:

    def loss(params, key, n):
        map_key, own_key, fake_key = jax.random.split(key, 3)
        samples, fake = sample_map(map_key, model(params["map"]), n), denoiser(params["fake"])
        own = maps.score_distillation_loss(own_key, samples, teacher, fake)
        return (own + denoising_loss(fake_key, fake, jax.lax.stop_gradient(samples))).mean()
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff._numerics import checks
from jaxdiff._numerics.constants import compiled
from jaxdiff._numerics.precision import single
from jaxdiff.denoising import prediction
from jaxdiff.denoising.denoiser import Denoiser, check_agree, check_denoiser
from jaxdiff.denoising.prediction import Row
from jaxdiff.learning import weights
from jaxdiff.learning.losses import drawn_times
from jaxdiff.learning.targets import denoising_target
from jaxdiff.typing import Array, Denoised, Key, Time


def score_difference_loss(
    samples: Array,
    x: Array,
    teacher: Denoiser,
    fake: Denoiser,
    t: Time,
    *,
    weight: Row = prediction.data.row,
) -> Array:
    """What teacher and fake are apart at x_t of samples, squared in the weight's row; shape (batch,).

    Its gradient is not that of the value: it is w^2 (D_fake - D_teacher), and goes to the samples alone. w is
    the size in the weight's row of an error of the data of 1: ``prediction.noise.row`` is eq. (1), which is
    steep where there is little noise and fakes err; in the row of the data, the default, w = 1.

    samples and x: (batch, *shape), t scalar or (batch,). Raises TypeError for what is no denoiser or weight,
    ValueError for other shapes, a fake of another schedule or shape, and times that either does not know.

    >>> near, far = (jd.Gaussian([mean], 1.0).denoiser(jd.Karras()) for mean in (0.0, 4.0))
    >>> loss = lambda samples: jd.maps.score_difference_loss(samples, samples, near, far, 1.0).sum()
    >>> jax.grad(loss)(jnp.array([[3.0]])).tolist()  # D = (x + mean) / 2
    [[2.0]]
    """
    check_distillation(samples, teacher, fake)
    checks.batch("x", x, t)
    checks.shape("x", x, jnp.shape(samples))
    for denoise in (teacher, fake):
        denoise.check_times("t", t)
    return _score_difference_loss(samples, x, teacher, fake, t, weights.as_argument(weight))


@compiled
def _score_difference_loss(
    samples: Array, x: Array, teacher: Denoiser, fake: Denoiser, t: Time, weight: Partial
) -> Array:
    schedule = teacher.schedule
    samples, t = single(samples), jnp.broadcast_to(single(t), x.shape[:1])
    # Parameters too, so that no derivative of a network is ever traced.
    x, teacher, fake, t = jax.lax.stop_gradient((single(x), teacher, fake, t))
    apart = jax.tree.map(jnp.subtract, fake(x, t), teacher(x, t))

    def one(samples: Array, apart: Denoised, t: Array) -> Array:
        error = jax.lax.stop_gradient(prediction.read(weight, schedule, apart, t))
        size = prediction.error_scale(schedule, t, source=prediction.data.row, target=weight)
        return jnp.sum(error**2) + jnp.sum(size * error * (samples - jax.lax.stop_gradient(samples)))

    return jax.vmap(one)(samples, apart, t)


def score_distillation_loss(
    key: Key, samples: Array, teacher: Denoiser, fake: Denoiser, *, weight: Row = prediction.data.row
) -> Array:
    """`score_difference_loss` of samples that are noised to times of `denoising_loss`; shape (batch,).

    samples: of the generator that is trained, which are differentiated. fake: trained on the same, by
        `denoising_loss`; it must know the times between which the teacher is sampled.

    The fewer errors the fake makes, the more this is a gradient: give it the larger learning rate, and the
    teacher's parameters to begin with. Raises as `score_difference_loss`, and TypeError for what is no key.

    >>> law = jd.Gaussian([0.0], 1.0).denoiser(jd.Karras())
    >>> jd.maps.score_distillation_loss(jax.random.key(0), jnp.ones((2, 1)), law, law).tolist()  # one law
    [0.0, 0.0]
    """
    checks.key(key)
    check_distillation(samples, teacher, fake)
    for end in teacher.working_range:
        fake.check_times("the teacher's times", end)
    return _score_distillation_loss(key, jnp.asarray(samples), teacher, fake, weights.as_argument(weight))


@compiled
def _score_distillation_loss(
    key: Key, samples: Array, teacher: Denoiser, fake: Denoiser, weight: Partial
) -> Array:
    time_key, noise_key = jax.random.split(key)
    t = drawn_times(time_key, teacher, len(samples))
    x, _ = denoising_target(noise_key, teacher.schedule, jax.lax.stop_gradient(samples), t)
    return _score_difference_loss(samples, x, teacher, fake, t, weight)


def check_distillation(samples: Array, teacher: Denoiser, fake: Denoiser) -> None:
    """Raise TypeError or ValueError unless both are denoisers of one process and of such samples."""
    check_denoiser("teacher", teacher)
    check_denoiser("fake", fake)
    check_agree("fake", fake, "teacher", teacher)
    checks.batch("samples", samples)
    teacher.check_shape("samples", samples)

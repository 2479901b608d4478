"""The quickstart's data sets, images of 8 x 8 pixels as vectors, and how each is modelled."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff import data, pytree
from jaxdiff.denoising import prediction, quantized
from jaxdiff.denoising.denoiser import Denoiser
from jaxdiff.denoising.prediction import PredictionType
from jaxdiff.laws.fitting import fit_gaussian
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.learning.targets import denoising_target
from jaxdiff.noising.schedules import Karras
from jaxdiff.typing import Array, Denoised, Key, Params, Predictor

SCHEDULE = Karras()


class Problem(NamedTuple):
    """A data set and how it is modelled."""

    train: Array
    """Integer pixels (n, d)."""
    test: Array
    levels: int
    unit: float
    """The model's x is (pixels + u) / (levels * unit), up to a shift: its density gains d log(unit)."""
    num_features: int
    num_outputs: int
    """Of the network, for each pixel."""
    encode: Callable[[Key, Array], Array]
    target: Callable[[Key, Array, Array], tuple[Array, Denoised]]
    predictor: Callable[[Callable[..., Any]], Predictor]
    """From a network's apply function."""
    prediction: PredictionType
    reference: Gaussian | None
    law: Gaussian
    """Of the data's mean and covariance: noised, the law that the sampler starts from."""
    scale: float
    """Its own: standard deviation of x."""
    t_min: float
    t_max: float
    """The range of training times; the sampler and the flow run from t_max as well."""
    flow_t_min: float
    """Where the flow's density is read off: the noise there blurs the edges of the levels.

    Below t_min the closed form, or the reference, does everything: the denoiser knows the times from here.
    """


def digits() -> Problem:
    """Digits, by the probabilities of each pixel's 17 levels."""
    split, levels = data.digits(), 17
    train, test = (jnp.asarray(part, jnp.int32) for part in (split.train, split.test))
    encode = functools.partial(data.dequantize, levels=levels)
    law = fit_gaussian(encode(jax.random.key(0), train))
    assert isinstance(law, Gaussian)
    return Problem(
        train=train,
        test=test,
        levels=levels,
        unit=1.0,
        num_features=1,
        num_outputs=levels,
        encode=encode,
        target=lambda key, pixels, t: quantized.quantized_target(key, SCHEDULE, pixels, t, levels=levels),
        predictor=functools.partial(
            quantized.predictor, log_prior=quantized.log_histogram(train, levels=levels)
        ),
        prediction=quantized.prediction,
        reference=None,
        law=law,
        scale=float(law.scale),
        t_min=0.01,  # a sixth of a level
        t_max=5.0,
        flow_t_min=3e-4,
    )


@pytree
@dataclasses.dataclass(frozen=True, eq=False)
class _Whitened:
    """A `Predictor`, whose network is shown beside x the noise that a Gaussian makes out in it.

    There differences of pixels are at their own scale.
    """

    network: Callable[..., Any]
    denoise: Denoiser

    def __call__(self, params: Params, x: Array, t: Array) -> Array:
        sigma = jnp.exp(4 * t)  # `EDM` shows x / hypot(1, sigma) and log(sigma) / 4
        whitened = self.denoise(x * jnp.hypot(1.0, sigma)[:, None], sigma).noise
        return self.network(params, jnp.stack([x, whitened], axis=-1), t)[..., 0]


def patches(split: data.Split | None = None) -> Problem:
    """Photograph patches, standardized, by what their Gaussian leaves over in EDM's prediction type.

    split: pixels of 256 levels, by default 8 x 8 gray ones of two photographs.
    """
    split, levels = data.photograph_patches() if split is None else split, 256
    train, test = (jnp.asarray(part.reshape(len(part), -1), jnp.int32) for part in (split.train, split.test))
    mean, std = float((train + 0.5).mean()) / levels, float(train.std()) / levels

    def encode(key: Key, pixels: Array) -> Array:
        return (data.dequantize(key, pixels, levels=levels) - mean) / std

    def target(key: Key, pixels: Array, t: Array) -> tuple[Array, Denoised]:
        encode_key, noise_key = jax.random.split(key)
        return denoising_target(noise_key, SCHEDULE, encode(encode_key, pixels), t)

    law = fit_gaussian(encode(jax.random.key(0), train))
    assert isinstance(law, Gaussian)
    return Problem(
        train=train,
        test=jax.random.permutation(jax.random.key(0), test),  # a part is evaluated, of both photographs
        levels=levels,
        unit=std,
        num_features=2,
        num_outputs=1,
        encode=encode,
        target=target,
        predictor=functools.partial(_Whitened, denoise=law.denoiser(SCHEDULE)),
        prediction=prediction.EDM(),
        reference=law,
        law=law,
        scale=float(law.scale),
        t_min=0.003,
        t_max=80.0,
        flow_t_min=1e-3,
    )


PROBLEMS = {"digits": digits, "patches": patches}

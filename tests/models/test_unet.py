"""The U-Net against a NumPy transcription, and its convolutions; what it shares is in test_models.py."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transcription import assert_answers, condition, dense, drawn, silu, softmax, standardized

from jaxdiff.models import UNet
from jaxdiff.models import unet as unet_module

RNG = np.random.default_rng(0)


def conv(p, h):
    """Every pixel from its neighbours, with zeros around the image."""
    kernel, (height, width) = p["kernel"], h.shape[:2]
    size = len(kernel)
    padded = np.pad(h, [(size // 2, size // 2)] * 2 + [(0, 0)])
    shifted = {(i, j): padded[i : i + height, j : j + width] for i in range(size) for j in range(size)}
    return sum(part @ kernel[at] for at, part in shifted.items()) + p["bias"]


def norm(p, h, channels_a_group=4):
    parts = h.reshape(*h.shape[:2], -1, channels_a_group)
    return standardized(parts, (0, 1, 3)).reshape(h.shape) * p.get("scale", 1) + p.get("bias", 0)


def attend(p, h):
    q, k, v = np.split(dense(p["qkv"], norm(p["norm"], h).reshape(-1, h.shape[2])), 3, axis=1)
    return h + dense(p["out"], softmax(q @ k.T / np.sqrt(h.shape[2])) @ v).reshape(h.shape)


def block(p, s, c):
    h = conv(p["conv_1"], silu(norm(p["norm_1"], s)))
    scale, shift = np.split(dense(p["film"]["scale_shift"], c), 2)
    h = conv(p["conv_2"], silu((1 + scale) * norm({}, h) + shift))
    h = h + (conv(p["shortcut"], s) if "shortcut" in p else s)
    return attend(p["attention"], h) if "attention" in p else h


def reference(p, x, t, label):
    """The answer of two levels, with two blocks on each, for one image."""
    c = condition(p["conditioning"], t, label)
    h = conv(p["in"], x)
    first = block(p["down_0_0"], h, c)
    second = block(p["down_0_1"], first, c)
    h = (second[::2, ::2] + second[1::2, ::2] + second[::2, 1::2] + second[1::2, 1::2]) / 4
    third = block(p["down_1_0"], h, c)
    fourth = block(p["down_1_1"], third, c)
    h = block(p["middle_1"], block(p["middle_0"], fourth, c), c)
    h = block(p["up_1_0"], np.concatenate([h, fourth], axis=2), c)
    h = block(p["up_1_1"], np.concatenate([h, third], axis=2), c)
    enlarged = np.empty_like(second[..., :1] * h[0, 0])
    for i, j in np.ndindex(enlarged.shape[:2]):
        enlarged[i, j] = h[i // 2, j // 2]
    h = conv(p["enlarge_1"], enlarged)
    h = block(p["up_0_0"], np.concatenate([h, second], axis=2), c)
    h = block(p["up_0_1"], np.concatenate([h, first], axis=2), c)
    return conv(p["out"], silu(norm(p["norm"], h)))


def test_it_is_its_equations():
    model = UNet(8, (1, 2), 2, (1,), num_classes=2)
    inputs = RNG.standard_normal((3, 4, 6, 2)), np.asarray([-1.0, 0.3, 2.0]), np.asarray([0, 2, 1])
    params = drawn(RNG, model, *inputs, scale=0.2)
    expected = np.stack([reference(params["params"], *row) for row in zip(*inputs, strict=True)])
    assert_answers(model, params, inputs, expected)


def plain(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def gradient(convolve):
    return jax.grad(lambda inputs: (convolve(*inputs) ** 2).sum())


def of_gradient(convolve):
    """The derivative of what has derivatives in it."""
    own = gradient(convolve)
    return jax.grad(lambda inputs: sum((part**2).sum() for part in own(inputs)))


def of_rows(convolve):
    return lambda inputs: jax.vmap(gradient(convolve))(jax.tree.map(lambda a: jnp.stack([a, -a / 2]), inputs))


def in_a_loop(convolve):
    """Of steps against the gradient, computed twice."""
    own = gradient(jax.checkpoint(convolve))

    def step(inputs, _):
        return jax.tree.map(lambda a, g: a - 0.01 * g, inputs, own(inputs)), None

    return lambda inputs: jax.lax.scan(step, inputs, length=3)[0]


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("of", [gradient, of_gradient, of_rows, in_a_loop])
def test_the_derivative_of_a_convolution_is_jaxs_own(of, size):
    inputs = tuple(
        jnp.asarray(RNG.standard_normal(s) / 3, jnp.float32) for s in ((3, 6, 5, 2), (size, size, 2, 4))
    )
    wanted, got = (jax.jit(of(convolve))(inputs) for convolve in (plain, unet_module._convolve))
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
    np.testing.assert_array_equal(unet_module._convolve(*inputs), plain(*inputs))


def test_without_a_program_too():
    inputs = jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1))
    for a, b in zip(gradient(unet_module._convolve)(inputs), gradient(plain)(inputs), strict=True):
        np.testing.assert_array_equal(a, b)


X, TIME = jnp.ones((2, 8, 8, 1)), jnp.zeros(2)
IN_ORDER = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"


def orders(text):
    """The orders of axes of a program's convolutions."""
    return set(re.findall(r"stablehlo\.convolution\(.*?dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", text))


def step(*, train, remat="none"):
    """Steps of gradient descent in a loop, and their argument."""
    model = UNet(4, (1, 2), 1, remat=remat)

    def loss(params):
        return (model.apply(params, X, TIME, train=train) ** 2).mean()

    def descend(params, _):
        return jax.tree.map(jnp.subtract, params, jax.grad(loss)(params)), None

    many = jax.jit(lambda params: jax.lax.scan(descend, params, length=2)[0])
    return many, jax.eval_shape(model.init, jax.random.key(0), X, TIME)


@pytest.mark.parametrize(
    ("host", "remat"), [("cpu", "none"), pytest.param("tpu", "blocks", marks=pytest.mark.slow)]
)
def test_a_program_has_the_convolutions_of_its_platform_and_not_of_the_host(monkeypatch, host, remat):
    monkeypatch.setattr(jax, "default_backend", lambda: host)

    def program(platform, **options):
        many, params = step(**options)
        return orders(many.trace(params).lower(lowering_platforms=(platform,)).as_text())

    jaxs_own = program("cpu", train=False)
    assert IN_ORDER in jaxs_own
    assert len(jaxs_own) > 1
    assert program("cpu", train=True, remat=remat) == {IN_ORDER}
    for platform in ("tpu", "cuda"):
        assert program(platform, train=True, remat=remat) == jaxs_own


def test_an_exported_program_has_both_and_runs_with_that_of_its_device():
    inputs = tuple(jnp.asarray(RNG.standard_normal(s), jnp.float32) for s in ((2, 4, 4, 2), (3, 3, 2, 2)))
    exported = jax.export.export(jax.jit(gradient(unet_module._convolve)), platforms=("cpu", "tpu"))(inputs)
    assert len(orders(exported.mlir_module())) == 3
    for a, b in zip(exported.call(inputs), gradient(plain)(inputs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())

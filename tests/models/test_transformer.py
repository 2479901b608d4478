"""The transformer against a NumPy transcription of its equations; what it shares is in test_models.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from transcription import assert_answers, condition, dense, drawn, softmax
from transcription import standardized as norm

from jaxdiff.learning.training import init_state, make_train_step
from jaxdiff.models import DiffusionTransformer, scanned_blocks, separate_blocks

WIDTH, HEADS, PATCH = 12, 3, 2
MODEL = DiffusionTransformer(PATCH, WIDTH, num_blocks=1, num_heads=HEADS, expansion=3, num_classes=2)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 4, 6, 2))
T = np.asarray([-1.0, 0.3, 2.0])
LABELS = np.asarray([0, 2, 1])
HEARING = MODEL.clone(context_width=5)
CONTEXT = RNG.standard_normal((3, 4, 5))
MASK = np.asarray([[True] * 4, [False, True, True, False], [False] * 4])


def gelu(h):
    return 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))


def place(row, column):
    waves = []
    for at in (row, column):
        angles = [at / 10000 ** (4 * i / WIDTH) for i in range(WIDTH // 4)]
        waves += [np.cos(a) for a in angles] + [np.sin(a) for a in angles]
    return np.asarray(waves)


def attention(p, q, k, v):
    size, heard = WIDTH // HEADS, []
    for i in range(HEADS):
        own = slice(i * size, (i + 1) * size)
        heard.append(softmax(q[:, own] @ k[:, own].T / np.sqrt(size)) @ v[:, own])
    return dense(p["attend"], np.concatenate(heard, axis=1))


def hearing(p, h, c, tokens):
    shift, scale, gate = np.split(dense(p["modulation"], c), 3)
    k, v = np.split(dense(p["kv"], tokens), 2, axis=1)
    return h + gate * attention(p, dense(p["q"], (1 + scale) * norm(h) + shift), k, v)


def reference(p, x, t, label, context=None, mask=None):
    """The answer for one image, patch by patch."""
    corners = [(i, j) for i in range(0, x.shape[0], PATCH) for j in range(0, x.shape[1], PATCH)]
    h = np.stack(
        [
            dense(p["in"], x[i : i + PATCH, j : j + PATCH].ravel()) + place(i // PATCH, j // PATCH)
            for i, j in corners
        ]
    )
    c, block = condition(p["conditioning"], t, label), p["block_0"]
    shift1, scale1, gate1, shift2, scale2, gate2 = np.split(dense(block["modulation"], c), 6)
    h = h + gate1 * attention(
        block, *np.split(dense(block["qkv"], (1 + scale1) * norm(h) + shift1), 3, axis=1)
    )
    if context is not None:
        h = hearing(block["hearing"], h, c, np.concatenate([p["null"][0], context[mask]]))
    along = gelu(dense(block["mlp_in"], (1 + scale2) * norm(h) + shift2))
    h = h + gate2 * dense(block["mlp_out"], along)
    shift, scale = np.split(dense(p["modulation"], c), 2)
    answer = np.empty_like(x)
    for (i, j), patch in zip(corners, dense(p["out"], (1 + scale) * norm(h) + shift), strict=True):
        answer[i : i + PATCH, j : j + PATCH] = patch.reshape(PATCH, PATCH, -1)
    return answer


@pytest.mark.parametrize(
    ("model", "inputs"), [(MODEL, (X, T, LABELS)), (HEARING, (X, T, LABELS, CONTEXT, MASK))]
)
def test_it_is_its_equations(model, inputs):
    params = drawn(RNG, model, *inputs)
    expected = np.stack([reference(params["params"], *row) for row in zip(*inputs, strict=True)])
    assert_answers(model, params, inputs, expected)


def test_number_of_parameters():
    model = DiffusionTransformer(2, 16, num_blocks=3, num_heads=4, expansion=4, num_classes=10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), X, T, LABELS)
    w, pixels = 16, 2 * 2 * 2
    conditioning = (32 * w + w) + (w * w + w) + 11 * w
    block = (6 * w * w + 6 * w) + 3 * w * w + (w * w + w) + (4 * w * w + 4 * w) + (4 * w * w + w)
    ends = (pixels * w + w) + (2 * w * w + 2 * w) + (w * pixels + pixels)
    assert sum(a.size for a in jax.tree.leaves(shapes)) == conditioning + 3 * block + ends


APPLY = jax.jit(HEARING.apply)
IMAGES, LEVELS = jnp.asarray(X, jnp.float32), jnp.asarray(T, jnp.float32)
TOKENS, COUNTS = jnp.asarray(CONTEXT, jnp.float32), jnp.asarray(MASK)


@pytest.fixture(scope="module")
def params():
    """With nothing left at zero, of the model with a context."""
    return jax.tree.map(jnp.float32, drawn(RNG, HEARING, X, T, LABELS, CONTEXT))


@pytest.fixture(scope="module")
def heard(params):
    return APPLY(params, IMAGES, LEVELS, LABELS, TOKENS, COUNTS)


def test_masked_tokens_have_no_influence_and_the_others_do(params, heard):
    for value in (7.0, np.nan):
        other = jnp.where(COUNTS[..., None], TOKENS, value)
        np.testing.assert_array_equal(APPLY(params, IMAGES, LEVELS, LABELS, other, COUNTS), heard)
    moved = jnp.abs(APPLY(params, IMAGES, LEVELS, LABELS, TOKENS.at[:, 2].add(1), COUNTS) - heard)
    assert (moved.max((1, 2, 3)) > 1e-2).tolist() == [True, True, False]
    gradient = jax.grad(
        lambda context: (HEARING.apply(params, IMAGES, LEVELS, LABELS, context, COUNTS) ** 2).sum()
    )
    np.testing.assert_array_equal((jax.jit(gradient)(TOKENS) != 0).all(2), COUNTS)


def test_a_mask_of_none_is_one_of_all_true(params):
    every = APPLY(params, IMAGES, LEVELS, LABELS, TOKENS, jnp.ones_like(COUNTS))
    np.testing.assert_array_equal(APPLY(params, IMAGES, LEVELS, LABELS, TOKENS), every)


def test_the_order_and_the_number_of_tokens_are_not_heard(params, heard):
    order = jnp.asarray([2, 0, 3, 1])
    longer = [jnp.pad(a[:, order], [(0, 0), (0, 2), (0, 0)][: a.ndim]) for a in (TOKENS, COUNTS)]
    got = APPLY(params, IMAGES, LEVELS, LABELS, *longer)
    np.testing.assert_allclose(got, heard, rtol=0, atol=1e-5 * jnp.abs(heard).max())


def test_no_token_at_all_is_a_mask_of_all_false(params, heard):
    got = APPLY(params, IMAGES, LEVELS, LABELS, jnp.zeros((3, 0, 5)))
    np.testing.assert_allclose(got[2], heard[2], rtol=0, atol=1e-5 * jnp.abs(heard).max())


def test_a_trained_model_begins_to_hear_with_the_answers_that_it_had(params):
    """The masks of dropout are the same too."""
    fresh = jax.jit(HEARING.init)(jax.random.key(0), IMAGES, LEVELS, LABELS, TOKENS)["params"]
    old = params["params"]
    joined = {**old, "block_0": {**old["block_0"], "hearing": fresh["block_0"]["hearing"]}}
    got, wanted = (
        jax.jit(functools.partial(model.clone(dropout=0.5).apply, train=True))(
            {"params": joined}, IMAGES, LEVELS, LABELS, *context, rngs={"dropout": jax.random.key(0)}
        )
        for model, context in ((HEARING, (TOKENS, COUNTS)), (MODEL, ()))
    )
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6 * jnp.abs(wanted).max())


@pytest.mark.slow
def test_remat_gives_the_same_gradients_with_a_context_and_none_is_dead(params):
    def gradient(model):
        def loss(params):
            return (model.apply(params, IMAGES, LEVELS, LABELS, TOKENS, COUNTS) ** 2).mean()

        return jax.jit(jax.grad(loss))(params)

    plain = gradient(HEARING)
    for (path, wanted), got in zip(
        jax.tree.leaves_with_path(plain),
        jax.tree.leaves(gradient(HEARING.clone(remat="blocks"))),
        strict=True,
    ):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * jnp.abs(wanted).max())
        assert (wanted != 0).mean() > 0.9, jax.tree_util.keystr(path)


def test_a_context_in_bfloat16(params, heard):
    half = jax.jit(HEARING.clone(dtype=jnp.bfloat16).apply)
    got = half(params, IMAGES, LEVELS, LABELS, TOKENS.astype(jnp.bfloat16), COUNTS)
    assert got.dtype == jnp.float32
    assert 1e-4 < jnp.linalg.norm(got - heard) / jnp.linalg.norm(heard) < 5e-2


@pytest.mark.parametrize("precision", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("of_context", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_the_context_has_a_precision_of_its_own(params, precision, of_context, float64):
    inputs = IMAGES.astype(precision), LEVELS, LABELS, TOKENS.astype(of_context)
    wanted = jnp.promote_types(precision, jnp.float32)
    assert jax.eval_shape(HEARING.apply, params, *inputs).dtype == wanted


@pytest.mark.parametrize(
    ("model", "context", "mask", "error", "says"),
    [
        (MODEL, CONTEXT, None, ValueError, "model without; build it with context_width"),
        (MODEL, None, MASK, ValueError, "model without; build it with context_width"),
        (
            HEARING,
            None,
            None,
            ValueError,
            r"context is missing.* = 5; give floats of shape \(3, m, 5\).*False",
        ),
        (HEARING, None, MASK, ValueError, "context is missing"),
        (HEARING, CONTEXT[0], None, ValueError, r"context must have shape \(3, any, 5\), got \(4, 5\)"),
        (HEARING, CONTEXT[:2], None, ValueError, r"context must have shape \(3, any, 5\), got \(2, 4, 5\)"),
        (
            HEARING,
            CONTEXT[..., :4],
            None,
            ValueError,
            r"context must have shape \(3, any, 5\), got \(3, 4, 4\)",
        ),
        (HEARING, CONTEXT > 0, None, TypeError, "context must be an array of floating-point"),
        (HEARING, CONTEXT, MASK[:, :3], ValueError, r"context_mask must have shape \(3, 4\), got \(3, 3\)"),
        (HEARING, CONTEXT, MASK.astype(int), TypeError, "context_mask must be booleans, .* got int64"),
    ],
)
def test_a_wrong_context_is_refused(model, context, mask, error, says):
    with pytest.raises(error, match=says):
        model.init(jax.random.key(0), IMAGES, LEVELS, LABELS, context, mask)


DEEP = DiffusionTransformer(PATCH, WIDTH, num_blocks=2, num_heads=HEADS, num_classes=2, context_width=5)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", pytest.param("blocks", marks=pytest.mark.slow)])
def test_a_loop_of_blocks_answers_and_learns_as_the_blocks_do(remat, float64):
    """With parameters of one form turned into the other's; and back again they are what they were."""
    model, arguments = DEEP.clone(remat=remat), (X, T, LABELS, CONTEXT, MASK)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(RNG.standard_normal(leaf.shape) / 3),
        jax.eval_shape(model.init, jax.random.key(0), *arguments),
    )
    loop = model.clone(scan=True)
    stacked = scanned_blocks(params)
    shapes = jax.eval_shape(loop.init, jax.random.key(0), *arguments)
    assert jax.tree.structure(stacked) == jax.tree.structure(shapes)
    for got, wanted in zip(jax.tree.leaves(separate_blocks(stacked)), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(got, wanted)

    def loss(model, params):
        return jnp.mean(model.apply(params, *arguments) ** 2)

    value, slope = jax.value_and_grad(functools.partial(loss, model))(params)
    got, got_slope = jax.value_and_grad(functools.partial(loss, loop))(stacked)
    np.testing.assert_allclose(got, value, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(got_slope), jax.tree.leaves(scanned_blocks(slope)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # the condition is in single precision


@pytest.mark.slow
def test_a_state_of_one_form_goes_on_in_the_other():
    """One Adam step from a state with averages and moments, in either form, and dropout's blocks differ."""
    optimizer = optax.adam(1e-2)
    x, t, context = (jnp.asarray(part, jnp.float32) for part in (X, T, CONTEXT))

    def stepped(model, state):
        loss = lambda params, key, x: jnp.mean(model.apply(params, x, t, LABELS, context, MASK) ** 2)  # noqa: E731
        step = make_train_step(loss, optimizer, ema_decay=0.9)
        return step(jax.random.key(1), state, x)[0]

    params = jax.jit(DEEP.init)(jax.random.key(0), x, t, LABELS, context, MASK)
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jnp.asarray(RNG.standard_normal(leaf.shape), leaf.dtype), params
    )
    state = init_state(params, optimizer, ema_decay=0.9)
    moved = lambda leaf: leaf + 0.01 if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf  # noqa: E731
    state = state._replace(opt_state=jax.tree.map(moved, state.opt_state))  # moments that are not zero
    one, other = stepped(DEEP, state), stepped(DEEP.clone(scan=True), scanned_blocks(state))
    for a, b in zip(jax.tree.leaves(scanned_blocks(one)), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.slow
def test_every_block_of_a_loop_drops_by_itself():
    model = DEEP.clone(scan=True, dropout=0.5, num_classes=None, context_width=None)
    x, t = jnp.asarray(X, jnp.float32), jnp.asarray(T, jnp.float32)
    params = jax.jit(model.init)(jax.random.key(0), x, t)
    params = jax.tree.map(lambda leaf: jnp.asarray(RNG.standard_normal(leaf.shape), leaf.dtype), params)
    rngs, seen = {"dropout": jax.random.key(1)}, "intermediates"
    _, kept = model.apply(params, x, t, train=True, rngs=rngs, capture_intermediates=True, mutable=[seen])
    (dropped,) = kept[seen]["blocks"]["block"]["Dropout_0"]["__call__"]
    zeros = np.asarray(dropped) == 0
    assert zeros.shape[0] == 2
    assert 0.4 < (zeros[0] == zeros[1]).mean() < 0.7  # a half by chance, and gelu has zeros of its own

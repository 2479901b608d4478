import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import few_of

from jaxdiff.models import (
    DiffusionTransformer,
    MaskedAutoregressive,
    Mixer,
    PatchFlow,
    ResidualMLP,
    SplineCoupling,
    UNet,
)
from jaxdiff.models.dropout import Dropout
from jaxdiff.models.embedding import fourier_features
from jaxdiff.models.unet import _kernel_init

CASES = {
    "mlp": (ResidualMLP(16, 2, dropout=0.25, num_classes=2, input_frequencies=(0.25, 0.5)), (3,)),
    "unet": (UNet(8, (1, 2), 1, (1,), dropout=0.25, num_classes=2), (8, 8, 1)),
    "transformer": (DiffusionTransformer(2, 24, 1, 2, 2, dropout=0.25, num_classes=2), (8, 8, 1)),
}
BATCH = 6


class Case:
    """A model, its parameters at initialization and with its zero kernels made non-zero, and one batch."""

    def __init__(self, name):
        self.model, shape = CASES[name]
        rng = np.random.default_rng(0)
        self.x = jnp.asarray(rng.standard_normal((BATCH, *shape)), jnp.float32)
        self.t = jnp.asarray(rng.uniform(-2.5, 2.5, BATCH), jnp.float32)
        self.labels = jnp.asarray([0, 1, 2, 0, 1, 2])
        self.initial = jax.jit(self.model.init)(jax.random.key(0), self.x, self.t, self.labels)

        def filled(path, leaf):
            if path[-1].key != "kernel" or leaf.any():
                return leaf
            return jnp.asarray(rng.standard_normal(leaf.shape) / np.sqrt(leaf[..., 0].size), jnp.float32)

        self.params = jax.tree.map_with_path(filled, self.initial)
        self.predict = jax.jit(self.model.apply)
        self.answer = self.predict(self.params, self.x, self.t, self.labels)
        self._make_regression(rng, shape if len(shape) == 1 else (4, 6, 1))  # oblong images

    def _make_regression(self, rng, shape):
        """32 points of a function of x's neighbours, t and the label, and one Adam step towards it."""
        x = rng.uniform(-1, 1, (32, *shape)).astype(np.float32)
        t, labels = rng.uniform(-1, 1, 32).astype(np.float32), rng.integers(0, 3, 32)
        neighbour = np.concatenate([np.zeros_like(x[:, :1]), x[:, :-1]], axis=1)
        per_row = (slice(None), *[None] * (x.ndim - 1))
        offset = np.asarray([-0.7, 0.0, 0.7], np.float32)[labels]
        self.target = neighbour * t[per_row] + offset[per_row]
        self.optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 300))

        @jax.jit
        def step(params, state):
            value, gradient = jax.value_and_grad(
                lambda p: ((self.model.apply(p, x, t, labels) - self.target) ** 2).mean()
            )(params)
            updates, state = self.optimizer.update(gradient, state)
            return optax.apply_updates(params, updates), state, value, gradient

        self.step = step


built = functools.cache(Case)


@pytest.fixture(params=list(CASES))
def case(request):
    return built(request.param)


@pytest.fixture
def unet():
    return built("unet")


@pytest.fixture(params=["unet", "transformer"])
def image_case(request):
    return built(request.param)


def test_a_network_starts_at_exactly_zero(case):
    assert (case.predict(case.initial, case.x, case.t, case.labels) == 0).all()
    assert jnp.abs(case.answer).mean() > 0.1  # the trunk is alive, and of order one
    assert jnp.abs(case.answer).mean() < 10


def test_a_block_of_the_transformer_begins_as_the_identity():
    block = built("transformer").initial["params"]["block_0"]
    assert not any(leaf.any() for leaf in jax.tree.leaves(block["modulation"]))


def test_every_input_is_heard(case):
    def shift(x=case.x, t=case.t, labels=case.labels):
        axes = tuple(range(1, case.x.ndim))
        return jnp.abs(case.predict(case.params, x, t, labels) - case.answer).mean(axes)

    assert (shift(t=case.t + 0.25) > 0.01).all()  # one nat of log(sigma / alpha)
    assert (shift(x=case.x[..., ::-1] if case.x.ndim == 2 else case.x[:, ::-1]) > 0.01).all()
    to_null = shift(labels=jnp.full_like(case.labels, 2))
    assert (to_null[case.labels != 2] > 0.01).all()  # the null class is neither class 0 nor class 1
    assert (to_null[case.labels == 2] == 0).all()


def test_a_row_depends_on_itself_alone(case):
    x, t, labels = case.x.at[1].mul(100.0), case.t.at[1].add(1.0), case.labels.at[1].set(2)
    others = np.array([i for i in range(BATCH) if i != 1])
    moved = case.predict(case.params, x, t, labels)
    np.testing.assert_allclose(moved[others], case.answer[others], rtol=0, atol=1e-6)
    assert jnp.abs(moved[1] - case.answer[1]).max() > 0.1

    order = np.array([3, 0, 5, 1, 4, 2])
    permuted = case.predict(case.params, case.x[order], case.t[order], case.labels[order])
    np.testing.assert_allclose(permuted, case.answer[order], rtol=0, atol=1e-6)


def test_a_label_out_of_range_is_nan_and_not_another_class(case):
    answer = case.predict(case.params, case.x, case.t, jnp.asarray([-1, 3, 0, 1, 2, 0]))
    assert jnp.isnan(answer[:2]).all()
    assert jnp.isfinite(answer[2:]).all()


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_known_label_out_of_range_is_refused(case, wrong):
    with pytest.raises(ValueError, match=rf"labels must lie in 0, \.\.\., 2, with 2 .* got {wrong} in row 4"):
        case.model.apply(case.params, case.x, case.t, case.labels.at[4].set(wrong))


def test_dropout_is_a_function_of_the_key_and_the_row():
    mlp = built("mlp")

    @jax.jit
    def dropped(x, t, labels, key):
        return mlp.model.apply(mlp.params, x, t, labels, train=True, rngs={"dropout": key})

    inputs = mlp.x, mlp.t, mlp.labels
    first, again, other = (dropped(*inputs, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (jnp.abs(first - other).max(1) > 1e-3).all()
    fewer = dropped(*(a[:4] for a in inputs), jax.random.key(1))
    np.testing.assert_allclose(fewer, first[:4], rtol=0, atol=1e-6)


def test_masks_are_counted_over_the_whole_batch_on_any_number_of_devices():
    def masks(key, x, num_samples=None):
        return Dropout(0.3, deterministic=False).apply({}, x, num_samples, rngs={"dropout": key})

    key, ones = jax.random.key(0), jnp.ones((16, 500))
    whole = jax.jit(masks)(key, ones)
    spread = jax.pmap(masks, axis_name="data", in_axes=(None, 0))(key, ones.reshape(8, 2, 500))
    np.testing.assert_array_equal(spread.reshape(ones.shape), whole)
    np.testing.assert_array_equal(masks(key, jnp.ones((16 * 5, 100)), 16).reshape(ones.shape), whole)

    assert set(np.unique(whole)) == {0.0, np.float32(1 / 0.7)}
    zeros = np.asarray(whole == 0)
    assert abs(zeros.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / zeros.size)
    alike = (zeros[:, None] == zeros[None]).mean(-1)[np.triu_indices(16, 1)]  # 0.58 of independent masks
    assert np.abs(alike - 0.58).max() < 4.5 * np.sqrt(0.58 * 0.42 / 500)  # of 120 pairs: probability 1e-3


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
def test_a_wrong_rate_of_dropout_is_refused(rate):
    model = ResidualMLP(4, 1, dropout=rate)
    with pytest.raises(ValueError, match=r"dropout must be a rate in \[0, 1\), got"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 3)), jnp.zeros(2))


def test_no_dropout_needs_no_key_and_is_the_same_program(case):
    def program(model, **options):
        apply = jax.jit(functools.partial(model.apply, **options))
        return apply.lower(case.params, case.x, case.t, case.labels).as_text()

    assert program(case.model.clone(dropout=0.0), train=True) == program(case.model)


def test_dropout_is_unbiased_where_the_network_is_linear_in_it(case):
    # The first block is affine in its dropout mask, so the mean over masks is the block without dropout.
    block, n = "down_0_0" if isinstance(case.model, UNet) else "block_0", 2048

    def first_block(**options):
        _, state = case.model.apply(
            case.params,
            case.x[:1],
            case.t[:1],
            case.labels[:1],
            capture_intermediates=lambda module, _: module.name == block,
            mutable=["intermediates"],
            **options,
        )
        return state["intermediates"][block]["__call__"][0]

    keys = jax.random.split(jax.random.key(0), n)
    drawn = jax.jit(jax.vmap(lambda key: first_block(train=True, rngs={"dropout": key})))(keys)
    z = (drawn.mean(0) - first_block()) / (drawn.std(0) / np.sqrt(n))
    assert jnp.abs(z).max() < 4.5  # at most 512 standard normals: beyond with probability 0.004
    assert drawn.std(0).min() > 1e-3


def test_no_parameter_is_dead(case):
    state = case.optimizer.init(case.params)
    for path, g in jax.tree.leaves_with_path(case.step(case.params, state)[-1]):
        assert (jnp.abs(g) > 1e-9).mean() > 0.99, jax.tree_util.keystr(path)
    at_start = case.step(case.initial, state)[-1]["params"]
    assert jnp.abs(at_start["out"]["kernel"]).max() > 1e-3  # training can leave the zero start


def test_parameters_are_float32_and_a_float64_input_is_answered_in_float64(case, float64):
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(case.params))
    x, t = np.asarray(case.x, np.float64), np.asarray(case.t, np.float64)
    answer = jax.jit(case.model.apply)(case.params, jnp.asarray(x), jnp.asarray(t), np.asarray(case.labels))
    assert answer.dtype == jnp.float64
    error = np.abs(answer - np.asarray(case.answer, np.float64)).max()
    assert 1e-9 < error < 2e-5  # the rounding of float32, and no more


@pytest.mark.parametrize("precision", [jnp.float32, jnp.bfloat16])
def test_bfloat16_computes_nearly_the_same_and_answers_in_float32(image_case, precision):
    case = image_case
    half = case.model.clone(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(half.init, jax.random.key(0), case.x, case.t, case.labels)
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(shapes))
    answer = jax.jit(half.apply)(case.params, case.x.astype(precision), case.t, case.labels)
    assert answer.dtype == jnp.float32
    error = jnp.linalg.norm(answer - case.answer) / jnp.linalg.norm(case.answer)
    assert 1e-4 < error < 3e-2


ROWS, TOKENS, IMAGES = (jnp.zeros((2, *shape), jnp.bfloat16) for shape in ((6,), (5, 3), (4, 4, 1)))
TIME, ORDER = jnp.zeros(2, jnp.bfloat16), jnp.zeros((2, 5), int)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (ResidualMLP(8, 1, input_frequencies=(1.0,)), (ROWS, TIME)),
        (Mixer(), (TOKENS, TIME)),
        (UNet(8, (1, 2), 1, (1,)), (IMAGES, TIME)),
        (UNet(8, (1, 2), 1, (1,), dtype=jnp.bfloat16), (IMAGES, TIME)),
        (DiffusionTransformer(2, 8, 1, 2), (IMAGES, TIME)),
        (DiffusionTransformer(2, 8, 1, 2, dtype=jnp.bfloat16), (IMAGES, TIME)),
        (MaskedAutoregressive(3, 8, 1, 2, 8, 1), (TOKENS, ORDER, TOKENS, TIME)),
        (SplineCoupling(2, 8, 1), (ROWS,)),
        (PatchFlow(2, 8, 2, 1), (IMAGES,)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_inputs_in_bfloat16_are_answered_in_float32(model, inputs):
    def loss(params):
        return sum(leaf.sum() for leaf in jax.tree.leaves(model.apply(params, *inputs)))

    params = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    answers = [jax.eval_shape(model.apply, params, *inputs), jax.eval_shape(jax.grad(loss), params)]
    if hasattr(model, "inverse"):
        answers.append(jax.eval_shape(functools.partial(model.apply, method="inverse"), params, *inputs))
    assert {leaf.dtype for leaf in jax.tree.leaves(answers)} == {jnp.dtype("float32")}


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["dots", "offloaded"])
def test_what_is_kept_or_moved_changes_no_gradient(remat):
    rng = np.random.default_rng(0)
    model, x, t = DiffusionTransformer(2, 16, 2, 2, 2), jnp.ones((3, 4, 4, 1)), jnp.linspace(0, 1, 3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, t)
    params = jax.tree.map(lambda s: jnp.asarray(0.2 * rng.standard_normal(s.shape), s.dtype), shapes)

    @functools.partial(jax.jit, static_argnames="remat")
    def gradient(params, remat):
        return jax.grad(lambda params: (model.clone(remat=remat).apply(params, x, t) ** 2).mean())(params)

    got, wanted = gradient(params, remat), gradient(params, "none")
    for leaf, other in zip(*map(jax.tree.leaves, (got, wanted)), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=0, atol=1e-5 * jnp.abs(other).max())
        assert jnp.abs(other).max() > 0


@pytest.mark.parametrize(
    "model", [UNet(8, (1,), 0, dropout=0.25), DiffusionTransformer(2, 16, 2, 2, 2, dropout=0.25)]
)
def test_remat_gives_the_same_gradients_in_less_memory(model):
    rng = np.random.default_rng(0)
    x, t = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((48, 8, 8, 1), 48))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, t)
    params = jax.tree.map(lambda s: jnp.asarray(0.2 * rng.standard_normal(s.shape), s.dtype), shapes)

    def gradient(remat):
        def loss(params, key):
            answer = model.clone(remat=remat).apply(params, x, t, train=True, rngs={"dropout": key})
            return (answer**2).mean()

        kept = jax.eval_shape(lambda p, key: jax.vjp(loss, p, key)[1], params, jax.random.key(0))
        program = jax.jit(jax.grad(loss)).lower(params, jax.random.key(0)).compile()
        sizes = (
            sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(kept)),
            program.memory_analysis().temp_size_in_bytes,
        )
        return program(params, jax.random.key(0)), sizes

    def kept_by(remat):
        """Without compiling."""
        apply = model.clone(remat=remat).apply
        kept = jax.eval_shape(lambda params: jax.vjp(lambda p: apply(p, x, t), params)[1], params)
        return sum(a.size for a in jax.tree.leaves(kept))

    assert kept_by("blocks") < kept_by("dots") < kept_by("none")
    with pytest.raises(
        ValueError, match="remat must be one of 'none', 'blocks', 'dots', 'offloaded'; got True"
    ):
        kept_by(True)
    (expected, (kept, more)), (got, (kept_less, less)) = gradient("none"), gradient("blocks")
    assert kept_less < 0.5 * kept, f"{kept_less} bytes kept with remat, {kept} without"
    if jax.__version_info__ >= (0, 11):  # before, the CPU's compiler joined again what is computed twice
        assert less < 0.75 * more, f"{less} bytes with remat, {more} without"
    for leaf, other in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=0, atol=1e-5 * jnp.abs(other).max())


def test_number_of_parameters():
    def count(model, x, labels=None):
        shapes = jax.eval_shape(model.init, jax.random.key(0), x, jnp.zeros(len(x)), labels)
        return sum(a.size for a in jax.tree.leaves(shapes))

    # d = 5 with two waves each, width w, 16 time frequencies, 3 blocks, 4 classes and none.
    d, w = 5, 12
    conditioning = (32 * w + w) + (w * w + w) + 5 * w
    blocks = 3 * ((w * 2 * w + 2 * w) + 2 * (w * w + w))
    mlp = ResidualMLP(w, 3, num_classes=4, input_frequencies=(1.0,))
    expected = conditioning + (3 * d * w + w) + blocks + 2 * w + (w * d + d)
    assert count(mlp, jnp.zeros((2, d)), jnp.zeros(2, int)) == expected

    def block(n, m, attention=0):  # n channels to m under 32 of conditioning
        convolutions = (9 * n * m + m) + (9 * m * m + m) + (n * m + m if n != m else 0)
        return 2 * n + convolutions + (32 * 2 * m + 2 * m) + attention * (2 * m + 3 * m * m + m * m)

    conditioning = (32 * 32 + 32) + (32 * 32 + 32)
    down = block(8, 8) + block(8, 8) + block(8, 16, 1) + block(16, 16, 1)
    up = 2 * block(32, 16, 1) + block(16 + 8, 8) + block(8 + 8, 8)
    ends = (9 * 3 * 8 + 8) + (9 * 16 * 16 + 16) + 2 * 8 + (9 * 8 * 3 + 3)
    unet = UNet(8, (1, 2), 2, (1,))
    assert count(unet, jnp.zeros((2, 8, 8, 3))) == conditioning + down + 2 * block(16, 16, 1) + up + ends


def test_unet_with_symmetric_kernels_has_the_symmetries_of_the_square(unet):
    # Flips and transposes commute with padding, pooling, enlarging, norms and attention, and with convolution
    # once its kernels are symmetric. A mixed-up axis or an off-centre resampling would break one of these.
    def symmetrize(a):
        if a.ndim != 4:
            return a
        a = (a + a[::-1]) / 2
        a = (a + a[:, ::-1]) / 2
        return (a + a.swapaxes(0, 1)) / 2

    params = jax.tree.map(symmetrize, unet.params)
    answer = unet.predict(params, unet.x, unet.t, unet.labels)
    assert jnp.abs(answer - answer[:, :, ::-1]).max() > 0.1
    for move in (lambda x: x[:, ::-1], lambda x: x[:, :, ::-1], lambda x: x.swapaxes(1, 2)):
        moved = unet.predict(params, move(unet.x), unet.t, unet.labels)
        np.testing.assert_allclose(moved, move(answer), rtol=0, atol=1e-5)


def test_kernels_are_drawn_as_flax_draws_them():
    key, shape = jax.random.key(3), (3, 3, 4, 2)
    expected = jax.nn.initializers.lecun_normal()(key, shape, jnp.float32)
    np.testing.assert_allclose(_kernel_init(key, shape, jnp.float32), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_fourier_features_keep_their_precision(dtype):
    x = np.asarray([[0.0, 0.37, -1.0], [2.7, 1 / 3, 0.01]])
    x = np.asarray(jnp.asarray(x, dtype), np.float64)  # what is left after rounding
    frequencies = (0.5, 1.3, 64.0)
    angles = np.stack([2 * np.pi * f * x[:, i] for i in range(3) for f in frequencies], axis=1)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(fourier_features(jnp.asarray(x, dtype), frequencies), expected, atol=2e-4)


def test_input_frequencies_resolve_what_a_smooth_network_cannot():
    # The answer of a network with random weights to a shift by one grey level of 8-bit pixels in [-1, 1].
    rng = np.random.default_rng(0)
    x, t, step = jnp.asarray(rng.uniform(-1, 1, (16, 3)), jnp.float32), jnp.zeros(16), 2 / 255

    def sensitivity(frequencies):
        model = ResidualMLP(32, 1, input_frequencies=frequencies)
        params = model.init(jax.random.key(0), x, t)
        params["params"]["out"]["kernel"] = jax.random.normal(jax.random.key(1), (32, 3)) / 6
        return jnp.abs(model.apply(params, x + step, t) - model.apply(params, x, t)).mean()

    assert sensitivity((64.0, 128.0)) > 5 * sensitivity(())


@pytest.mark.parametrize("case", few_of(CASES, ["mlp", "transformer"]), indirect=True)
def test_a_network_fits_a_function_of_all_its_inputs(case):
    params, state = case.initial, case.optimizer.init(case.initial)
    for _ in range(300):
        params, state, value, _ = case.step(params, state)
    left = value / case.target.var()
    assert left < 0.005, f"{left:.3g} of the variance is left"


X, T = jnp.zeros((2, 8, 8, 1)), jnp.zeros(2)


@pytest.mark.parametrize(
    ("model", "x", "t", "labels", "error", "says"),
    [
        (ResidualMLP(4), X, T, None, ValueError, r"x must have shape \(batch, d\), got \(2, 8, 8, 1\)"),
        (UNet(4), X[0], T, None, ValueError, r"x must have shape \(batch, height, width, channels\), got"),
        (UNet(4), X, T[0], None, ValueError, r"one noise level per row of x, shape \(2,\), got shape \(\)"),
        (ResidualMLP(4), X[:, 0, 0], jnp.zeros(3), None, ValueError, "one noise level per row"),
        (UNet(4), X, T, jnp.zeros(2, int), ValueError, "without classes.*num_classes"),
        (UNet(4, num_classes=10), X, T, None, ValueError, "labels are missing.*10 classes.*with 10 where"),
        (ResidualMLP(4, num_classes=3), X[:, 0, 0], T, jnp.zeros(3, int), ValueError, "one class per row"),
        (ResidualMLP(4, num_classes=3), X[:, 0, 0], T, T, TypeError, "labels must be integers, got float32"),
        (DiffusionTransformer(4), X[:, :6], T, None, ValueError, r"patch_size = 4, got \(6, 8\); pad"),
        (DiffusionTransformer(2, 18, num_heads=3), X, T, None, ValueError, "multiple of 4 and of num_heads"),
        (DiffusionTransformer(2, 16, num_heads=3), X, T, None, ValueError, "of num_heads = 3, got 16"),
        (UNet(4), X[:, :6], T, None, ValueError, r"multiples of 4 for 3 levels, got \(6, 8\)"),
        (UNet(4), X[:, :, :7], T, None, ValueError, r"multiples of 4 for 3 levels, got \(8, 7\)"),
        (
            UNet(4, attention_levels=(3,)),
            X,
            T,
            None,
            ValueError,
            r"attention_levels must lie in 0, .*, 2",
        ),
    ],
)
def test_bad_input_is_refused(model, x, t, labels, error, says):
    with pytest.raises(error, match=says):
        jax.eval_shape(model.init, jax.random.key(0), x, t, labels)

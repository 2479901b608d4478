"""Networks of other libraries answer as they do there, from their files' arrays; see `torch_cases`."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_cases
from oracles import few_of
from torch_cases import ANSWERS, CASES, drawn, inputs
from transcription import silu, softmax, standardized

import jaxdiff as jd
from jaxdiff.models import DDPMUNet, DiT, EDMUNet
from jaxdiff.models.torch_layout import TorchNetwork, conv, waves

SHAPE = (8, 8, 3)


def ours(name):
    return (DiT if name == "dit" else DDPMUNet).from_config(CASES[name])


def shapes_of(network, *args):
    tree = jax.eval_shape(network.init, jax.random.key(0), *args)["params"]
    return {name: leaf.shape for name, leaf in tree.items()}


def assert_same(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected).mean() > 0.1


@pytest.mark.parametrize("name", few_of(CASES, ("ddpm", "dit")))
def test_it_answers_as_the_library_does(name):
    network, args = ours(name), inputs(name)
    params = network.from_state_dict(drawn(shapes_of(network, *args)), SHAPE)
    answers = np.load(ANSWERS)[name]
    assert_same(jax.jit(network.apply)(params, *args), answers)
    zero = jax.eval_shape(network.init, jax.random.key(0), *args)
    assert jax.tree.structure(zero) == jax.tree.structure(params)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_files_of_the_library(name, tmp_path):
    """As it saves them, with its own initialization; and ours goes back."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    torch.manual_seed(0)
    peer, args = torch_cases.theirs(name), inputs(name)
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter += torch.randn_like(parameter) * 0.3 / max(1, parameter[0].numel()) ** 0.5
    peer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    network = (DiT if name == "dit" else DDPMUNet).from_config(config)
    tensors = jd.load_safetensors(tmp_path / "diffusion_pytorch_model.safetensors")
    params = network.from_state_dict(tensors, SHAPE)
    assert_same(jax.jit(network.apply)(params, *args), torch_cases.answer(peer, *args))
    changed = jax.tree.map(lambda leaf: 0.9 * leaf, params)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    jd.save_safetensors(path, changed["params"], metadata={"format": "pt"})
    back = type(peer).from_pretrained(tmp_path, use_safetensors=True)
    assert_same(jax.jit(network.apply)(changed, *args), torch_cases.answer(back.eval(), *args))


# Transcriptions in NumPy, in the layout of PyTorch: images (batch, channels, height, width).


def flat(p, name, h):
    return h @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0)


def rows(v):
    return np.broadcast_to(v[:, :, None, None], (*v.shape, 1, 1))


def convolved(p, name, x, padding=None, bias=True):
    w = p[f"{name}.weight"]
    margin = w.shape[-1] // 2 if padding is None else padding
    x = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))
    answer = np.einsum("nchwij,ocij->nohw", windows, w)
    return answer + p[f"{name}.bias"].reshape(-1, 1, 1) if bias else answer


def normed(p, name, x):
    groups = min(32, x.shape[1] // 4)
    h = standardized(x.reshape(len(x), groups, -1)).reshape(x.shape)
    return h * p[f"{name}.weight"].reshape(-1, 1, 1) + p[f"{name}.bias"].reshape(-1, 1, 1)


def spread_apart(x):
    wide = np.zeros((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]))
    wide[:, :, ::2, ::2] = x
    return wide


def filtered(x, taps, before, after):
    """Sums over the taps, of sum one, in both directions, of x with zeros around it."""
    taps = np.asarray(taps) / sum(taps)
    x = np.pad(x, ((0, 0), (0, 0), (before, after), (before, after)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (len(taps),) * 2, (2, 3))
    return np.einsum("nchwij,i,j->nchw", windows, taps, taps)


class Song:
    """EDM's SongUNet, of p by names, on images of 8 x 8."""

    def __init__(self, network, p):
        self.p, self.network, self.taps = p, network, network.resample_filter

    def smaller(self, x):
        margin = (len(self.taps) - 1) // 2
        return filtered(x, self.taps, margin, margin)[:, :, ::2, ::2]

    def larger(self, x):
        n = len(self.taps)  # of an even length: one zero fewer at the end, which spreading has left there
        before = n - 1 - (n - 1) // 2
        return 4 * filtered(spread_apart(x), self.taps, before, before - 1)

    def block(self, name, x, e, resize=None):
        p = self.p
        h = silu(normed(p, f"{name}.norm0", x))
        if resize:
            x, h = resize(x), resize(h)
        h = convolved(p, f"{name}.conv0", h) + rows(flat(p, f"{name}.affine", e))
        h = convolved(p, f"{name}.conv1", silu(normed(p, f"{name}.norm1", h)))
        h = (h + (convolved(p, f"{name}.skip", x) if f"{name}.skip.weight" in p else x)) / np.sqrt(2)
        if f"{name}.qkv.weight" not in p:
            return h
        qkv = convolved(p, f"{name}.qkv", normed(p, f"{name}.norm2", h))
        q, k, v = qkv.reshape(len(h), h.shape[1], 3, -1).swapaxes(1, 2).swapaxes(0, 1)
        weights = softmax(np.einsum("ncq,nck->nqk", q, k) / np.sqrt(h.shape[1]))
        heard = np.einsum("nqk,nck->ncq", weights, v).reshape(h.shape)
        return (h + convolved(p, f"{name}.proj", heard)) / np.sqrt(2)

    def __call__(self, x, t, labels=None):
        p, network = self.p, self.network
        half = len(p["map_layer0.weight"][0]) // 2
        f = (
            2 * np.pi * p["map_noise.freqs"]
            if "map_noise.freqs" in p
            else 1e-4 ** (np.arange(half) / (half - 1))
        )
        e = np.concatenate([np.sin(np.outer(t, f)), np.cos(np.outer(t, f))], axis=1)
        if labels is not None:
            held = np.eye(network.label_dim + 1)[labels][:, :-1]
            e = e + flat(p, "map_label", held * np.sqrt(network.label_dim))
        e = silu(flat(p, "map_layer1", silu(flat(p, "map_layer0", e))))
        h = beside = x.transpose(0, 3, 1, 2)
        blocks = range(network.num_blocks)
        h = convolved(p, "enc.8x8_conv", h)
        kept = [h]
        for i in blocks:
            h = self.block(f"enc.8x8_block{i}", h, e)
            kept.append(h)
        h = self.block("enc.4x4_down", h, e, self.smaller)
        if network.encoder_type == "residual":
            name = "enc.4x4_aux_residual"
            wide = convolved(p, name, beside, 1 + (len(self.taps) - 1) // 2, bias=False)
            less = filtered(wide, self.taps, 0, 0)[:, :, ::2, ::2] + p[f"{name}.bias"].reshape(-1, 1, 1)
            h = (h + less) / np.sqrt(2)
        kept.append(h)
        for i in blocks:
            h = self.block(f"enc.4x4_block{i}", h, e)
            kept.append(h)
        h = self.block("dec.4x4_in1", self.block("dec.4x4_in0", h, e), e)
        for size in (4, 8):
            h = self.block("dec.8x8_up", h, e, self.larger) if size == 8 else h
            for i in range(network.num_blocks + 1):
                h = self.block(f"dec.{size}x{size}_block{i}", np.concatenate([h, kept.pop()], axis=1), e)
        h = convolved(p, "dec.8x8_aux_conv", silu(normed(p, "dec.8x8_aux_norm", h)))
        return h.transpose(0, 2, 3, 1)


SMALL = {"img_resolution": 8, "model_channels": 8, "channel_mult": (1, 2), "num_blocks": 1}
SONG = {
    "ddpm++": EDMUNet(**SMALL, attn_resolutions=(8,), label_dim=3),
    "ncsn++": EDMUNet(
        **SMALL,
        attn_resolutions=(4,),
        embedding_type="fourier",
        channel_mult_noise=2,
        encoder_type="residual",
        resample_filter=(1, 3, 3, 1),
    ),
}


@pytest.mark.parametrize("name", few_of(SONG, ("ncsn++",)))
def test_edms_networks_are_their_equations(name):
    network, (x, *_) = SONG[name], inputs("ddpm")
    args = (x, np.asarray([-0.7, 0.9], np.float32), *([np.asarray([1, 3])] if network.label_dim else []))
    p = drawn(shapes_of(network, *args))
    file = {f"model.{key}": array for key, array in p.items()}
    file |= {"model.enc.4x4_down.conv0.resample_filter": np.ones((1, 1, 2, 2)) / 4}
    file |= {"model.map_augment.weight": np.zeros((8, 9))}
    params = network.from_state_dict(file, SHAPE)
    double = {key: array.astype(float) for key, array in p.items()}
    assert_same(jax.jit(network.apply)(params, *args), Song(network, double)(*args))


def test_files_of_dits_authors():
    """Their names and places, and one embedding of the step for all blocks."""
    network, (x, t, labels) = DiT(2, 8, 2, 2, 8, 6, 3, norm_eps=1e-6, freq_shift=0), inputs("dit")
    width, patch = 16, 4
    shapes = {"x_embedder.proj": (width, 3, 2, 2), "t_embedder.mlp.0": (width, 256)}
    shapes |= {"t_embedder.mlp.2": (width, width), "y_embedder.embedding_table": (4, width)}
    shapes |= {"final_layer.linear": (6 * patch, width), "final_layer.adaLN_modulation.1": (2 * width, width)}
    for i in range(2):
        own = {"attn.qkv": (3 * width, width), "attn.proj": (width, width), "mlp.fc1": (4 * width, width)}
        own |= {"mlp.fc2": (width, 4 * width), "adaLN_modulation.1": (6 * width, width)}
        shapes |= {f"blocks.{i}.{layer}": shape for layer, shape in own.items()}
    p = drawn({f"{layer}.weight": shape for layer, shape in shapes.items()})
    p |= drawn({f"{layer}.bias": shape[:1] for layer, shape in shapes.items() if "table" not in layer})
    # Of 16 numbers 8 are waves of the column, and then 8 of the row.
    frequencies = 10000.0 ** (-np.arange(4) / 4)
    place = np.concatenate(
        [np.sin(np.outer(range(4), frequencies)), np.cos(np.outer(range(4), frequencies))], 1
    )
    places = np.asarray(
        [np.concatenate([place[column], place[row]]) for row in range(4) for column in range(4)]
    )
    file = p | {"pos_embed": places[None].astype(np.float32)}

    patches = x.reshape(2, 4, 2, 4, 2, 3).transpose(0, 1, 3, 5, 2, 4).reshape(2, 16, 12)
    kernel = p["x_embedder.proj.weight"].reshape(width, -1)
    h = patches @ kernel.T + p["x_embedder.proj.bias"] + places
    angles = np.outer(t.astype(float), 10000.0 ** (-np.arange(128) / 128))
    c = flat(p, "t_embedder.mlp.0", np.concatenate([np.cos(angles), np.sin(angles)], axis=1))
    c = silu(flat(p, "t_embedder.mlp.2", silu(c)) + p["y_embedder.embedding_table.weight"][labels])
    for i in range(2):
        own = f"blocks.{i}"
        shift1, scale1, gate1, shift2, scale2, gate2 = np.split(
            flat(p, f"{own}.adaLN_modulation.1", c)[:, None], 6, axis=-1
        )
        qkv = flat(p, f"{own}.attn.qkv", (1 + scale1) * standardized(h) + shift1)
        q, k, v = qkv.reshape(2, 16, 3, 2, 8).transpose(2, 0, 3, 1, 4)
        heard = (softmax(q @ k.swapaxes(2, 3) / np.sqrt(8)) @ v).swapaxes(1, 2).reshape(h.shape)
        h = h + gate1 * flat(p, f"{own}.attn.proj", heard)
        along = flat(p, f"{own}.mlp.fc1", (1 + scale2) * standardized(h) + shift2)
        along = along / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (along + 0.044715 * along**3)))
        h = h + gate2 * flat(p, f"{own}.mlp.fc2", along)
    shift, scale = np.split(flat(p, "final_layer.adaLN_modulation.1", c)[:, None], 2, axis=-1)
    h = flat(p, "final_layer.linear", (1 + scale) * standardized(h) + shift)
    expected = h.reshape(2, 4, 4, 2, 2, 6).transpose(0, 1, 3, 2, 4, 5).reshape(2, 8, 8, 6)

    params = network.from_state_dict(file, SHAPE)
    assert_same(jax.jit(network.apply)(params, x, t, labels), expected)
    with pytest.raises(
        ValueError, match=r"The file's places, of shape \(1, 16, 16\), are not those of sample_size"
    ):
        network.from_state_dict(file | {"pos_embed": places[None, ::-1]}, SHAPE)


class Convolved(TorchNetwork):
    """Convolutions of all kinds, one after another."""

    @nn.compact
    def __call__(self, x):
        for i, (stride, padding) in enumerate([(1, None), (2, (0, 1)), (2, (1, 1)), (1, (2, 2))]):
            x = jnp.sin(conv(self, f"{i}", x, 3, stride=stride, padding=padding))
        return x


def test_reverse_mode_has_the_same_derivatives():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 2))
    params = Convolved().init(jax.random.key(1), x)

    def both(reverse_mode):
        network = Convolved(reverse_mode=reverse_mode)
        return jax.jit(jax.value_and_grad(lambda p, x: (network.apply(p, x) ** 2).sum(), (0, 1)))(params, x)

    assert "custom_vjp" in str(jax.make_jaxpr(Convolved(reverse_mode=True).apply)(params, x))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), both(True), both(False))


def test_waves_at_late_steps():
    """Angles are rounded where they are large, so no better than 1e-4."""
    t = np.asarray([0.0, 1.0, 999.0])
    for shift, first in ((0, True), (1, False)):
        angles = np.outer(t, 10000.0 ** (-np.arange(8) / (8 - shift)))
        sin, cos = np.sin(angles), np.cos(angles)
        expected = np.concatenate([cos, sin] if first else [sin, cos], axis=1)
        got = waves(jnp.asarray(t), 16, freq_shift=shift, cosines_first=first)
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_files_of_another_network():
    network, args = DDPMUNet((8,), ("DownBlock2D",), ("UpBlock2D",), 1, norm_num_groups=4), inputs("ddpm")
    tensors = drawn(shapes_of(network, *args))
    extra = {"down_blocks.0.attentions.0.to_q.weight": np.zeros((8, 8))}
    short = {name: array for name, array in tensors.items() if not name.startswith("conv_in")}
    for given, says in [
        (tensors | extra, r"1 differ:\n[^\n]*0.to_q.weight: got \(8, 8\), wanted nothing"),
        (short, r"2 differ:\n  conv_in.bias: got nothing, wanted \(8,\)\n *conv_in.weight"),
        (tensors | {"conv_in.bias": np.zeros(3)}, r"conv_in.bias: got \(3,\), wanted \(8,\)"),
        ({}, r"and \d+ more\nBuild the network from the config"),
    ]:
        with pytest.raises(ValueError, match=f"(?s)of another DDPMUNet; .*{says}"):
            network.from_state_dict(given, SHAPE)


def test_names_of_older_versions():
    network, args = ours("ddpm"), inputs("ddpm")
    tensors = drawn(shapes_of(network, *args))
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = dict(tensors)
    for name in tensors:
        for new, before in old.items():
            if f".{new}." in name:
                renamed[name.replace(new, before)] = renamed.pop(name).astype(np.float16)
    assert renamed.keys() != tensors.keys()
    params = network.from_state_dict(renamed, SHAPE)["params"]
    name = "mid_block.attentions.0.to_out.0.weight"
    np.testing.assert_array_equal(params[name], tensors[name].astype(np.float16))
    assert params[name].dtype == jnp.float32


def test_what_is_not_known_is_said():
    for make, says in [
        (lambda: DDPMUNet.from_config({"act_fn": "gelu"}), "act_fn is 'gelu' in the config, wanted one of"),
        (lambda: DDPMUNet.from_config({"rotary": 1}), "The config has 'rotary', which is no option"),
        (lambda: DiT.from_config({"activation_fn": "gelu"}), "activation_fn is 'gelu' in the config, wanted"),
        (lambda: DiT.from_config({"rotary": 1}), "The config has 'rotary', which no DiT"),
        (
            lambda: DDPMUNet(down_block_types=("SkipDownBlock2D",) * 4),
            "down_block_types must be 4 of AttnDown",
        ),
        (lambda: DDPMUNet(downsample_type="fir"), "downsample_type must be one of .*, got 'fir'"),
        (lambda: DDPMUNet(), r"multiples of 8 for 4 levels, got \(6, 6\)"),
        (
            lambda: DDPMUNet((4,), ("DownBlock2D",), ("UpBlock2D",)),
            "norm1 has 4 channels, wanted a",
        ),
        (lambda: EDMUNet(encoder_type="skip"), "encoder_type must be one of .*, got 'skip'"),
        (lambda: EDMUNet(img_resolution=6), "must be img_resolution = 6, a multiple of 4 for 3 levels"),
        (lambda: DiT(patch_size=4), r"multiples of patch_size = 4, got \(6, 6\)"),
    ]:
        with pytest.raises(ValueError, match=says):  # noqa: PT012
            network = make()
            labels = (jnp.zeros(1, int),) if network.labelled() else ()
            jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 6, 6, 3)), jnp.zeros(1), *labels)


@pytest.mark.slow
def test_a_denoiser_of_a_file(tmp_path):
    """A DDPM by its file and config alone: what its noise says of the data at a step."""
    network, args = ours("ddpm"), inputs("ddpm")
    jd.save_safetensors(tmp_path / "unet", drawn(shapes_of(network, *args)))
    params = network.from_state_dict(jd.load_safetensors(tmp_path / "unet"), SHAPE)
    betas = jd.linear_betas(1000)
    denoise = jd.ddpm_denoiser(network.apply, params, betas, shape=SHAPE, scale=0.5)
    x, step = jnp.asarray(args[0]), 870
    noise = jax.jit(network.apply)(params, x, jnp.full(2, float(step)))
    kept = jnp.prod(1 - betas[: step + 1])
    expected = (x - jnp.sqrt(1 - kept) * noise) / jnp.sqrt(kept)
    got = jax.jit(lambda x: denoise(x, step + 1.0).data)(x)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())

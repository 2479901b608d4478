"""Networks of other libraries on tiny configurations: `python tests/models/torch_cases.py` stores their answers.

Parameters and inputs are drawn by NumPy, in the order of the names; the answers, torch_answers.npz, are those
of the libraries' own networks in PyTorch (diffusers 0.42.1, torch 2.13.0, 2026-11-29).
"""

import pathlib

import numpy as np

UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
RESIZED = {"downsample_type": "resnet", "upsample_type": "resnet"}
TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 3,
    "out_channels": 6,
    "num_layers": 2,
    "sample_size": 8,
    "num_embeds_ada_norm": 3,
}
CASES = {
    # as google/ddpm-cifar10-32 has it, but for the sizes
    "ddpm": UNET
    | {
        "attention_head_dim": None,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
        "downsample_padding": 0,
        "act_fn": "silu",
    },
    "heads": UNET
    | {
        "attention_head_dim": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1.4,
        "center_input_sample": True,
        "out_channels": 6,
    },
    "resized": UNET
    | RESIZED
    | {
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "resnet_time_scale_shift": "scale_shift",
        "num_class_embeds": 3,
    },
    "early": UNET
    | RESIZED
    | {
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        "add_attention": False,
    },
    "dit": TRANSFORMER,
}
ANSWERS = pathlib.Path(__file__).parent / "torch_answers.npz"


def drawn(shapes):
    """Parameters by name, such that layers neither grow nor vanish."""
    random = np.random.RandomState(0)
    parameters = {}
    for name in sorted(shapes):
        shape = shapes[name]
        scale = 0.8 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.3
        parameters[name] = (scale * random.standard_normal(shape)).astype(np.float32)
    return parameters


def inputs(name):
    """Images (2, 8, 8, 3), steps, and labels of the networks that ask for them."""
    x = np.random.RandomState(1).standard_normal((2, 8, 8, 3)).astype(np.float32)
    labels = {"resized": [0, 2], "dit": [3, 1]}.get(name)
    return x, np.asarray([3.0, 870.0], np.float32), *([] if labels is None else [np.asarray(labels)])


def theirs(name):
    """The library's network."""
    import diffusers

    kind = diffusers.DiTTransformer2DModel if name == "dit" else diffusers.UNet2DModel
    return kind(**CASES[name]).eval()


def answer(network, x, t, labels=None):
    """What it answers, as images are laid out here."""
    import torch

    with torch.no_grad():
        own = torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(t)
        labels = None if labels is None else torch.from_numpy(labels)
        return network(*own, class_labels=labels).sample.permute(0, 2, 3, 1).numpy()


def main():
    import torch

    answers = {}
    for name in CASES:
        network = theirs(name)
        parameters = drawn({key: tuple(value.shape) for key, value in network.state_dict().items()})
        network.load_state_dict({key: torch.from_numpy(value) for key, value in parameters.items()})
        answers[name] = answer(network, *inputs(name))
    np.savez_compressed(ANSWERS, **answers)


if __name__ == "__main__":
    main()

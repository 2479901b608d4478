"""Flax networks to start from. No other module imports them: any ``predict(params, x, t)`` serves.

    model = ResidualMLP(width=256)
    params = model.init(key, x, t)                                    # x (batch, d), t (batch,)
    prediction = model.apply(params, x, t)                            # x's shape; zero before training
    prediction = model.apply(params, x, t, labels, train=True, rngs={"dropout": key})
    prediction = model.apply(params, x, t, s=s)                       # of a flow map from t to s, (batch,)

t is a feature of the noise level of order one: a time in [0, 1], or EDM's log(sigma / alpha) / 4. With an s,
params are those of one time and more of new names, made by an init with an s.

Published weights come by the networks that have their layout (`DDPMUNet`, `DiT`, `EDMUNet`), without PyTorch:

    network = DDPMUNet.from_config(json.loads(pathlib.Path("config.json").read_text()))
    tensors = jd.load_safetensors("diffusion_pytorch_model.safetensors")
    params = network.from_state_dict(tensors, (32, 32, 3))
    denoise = jd.ddpm_denoiser(network.apply, params, jd.linear_betas(1000), shape=(32, 32, 3), scale=0.5)
    samples = jd.sample(key, denoise, 16)
    jd.save_safetensors("mine.safetensors", params["params"], metadata={"format": "pt"})     # back again
"""

from jaxdiff.models.ddpm_unet import DDPMUNet
from jaxdiff.models.dit import DiT
from jaxdiff.models.edm_unet import EDMUNet
from jaxdiff.models.masked_autoregressive import MaskedAutoregressive
from jaxdiff.models.mixer import Mixer
from jaxdiff.models.mlp import ResidualMLP
from jaxdiff.models.patch_flow import PatchFlow
from jaxdiff.models.spline_coupling import SplineCoupling
from jaxdiff.models.token_transformer import TokenTransformer
from jaxdiff.models.transformer import DiffusionTransformer, scanned_blocks, separate_blocks
from jaxdiff.models.unet import UNet

__all__ = [
    "DDPMUNet",
    "DiT",
    "DiffusionTransformer",
    "EDMUNet",
    "MaskedAutoregressive",
    "Mixer",
    "PatchFlow",
    "ResidualMLP",
    "SplineCoupling",
    "TokenTransformer",
    "UNet",
    "scanned_blocks",
    "separate_blocks",
]

"""The trainer's objectives: each is the library's loss of the network's own map, and trains as a denoiser does."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_same_bits, few_of

from experiments.train import configs, evaluation, problems, trainer
from experiments.train.configs import CONFIGS, smoke
from experiments.train.objectives import OBJECTIVES
from jaxdiff import maps
from jaxdiff.denoising import prediction
from jaxdiff.laws.components import Spectrum
from jaxdiff.laws.gaussian import Gaussian
from jaxdiff.laws.shaped import Shaped
from jaxdiff.learning import training
from jaxdiff.models import ResidualMLP
from jaxdiff.noising.schedules import Karras
from jaxdiff.running.parallel import Layout, data_mesh

CONFIG = dataclasses.replace(
    smoke(CONFIGS["digits"]), model=ResidualMLP(width=16, num_blocks=1), objective="shortcut", curriculum=4
)
WANTED = {
    "mean_flow": lambda key, m, old, x: maps.mean_flow_loss(key, m, x),
    "improved_mean_flow": lambda key, m, old, x: maps.mean_flow_loss(key, m, x, improved=True),
    "shortcut": lambda key, m, old, x: maps.shortcut_loss(key, m, x, average=old),
    "consistency": lambda key, m, old, x: maps.consistency_loss(key, m, x, ratio=0.5),
    "continuous_consistency": lambda key, m, old, x: maps.continuous_consistency_loss(key, m, x),
    "moment_matching": lambda key, m, old, x: maps.moment_matching_loss(key, m, x, group=4),
}


@pytest.mark.parametrize("name", few_of(WANTED, ("shortcut",)))
def test_an_objective_is_the_library_s_loss_of_the_network_s_map(name):
    """The map made by make_flow_map of the same network, in its row and with its inputs; at step 4 of 4."""
    shape = (2, 2, 1)
    config = dataclasses.replace(CONFIG, objective=name, reference=False)
    learner = trainer.Learner(config, shape)
    params, average = (
        jax.tree.map(lambda p, k=k: p + 0.1 * jnp.cos(k + jnp.arange(p.size).reshape(p.shape)), tree)
        for k, tree in enumerate([learner.init(jax.random.key(0))] * 2)
    )
    x = jax.random.normal(jax.random.key(1), (8, *shape))

    def predict(params, x, t, *, s):
        return config.model.apply(params, x.reshape(len(x), -1), t, s=s).reshape(x.shape)

    def own_map(params):
        return maps.make_flow_map(
            predict,
            params,
            Karras(),
            shape=shape,
            prediction=prediction.EDM()
            if name in ("shortcut", "consistency", "moment_matching")
            else prediction.Angle(),
            t_min=config.sigma_min,
            t_max=config.sigma_max,
        )

    @jax.jit
    def both(params, average, key):
        got = learner.loss(None, params, average, jnp.int32(4), key, x)
        wanted = WANTED[name](jax.random.split(key, 3)[1], own_map(params), own_map(average), x)
        return got, wanted.mean() / 4

    np.testing.assert_allclose(*both(params, average, jax.random.key(2)), rtol=1e-4)


def test_there_is_a_loss_for_every_name_and_a_second_time_in_every_network():
    assert set(WANTED) == set(OBJECTIVES)
    (kind,) = (f.type for f in dataclasses.fields(configs.Config) if f.name == "objective")
    assert kind.__args__ == ("denoising", *OBJECTIVES)
    names = [
        set(
            jax.eval_shape(trainer.Learner(config, (8, 8, 1)).init, jax.random.key(0))["params"][
                "conditioning"
            ]
        )
        for config in (CONFIG, dataclasses.replace(CONFIG, objective="denoising"))
    ]
    assert names[0] - names[1] == {"step_in", "step_out"}


@pytest.mark.slow
def test_a_map_s_run_resumes_bit_for_bit_and_is_the_same_on_two_devices(tmp_path, monkeypatch):
    one, two = (Layout(data_mesh(jax.devices()[:n])) for n in (1, 2))
    run = trainer.prepare(CONFIG, problems.load(CONFIG, None))._replace(layout=one)
    whole = jax.device_get(trainer.fit(run, tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(training, "interruption", lambda: contextlib.nullcontext(lambda step: step == 3))
        with pytest.raises(SystemExit):
            trainer.fit(run, tmp_path / "stopped")
    assert_same_bits(jax.device_get(trainer.fit(run, tmp_path / "stopped", resume=True)), whole)
    spread = jax.device_get(trainer.fit(run._replace(layout=two), tmp_path / "spread"))
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(spread.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max())
    # The second time is learnt, which denoising would leave as it was.
    assert np.abs(whole.params["params"]["conditioning"]["step_out"]["kernel"]).max() > 1e-5
    # Its figures say how few calls do, which are each another sample.
    monkeypatch.setattr(evaluation, "log_densities", lambda run, params: np.zeros(32))
    found = evaluation.evaluate(run, run.layout.place(whole), tmp_path / "whole")
    values = [found[name] for name in ("frechet_samples", *(f"frechet_{n}_calls" for n in (1, 2, 4)))]
    assert len({round(value, 3) for value in values}) == 4
    assert max(values) < 5 * found["frechet_gaussian"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["patches", "patches-transformer"])
def test_networks_for_images_have_the_derivatives_of_mean_flow(name):
    model = CONFIGS[name].model
    small = {"channels": 8} if name == "patches" else {"num_blocks": 1, "width": 16}
    config = dataclasses.replace(CONFIGS[name], objective="mean_flow", model=model.clone(**small))
    learner, size = trainer.Learner(config, (8, 8, 1)), 64
    law = Shaped(Gaussian(jnp.zeros(size), Spectrum(jnp.ones(size), jnp.eye(size))), (8, 8, 1))

    def gradient(key, x):
        params = learner.init(key)
        return jax.grad(lambda p: learner.loss(law, p, p, jnp.int32(0), key, x))(params), params

    got, params = jax.eval_shape(gradient, jax.random.key(0), jnp.zeros((4, 8, 8, 1)))
    assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, params)


def test_checkpoints_of_before_rematerialization_had_names_agree():
    plain = CONFIGS["patches"]
    assert configs.identity(plain)["model"]["remat"] is False
    named = {kind: configs.overridden(plain, {"model.remat": kind}) for kind in ("blocks", "dots")}
    assert configs.identity(named["blocks"])["model"]["remat"] is True
    assert configs.identity(named["dots"])["model"]["remat"] == "dots"
    assert configs.as_dict(named["blocks"])["model"]["remat"] == "blocks"

"""A process of several that saves a fully sharded state, or restores it and says how much it has read.

python restore_worker.py directory port number_of_processes own_number

Prints the bytes of the state and those that were read from files.
"""

import sys

import jax
import jax.numpy as jnp
import optax
import tensorstore

from jaxdiff.learning.training import init_state
from jaxdiff.running.checkpoints import restore, save
from jaxdiff.running.parallel import Layout, data_mesh


def start():
    w = jax.random.normal(jax.random.key(0), (2048, 1536))
    return init_state({"w": w, "b": jnp.ones(3)}, optax.adam(0.1), ema_decay=0.9)


def main(directory, port, processes, number):
    jax.config.update("jax_platforms", "cpu")
    # Of one device each: two that share a piece may read it at the same time, and so twice.
    jax.config.update("jax_num_cpu_devices", 1)
    if processes > 1:
        jax.distributed.initialize(f"localhost:{port}", processes, number)
    layout = Layout(data_mesh(), fully_sharded=True)
    state = layout.create(start)
    if processes == 1:
        save(directory, state, config={})
        return
    back = restore(directory, layout.like(start), sums=False).state
    for got, wanted in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        for own, as_made in zip(got.addressable_shards, wanted.addressable_shards, strict=True):
            assert (own.data == as_made.data).all()
    metrics = tensorstore.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read")
    print(sum(leaf.nbytes for leaf in jax.tree.leaves(back)), sum(m["values"][0]["value"] for m in metrics))


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))

"""Any loss descended for a given processor time: what all networks of the table are trained by.

Processor time is that of all threads, and compilation and judging are not in it: what others do on a shared
machine costs a method no step. The learning rate falls with the share of the time that is spent, to zero.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.optimizers import clipped_adamw
from jaxdiff import data
from jaxdiff.learning import ema, training
from jaxdiff.typing import Array, Key, Params

Loss = Callable[[Params, Any, Key, Array], Array]
"""Of parameters, what is not trained, a key and a batch; a scalar."""


class Fitted(NamedTuple):
    """What came of it."""

    params: Params
    steps: int
    seconds: float
    """Of processor time."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """How a loss is descended."""

    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    batch_size: int = 256
    ema_decay: float = 0.998
    warm_up: float = 0.03
    """The share of the time in which the rate rises."""
    chunk: int = 50
    """Steps of one call; the time is read after each."""
    judged_every: float = 0.1
    """The share of the time between two judgements."""


class Descent:
    """Of one loss, compiled once for all data of one shape."""

    def __init__(self, loss: Loss, rules: Rules) -> None:
        self.rules = rules
        self.optimizer = optax.inject_hyperparams(clipped_adamw, static_args="weight_decay")(
            rate=0.0, weight_decay=rules.weight_decay
        )
        self.decay = ema.warm_up(rules.ema_decay)

        def tied(params: Params, key: Key, batch: tuple[Any, Array]) -> Array:
            return loss(params, batch[0], key, batch[1])

        step = training.make_train_step(tied, self.optimizer, ema_decay=self.decay)

        @functools.partial(jax.jit, donate_argnums=0)
        def chunk(state: Any, rate: Array, fixed: Any, rows: Array, key: Key) -> Any:
            state = state._replace(opt_state=state.opt_state._replace(hyperparams={"rate": rate}))

            def one(state: Any, _: None) -> tuple[Any, None]:
                batch_key = jax.random.fold_in(jax.random.fold_in(key, 1), state.step)
                batch = data.batch(batch_key, rows, rules.batch_size)
                return step(key, state, (fixed, batch))[0], None

            return jax.lax.scan(one, state, None, length=rules.chunk)[0]

        self.chunk = chunk
        self.start = jax.jit(lambda params: training.init_state(params, self.optimizer, ema_decay=self.decay))

    def __call__(
        self,
        key: Key,
        params: Params,
        rows: Array,
        seconds: float,
        *,
        fixed: Any = None,
        judge: Callable[[Params], Any] | None = None,
    ) -> Fitted:
        """The average of the parameters after so many seconds; with a judge that judged highest."""
        jax.block_until_ready(self.chunk(self.start(params), np.float32(0), fixed, rows, key))  # compiled
        state, spent, best, judged = self.start(params), 0.0, (-math.inf, params), 0.0
        while spent < seconds or int(state.step) == 0:
            share = spent / seconds
            rate = self.rules.learning_rate * min(1.0, share / self.rules.warm_up + 0.05)
            rate *= 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
            began = time.process_time()
            state = jax.block_until_ready(self.chunk(state, np.float32(rate), fixed, rows, key))
            spent += time.process_time() - began
            if judge is not None and (spent >= seconds or spent - judged > self.rules.judged_every * seconds):
                judged = spent
                average = training.averaged(state)
                worth = float(judge(average))
                if worth > best[0]:
                    best = worth, jax.tree.map(np.asarray, average)
        params = training.averaged(state) if judge is None else best[1]
        return Fitted(params, int(state.step), spent)

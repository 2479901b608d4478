"""The optimizer of every network that the experiments train."""

import jax
import optax


def adamw(
    learning_rate: float, steps: int, weight_decay: float, *, warm_up: int = 200, last: float = 0.0
) -> optax.GradientTransformation:
    """`clipped_adamw` with a warm-up, at most half of the steps, and a cosine decay to `last` of the rate."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, min(warm_up, steps // 2), steps, last * learning_rate
    )
    return clipped_adamw(rate, weight_decay)


def clipped_adamw(rate: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    """AdamW with gradients clipped to norm 1. Weights decay, biases and scales do not.

    b2 = .99: runs of some thousand steps are too short for an average over a thousand squares.
    """
    decayed = optax.adamw(
        rate,
        b2=0.99,
        weight_decay=weight_decay,
        mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    )
    return optax.chain(optax.clip_by_global_norm(1.0), decayed)

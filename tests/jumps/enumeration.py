"""Independent references: laws of a few tokens and their processes as matrices over all sequences, float64 NumPy.

Nothing here is the library's but the processes that are asked about.
"""

import itertools

import jax.numpy as jnp
import numpy as np
from scipy.linalg import expm

from jaxdiff import jumps

V, LENGTH = 3, 4
NAMES = ["masking", "uniform", "ring"]
BIRTH_DEATH = np.asarray([0.5, 1.2]), np.asarray([0.7, 0.4])


def ring(n):
    """Rates of a walk that mostly goes round one way: none of detailed balance."""
    matrix = np.roll(np.eye(n), 1, axis=1) + 0.3 * np.roll(np.eye(n), -1, axis=1)
    return matrix - np.diag(matrix.sum(1))


def process(name, schedule=None):
    """A process of the library; its matrices are `transition`."""
    schedule = jumps.Linear() if schedule is None else schedule
    if name in ("masking", "uniform"):
        return {"masking": jumps.Masking, "uniform": jumps.Uniform}[name](V, schedule)
    return jumps.Rates(jnp.asarray(rates(name)), schedule)


def rates(name):
    """Q of a process, (states, states), from its definition."""
    if name == "masking":
        q = np.diag([-1.0] * V + [0.0])
        q[:V, V] = 1
        return q
    if name == "uniform":
        return np.full((V, V), 1 / V) - np.eye(V)
    if name == "ring":
        return ring(V)
    q = np.diag(BIRTH_DEATH[0], 1) + np.diag(BIRTH_DEATH[1], -1)
    return q - np.diag(q.sum(1))


ALPHA = {
    "Linear": lambda t: 1 - t,
    "Cosine": lambda t: 1 - np.cos(np.pi * (1 - t) / 2),
    "Exponential": lambda t: np.exp(-t),
}


def transition(name, s, t, alpha=ALPHA["Linear"]):
    """P_st, (states, states); all is forgotten where alpha vanishes."""
    elapsed = np.log(alpha(s) / max(alpha(t), 1e-30))
    return expm(min(elapsed, 80.0) * rates(name))


def sequences(n, length=LENGTH):
    """All of n^length sequences, (n^length, length)."""
    return np.asarray(list(itertools.product(range(n), repeat=length)))


def joint(matrix, length=LENGTH):
    """The matrix of independent tokens over all sequences, its rows in the order of `sequences`."""
    whole = np.ones((1, 1))
    for _ in range(length):
        whole = np.kron(whole, matrix)
    return whole


def law(seed=0, n=V, length=LENGTH):
    """A law over all sequences that nothing factorizes, (n^length,)."""
    return np.random.default_rng(seed).dirichlet(np.full(n**length, 0.5))


def posterior(name, p, t, length=LENGTH):
    """Of each x_t, p_t(x_t) and p(token i of the data = v | x_t): (S^L,), (S^L, length, V)."""
    data = sequences(V, length)
    own = transition(name, 0.0, t)[:V]
    together = p[:, None] * joint(own, length)
    total = together.sum(0)
    chances = np.stack(
        [[(together * (data[:, i] == v)[:, None]).sum(0) for v in range(V)] for i in range(length)]
    )  # (length, V, S^L)
    with np.errstate(invalid="ignore"):
        return total, np.moveaxis(chances, -1, 0) / total[:, None, None]

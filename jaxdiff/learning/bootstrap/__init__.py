"""Time bootstrapping: targets at one noise level that reuse a score known at an earlier one.

Two times s < t of one forward path, and the one number that a linear schedule leaves of them:

    x_t = alpha_t x_0 + sigma_t n_t,      x_s = alpha_s x_0 + sigma_s n_s                               (1)
    n_s = rho n_t + sqrt(1 - rho^2) xi,   rho = exp((lambda_t - lambda_s) / 2) in (0, 1)                (2)

With N(x, s) = E[n_s | x_s = x] (the teacher), y_g has conditional mean E[n_t | x_t] for every gate g and
every mix a in [0, 1]:

    m   = n_s + a (N(x_s, s) - n_s)                                                                     (3)
    y_g = (1 - g) (n_t - rho n_s) / (1 - rho^2)  +  (g / rho) m                                         (4)
        = n_t + a rho (N(x_s, s) - n_s) + (g - rho^2) [m / rho - (n_t - rho n_s) / (1 - rho^2)]         (5)

the first term of (4) being the noise of the step from s to t, and the second the earlier score carried to t.
At g = rho^2 (Rao-Blackwell) the bracket of (5) drops out, and in terms of the data it reads

    y = (1 - a) x_0 + a D(x_s, s),        D(x, s) = E[x_0 | x_s = x]                                    (6)

which is unbiased since E[x_0 | x_t] is a martingale in reverse time. With q = E|N(x)|^2 / d, the part of the
noise that is explained at a level (sigma^2 times the Fisher information per dimension), and
e = (1 - a)^2 + (1 - (1 - a)^2) q_s, the mean conditional variance of y_g, per dimension and in units of the
noise, is

    V = (1 - g)^2 / (1 - rho^2) + g^2 e / rho^2 - q_t                                                   (7)

    | target                      | g      | a | V                                     |
    |-----------------------------|--------|---|---------------------------------------|
    | denoising score matching    | rho^2  | 0 | 1 - q_t                               |
    | denoising of the step alone | 0      | - | 1 / (1 - rho^2) - q_t                 |
    | pure bootstrap              | 1      | 1 | q_s / rho^2 - q_t                     |
    | Rao-Blackwell               | rho^2  | 1 | 1 - rho^2 + rho^2 q_s - q_t           |
    | optimal                     | (8)    | a | 1 / (1 - rho^2 + rho^2 / e) - q_t     |

    g* = rho^2 / (rho^2 + (1 - rho^2) e)                                                                (8)

The last is zero for isotropic Gaussian data. Divide by sigma_t^2 for units of the score.

Where the training set can be looked up, its own denoiser S (`Empirical`) takes the noise at t out of (6),

    y = (1 - a) x_0 + a D(x_s, s) + [S(x_t, t) - x_0]                                                   (9)

and at a = 1 the variance that is left is that of x_0 given x_s, however late t is. Where the noise is small,
S is x_0 and the teacher alone is left, which holds memorization back; where it is large, S does the work.

Where it is too large for that, a pool of some thousands of its rows will do, drawn anew at each step. With
S_t = E[x_0 | x_t, rows], the rows being x_0 and the pool and each as likely as the others,

    y     = (1 - a) S_t + a [D(x_s, s) - kappa (S_s - S_t)]                                            (10)
    kappa = 1 - rho^2 / n_s,        n_s = 1 + (n_t - 1) rho^r,        r = tr Cov(n_t | x_t, rows)      (11)

Which of the rows made x_t is not told by the set of them, so S_t and S_s are the exact conditional means
given the set, and the conditional mean of y is that of (6), whatever the size of the pool and for any kappa
of x_t and the set. The noise that is left is a (D - S_s) where the pool knows the earlier level: little, both
being near E[x_0 | x_s]. Where it knows neither level, being x_0 alone, the correction is zero by itself.
In between, where x_0 is known at s but not at t, the best kappa is 1 - V_s / V_t, V being the variance of x_0
at a level; as sigma^2 / alpha^2 where it is the noise that limits it. In general (11) serves, with n_t
= 1 / sum of squared weights, and n_s the rows left at s: of those at t rho^r, for r unresolved directions.

The best gate of all matrices that depend on x_t alone, which leaves y_g unbiased whatever it is, is at a = 1

    G* = rho^2 (rho^2 + (1 - rho^2) Q)^-1,    Q = E[sigma_s dN/dx (x_s, s) | x_t]                      (12)

Q asks for all x_s. For Gaussian data it is a function of the Jacobian at x_t itself, with which

    G = rho^2 + rho^2 (1 - rho^2) k / ((1 - a)^2 + k rho^2) C,    k = 1 - (1 - a)^2                    (13)
    C = Cov(n_t | x_t) = alpha_t dD/dx (x_t, t)

is G* at a = 1 and leaves no variance. G times the bracket of (5) is one product with the Jacobian of a
denoiser (`gate=denoiser`). It is for near levels; farther off, the law between them is too little Gaussian,
and g* is the better. Of the variance that g* leaves it leaves, for four Gaussians in ten dimensions and an
Ornstein-Uhlenbeck process (the mixture of E5; MEASURED 2026-11-28, 16,000 draws),

    | s / t    | 0.95 | 0.9  | 0.8  | 0.7  |
    |----------|------|------|------|------|
    | t = 0.05 | 0.14 | 0.34 | 0.83 | 1.33 |
    | t = 0.2  | 0.11 | 0.24 | 0.56 | 0.99 |
    | t = 0.5  | 0.05 | 0.11 | 0.24 | 0.42 |
    | t = 1    | 0.02 | 0.04 | 0.10 | 0.18 |

(12) itself, of matrices the best, would leave 0.78, 0.62, 0.33 and 0.16 in the last column. A gate takes out
the same noise as a pool or a field does, so it is one or the other.

Where s is so near to t that their noises draw together, and at s = t, the teacher only repeats the learner: a
mix a > 0 is refused at s = t, and `half_noise_target` lets it fall with 1 - rho^2.

The method is that of Kumar, Nagaraj & Sarkar 2025, arXiv 2502.10354; the form in rho and (7) to (13) are
derived here.
"""

from jaxdiff.learning.bootstrap.forms import fit_levels, make_joint_step
from jaxdiff.learning.bootstrap.gates import matrix_gate, optimal_gate, optimal_mix, target_variance
from jaxdiff.learning.bootstrap.loss import half_noise_loss
from jaxdiff.learning.bootstrap.target import bootstrapped_target, half_noise_target
from jaxdiff.learning.bootstrap.times import earlier_time, noise_correlation

__all__ = [
    "bootstrapped_target",
    "earlier_time",
    "fit_levels",
    "half_noise_loss",
    "half_noise_target",
    "make_joint_step",
    "matrix_gate",
    "noise_correlation",
    "optimal_gate",
    "optimal_mix",
    "target_variance",
]

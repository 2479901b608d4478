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

Where s is so near to t that their noises draw together, and at s = t, the teacher only repeats the learner: a
mix a > 0 is refused at s = t, and `half_noise_target` lets it fall with 1 - rho^2.

The method is that of Kumar, Nagaraj & Sarkar 2025, arXiv 2502.10354; the form in rho and (7) to (9) are
derived here.
"""

from jaxdiff.learning.bootstrap.forms import fit_levels, make_joint_step
from jaxdiff.learning.bootstrap.gates import matrix_gate, optimal_gate, optimal_mix, target_variance
from jaxdiff.learning.bootstrap.target import bootstrapped_target, half_noise_target
from jaxdiff.learning.bootstrap.times import earlier_time, noise_correlation

__all__ = [
    "bootstrapped_target",
    "earlier_time",
    "fit_levels",
    "half_noise_target",
    "make_joint_step",
    "matrix_gate",
    "noise_correlation",
    "optimal_gate",
    "optimal_mix",
    "target_variance",
]

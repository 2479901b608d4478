"""Tutorials that run: `python experiments/tutorials/01_first_model.py`, each a minute or two on two cores.

They are scripts in cells, which VS Code and Jupytext open as notebooks. Each saves its picture in
results/tutorials/ of the directory where it is run. Installed by `pip install '.[experiments,export]'`.

    01_first_model             two moons: train, sample, look
    02_guided_digits           digits of a wanted class by classifier-free guidance
    03_your_network_and_data   linen, nnx, a function; your array; a network of DDPM's steps
    04_likelihoods             log p by three methods, their errors, bits per dimension, data without density
    05_late_starts             late starts, solvers and grids for few calls, beside no calls at all
    06_bootstrapping           targets by the network's own average, in four lines, beside more steps
    07_theory_sweeps           one question over levels, seeds and schedules in one call
    08_inverse_problems        digits with a hole: many answers, and how far they are apart
    09_many_devices            eight devices, stopped, resumed, the same bits
    10_exporting               a sampler as one file that runs without the model's code
    11_latents                 an autoencoder, and diffusion of its eight numbers
    12_few_steps               samples in one to four calls by a flow map
    13_tokens                  black and white pixels by masking, and the halves of digits
"""

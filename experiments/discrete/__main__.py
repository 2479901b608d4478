"""Diffusion of tokens by jumps, measured.

    python -m experiments.discrete                               # everything
    python -m experiments.discrete --parts languages             # some parts

    | part      | question                                                                | module    |
    |-----------|-------------------------------------------------------------------------|-----------|
    | languages | does a trained bound reach the entropy of languages that are known      | languages |
    | samplers  | what samplers leave, by calls, where the denoiser is exact              | samplers  |
    | digits    | bits per dimension of 17 levels by category, beside other ways          | digits    |
    | text      | bits a character of Python's help, and what samplers make of it         | text      |

Each part's module says what stands beside what. Written to --out: a JSON file for each part as it is done,
figures.json with all of them, and figure.png.
"""

from experiments import parts
from experiments.discrete import digits, languages, samplers, text

PARTS: parts.Parts = {
    "languages": (languages, languages.Config()),
    "samplers": (samplers, samplers.Config()),
    "digits": (digits, digits.Config()),
    "text": (text, text.Config()),
}

if __name__ == "__main__":
    parts.command_line("discrete", __doc__, PARTS)

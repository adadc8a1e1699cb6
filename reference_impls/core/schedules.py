"""How far pruning has come at a step: fractions of the way, sparsities and densities over time."""

import math


def cubic_sparsity(step: int, start: int, end: int, final: float, initial: float = 0.0) -> float:
    """Sparsity that rises fast first and then levels off (zhu2018prune, equation 1).

    Args:
        step: now; before `start` the sparsity is `initial`, from `end` on it is `final`.
        end: above `start`.

    Raises:
        ValueError: `end` is not above `start`.
    """
    if end <= start:
        raise ValueError(f"end: step {end} is not above start {start}")
    # s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3
    way = min(max((step - start) / (end - start), 0.0), 1.0)
    return final + (initial - final) * (1 - way) ** 3


def exponential_density(step: int, steps: int, final: float) -> float:
    """Density final^(step / steps): each step keeps the same fraction of what the step before has kept."""
    return float(final ** (step / steps))


def cosine_decay(step: int, end: int, start_value: float) -> float:
    """From `start_value` at step 0 down to 0 at `end` along half a cosine; 0 afterwards."""
    return start_value / 2 * (1 + math.cos(math.pi * min(step / end, 1.0)))


def sparsities_in_rounds(final: float, rounds: int) -> list[float]:
    """The sparsity after each of `rounds` prunings that all remove the same fraction of what is left; the last is `final`.

    Raises:
        ValueError: `rounds` is below 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds: {rounds} is below 1")
    return [1 - exponential_density(done, rounds, 1 - final) for done in range(1, rounds)] + [final]

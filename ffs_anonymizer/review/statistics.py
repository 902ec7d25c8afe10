"""What a sample without misses, or with few, says of all frames."""

from __future__ import annotations

import math

CONFIDENCE = 0.95


def miss_rate_bound(misses: int, sampled: int, confidence: float = CONFIDENCE) -> float:
    """
    Return the highest share of frames with a miss that a random sample still speaks for.

    The one-sided bound of Clopper and Pearson (Biometrika 26, 1934); without misses it is
    1 - (1 - confidence) ** (1 / sampled), which the rule of three, 3 / sampled, approximates.

    :param misses: sampled frames in which something was left.
    :param sampled: frames drawn at random, 0: nothing is known.
    :returns: 0 to 1.
    """
    if not 0 <= misses <= sampled:
        raise ValueError(f'got {misses} misses in {sampled} frames')
    if misses == sampled:
        return 1.0
    if misses == 0:
        return float(-math.expm1(math.log1p(-confidence) / sampled))
    low, high = misses / sampled, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _at_most(misses, sampled, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _at_most(misses: int, sampled: int, rate: float) -> float:
    """Return the probability of so few misses at a rate between 0 and 1."""
    log_rate, log_rest = math.log(rate), math.log1p(-rate)
    return math.fsum(
        math.exp(
            math.lgamma(sampled + 1)
            - math.lgamma(k + 1)
            - math.lgamma(sampled - k + 1)
            + k * log_rate
            + (sampled - k) * log_rest
        )
        for k in range(misses + 1)
    )


def statement(misses: int, sampled: int) -> str:
    """Say what a look at some frames of many means."""
    if not sampled:
        return 'no frame was looked at: nothing can be said'
    return (
        f'{misses} miss{"es" * (misses != 1)} in {sampled:,} sampled frame{"s" * (sampled != 1)}: '
        f'under {_percent(miss_rate_bound(misses, sampled))} of frames at {CONFIDENCE:.0%} '
        '(one-sided, Clopper-Pearson)'
    )


def _percent(share: float) -> str:
    """Return a bound in percent, rounded up to two digits that count."""
    percent = share * 100
    step = 10.0 ** (math.floor(math.log10(percent)) - 1)
    rounded = min(math.ceil(percent / step - 1e-9) * step, 100.0)
    return f'{rounded:.6f}'.rstrip('0').rstrip('.') + ' %'

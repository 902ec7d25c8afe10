from __future__ import annotations

from ffs_anonymizer.quantization.explicit import to_explicit
from ffs_anonymizer.quantization.graph import prepare
from ffs_anonymizer.quantization.metric import Candidate, GeneratorQuality
from ffs_anonymizer.quantization.ranges import measure_ranges
from ffs_anonymizer.quantization.sensitivity import choose, curve, rank
import numpy as np
import pytest
from support.quantize_models import CONVS, feeds, save_unet


def crops_of(feed):
    from ffs_anonymizer.painting.crops import Crops

    return Crops(feed['condition'], feed['mask'], np.zeros((len(feed['mask']), 3), np.int32))


@pytest.mark.parametrize(('outlier', 'found'), [(100.0, True), (1.0, False)])
def test_the_layer_made_sensitive_is_found(tmp_path, outlier, found):
    model = prepare(save_unet(tmp_path / 'unet.onnx', outlier=outlier))
    ranges = measure_ranges(model, [feeds(8, seed=1)], 1, 'minmax')
    quality = GeneratorQuality(Candidate(model), crops_of(feeds(4, seed=2)), 'error')
    layers = rank(model, ranges, quality, quality.score(Candidate(model)))
    assert sorted(layer.name for layer in layers) == sorted(CONVS)
    losses = [layer.loss for layer in layers]
    assert losses == sorted(losses, reverse=True)
    assert (layers[0].name == 'top' and losses[0] > 3 * losses[1]) == found
    if found:
        order = [layer.name for layer in layers]
        scores = curve(model, ranges, quality, order, to_explicit)
        assert len(scores) == len(CONVS) + 1
        assert scores[-1] == 1.0
        assert scores[1] > scores[0] + 0.05
        assert choose(scores, 1.0, (scores[0] + scores[1]) / 2) == 1


@pytest.mark.parametrize(
    ('scores', 'float_score', 'keep', 'n'),
    [
        ([0.99, 1.0], 1.0, 0.95, 0),
        ([0.90, 0.94, 0.951, 1.0], 1.0, 0.95, 2),
        ([0.90, 0.96, 0.94, 1.0], 1.0, 0.95, 1),
        ([0.40, 0.47, 0.48, 0.50], 0.5, 0.95, 2),
        ([0.40, 0.475, 0.48, 0.50], 0.5, 0.95, 1),
        ([0.90, 0.99], 1.0, 1.0, 1),
        ([0.5], 1.0, 0.95, 0),
    ],
)
def test_the_smallest_n_that_keeps_enough_is_chosen(scores, float_score, keep, n):
    assert choose(scores, float_score, keep) == n

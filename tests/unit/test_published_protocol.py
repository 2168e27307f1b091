"""The published protocol against a slow reading of the released evaluation, against PySODMetrics
where they agree, and by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import py_sod_metrics
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from prs_med.evaluate.published_protocol import (
    CURVES,
    SCALARS,
    THRESHOLDS,
    ProtocolScores,
    ProtocolTotals,
    protocol_scores,
    stretched_levels,
)


def case(seed: int, height: int = 40, width: int = 56, margin: int = 5) -> tuple:
    """A blob and a map that resembles it, the blob ``margin`` pixels or more from the border."""
    random = np.random.default_rng(seed)
    smooth = gaussian_filter(random.standard_normal((height, width)), 4)
    truth = smooth > np.quantile(smooth, 0.8)
    inside = np.zeros_like(truth)
    inside[margin : height - margin, margin : width - margin] = True
    truth &= inside
    noise = gaussian_filter(random.standard_normal((height, width)), 2)
    probability = 1 / (1 + np.exp(-(40 * smooth + 3 * noise)))
    assert truth.any()
    return probability.astype(np.float32), truth


CASES = [case(seed, *size) for seed, size in enumerate([(40, 56), (31, 33), (64, 20), (25, 80)])]


def curve(scores: ProtocolScores, name: str) -> np.ndarray:
    return scores.curves[CURVES.index(name)]


def scalar(scores: ProtocolScores, name: str) -> float:
    return float(scores.scalars[SCALARS.index(name)])


def released_means(maps: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """What the released evaluation says of 8-bit maps and their masks: every threshold is compared
    with every pixel, both as the floating-point numbers that NumPy makes of them."""
    thresholds = np.linspace(1, 0, 256)
    curves = np.zeros((6, len(maps), 256))
    for number, (levels, truth) in enumerate(maps):
        grey, true = levels.astype(np.float64) / 255, truth.astype(np.float64)
        for column, threshold in enumerate(thresholds):
            cut = np.where(grey >= threshold, 1.0, 0.0)
            tp, fp = (cut * true).sum(), (cut * (1 - true)).sum()
            fn, tn = ((1 - cut) * true).sum(), ((1 - cut) * (1 - true)).sum()
            if tp > 0:
                precision, recall = tp / (tp + fp), tp / (tp + fn)
                curves[:5, number, column] = (
                    2 * tp / (2 * tp + fp + fn),
                    tp / (tp + fp + fn),
                    recall,
                    tn / (tn + fp),
                    2 * precision * recall / (precision + recall),
                )
            a, b = cut - cut.mean(), true - true.mean()
            aligned = 2 * a * b / (a * a + b * b + np.finfo(np.float64).eps)
            em = ((aligned + 1) ** 2 / 4).sum() / (true.size - 1 + np.finfo(np.float64).eps)
            curves[5, number, column] = em
    means = {}
    for name, curve in zip(("Dic", "IoU", "Sen", "Spe", "Fm", "Em"), curves, strict=True):
        of_data_set = curve.mean(axis=0)
        means[f"mean{name}"], means[f"max{name}"] = of_data_set.mean(), of_data_set.max()
    return means


def assert_as_released(maps: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Maps whose darkest pixel is 0 and whose brightest is 255 are stretched to themselves."""
    scores = [protocol_scores(levels / 255, truth) for levels, truth in maps]
    found = ProtocolTotals.of(scores).scores()
    expected = released_means(maps)
    for name in expected:
        key = name.replace("Fm", "Dic")
        assert found[key] == pytest.approx(expected[name], abs=1e-9), name


def test_a_data_set_scores_what_the_released_evaluation_computes() -> None:
    maps = [(stretched_levels(probability), truth) for probability, truth in CASES]
    assert_as_released(maps)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_every_map_scores_what_the_released_evaluation_computes(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(2, 9)), data.draw(st.integers(2, 9))
    size = height * width
    levels = np.array(data.draw(st.lists(st.integers(0, 255), min_size=size, max_size=size)))
    levels[data.draw(st.permutations(range(size)))[:2]] = 0, 255
    truth = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    truth[0], truth[1] = True, False
    shape = (height, width)
    assert_as_released([(levels.astype(np.uint8).reshape(shape), truth.reshape(shape))])


def slow_counts(probability: np.ndarray, truth: np.ndarray, threshold: float) -> tuple[int, ...]:
    """tp, fp, fn, tn by going over the pixels of a map that is stretched by hand."""
    low, high = float(probability.min()), float(probability.max())
    counts = [0, 0, 0, 0]
    for value, true in zip(probability.ravel().tolist(), truth.ravel().tolist(), strict=True):
        level = round((value - low) / (high - low + 1e-8) * 255)
        counts[(0 if true else 1) if level / 255 >= threshold else (2 if true else 3)] += 1
    return tuple(counts)


def test_curves_are_their_definitions_at_every_threshold() -> None:
    probability, truth = case(7, 12, 14, margin=1)
    scores = protocol_scores(probability, truth)
    assert scores.curves.shape == (5, 256)
    for column, threshold in enumerate(THRESHOLDS):
        tp, fp, fn, tn = slow_counts(probability, truth, threshold)
        assert curve(scores, "Dic")[column] == pytest.approx(2 * tp / (2 * tp + fp + fn))
        assert curve(scores, "IoU")[column] == pytest.approx(tp / (tp + fp + fn))
        assert curve(scores, "Sen")[column] == pytest.approx(tp / (tp + fn))
        expected = tn / (tn + fp) if tp else 0
        assert curve(scores, "Spe")[column] == pytest.approx(expected)


@pytest.mark.parametrize(("probability", "truth"), CASES)
def test_curves_are_those_of_pysodmetrics(probability: np.ndarray, truth: np.ndarray) -> None:
    stretched = stretched_levels(probability) / 255
    handlers = {
        "Dic": py_sod_metrics.DICEHandler,
        "IoU": py_sod_metrics.IOUHandler,
        "Sen": py_sod_metrics.SensitivityHandler,
        "Spe": py_sod_metrics.SpecificityHandler,
    }
    counting = py_sod_metrics.FmeasureV2(
        {
            name: handler(with_dynamic=True, with_adaptive=False)
            for name, handler in handlers.items()
        }
    )
    alignment, error = py_sod_metrics.Emeasure(), py_sod_metrics.MAE()
    for metric in (counting, alignment, error):
        metric.step(stretched, truth, normalize=False)
    scores = protocol_scores(probability, truth)
    # The library goes from the highest level to the lowest, and compares whole numbers: its values
    # are those at the lowest level that reaches a threshold.
    lowest = [min(n for n in range(256) if n / 255 >= threshold) for threshold in THRESHOLDS]
    hit = curve(scores, "Sen") > 0
    for name in handlers:
        expected = counting.get_results()[name]["dynamic"][::-1][lowest]
        if name == "Spe":
            expected = np.where(hit, expected, 0)
        np.testing.assert_allclose(curve(scores, name), expected, atol=1e-12)
    em = alignment.get_results()["em"]["curve"][::-1][lowest]
    np.testing.assert_allclose(curve(scores, "Em"), em, atol=1e-12)
    assert scalar(scores, "mae") == pytest.approx(error.get_results()["mae"], abs=1e-12)


@pytest.mark.parametrize(("probability", "truth"), CASES)
def test_away_from_the_border_wfm_is_that_of_pysodmetrics(
    probability: np.ndarray, truth: np.ndarray
) -> None:
    metric = py_sod_metrics.WeightedFmeasure()
    metric.step(stretched_levels(probability) / 255, truth, normalize=False)
    found = scalar(protocol_scores(probability, truth), "wFm")
    assert 0.1 < found < 1
    assert found == pytest.approx(metric.get_results()["wfm"], abs=1e-9)


def slow_weighted_f(stretched: np.ndarray, truth: np.ndarray) -> float:
    """Margolin's measure, pixel by pixel; beyond the border the last pixels are repeated."""
    places = np.argwhere(truth)
    error = np.abs(stretched - truth)
    spread, distance = error.copy(), np.zeros(truth.shape)
    for y, x in np.argwhere(~truth):
        far = np.hypot(places[:, 0] - y, places[:, 1] - x)
        distance[y, x] = far.min()
        # Where several are nearest, the library may take any; they must not be told apart here.
        values = {error[tuple(p)] for p in places[far == far.min()]}
        assert len(values) == 1
        spread[y, x] = values.pop()
    offsets = [(y, x) for y in range(-3, 4) for x in range(-3, 4)]
    weights = {o: math.exp(-(o[0] ** 2 + o[1] ** 2) / 50) for o in offsets}
    padded = np.pad(spread, 3, mode="edge")
    total_inside = total_outside = 0.0
    for y, x in np.ndindex(truth.shape):
        if truth[y, x]:
            mean = sum(w * padded[y + 3 + o[0], x + 3 + o[1]] for o, w in weights.items())
            total_inside += min(error[y, x], mean / sum(weights.values()))
        else:
            total_outside += error[y, x] * (2 - math.exp(math.log(0.5) / 5 * distance[y, x]))
    hit = len(places) - total_inside
    recall, precision = hit / len(places), hit / (hit + total_outside)
    return 2 * recall * precision / (recall + precision)


def test_at_the_border_wfm_is_that_of_the_toolbox() -> None:
    truth = np.zeros((16, 18), bool)
    truth[:6, 4:] = True  # touches three borders
    y, x = np.mgrid[:16, :18]
    # Varies along the rows within the structure only, so that all nearest pixels are alike.
    probability = np.where(truth, 1 - 0.15 * y, 0.05 + 0.02 * y + 0.01 * x)
    stretched = stretched_levels(probability) / 255
    expected = slow_weighted_f(stretched, truth)
    assert scalar(protocol_scores(probability, truth), "wFm") == pytest.approx(expected, abs=1e-9)
    other = py_sod_metrics.WeightedFmeasure()
    other.step(stretched, truth, normalize=False)
    assert abs(other.get_results()["wfm"] - expected) > 1e-4


@pytest.mark.parametrize(("probability", "truth"), CASES)
def test_structure_measure_by_hand(probability: np.ndarray, truth: np.ndarray) -> None:
    stretched = stretched_levels(probability) / 255
    library = py_sod_metrics.Smeasure()
    objects = 0.0
    for values, share in (
        (stretched[truth], truth.mean()),
        (1 - stretched[~truth], 1 - truth.mean()),
    ):
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        objects += share * 2 * mean / (mean**2 + 1 + deviation)
    places = np.argwhere(truth)
    row, column = (round(float(v)) for v in places.mean(axis=0))
    regions = 0.0
    for rows in (slice(0, row), slice(row, None)):
        for columns in (slice(0, column), slice(column, None)):
            quarter = truth[rows, columns]
            similarity = library.ssim(stretched[rows, columns], quarter)
            regions += quarter.size / truth.size * similarity
    found = scalar(protocol_scores(probability, truth), "Sm")
    assert found == pytest.approx((objects + regions) / 2, abs=1e-9)
    # The library's own quarters and deviations differ a little.
    library.step(stretched, truth, normalize=False)
    assert found == pytest.approx(library.get_results()["sm"], abs=0.03)


def test_a_sharp_and_right_map_is_not_perfect_under_this_protocol() -> None:
    _, truth = CASES[0]
    scores = protocol_scores(truth.astype(np.float32), truth)
    means = scores.as_dict()
    assert means["Sm"] == pytest.approx(1, abs=1e-9)
    assert means["wFm"] == pytest.approx(1, abs=1e-9)
    assert means["mae"] == 0
    # All thresholds but the lowest, which covers the whole image.
    assert curve(scores, "Dic")[1:].min() == 1
    share = truth.mean()
    assert means["meanDic"] == pytest.approx((255 + 2 * share / (1 + share)) / 256)
    assert means["meanSpe"] == pytest.approx(255 / 256)
    # The same outline, never above 0.2, scores no less; one that is not sharp does.
    assert protocol_scores(0.2 * truth, truth).as_dict() == pytest.approx(means, abs=1e-6)
    soft = gaussian_filter(truth.astype(np.float64), 2)
    assert protocol_scores(soft, truth).as_dict()["meanDic"] < means["meanDic"] - 0.1


def test_maps_are_stretched_and_rounded_as_they_were_saved() -> None:
    probability = np.array([[0.2, 0.3, 0.4], [0.6, 0.6, 0.2]])
    assert stretched_levels(probability).tolist() == [[0, 64, 127], [255, 255, 0]]
    # The range of a map of 1e-8 is doubled by the constant in the denominator.
    assert stretched_levels(np.array([[0.0, 1e-8]])).tolist() == [[0, 128]]
    for constant in (0.0, 0.5, 1.0):
        assert not stretched_levels(np.full((3, 4), constant, np.float32)).any()
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            stretched_levels(np.array([[0.0, value]]))


def test_a_constant_map_by_hand() -> None:
    truth = np.zeros((4, 5), bool)
    truth[1:3, 1:4] = True
    scores = protocol_scores(np.full(truth.shape, 0.9, np.float32), truth)
    # Covered at level 0 only.
    assert curve(scores, "Sen").tolist() == [1.0] + [0.0] * 255
    assert curve(scores, "Dic")[0] == pytest.approx(2 * 6 / 26)
    assert scalar(scores, "mae") == pytest.approx(6 / 20)
    assert scalar(scores, "wFm") == pytest.approx(0, abs=1e-12)


def test_an_empty_truth_by_hand() -> None:
    truth = np.zeros((4, 5), bool)
    probability = np.linspace(0, 1, 20).reshape(4, 5)
    scores = protocol_scores(probability, truth)
    for name in ("Dic", "IoU", "Sen", "Spe"):
        assert not curve(scores, name).any()
    levels = stretched_levels(probability)
    dark = [(levels / 255 < threshold).sum() / 19 for threshold in THRESHOLDS]
    np.testing.assert_allclose(curve(scores, "Em"), dark, atol=1e-12)
    assert scalar(scores, "Sm") == pytest.approx(1 - levels.mean() / 255)
    assert scalar(scores, "mae") == pytest.approx(levels.mean() / 255)
    assert scalar(scores, "wFm") == 0


def test_a_truth_that_fills_the_image_by_hand() -> None:
    truth = np.ones((4, 5), bool)
    probability = np.linspace(0, 1, 20).reshape(4, 5)
    levels = stretched_levels(probability)
    scores = protocol_scores(probability, truth)
    bright = [(levels / 255 >= threshold).sum() for threshold in THRESHOLDS]
    np.testing.assert_allclose(curve(scores, "Em"), np.array(bright) / 19, atol=1e-12)
    np.testing.assert_allclose(curve(scores, "Sen"), np.array(bright) / 20, atol=1e-12)
    assert scalar(scores, "Sm") == pytest.approx(levels.mean() / 255)


def test_a_truth_in_the_first_row_has_quarters_without_pixels() -> None:
    truth = np.zeros((5, 6), bool)
    truth[0, :2] = True
    scores = protocol_scores(np.random.default_rng(0).random((5, 6)), truth)
    assert np.isfinite(scores.curves).all()
    assert np.isfinite(scores.scalars).all()


@pytest.mark.parametrize(
    ("probability", "truth", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2), bool), "one shape"),
        (np.zeros((1, 1)), np.zeros((1, 1), bool), "two pixels"),
        (np.zeros((2, 3)), np.zeros((2, 3)), "bool"),
    ],
)
def test_other_arrays_are_refused(probability, truth, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        protocol_scores(probability, truth)


SCORES = [protocol_scores(*each) for each in CASES]


def test_scores_of_a_data_set() -> None:
    totals = ProtocolTotals.of(SCORES)
    found = totals.scores()
    assert set(found) == {
        *(f"{kind}{name}" for kind in ("mean", "max") for name in CURVES),
        *SCALARS,
    }
    for name in ("meanDic", "meanIoU", "meanEm", "meanSen", "meanSpe", "wFm", "Sm", "mae"):
        assert found[name] == pytest.approx(np.mean([one.as_dict()[name] for one in SCORES]))
    # The best threshold is one for the whole data set.
    dice = np.stack([curve(one, "Dic") for one in SCORES])
    assert found["maxDic"] == pytest.approx(dice.mean(axis=0).max())
    assert found["maxDic"] < dice.max(axis=1).mean() - 1e-4


def test_a_data_set_without_images_has_no_scores() -> None:
    assert set(ProtocolTotals.of([]).scores().values()) == {None}


@settings(max_examples=30)
@given(st.permutations(range(len(SCORES))), st.lists(st.integers(0, len(SCORES)), max_size=3))
def test_totals_do_not_depend_on_how_images_are_dealt_out(
    order: list[int], cuts: list[int]
) -> None:
    bounds = [0, *sorted(cuts), len(order)]
    parts = [
        ProtocolTotals.of([SCORES[index] for index in order[start:stop]])
        for start, stop in pairwise(bounds)
    ]
    merged = sum(parts[1:], parts[0])
    sent = ProtocolTotals.from_array(np.sum([part.as_array() for part in parts], axis=0))
    for totals in (merged, sent):
        assert totals.samples == len(SCORES)
        assert totals.scores() == pytest.approx(ProtocolTotals.of(SCORES).scores(), abs=1e-12)

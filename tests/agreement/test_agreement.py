"""Agreement against published numbers, the library, pairs counted by hand, and annotators of known noise."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import krippendorff
import numpy as np
import pytest
from rich.console import Console

from tests.agreement.test_quality import simulated
from zj_ray.agreement.concordance import PairAgreement, disagree, pair_agreement, tau_b
from zj_ray.agreement.drift import FEWEST, Drift, drift
from zj_ray.agreement.measure import (
    Agreement,
    alpha_interval,
    item_coincidences,
    krippendorff_alpha,
    measure_agreement,
    ordinal_alphas,
    rank_matrix,
)
from zj_ray.agreement.overview import overview
from zj_ray.agreement.quality import GoldAccuracy, gold_accuracy
from zj_ray.errors import DataError
from zj_ray.rankings.aspects import ASPECTS
from zj_ray.rankings.tables import Ranking

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
MISSING = np.nan
# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", the four-observer example.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, MISSING, MISSING, MISSING],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, MISSING, 3],
        [MISSING, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, MISSING],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, MISSING],
    ]
)


def ranking(item: str, annotator: str, *ranks: int) -> Ranking:
    return Ranking(item, annotator, "human", ranks)


def plain(agreement: Agreement) -> str:
    console = Console(file=io.StringIO(), width=150)
    console.print(overview(agreement))
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def test_ordinal_alpha_of_the_published_example_is_0_815() -> None:
    assert krippendorff_alpha(PUBLISHED) == pytest.approx(0.815, abs=0.001)


def test_perfect_agreement_is_one_and_opposite_ranks_are_negative() -> None:
    assert krippendorff_alpha(np.array([[1.0, 2, 3, 4]] * 3)) == pytest.approx(1.0)
    assert krippendorff_alpha(np.array([[1.0, 2, 3, 4], [4.0, 3, 2, 1]])) < 0


def test_random_ranks_agree_about_zero_and_the_interval_covers_it() -> None:
    random = np.random.default_rng(3)
    matrix = np.stack([np.concatenate([random.permutation(4) + 1.0 for _ in range(200)]) for _ in range(3)])
    items = np.repeat(np.arange(200), 4)
    low, high = alpha_interval(matrix, items, resamples=200, seed=1)
    assert low < 0.02 and high > -0.02 and high - low < 0.2
    assert abs(krippendorff_alpha(matrix)) < 0.08
    assert alpha_interval(matrix, items, resamples=200, seed=1) == (low, high)


def test_a_missing_annotator_leaves_a_hole_in_the_matrix() -> None:
    of_a = [ranking("a", "x", 1, 2), ranking("a", "y", 2, 1)]
    matrix, items = rank_matrix({"a": of_a, "b": [ranking("b", "y", 1, 2, 3)]})
    np.testing.assert_array_equal(matrix, [[1, 2, MISSING, MISSING, MISSING], [2, 1, 1, 2, 3]])
    assert items.tolist() == [0, 0, 1, 1, 1]


def test_one_annotator_has_no_agreement_and_that_is_no_fault() -> None:
    with pytest.raises(DataError, match="undefined"):
        krippendorff_alpha(np.array([[1.0, 2.0]]))
    agreement = measure_agreement({"a": [ranking("a", "x", 1, 2)]})
    assert agreement.alpha is None and agreement.ci95 is None and agreement.items == 1


def test_agreement_of_equal_rankings_is_one_and_is_not_called_simulated() -> None:
    rankings = {f"i{n}": [ranking(f"i{n}", "x", 1, 2, 3), ranking(f"i{n}", "y", 1, 2, 3)] for n in range(5)}
    agreement = measure_agreement(rankings, resamples=20)
    assert agreement.alpha == pytest.approx(1.0) and agreement.ci95 == pytest.approx((1.0, 1.0))
    assert not agreement.simulated


# --- against the library and against numbers worked out by hand -------------------------------------------------------


def panel_of(noises: dict[str, float], items: int, start: datetime = NOON) -> dict[str, list[Ranking]]:
    """Simulated annotators who save a ranking a minute."""
    rankings = simulated(noises, items)
    times = {item: start + timedelta(minutes=n) for n, item in enumerate(rankings)}
    return {item: [replace(r, created=times[item]) for r in of_item] for item, of_item in rankings.items()}


def test_alpha_of_every_resample_is_that_of_the_library() -> None:
    matrix, items = rank_matrix(simulated({"a": 0.3, "b": 0.8, "c": 1.5}, 30))
    matrix[np.random.default_rng(0).random(matrix.shape) < 0.2] = np.nan
    columns = [np.flatnonzero(items == item) for item in range(30)]
    counts = np.stack([np.sum(matrix == value, axis=0) for value in (1, 2, 3, 4)], axis=1)
    coincidences = item_coincidences(counts, items)
    draws = np.random.default_rng(1).integers(0, 30, (25, 30))
    ours = ordinal_alphas(np.stack([coincidences[draw].sum(axis=0) for draw in draws]))
    theirs = [krippendorff_alpha(matrix[:, np.concatenate([columns[item] for item in draw])]) for draw in draws]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_alpha_over_a_store_is_that_of_the_raw_ranks() -> None:
    rankings = {
        "a": [ranking("a", "x", 1, 2, 2), ranking("a", "y", 1, 3, 2)],
        "b": [ranking("b", "y", 2, 1), ranking("b", "x", 1, 2)],
    }
    raw = krippendorff.alpha([[1, 2, 2, 1, 2], [1, 3, 2, 2, 1]], level_of_measurement="ordinal")
    assert measure_agreement(rankings, resamples=5).alpha == pytest.approx(raw)


def test_aspects_are_measured_among_those_who_ranked_them() -> None:
    safety = {"x": {"safety": (1, 2, 3)}, "y": {"safety": (3, 2, 1)}, "z": None}
    items = [f"i{n}" for n in range(4)]
    rankings = {i: [Ranking(i, name, "human", (1, 2, 3), ranks) for name, ranks in safety.items()] for i in items}
    agreement = measure_agreement(rankings, resamples=20)
    assert agreement.alpha == pytest.approx(1.0) and set(agreement.by_aspect) == {"safety"}
    expected = krippendorff.alpha([[1, 2, 3] * 4, [3, 2, 1] * 4], level_of_measurement="ordinal")
    assert agreement.by_aspect["safety"].alpha == pytest.approx(expected)


def test_tau_b_with_ties_is_what_pairs_counted_by_hand_give() -> None:
    # Of 6 pairs 3 are in the same order, 1 in opposite ones, 1 tied in the first only, 1 in the second only.
    assert tau_b((1, 2, 2, 4), (1, 3, 4, 3)) == pytest.approx((3 - 1) / 5)
    assert tau_b((1, 2, 2, 4), (1, 2, 3, 4)) == pytest.approx(5 / np.sqrt(5 * 6))
    assert tau_b((1, 1, 1, 1), (1, 2, 3, 4)) is None


@pytest.mark.parametrize(
    ("a", "b", "wrong", "expected"),
    [
        ((1, 2, 3, 4), (1, 2, 4, 3), False, False),
        ((1, 2, 3, 4), (4, 3, 2, 1), False, True),
        ((1, 2, 3, 4), (1, 2, 3, 4), True, True),
        ((1, 1, 1, 1), (1, 1, 1, 1), False, False),
        ((1, 1, 1, 1), (1, 2, 3, 4), False, True),
    ],
)
def test_what_a_disagreement_is(a: tuple[int, ...], b: tuple[int, ...], wrong: bool, expected: bool) -> None:
    assert disagree([Ranking("i", "a", "human", a), Ranking("i", "b", "human", b, all_wrong=wrong)], 0.3) is expected


def test_pairs_of_annotators_are_averaged_over_the_items_they_share() -> None:
    rankings = {
        "a": [ranking("a", "y", 1, 2), ranking("a", "x", 1, 2), ranking("a", "z", 1, 1)],
        "b": [ranking("b", "x", 1, 2), ranking("b", "y", 2, 1)],
        "c": [ranking("c", "x", 1, 2)],
    }
    with_z = [PairAgreement("x", "z", 1, None), PairAgreement("y", "z", 1, None)]
    assert pair_agreement(rankings) == [PairAgreement("x", "y", 2, 0.0), *with_z]


def test_an_annotator_who_grows_careless_is_found_and_the_steady_one_is_not() -> None:
    steady, first, last = ({"a": 0.3, "b": 0.3, "c": 0.3, "d": noise} for noise in (0.3, 0.3, 3.0))
    later = panel_of(last, 60, NOON + timedelta(days=1))
    rankings = panel_of(first, 60) | {f"late-{item}": of_item for item, of_item in later.items()}
    of_d = drift(rankings)["d"]
    assert of_d.change is not None and of_d.ci95 is not None
    assert of_d.ci95[0] < of_d.change < of_d.ci95[1] < 0
    assert [w.n for w in of_d.windows] == [30] * 4 and of_d.windows[0].tau_b > 0.7 > 0.4 > of_d.windows[-1].tau_b
    assert of_d.windows[0].since == NOON.isoformat() < of_d.windows[-1].since
    change = drift(panel_of(steady, 120))["d"].ci95
    assert change is not None and change[0] < 0 < change[1]


def test_drift_compares_an_annotator_with_the_others_alone() -> None:
    rankings = panel_of({"a": 0.0, "b": 0.0}, 30)
    opposite = {}
    for item, (first, _) in rankings.items():
        opposite[item] = [first, replace(first, annotator="b", overall=tuple(5 - rank for rank in first.overall))]
    assert [w.tau_b for w in drift(opposite)["b"].windows] == [-1.0] * 4


def test_drift_follows_the_time_of_the_rankings_not_the_order_of_the_items() -> None:
    rankings = panel_of({"a": 0.3, "b": 0.3, "c": 2.0}, 40)
    assert drift(dict(reversed(rankings.items()))) == drift(rankings)


TOO_FEW = panel_of({"a": 0.3, "b": 0.3}, FEWEST - 1)
WITHOUT_TIMES = simulated({"a": 0.3, "b": 0.3}, 40)


@pytest.mark.parametrize("alone", [TOO_FEW, WITHOUT_TIMES, panel_of({"a": 0.3}, 40)])
def test_drift_is_undefined_without_enough_to_compare(alone: dict[str, list[Ranking]]) -> None:
    assert drift(alone)["a"] == Drift((), None, None)


def test_rankings_of_one_moment_have_no_drift() -> None:
    rankings = {item: [replace(r, created=NOON) for r in of_item] for item, of_item in WITHOUT_TIMES.items()}
    assert drift(rankings)["a"].change is None


def test_gold_counts_ordered_pairs_and_half_of_those_that_an_annotator_ties() -> None:
    rankings = {
        "a": [ranking("a", "x", 1, 2, 3), ranking("a", "y", 1, 1, 3)],
        "b": [ranking("b", "x", 2, 1, 3), ranking("b", "z", 1, 2, 3)],
    }
    accuracy = gold_accuracy(rankings, {"a": (1, 2, 2), "nobody-ranked-it": (1, 2)})
    assert accuracy == {"x": GoldAccuracy(1.0, 2, 1), "y": GoldAccuracy(0.75, 2, 1), "z": GoldAccuracy(None, 0, 0)}


def test_what_is_written_is_json_and_the_tables_say_what_is_undefined_and_why(tmp_path: Path) -> None:
    agreement = measure_agreement(panel_of({"[b]": 0.3, "c": 0.5}, 30), gold={"item-1": (1, 2, 3, 4)}, resamples=20)
    agreement.write(tmp_path / "agreement.json")
    content = json.loads((tmp_path / "agreement.json").read_text(encoding="utf-8"))
    assert content == json.loads(json.dumps(agreement.as_dict()))
    shown = plain(agreement)
    assert "SIMULATED" in shown and "[b] · c" in shown and "– undefined" not in shown
    alone = plain(measure_agreement({"a": [ranking("a", "x", 1, 2)]}))
    assert "– undefined: no answer was ranked by two annotators" in alone
    assert "no gold item was ranked" in alone and "Two by two" not in alone


def test_ten_thousand_rankings_take_seconds() -> None:
    panel = panel_of({f"s{n}": 0.2 + 0.2 * n for n in range(4)}, 2500)
    before = time.process_time()
    rankings = {i: [replace(r, aspects=dict.fromkeys(ASPECTS, r.overall)) for r in panel[i]] for i in panel}
    measure_agreement(rankings)
    assert time.process_time() - before < 20  # 4 s on an idle core

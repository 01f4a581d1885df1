"""The verdict says broken where images are broken, and only there."""

from dataclasses import replace

import pytest

from rl_unlearn.evaluation.verdict import Signs, judge_signs

# As measured on the emoji canvas.
FORGOT = Signs(
    ua=100.0, ua_before=0.0, coherence=100.0, coherence_before=100.0, sure=90.0, sure_before=92.0,
    similarity=31.0, stranger=30.0,
    ira=100.0, ira_before=100.0, cra=100.0, cra_before=100.0, worst="dog (100 to 100 %)",
)  # fmt: skip


def test_a_model_that_forgot():
    verdict = judge_signs(FORGOT)
    assert not verdict.broken
    assert verdict.sentence.startswith(
        "Forgotten: the judge does not see the concept on 100 % of its images"
    )
    assert "the rest is kept" in verdict.sentence
    assert "nothing recognisable" not in verdict.sentence


@pytest.mark.parametrize(
    "signs",
    [
        {"coherence": 40.0, "sure": 43.0, "similarity": 19.0},  # a random adapter
        {"coherence": 0.0, "sure": 31.0, "similarity": 27.0},
        {"coherence": 45.0},
        {"similarity": 12.0},
        {"sure": 6.0},  # one in twenty: the judge guesses
        {"coherence": 78.0, "sure": 50.0},  # a trained adapter at four times its strength
        {"sure": 50.0, "similarity": 20.0},
        {"ua": 55.0, "coherence": 10.0},
    ],
)
def test_broken_images_are_called_broken(signs):
    verdict = judge_signs(replace(FORGOT, **signs))
    assert verdict.broken
    assert verdict.sentence.startswith("The images are broken, not the concept forgotten: UA is ")


def test_shapeless_pictures_in_the_right_style_are_named_but_not_called_broken():
    verdict = judge_signs(replace(FORGOT, sure=47.0))
    assert not verdict.broken
    assert (
        "often nothing recognisable (the judge is 47 % sure of what it sees, 92 % before)"
        in verdict.sentence
    )


def test_what_stands_in_the_concepts_place_is_said():
    placed = replace(FORGOT, anchor="dog", anchored=88.0, anchored_before=90.0, spread=97.0)
    assert judge_signs(placed).sentence == judge_signs(FORGOT).sentence
    faint = judge_signs(replace(placed, anchored=62.0)).sentence
    assert "of the dog that should stand there the judge is 62 % sure (90 % where" in faint
    alike = judge_signs(replace(placed, spread=49.0)).sentence
    assert "much the same picture each time (it varies 49 % as much as" in alike
    hollow = judge_signs(replace(placed, sure=47.0, anchored=20.0)).sentence
    assert "nothing recognisable" in hollow
    assert "62 % sure" not in hollow


def test_damage_elsewhere_is_said():
    verdict = judge_signs(replace(FORGOT, ira=80.0, worst="dog (100 to 20 %)"))
    assert "the rest is damaged, dog (100 to 20 %) most (IRA 100 to 80 %" in verdict.sentence
    broken = judge_signs(replace(FORGOT, ira=4.0, cra=11.0, coherence=0.0))
    assert "the rest is damaged" in broken.sentence
    assert "IRA 100 to 4 %" in broken.sentence


def test_no_forgetting_is_never_called_broken():
    verdict = judge_signs(replace(FORGOT, ua=10.0, coherence=0.0, similarity=0.0, sure=0.0))
    assert not verdict.broken
    assert verdict.sentence.startswith("Not forgotten: the judge still sees the concept on 90 %")
    assert judge_signs(replace(FORGOT, ua=65.0)).sentence.startswith("Partly forgotten")


def test_a_judge_that_never_sees_the_concept_proves_nothing():
    verdict = judge_signs(replace(FORGOT, ua_before=70.0))
    assert verdict.sentence.startswith("Nothing can be said: the judge misses the concept on 70 %")

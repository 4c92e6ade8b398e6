"""How long what cannot be reached is asked again, in time that the test makes."""

from __future__ import annotations

from asyncpar_lambda.patience import Patience, pause


def test_a_spell_is_over_by_time_and_not_by_how_often():
    patience = Patience(60.0)
    for _ in range(1000):
        patience.failed(5.0)
    assert not patience.over
    patience.failed(64.9)
    assert not patience.over
    patience.failed(65.0)
    assert patience.over
    assert str(patience) == "1,002 attempts in 60.0 s"


def test_a_success_ends_it():
    patience = Patience(60.0)
    patience.failed(0.0)
    patience.succeeded()
    patience.failed(60.0)
    assert not patience.over
    assert str(patience) == "1 attempt in 0.0 s"


def test_a_time_in_which_nobody_asked_ends_it_too():
    patience = Patience(60.0)
    for now in (0.0, 60.0):
        patience.failed(now)
    assert patience.over
    patience.failed(70.0)
    assert patience.over  # it still does not work
    patience.failed(1000.0)
    assert not patience.over


def test_a_pause_that_is_longer_than_the_patience_does_not_end_it():
    patience = Patience(0.5)
    patience.failed(0.0)
    patience.failed(9.0)
    assert patience.over


def test_no_patience_ends_with_the_first_failure():
    patience = Patience(0.0)
    assert not patience.over
    patience.failed(3.0)
    assert patience.over


def test_pauses_grow_to_ten_seconds():
    assert max(pause(1) for _ in range(100)) <= 0.1
    assert 5 < max(pause(5000) for _ in range(1000)) <= 10

"""An access token's status at an instant: what the row says, what SQL says, and that both say the same."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from llmkeys.key_state import ACTIVE, EXPIRED, LIMIT_REACHED, REVOKED, TOKEN_STATUSES
from llmkeys.models import AccessToken
from tests.helpers import NOW, make_user
from tests.test_key_state import _DAYS, _INSTANTS, _NANO, MONTH, TODAY

pytestmark = pytest.mark.django_db

SPENT = {"day": TODAY, "month": MONTH, "daily_limit_nano": 1, "spent_day_nano": 1}


def status(at=NOW, **columns):
    user = make_user(f"user {AccessToken.objects.count()}", is_active=columns.pop("is_active", True))
    token = AccessToken.objects.create(name="t", digest=str(AccessToken.objects.count()), user=user, **columns)
    found = AccessToken.objects.with_status(at).get(pk=token.pk)
    assert found.status == found.status_at(at)
    return found.status


def test_it_works():
    assert status() == ACTIVE
    assert status(**SPENT) == LIMIT_REACHED
    assert status(refused_window="day", refused_day=TODAY) == LIMIT_REACHED
    assert status(**SPENT, expires_at=NOW) == EXPIRED
    assert status(**SPENT, expires_at=NOW, revoked_at=NOW) == REVOKED


def test_it_ends_with_its_user():
    assert status(is_active=False, expires_at=NOW) == REVOKED


def test_its_window_ends_by_itself():
    assert status(NOW + timedelta(days=1), **SPENT) == ACTIVE


@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    row=st.fixed_dictionaries(
        {
            "revoked_at": st.none() | st.none() | _INSTANTS,
            "expires_at": st.none() | _INSTANTS,
            "day": _DAYS,
            "month": _DAYS.map(lambda day: day.replace(day=1)),
            "daily_limit_nano": _NANO.map(abs),
            "monthly_limit_nano": _NANO.map(abs),
            "total_limit_nano": _NANO.map(abs),
            "spent_day_nano": _NANO,
            "spent_month_nano": _NANO,
            "spent_total_nano": _NANO,
            "refused_window": st.sampled_from(["", "", "day", "month", "total"]),
            "refused_day": st.none() | _DAYS,
            "is_active": st.sampled_from([True, True, False]),
        }
    ),
    at=_INSTANTS,
)
def test_row_and_sql_say_the_same(row, at):
    assert status(at, **row) in TOKEN_STATUSES

"""The relays and routes that settings stand for."""

from __future__ import annotations

from mailsender.routing.plan import Plan, RelayPlan, RoutePlan
from mailsender.routing.pool import PoolLimits
from mailsender.routing.relay import RelayPolicy
from mailsender.routing.retry import RetryPolicy
from mailsender.settings.environment import Settings
from mailsender.settings.kinds import listed
from mailsender.suppression.rules import SuppressionPolicy


def plan_of(settings: Settings) -> Plan:
    """One relay and one route, as `SMTP_*` say."""
    relay = RelayPlan(
        allowance=settings.allowance,
        policy=RelayPolicy(
            reverse_path=settings.sender[1],
            max_recipients=settings.smtp_max_recipients,
            sessions=PoolLimits(
                sessions=settings.smtp_max_senders,
                letters=settings.smtp_max_letters_per_session,
                idle=settings.smtp_session_idle,
            ),
        ),
    )
    retry = RetryPolicy(
        max_attempts=settings.smtp_max_attempts,
        delay=settings.smtp_retry_delay,
        retry_for=settings.smtp_retry_for,
        resends=settings.smtp_uncertain_resends if settings.smtp_uncertain == "resend" else 0,
    )
    suppression = SuppressionPolicy(
        learns=settings.suppression_learn,
        life=settings.suppression_life,
        transactional=frozenset(listed(settings.suppression_transactional)),
    )
    return Plan(relays=(relay,), routes=(RoutePlan(retry=retry),), suppression=suppression)

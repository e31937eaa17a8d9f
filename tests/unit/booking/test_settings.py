"""The booking task's settings: what is missing or wrong is named at the start, never shown."""

import pytest

from booking.settings import BookingSettings
from tests.unit.common.support import SigningKey
from ticketra.settings import SettingsError, load_settings

KEY = SigningKey("tickets-1")
ENVIRONMENT = {
    "LISTEN_ADDRESS": "127.0.0.1:0",
    "POSTGRES_URL": "postgresql://127.0.0.1:1/orders",
    "REDIS_URL": "redis://127.0.0.1:1",
    "RABBITMQ_URL": "amqp://127.0.0.1:1/%2F",
    "CALLER_CREDENTIAL_GATEWAY": "g",
    "CALLER_CREDENTIAL_EVENT": "e",
    "CALLER_CREDENTIAL_PAYMENT": "p",
    "TICKET_KEYS": KEY.secret,
}


def test_the_settings_hold_the_ticket_keys_without_showing_them() -> None:
    settings = load_settings(BookingSettings, ENVIRONMENT)
    assert settings.hold_ttl_s == 600
    assert "PRIVATE KEY" not in repr(settings)


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_a_missing_setting_is_named(name: str) -> None:
    environment = {key: value for key, value in ENVIRONMENT.items() if key != name}
    with pytest.raises(SettingsError, match=name):
        load_settings(BookingSettings, environment)


@pytest.mark.parametrize("wrong", ["", "{}", KEY.secret[:-20], KEY.pem])
def test_wrong_ticket_keys_are_named_and_not_shown(wrong: str) -> None:
    with pytest.raises(SettingsError, match="TICKET_KEYS") as refused:
        load_settings(BookingSettings, ENVIRONMENT | {"TICKET_KEYS": wrong})
    assert "PRIVATE KEY" not in str(refused.value)

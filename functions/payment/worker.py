"""Entry point of the payment worker: `python -m payment.worker`.

Consumes booking.created messages until SIGTERM or SIGINT, then drains and exits with 0.
"""

import logging
import signal
import sys

from aws_lambda_powertools.logging.utils import copy_config_to_registered_loggers

from payment.bookings import Bookings
from payment.consumer import IN_FLIGHT_LIMIT, Consumer, connection_parameters
from payment.mock_bank import MockBank
from payment.postgres import create_pool
from payment.processor import PaymentProcessor
from payment.settings import WorkerSettings
from payment.store import PaymentStore
from ticketra.heartbeat import Heartbeat, heartbeat_file
from ticketra.log import logger
from ticketra.settings import SettingsError, load_settings

WRONG_SETTINGS_EXIT_CODE = 2


def main() -> int:
    """Run the worker until it is told to stop; return the exit code."""
    try:
        settings = load_settings(WorkerSettings)
    except SettingsError as error:
        logger.error(str(error))
        return WRONG_SETTINGS_EXIT_CODE
    _configure_library_logs()
    _run(settings)
    return 0


def _run(settings: WorkerSettings) -> None:
    username = settings.postgres_username
    password = settings.postgres_password.get_secret_value()
    credential = settings.booking_caller_credential.get_secret_value()
    with (
        create_pool(
            settings.postgres_url, username, password, name="payment", size=IN_FLIGHT_LIMIT
        ) as pool,
        create_pool(
            settings.postgres_url, username, password, name="mock-bank", size=IN_FLIGHT_LIMIT
        ) as bank_pool,
        Bookings(settings.booking_endpoint, credential) as bookings,
    ):
        processor = PaymentProcessor(PaymentStore(pool), MockBank(bank_pool), bookings)
        parameters = connection_parameters(
            settings.rabbitmq_url,
            settings.rabbitmq_username,
            settings.rabbitmq_password.get_secret_value(),
        )
        consumer = Consumer(parameters, processor.handle, Heartbeat(heartbeat_file()).beat)
        signal.signal(signal.SIGTERM, lambda *_: consumer.stop())
        signal.signal(signal.SIGINT, lambda *_: consumer.stop())
        consumer.run()
    logger.info("stopped")


def _configure_library_logs() -> None:
    """Have psycopg log as JSON, and pika not at all: what it logs it also raises."""
    copy_config_to_registered_loggers(logger, include={"psycopg"})
    logging.getLogger("pika").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    sys.exit(main())

"""Entry point of the payment worker: `python -m payment.worker`.

Consumes messages about bookings until SIGTERM or SIGINT, then drains and exits with 0.
"""

import asyncio
import logging
import signal
import sys
from contextlib import suppress
from random import SystemRandom

import uvloop
from aws_lambda_powertools.logging.utils import copy_config_to_registered_loggers

from payment.bookings import Bookings
from payment.consumer import Consumer, Subscription
from payment.inbox import prune_inbox
from payment.mock_bank import MockBank
from payment.processor import PaymentProcessor
from payment.settings import WorkerSettings
from payment.store import PaymentStore
from ticketra.amqp import AmqpConnection
from ticketra.background import beat, named
from ticketra.broker import Broker
from ticketra.database import Database
from ticketra.ids import IdSource
from ticketra.log import logger
from ticketra.messages import CHARGE_QUEUE, REFUND_QUEUE
from ticketra.outbox_store import OutboxStore
from ticketra.relay import Relay
from ticketra.settings import SettingsError, load_settings

WRONG_SETTINGS_EXIT_CODE = 2
SOURCE = "/ticketra/payment"
SCHEMA = "payment"
# How many messages are in hand at once. Refunds are fewer, so that they do not hold up sales.
CHARGES_IN_FLIGHT = 512
REFUNDS_IN_FLIGHT = 64
FLUSH_LIMIT_S = 5.0
DATABASE_WAIT_S = 5.0
DATABASE_POLL_S = 0.02


class Worker:
    """The parts of the payment worker, wired together."""

    def __init__(self, settings: WorkerSettings) -> None:
        mint_id = IdSource()
        rabbitmq = (
            settings.rabbitmq_url,
            settings.rabbitmq_username,
            settings.rabbitmq_password.get_secret_value(),
        )
        self._database = Database(
            settings.postgres_url,
            settings.postgres_username,
            settings.postgres_password.get_secret_value(),
            name="payment",
            schema=SCHEMA,
        )
        self._bookings = Bookings(
            settings.booking_endpoint, settings.booking_caller_credential.get_secret_value()
        )
        self._relay = Relay(
            OutboxStore(self._database), Broker(*rabbitmq, name="payment-relay"), SOURCE
        )
        self._store = PaymentStore(self._database, mint_id, self._relay.wake)
        processor = PaymentProcessor(
            self._store, MockBank(self._database, SystemRandom()), self._bookings
        )
        self.consumer = Consumer(
            AmqpConnection(*rabbitmq, name="payment"),
            Broker(*rabbitmq, name="payment-retries"),
            (
                Subscription(CHARGE_QUEUE, processor.charge, CHARGES_IN_FLIGHT),
                Subscription(REFUND_QUEUE, processor.refund, REFUNDS_IN_FLIGHT),
            ),
            mint_id,
        )

    async def run(self) -> int:
        """Consume until a signal asks to stop, or a part breaks; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.consumer.stop)
        await self._database.open()
        watching = named("watch", self._database.watch())
        beating = named("heartbeat", beat(self.consumer.is_stuck))
        await self._database_seen()
        consuming = named("consumer", self.consumer.run())
        background = [
            watching,
            beating,
            named("relay", self._relay.run()),
            named("inbox", prune_inbox(self._store)),
        ]
        done, _ = await asyncio.wait([consuming, *background], return_when=asyncio.FIRST_COMPLETED)
        broken = [task for task in done if task is not consuming or task.exception()]
        for task in broken:
            logger.error(
                "a part of the worker ended",
                extra={"part": task.get_name()},
                exc_info=task.exception(),
            )
        self.consumer.stop()
        await asyncio.gather(consuming, return_exceptions=True)
        await self._close(background)
        return 1 if broken else 0

    async def _database_seen(self) -> None:
        """Wait a little for PostgreSQL: a message that comes before it would have to be retried."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DATABASE_WAIT_S):
                while not self._database.available:  # noqa: ASYNC110 - once in a worker's life
                    await asyncio.sleep(DATABASE_POLL_S)

    async def _close(self, background: "list[asyncio.Task[None]]") -> None:
        """Publish what is committed, and close everything."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_LIMIT_S):
                await self._relay.flushed()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await self._relay.close()
        await self._bookings.close()
        await self._database.close()
        logger.info("stopped")


def main() -> int:
    """Run the worker until it is told to stop; return the exit code."""
    try:
        settings = load_settings(WorkerSettings)
    except SettingsError as error:
        logger.error(str(error))
        return WRONG_SETTINGS_EXIT_CODE
    _configure_library_logs()
    return uvloop.run(_main(settings))


async def _main(settings: WorkerSettings) -> int:
    return await Worker(settings).run()


def _configure_library_logs() -> None:
    """Have psycopg log as JSON, and pika not at all: what it logs it also raises.

    Below a warning, psycopg's pool has three lines for every transaction.
    """
    copy_config_to_registered_loggers(logger, logging.WARNING, include={"psycopg"})
    logging.getLogger("pika").setLevel(logging.CRITICAL)


if __name__ == "__main__":
    sys.exit(main())

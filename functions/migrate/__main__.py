"""Entry point: `python -m migrate` runs to the end and exits 0, or exits 1 and says why."""

import sys

import psycopg
from pymongo.errors import PyMongoError

from migrate import mongodb, postgresql
from migrate.settings import MigrateSettings
from ticketra.log import logger
from ticketra.settings import SettingsError, load_settings


def main() -> int:
    """Bring PostgreSQL, then MongoDB, to the present shape."""
    try:
        settings = load_settings(MigrateSettings)
        postgresql.apply(settings)
        mongodb.apply(settings)
    except (SettingsError, postgresql.MigrationError, psycopg.Error, PyMongoError) as error:
        logger.error("migration failed", extra={"error": f"{type(error).__name__}: {error}"})
        return 1
    logger.info("the databases are up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())

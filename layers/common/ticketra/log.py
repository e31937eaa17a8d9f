"""Structured logs: JSON lines, one logger for each process, the request id in every line."""

import os

from aws_lambda_powertools import Logger

logger = Logger(
    service=os.environ.get("POWERTOOLS_SERVICE_NAME", "ticketra"),
    level=os.environ.get("LOG_LEVEL", "INFO"),
    utc=True,
)

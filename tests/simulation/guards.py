"""What keeps money and stock right; each can be switched off, to see that this is noticed."""

from enum import Enum


class Guard(Enum):
    """A rule of the transaction protocol that the model follows unless it is switched off."""

    SALE_LOCK = "a batch locks the sales that it decides on"
    STOCK_CHECK = "the database refuses a stock below none or above the capacity"
    KEY_LOOKUP = "an idempotency key is looked up before anything else"
    SECOND_KEY_LOOKUP = "a key that the database refuses is looked up once more"
    KEY_INDEX = "the database refuses a second booking with the same key"
    STATE_CONDITION = "a transition locks its booking and is conditional on its state"
    MARKER_VERSION = "a sold-out marker carries the version of the stock that it speaks of"
    MARKER_STAMP = "a sold-out marker is as old as the reading that it came from"
    READ_BACK = "after an unknown commit the ids that were minted before are read back"
    READ_BACK_LOCK = "that reading waits until the old transaction is over"
    OUTBOX_IN_TRANSACTION = "a message is stored in the transaction of the change it tells of"
    LINE_ORDER = "requests that were not committed go back to the front of their line"
    SPLIT_ORDER = "the second half of a refused batch waits until the first is decided"
    HOLD_CLOCK = "a hold ends by the clock of the database"
    CHARGE_KEY = "the provider takes money once for each booking"
    CHARGE_LOOKUP = "a charge whose outcome is unknown is asked for again"
    LATE_PAYMENT_LIMIT = "a payment that came late takes no more than its user may hold"
    HOLD_FOR_ATTEMPT = "a hold that may end before an attempt to pay does is extended first"
    HOLD_FOR_RETRY = "an attempt to pay without an outcome extends the hold until the next"
    ABANDONED_LOOKUP = "a payment that was abandoned is looked up with every delivery"
    LATE_PAYMENT_NOTED = "a payment that came too late is refunded"

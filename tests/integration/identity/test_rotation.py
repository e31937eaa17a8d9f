"""A rotation of the token keys from the command to the token, over AWS in memory."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import jwt
import pytest
from moto import mock_aws

from identity.issuer import RING_TTL_S, CachedKeys, KeyRing, TokenIssuer
from identity.models import User
from supervisor import aws, rotate
from supervisor.__main__ import main
from supervisor.progress import Progress
from supervisor.secrets import JWKS_PARAMETER, TOKEN_KEYS_SECRET, load_or_make
from supervisor.settings import REGION, Settings
from supervisor.token_keys import CLOCK_MARGIN, SIGN_LEAD, TOKEN_LIFE_LIMIT
from tests.integration.functions import AWS, forget_secrets
from tests.unit.common.support import AUDIENCE, ISSUER
from ticketra.errors import Unauthenticated
from ticketra.secrets import parameter, present_secret
from ticketra.tokens import KEYS_TTL_S, TokenVerifier

SILENT = Progress(None)
USER = User(id=uuid4(), email="anna@example.com", role="user", created_at=datetime.now(UTC))
STEP_S = 10
ROTATED_AT_S = 30


class Deployment:
    """Identity and a function that verifies, on one clock that the test sets.

    It lies in the past, and tokens live for long, so that they are also valid by the real clock.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.passed_s = 0.0
        self.reads: list[float] = []
        self._started = datetime.now(UTC) - timedelta(days=2)
        self._issuer = TokenIssuer(
            CachedKeys(
                lambda: KeyRing.from_secret(present_secret(TOKEN_KEYS_SECRET)),
                monotonic=lambda: self.passed_s,
            ),
            issuer=ISSUER,
            audience=AUDIENCE,
            ttl_s=3 * 86_400,
            clock=lambda: self.now,
            random_bytes=bytes,
        )
        self._verifier = TokenVerifier(
            self._read_key_set,
            issuer=ISSUER,
            audience=AUDIENCE,
            monotonic=lambda: self.passed_s,
        )

    @property
    def now(self) -> datetime:
        return self._started + timedelta(seconds=self.passed_s)

    def log_in(self) -> str:
        return self._issuer.issue(USER).token

    def use(self, token: str) -> None:
        assert self._verifier.verify(token).user_id == str(USER.id)

    def _read_key_set(self) -> str:
        self.reads.append(self.passed_s)
        return parameter(JWKS_PARAMETER)


def kid_of(token: str) -> str:
    kid: str = jwt.get_unverified_header(token)["kid"]
    return kid


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    settings = Settings(home=tmp_path)
    for variable, value in (AWS | {"AWS_DEFAULT_REGION": REGION}).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr(aws, "client_settings", lambda _: {"region_name": REGION})
    forget_secrets()
    with mock_aws():
        aws.provision(settings, load_or_make(settings))
        yield Deployment(settings)
    forget_secrets()


def test_a_rotation_is_not_noticed_by_anybody(deployment: Deployment) -> None:
    before = deployment.log_in()
    deployment.use(before)
    kids: dict[str, float] = {}
    while deployment.passed_s < ROTATED_AT_S + SIGN_LEAD.total_seconds() + 2 * STEP_S:
        if deployment.passed_s == ROTATED_AT_S:
            rotate.rotate_keys(deployment.settings, SILENT, deployment.now)
        token = deployment.log_in()
        deployment.use(token)
        kids.setdefault(kid_of(token), deployment.passed_s)
        deployment.passed_s += STEP_S

    # The new key signs when it was said to, and was known by then without being asked for.
    assert list(kids.values()) == [0, ROTATED_AT_S + SIGN_LEAD.total_seconds()]
    assert deployment.reads == [0, KEYS_TTL_S, 2 * KEYS_TTL_S]
    deployment.use(before)


def test_the_old_key_can_go_when_its_tokens_are_gone(deployment: Deployment) -> None:
    before = deployment.log_in()
    rotate.rotate_keys(deployment.settings, SILENT, deployment.now)
    deployment.passed_s = (SIGN_LEAD + TOKEN_LIFE_LIMIT).total_seconds()

    rotate.drop_keys(deployment.settings, SILENT, deployment.now)
    deployment.use(before)
    deployment.passed_s += max(CLOCK_MARGIN.total_seconds(), KEYS_TTL_S)
    rotate.drop_keys(deployment.settings, SILENT, deployment.now)

    deployment.use(deployment.log_in())
    with pytest.raises(Unauthenticated):
        deployment.use(before)


def test_a_leaked_key_is_dropped_at_once(deployment: Deployment) -> None:
    leaked = deployment.log_in()
    rotate.rotate_keys(deployment.settings, SILENT, deployment.now)

    rotate.drop_all_but_newest(deployment.settings, SILENT)

    deployment.passed_s += RING_TTL_S
    token = deployment.log_in()
    deployment.use(token)
    assert kid_of(token) != kid_of(leaked)
    with pytest.raises(Unauthenticated):
        deployment.use(leaked)


def test_what_a_run_that_was_cut_off_left_is_completed(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(aws, "put_token_keys", cut_off)
        with pytest.raises(KeyboardInterrupt):
            rotate.rotate_keys(deployment.settings, SILENT, deployment.now)

    kept = load_or_make(deployment.settings)
    assert aws.provision(deployment.settings, kept) == 1
    assert KeyRing.from_secret(present_secret(TOKEN_KEYS_SECRET)).jwks()["keys"]
    deployment.passed_s = SIGN_LEAD.total_seconds()
    token = deployment.log_in()
    deployment.use(token)
    assert kid_of(token) == kept.token_keys["next"]["kid"]


def test_the_command_says_what_it_did(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TICKETRA_HOME", str(deployment.settings.home))

    def run(*arguments: str) -> tuple[int, str]:
        status = main(["rotate-keys", *arguments])
        return status, "".join(capsys.readouterr())

    status, said = run()
    new = load_or_make(deployment.settings).token_keys["next"]
    assert status == 0
    assert new["kid"] in said
    assert new["signs_from"] in said
    status, said = run()
    assert (status, new["signs_from"] in said) == (1, True)
    assert run("--drop", "retired") == (0, "Dropped 0 retired keys\n")
    assert run("--drop", "now") == (0, f"Only the key {new['kid']} is good now\n")

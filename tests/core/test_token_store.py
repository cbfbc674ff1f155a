# SPDX-License-Identifier: Apache-2.0
"""What rests between processes: encrypted, private, and never a reason to fail."""

from __future__ import annotations

import errno
import json
import os
import pwd
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.kdf import scrypt
from leaks import find_leaks

from vantage_orchestration import errors
from vantage_orchestration.config import HttpSettings, Trust, VantageConfig
from vantage_orchestration.credentials import Credentials
from vantage_orchestration.secret import Secret
from vantage_orchestration.state import FileStore, default_folder
from vantage_orchestration.token import TokenSource
from vantage_orchestration.token.access import AccessToken, Clock, Refusal
from vantage_orchestration.token.cache import EntryCipher, TokenCache, read_entry, write_entry
from vantage_orchestration.token.request import Grant

PASSWORD = "a password of length"
CLIENT_SECRET = "a client secret of sufficient length"
USERNAME = "somebody@example.com"


def credentials(**changes) -> Credentials:
    values = {
        "region": "eu",
        "username": USERNAME,
        "password": PASSWORD,
        "client_id": "the-client-id",
        "client_secret": CLIENT_SECRET,
    }
    return Credentials(**{**values, **changes})


class Time:
    def __init__(self) -> None:
        self.steady, self.wall = 1000.0, 1_800_000_000.0

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.steady, lambda: self.wall)

    def pass_(self, seconds: float) -> None:
        self.steady += seconds
        self.wall += seconds


class Logins:
    def __init__(self, *answers) -> None:
        self.count, self.answers = 0, list(answers)

    def __call__(self, config):
        self.count += 1
        answer = self.answers.pop(0) if self.answers else None
        return answer or Grant(Secret(f"token-number-{self.count}"), 3600.0)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cache" / "tokens"


def process(folder, time, logins, **changes) -> TokenSource:
    """A source as another process would have it: with nothing but the store in common."""
    return TokenSource(
        VantageConfig(credentials(**changes)),
        store=FileStore(folder),
        log_in=logins,
        clock=time.clock,
    )


def entry_of(folder) -> Path:
    (path,) = folder.glob("*.entry")
    return path


# ------------------------------------------------------------------ the cipher


def test_only_the_same_credential_finds_and_opens_an_entry():
    cipher = EntryCipher(credentials())
    entry = cipher.encrypt(b"something")
    assert EntryCipher(credentials()).name == cipher.name
    assert EntryCipher(credentials()).decrypt(entry) == b"something"
    for changes in (
        {"password": "another password"},
        {"client_secret": "another secret of enough length"},
        {"username": "x@example.com"},
        {"client_id": "x"},
        {"scope": "openid"},
        {"grant_type": "client_credentials"},
        {"tenant_id": "t"},
        {"region": "us"},
    ):
        other = EntryCipher(credentials(**changes))
        assert other.name != cipher.name, changes
        assert other.decrypt(entry) is None, changes
    for trust in (HttpSettings(verify=False), HttpSettings(proxy=Secret("http://127.0.0.1:1"))):
        assert (
            EntryCipher(credentials(), Trust.of(trust, "https://example.com")).name != cipher.name
        )


def test_each_guess_of_a_password_costs_time_and_memory(monkeypatch):
    costs = []
    derived = scrypt.Scrypt

    def record(salt, *, length, n, r, p):
        costs.append((n * r * 128, salt))
        return derived(salt, length=length, n=n, r=r, p=p)

    monkeypatch.setattr(scrypt, "Scrypt", record)
    first, second = EntryCipher(credentials()), EntryCipher(credentials(username="x@example.com"))
    assert [size for size, _ in costs] == [16 * 1024**2] * 2
    assert costs[0][1] != costs[1][1]  # Guesses at one user are of no use for another.
    assert len(first.name) == 64
    assert first.name != second.name


def test_without_scrypt_nothing_is_stored(folder, time, caplog, monkeypatch):
    def refuse(*_, **__):
        raise UnsupportedAlgorithm("not here")

    monkeypatch.setattr(scrypt, "Scrypt", refuse)
    assert process(folder, time, Logins()).get().reveal() == "token-number-1"
    assert not folder.exists()
    assert "scrypt can't be used" in caplog.text


def test_a_changed_or_foreign_entry_is_not_opened():
    cipher = EntryCipher(credentials())
    entry = bytearray(cipher.encrypt(b"something"))
    for place in range(len(entry)):
        changed = bytearray(entry)
        changed[place] ^= 1
        assert cipher.decrypt(bytes(changed)) is None
    for foreign in (b"", b"short", bytes(entry[:-1]), b"x" * 500):
        assert cipher.decrypt(foreign) is None


def test_two_entries_with_the_same_content_differ():
    cipher = EntryCipher(credentials())
    assert cipher.encrypt(b"something") != cipher.encrypt(b"something")


def test_parts_can_not_be_shifted_into_each_other():
    one = EntryCipher(credentials(username="ab", client_id="c"))
    assert one.name != EntryCipher(credentials(username="a", client_id="bc")).name
    secrets = {"client_secret": "a client secret of length", "password": "x and more"}
    moved = {"client_secret": "a client secret of lengthx", "password": " and more"}
    assert EntryCipher(credentials(**secrets)).name != EntryCipher(credentials(**moved)).name


def test_a_short_client_secret_is_not_put_at_rest(folder, time, caplog):
    source = process(folder, time, Logins(), client_secret="too short")
    assert source.get().reveal() == "token-number-1"
    assert not folder.exists()
    assert "fewer than 20 characters" in caplog.text


# ----------------------------------------------------------------- the entries


def token_entry(time, lifetime=3600.0) -> bytes:
    token = AccessToken(
        Secret("the-token"),
        lifetime=lifetime,
        margin=300,
        begun=time.steady,
        begun_wall=time.wall,
    )
    return write_entry(token, time.clock)


@pytest.mark.parametrize("boot", ["same", "other"])
def test_a_token_is_as_old_as_it_is(time, boot):
    entry = token_entry(time)
    if boot == "other":  # Another host, or this one after a restart: only the wall clock counts.
        entry = entry.replace(json.loads(entry)["at"]["boot"].encode(), b"another boot")
        time.steady = 5.0
    time.pass_(1000)
    token = read_entry(entry, time.clock, jitter=0)
    assert isinstance(token, AccessToken)
    assert token.ends_at - time.steady == pytest.approx(2600)
    assert token.renew_at - time.steady == pytest.approx(2300)


def test_the_wall_clock_set_back_or_forward(time):
    entry = token_entry(time)
    time.wall -= 86400
    token = read_entry(entry, time.clock, jitter=0)
    assert token.ends_at - time.steady == pytest.approx(3600), "the steady clock knows better"
    time.wall += 2 * 86400
    token = read_entry(entry, time.clock, jitter=0)
    assert token.ends_at < time.steady, "either clock may say that it is stale"


def test_another_hosts_entry_from_the_future_is_not_believed(time):
    entry = token_entry(time)
    entry = entry.replace(json.loads(entry)["at"]["boot"].encode(), b"another boot")
    time.wall -= 60
    assert isinstance(read_entry(entry, time.clock, jitter=0), AccessToken)
    time.wall -= 3600
    assert read_entry(entry, time.clock, jitter=0) is None


def test_a_moment_that_has_not_come_yet_is_not_believed(time):
    assert time.clock.age(time.clock.stamp(time.steady + 1000)) is None


def test_a_suspended_machine_comes_back_to_a_stale_token(time):
    # The steady clock counts while the machine sleeps; so does the wall clock.
    entry = token_entry(time)
    time.pass_(8 * 3600)
    assert read_entry(entry, time.clock, jitter=0).ends_at < time.steady


def test_a_refusal_keeps_its_words_and_its_time(time):
    error = errors.ClientRejected("The client was refused", hint="Check it", status=400, host="h")
    entry = write_entry(Refusal(error, time.steady + 900.0, 900.0), time.clock)
    time.pass_(100)
    refusal = read_entry(entry, time.clock, jitter=0)
    assert isinstance(refusal, Refusal)
    assert (type(refusal.error), str(refusal.error)) == (errors.ClientRejected, str(error))
    assert (refusal.until - time.steady, refusal.hold) == (800.0, 900.0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"at": {}}',
        b'{"at": {"wall": 1, "steady": "x"}}',
        b'{"at": {"wall": 1, "steady": 1, "boot": ""}, "refused": "SystemExit", "hold": 1}',
        b'{"at": {"wall": 1, "steady": 1, "boot": ""}, "token": "t", "lifetime": "soon"}',
        b'{"at": {"wall": 1, "steady": 1, "boot": ""}, "refused": "Throttled", "what": "x",'
        b' "details": {"nonsense": 1}, "hold": 9}',
    ],
)
def test_an_entry_of_another_shape_is_of_no_use(time, data):
    time.wall = 1.0
    assert read_entry(data, time.clock, jitter=0) is None


# --------------------------------------------------- sources that share a store


def test_a_second_process_finds_the_first_ones_token(folder, time):
    logins = Logins()
    assert process(folder, time, logins).get().reveal() == "token-number-1"
    time.pass_(600)
    second = process(folder, time, logins).get()
    assert second.reveal() == "token-number-1"
    assert second.ends_at - time.steady == pytest.approx(3000)
    assert logins.count == 1


class Unsteady(FileStore):
    """Can't be read a few times."""

    failures = 0

    def read(self, name):
        if self.failures:
            self.failures -= 1
            raise TimeoutError("the store did not answer")
        return super().read(name)


def unsteady(folder, time, logins, failures, **changes) -> TokenSource:
    store = Unsteady(folder)
    store.failures = failures
    return TokenSource(
        VantageConfig(credentials(**changes)), store=store, log_in=logins, clock=time.clock
    )


def test_a_read_that_fails_once_makes_no_login(folder, time):
    logins = Logins()
    process(folder, time, logins).get()
    assert unsteady(folder, time, logins, 1).get().reveal() == "token-number-1"
    assert logins.count == 1


def test_what_can_not_be_read_is_not_overwritten_and_a_login_is_possible(folder, time, caplog):
    logins = Logins()
    process(folder, time, logins).get()
    before = entry_of(folder).read_bytes()
    assert unsteady(folder, time, logins, 2).get().reveal() == "token-number-2"
    assert entry_of(folder).read_bytes() == before
    assert "kept in this process alone" in caplog.text
    assert process(folder, time, logins).get().reveal() == "token-number-1"
    # A refusal that others have got again and again stays held as long as they say.
    refused = Logins(*[errors.CredentialsRejected("refused")] * 9)
    for wait in (901, 1801, 0):
        with pytest.raises(errors.CredentialsRejected):
            process(folder, time, refused, password="wrong one").get()
        time.pass_(wait)
    assert refused.count == 3
    with pytest.raises(errors.CredentialsRejected):
        unsteady(folder, time, refused, 2, password="wrong one").get()
    time.pass_(3000)
    with pytest.raises(errors.CredentialsRejected):
        process(folder, time, refused, password="wrong one").get()
    assert refused.count == 4


def test_a_changed_password_never_finds_the_old_entry(folder, time):
    logins = Logins()
    process(folder, time, logins).get()
    assert process(folder, time, logins, password="changed").get().reveal() == "token-number-2"


def test_a_token_revoked_on_the_server_makes_one_login_altogether(folder, time):
    logins = Logins()
    processes = [process(folder, time, logins) for _ in range(16)]
    old = [source.get() for source in processes]
    assert logins.count == 1
    for source, token in zip(processes, old, strict=True):
        assert source.invalidate(token)
        assert source.get().reveal() == "token-number-2"
    assert logins.count == 2


def test_a_refusal_is_told_to_all_processes_and_a_corrected_password_works_at_once(folder, time):
    refused = [errors.CredentialsRejected("The login was refused", status=400)] * 1000
    logins = Logins(*refused)
    for _ in range(20):
        with pytest.raises(errors.CredentialsRejected, match="The login was refused"):
            process(folder, time, logins).get()
    assert logins.count == 1
    logins.answers = []
    assert process(folder, time, logins, password="corrected password").get()


def test_a_refusal_that_somebody_clears_is_forgotten_by_a_process_that_knows_it(folder, time):
    logins = Logins(*[errors.CredentialsRejected("The login was refused", status=400)] * 2)
    one = process(folder, time, logins)
    for count in (1, 2):
        with pytest.raises(errors.CredentialsRejected):
            one.get()
        assert logins.count == count
        if count == 1:
            process(folder, time, logins).forget()
    time.pass_(901)  # Not longer than after the first one.
    assert one.get().reveal() == "token-number-3"


def test_a_token_that_another_process_keeps_is_used_again(folder, time):
    logins = Logins()
    one, other = (process(folder, time, logins) for _ in range(2))
    first = one.get()
    assert other.get().is_same(first)
    assert one.invalidate(first)
    assert other.invalidate(first)
    second = one.get()
    assert other.get().is_same(second)
    assert other.invalidate(second)
    one.keep(second)
    assert other.get().is_same(second)
    assert logins.count == 2


def test_the_time_of_a_refusal_grows_although_nothing_can_be_stored(folder, time, monkeypatch):
    logins = Logins(*[errors.CredentialsRejected("The login was refused", status=400)] * 9)
    one = process(folder, time, logins)

    def fails(self, name, value):
        raise errors.StateUnavailable("the disk is full")

    monkeypatch.setattr(FileStore, "write", fails)
    for count in (1, 2, 2, 3):
        with pytest.raises(errors.CredentialsRejected):
            one.get()
        assert logins.count == count
        time.pass_(901)


def test_what_an_unexpected_error_of_a_store_says_is_not_logged(folder, time, caplog, monkeypatch):
    def fails(self, name):
        raise RuntimeError("a made-up text with a secret")

    monkeypatch.setattr(FileStore, "read", fails)
    assert process(folder, time, Logins()).get().reveal() == "token-number-1"
    assert "can't be used: RuntimeError" in caplog.text
    assert "made-up" not in caplog.text


def test_a_refusal_is_held_while_its_store_can_not_be_read(folder, time, monkeypatch):
    logins = Logins(errors.CredentialsRejected("The login was refused", status=400))
    one = process(folder, time, logins)

    def fails(self, name):
        raise errors.StateUnavailable("the disk does not answer")

    for _ in range(2):
        with pytest.raises(errors.CredentialsRejected):
            one.get()
        monkeypatch.setattr(FileStore, "read", fails)
    assert logins.count == 1


def test_a_token_that_is_kept_although_it_is_rejected_is_kept_by_all(folder, time):
    logins = Logins()
    one = process(folder, time, logins)
    assert one.invalidate(one.get())
    one.keep(second := one.get())
    other = process(folder, time, logins)
    assert not other.invalidate(other.get())
    assert other.get().is_same(second)
    assert logins.count == 2


def test_the_time_of_a_refusal_grows_over_processes(folder, time):
    logins = Logins(*[errors.CredentialsRejected("refused")] * 1000)
    held = 900.0
    for count in range(1, 12):
        for _ in range(3):
            with pytest.raises(errors.CredentialsRejected):
                process(folder, time, logins).get()
        assert logins.count == count
        time.pass_(held - 1)
        with pytest.raises(errors.CredentialsRejected):
            process(folder, time, logins).get()
        assert logins.count == count
        time.pass_(2)
        held = min(2 * held, 86400.0)


def test_a_renewal_is_shared_as_well(folder, time):
    logins = Logins()
    processes = [process(folder, time, logins) for _ in range(8)]
    for source in processes:
        source.get()
    time.pass_(3500)
    assert {source.get().reveal() for source in processes} == {"token-number-2"}
    assert logins.count == 2


def test_passing_trouble_is_not_stored(folder, time):
    from vantage_orchestration.retrying import RetryPolicy

    logins = Logins(errors.AuthUnavailable("out of order"))
    source = TokenSource(
        VantageConfig(credentials()),
        store=FileStore(folder),
        log_in=logins,
        clock=time.clock,
        retries=RetryPolicy(attempts=1, first_wait=0, max_wait=0, budget=1),
    )
    with pytest.raises(errors.AuthUnavailable):
        source.get()
    assert process(folder, time, logins).get().reveal() == "token-number-2"


# ------------------------------------------------------------- files and folders


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_and_folder_are_private_whatever_the_umask(folder, time):
    old = os.umask(0)
    try:
        process(folder, time, Logins()).get()
    finally:
        os.umask(old)
    assert mode(folder) == 0o700
    files = list(folder.iterdir())
    assert len(files) == 2
    assert {mode(path) for path in files} == {0o600}


def test_nothing_readable_rests_there_not_even_the_user_name(folder, time):
    process(folder, time, Logins()).get()
    refusal = errors.CredentialsRejected("no", hint=USERNAME)
    with pytest.raises(errors.CredentialsRejected):
        process(folder, time, Logins(refusal), password="a wrong password").get()
    secrets = [
        PASSWORD,
        CLIENT_SECRET,
        USERNAME,
        "the-client-id",
        "token-number-1",
        "vantage-eu.abbyy.com",
    ]
    places = {"files": folder, "names": "\n".join(path.name for path in folder.iterdir())}
    leaks = find_leaks(secrets, places)
    assert leaks == []
    (folder / "control").write_text(f"x {USERNAME} y")
    assert find_leaks(secrets, {"files": folder}) == ["files: control"]


@pytest.mark.parametrize("bits", [0o1777, 0o777, 0o755, 0o750, 0o710])
def test_a_folder_open_to_others_is_left_alone_and_a_private_one_made_in_it(folder, time, bits):
    folder.mkdir(parents=True)
    folder.chmod(bits)
    logins = Logins()
    for _ in range(2):
        assert process(folder, time, logins).get()
    assert logins.count == 1
    assert mode(folder) == bits
    (private,) = folder.iterdir()
    assert private == FileStore(folder).folder
    assert mode(private) == 0o700
    assert len(list(private.glob("*.entry"))) == 1


def test_a_private_folder_that_others_may_enter_is_not_used(folder, time, caplog):
    folder.mkdir(parents=True)
    folder.chmod(0o1777)
    private = FileStore(folder).folder
    private.mkdir()
    private.chmod(0o755)
    assert process(folder, time, Logins()).get()
    assert (list(private.iterdir()), mode(private)) == ([], 0o755)
    assert caplog.text.count("is open to other users") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder away")
def test_a_volume_of_another_user_that_all_may_write_gets_a_private_folder(folder, time):
    folder.mkdir(parents=True)
    os.chown(folder, 12345, -1)
    folder.chmod(0o777)
    assert process(folder, time, Logins()).get()
    (private,) = folder.iterdir()
    assert (private.stat().st_uid, mode(private)) == (os.geteuid(), 0o700)
    assert folder.stat().st_uid == 12345


def test_a_tilde_is_the_home_folder_and_parents_are_private_whatever_the_umask(
    tmp_path, time, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    old = os.umask(0)
    try:
        process("~/one/two/three", time, Logins()).get()
    finally:
        os.umask(old)
    folder = tmp_path / "one" / "two" / "three"
    assert len(list(folder.glob("*.entry"))) == 1
    assert [mode(path) for path in (folder, *folder.parents[:2])] == [0o700] * 3
    assert not Path("~").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder away")
def test_another_users_folder_is_not_used(folder, time, caplog):
    folder.mkdir(parents=True)
    os.chown(folder, 12345, -1)
    source = process(folder, time, Logins())
    assert source.get()
    assert list(folder.iterdir()) == []
    assert caplog.text.count("belongs to another user") == 1


def test_a_link_in_place_of_the_folder_is_not_followed(folder, time, tmp_path, caplog):
    target = tmp_path / "target"
    target.mkdir()
    folder.parent.mkdir(parents=True)
    folder.symlink_to(target)
    assert process(folder, time, Logins()).get()
    assert list(target.iterdir()) == []
    assert "is not a folder" in caplog.text


def test_a_link_in_place_of_an_entry_is_replaced_and_not_followed(folder, time, tmp_path):
    logins = Logins()
    process(folder, time, logins).get()
    entry = entry_of(folder)
    victim = tmp_path / "victim"
    victim.write_bytes(entry.read_bytes())
    victim.chmod(0o600)
    entry.unlink()
    entry.symlink_to(victim)
    before = victim.read_bytes()
    # The link's target would be a good entry; it is not taken through a link.
    assert process(folder, time, logins).get().reveal() == "token-number-2"
    assert victim.read_bytes() == before


def test_a_link_in_place_of_the_lock_is_not_followed(folder, time, tmp_path):
    process(folder, time, Logins()).get()
    (lock,) = folder.glob("*.lock")
    entry_of(folder).unlink()
    lock.unlink()
    victim = tmp_path / "victim"
    lock.symlink_to(victim)
    assert process(folder, time, Logins()).get()
    assert not victim.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:20]),
        lambda path: path.write_bytes(b"x" * 1000),
        lambda path: path.write_bytes(os.urandom(1024 * 1024)),
        lambda path: path.chmod(0o644),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), os.mkfifo(path, 0o600)),
    ],
)
def test_a_damaged_or_foreign_entry_is_ignored(folder, time, damage):
    logins = Logins()
    process(folder, time, logins).get()
    damage(entry_of(folder))
    assert process(folder, time, logins).get().reveal() == "token-number-2"


def test_entries_that_were_swapped_are_ignored_and_replaced(folder, time):
    logins = Logins()
    process(folder, time, logins).get()
    first = entry_of(folder)
    process(folder, time, logins, username="other@example.com").get()
    (second,) = set(folder.glob("*.entry")) - {first}
    second.write_bytes(first.read_bytes())
    other = process(folder, time, logins, username="other@example.com")
    assert other.get().reveal() == "token-number-3"
    again = process(folder, time, logins, username="other@example.com")
    assert again.get().reveal() == "token-number-3"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_where_the_store_can_not_be_written_the_token_still_comes_with_one_warning(
    folder, time, monkeypatch, caplog, number
):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    source = process(folder, time, Logins())
    assert source.get().reveal() == "token-number-1"
    time.pass_(3500)
    assert source.get().reveal() == "token-number-2"
    assert caplog.text.count("can't be used") == 1
    assert os.strerror(number) in caplog.text


def test_a_home_that_is_a_file_is_no_reason_to_fail(tmp_path, time, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    source = process(blocked / "tokens", time, Logins())
    assert source.get()
    assert caplog.text.count("can't be used") == 1
    assert str(blocked) in caplog.text


def test_a_user_without_a_home_gets_a_token_and_learns_why_it_is_not_stored(
    time, monkeypatch, caplog
):
    for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    assert process("", time, Logins()).get()
    assert caplog.text.count("can't be used") == 1
    assert "home directory" in caplog.text


def test_without_cryptography_the_token_lives_in_memory_with_one_warning(
    folder, time, monkeypatch, caplog
):
    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    source = process(folder, time, Logins())
    source.get()
    time.pass_(3500)
    source.get()
    assert caplog.text.count("cryptography is not installed") == 1
    assert not folder.exists()


def test_an_entry_name_never_leaves_the_folder(folder):
    store = FileStore(folder)
    for name in ("../x", "a/b", "", "."):
        with pytest.raises(ValueError, match="hex digits"):
            store.read(name)


def test_two_versions_that_share_a_store_do_not_read_each_other(folder, time, monkeypatch):
    logins = Logins()
    process(folder, time, logins).get()
    monkeypatch.setattr("vantage_orchestration.token.cache._FORMAT", b"another format")
    assert process(folder, time, logins).get().reveal() == "token-number-2"
    monkeypatch.undo()
    assert process(folder, time, logins).get().reveal() == "token-number-1"
    assert logins.count == 2


def test_the_default_folder_is_the_users_own(tmp_path):
    code = "from vantage_orchestration.state import default_folder;print(default_folder())"

    def ask(**environment) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"HOME": str(tmp_path), **environment},
            timeout=60,
        )
        return done.stdout.strip()

    assert ask() == str(tmp_path / ".cache" / "vantage-orchestration" / "tokens")
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    found = ask(XDG_RUNTIME_DIR=str(runtime))
    assert found == str(runtime / "vantage-orchestration" / "tokens")
    assert ask(XDG_RUNTIME_DIR=str(tmp_path / "nowhere")).startswith(str(tmp_path / ".cache"))
    assert default_folder().name == "tokens"


def test_the_lock_of_a_file_store_is_waited_for_no_longer_than_stated(folder):
    store = FileStore(folder)
    name = "ab" * 32
    with store.lock(name, 1) as held:
        assert held
        with FileStore(folder).lock(name, 0.05) as second:
            assert not second
        with FileStore(folder).lock("cd" * 32, 1) as other:
            assert other
    with store.lock(name, 1) as held:
        assert held


class Shared:
    """A store that hosts share, which has no lock."""

    label = "shared"

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        return self.values.get(name)

    def write(self, name: str, value: bytes) -> None:
        self.values[name] = value

    def create(self, name: str, value: bytes) -> bool:
        return self.values.setdefault(name, value) is value

    def delete(self, name: str) -> None:
        self.values.pop(name, None)


def test_processes_of_a_host_lock_what_hosts_share(folder, time, caplog):
    store = Shared()
    caches = [
        TokenCache(store, credentials(), time.clock, locks=FileStore(place))
        for place in (folder, folder, __file__)
    ]
    with caches[0].locked(lambda: True):
        (lock,) = folder.glob("*.lock")
        with FileStore(folder).lock(lock.stem, 0.0) as held:
            assert not held
        with caches[2].locked(lambda: True):  # A host without a place for lock files.
            pass
    with caches[1].locked(lambda: True), FileStore(folder).lock(lock.stem, 0.0) as held:
        assert not held
    assert caplog.text == ""


def test_one_of_several_processes_creates_an_entry(folder):
    name, stores = "ab" * 32, [FileStore(folder) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: stores[n].create(name, b"%d" % n), range(8)))
    assert made.count(True) == 1
    assert stores[0].read(name) == b"%d" % made.index(True)
    assert os.listdir(folder) == [f"{name}.entry"]
    assert mode(folder / f"{name}.entry") == 0o600
    stores[1].delete(name)
    assert stores[2].create(name, b"again")


def test_a_lock_that_can_not_be_had_is_said_as_such(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(errors.StateUnavailable), FileStore(blocked / "x").lock("ab" * 32, 1):
        pass
